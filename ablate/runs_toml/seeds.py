"""[seeds] and [evidence]: how often each run is trained, and what its results must show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, Literal

from ablate.runs_toml.file import EMPTY, File, by_name
from ablate.runs_toml.names import Names
from ablate.runs_toml.positions import Node
from ablate.settings import Setting, as_toml

SEED = Setting("a seed", int, least=0, most=2**32 - 1)
EVIDENCE = by_name(
    Setting("wrong_adoptions", float, 0.05, above=0.0, most=0.5),
    Setting("frozen_at", Literal["first launch"], "first launch"),
    Setting("looks", list[int], []),
    Setting("spending", Literal["obrien-fleming", "pocock"], "obrien-fleming"),
    Setting("mix_imported", str, ""),
    Setting("mix_steps", str, ""),
)
Seeds = Mapping[str, tuple[int, ...]]
"""Of every run."""


def read_seeds(file: File, names: Names, runs: Iterable[str]) -> dict[str, tuple[int, ...]]:
    node = file.section("seeds")
    keys = file.only(node, ("every", "extra"), "seeds")
    if "every" not in keys:
        raise file.wrong(node, "[seeds] must say `every`, such as every = [42]")
    every = seed_list(file, keys["every"], "seeds.every")
    if not every:
        raise file.wrong(keys["every"], "seeds.every must name at least one seed, such as [42]")
    seeds = dict.fromkeys(runs, every)
    for name, child in file.table(keys.get("extra", EMPTY), "seeds.extra").items():
        run = names.runs[file.known(child, name, names.runs, "run")]
        seeds[run] += seed_list(file, child, f"seeds.extra.{name}", seeds[run])
    return seeds


def seed_list(file: File, node: Node, what: str, before: tuple[int, ...] = ()) -> tuple[int, ...]:
    found: list[int] = []
    for item in file.items(node, what):
        seed = file.cast(item, SEED)
        if seed in found or seed in before:
            raise file.wrong(item, f"{what} repeats the seed {seed}")
        found.append(seed)
    return tuple(found)


def read_evidence(file: File) -> dict[str, Any]:
    """All of it but `looks`, which is read when the seeds are known."""
    return file.filled(file.section("evidence"), EVIDENCE, "evidence")


def read_looks(file: File, looks: tuple[int, ...], seeds: Seeds) -> tuple[int, ...]:
    node = file.section("evidence").keys.get("looks", EMPTY)
    if not looks:
        return ()
    if looks[0] < 1 or any(late <= early for early, late in pairwise(looks)):
        raise file.wrong(node, f"evidence.looks are seeds per run, growing, such as [3, 5]; not {as_toml([*looks])}")
    most = max(len(of_run) for of_run in seeds.values())
    if most != looks[-1]:
        run = next(name for name, of_run in seeds.items() if len(of_run) == most)
        raise file.wrong(
            node,
            f"evidence.looks ends at {looks[-1]} seeds, and the most any run has is {most} ({run}); give [seeds] those "
            f"of every look, or end at {most}",
        )
    return looks

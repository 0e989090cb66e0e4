"""[lock]: after which block the config is locked, and how the lock is confirmed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ablate.runs_toml.file import File
from ablate.runs_toml.names import Names
from ablate.runs_toml.seeds import Seeds, seed_list
from ablate.runs_toml.sweeps import metric_of
from ablate.settings import as_toml
from ablate.study import Block, Confirm, Sweep


def read_lock(file: File, blocks: Sequence[Block]) -> str:
    """The block; "" for none."""
    keys = file.only(file.section("lock"), ("after", "confirm"), "lock")
    if "after" not in keys:
        return ""
    after = keys["after"]
    if isinstance(after.value, bool) or not isinstance(after.value, int | str):
        raise file.wrong(after, f"lock.after must be a block, not {as_toml(after.value)}")
    return file.known(after, str(after.value), [block.name for block in blocks], "block")


def read_confirm(
    file: File, names: Names, baseline: str, seeds: Seeds, metrics: Collection[str], sweeps: Mapping[str, Sweep]
) -> Confirm | None:
    lock = file.section("lock").keys
    if "confirm" not in lock:
        return None
    node = lock["confirm"]
    file.table(node, "lock.confirm")
    keys = file.only(node, ("against", "seeds", "on"), "lock.confirm")
    if "against" not in keys or "seeds" not in keys:
        raise file.wrong(node, "lock.confirm must say `against` and `seeds`, such as seeds = [45, 46, 47]")
    if "after" not in lock:
        raise file.wrong(node, "lock.confirm needs lock.after: without a lock there is nothing to confirm")
    against = file.known_string(keys["against"], "lock.confirm.against", names.runs, "run")
    if names.runs[against] != baseline:
        told = f"lock.confirm.against must be the baseline {baseline}: the lock is that and what was decided"
        raise file.wrong(keys["against"], told)
    found = seed_list(file, keys["seeds"], "lock.confirm.seeds")
    if not found:
        raise file.wrong(keys["seeds"], "lock.confirm.seeds must name at least one seed, such as [45, 46, 47]")
    used = {seed: run for run, of_run in seeds.items() for seed in of_run}
    for seed in found:
        if seed in used:
            told = f"lock.confirm.seeds must be fresh: {used[seed]} has been trained with seed {seed}"
            raise file.wrong(keys["seeds"], told)
    on = metric_of(file, node, "lock.confirm", "lock.confirm needs a metric", metrics, sweeps)
    return Confirm(baseline, found, on, file.line(node))

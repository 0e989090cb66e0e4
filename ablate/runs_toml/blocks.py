"""[blocks] and [figures]: lists of runs, for a person who launches or draws."""

from __future__ import annotations

from collections.abc import Iterable

from ablate.runs_toml.file import File
from ablate.runs_toml.names import Names
from ablate.settings import as_toml
from ablate.study import Block


def read_blocks(file: File, names: Names) -> tuple[Block, ...]:
    found: list[Block] = []
    block_of: dict[str, str] = {}
    for name, node in file.section("blocks").keys.items():
        file.name(node, name, "block")
        runs = names.rows(file, node, f"block {name}")
        for run, item in zip(runs, node.items or [], strict=True):
            if run in block_of:
                also = f"{item.value} is {run}, which" if item.value != run else run
                raise file.wrong(item, f"{also} is in block {block_of[run]} already; a run has one block")
            block_of[run] = name
        found.append(Block(name, runs))
    return tuple(found)


def read_figures(file: File, names: Names, runs: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, node in file.section("figures").keys.items():
        if node.value == "every run":
            found[name] = tuple(runs)
        elif node.items is None:
            raise file.wrong(node, f'a figure draws ["RUN", ...] or "every run", not {as_toml(node.value)}')
        else:
            found[name] = names.rows(file, node, f'figure "{name}"')
    return found

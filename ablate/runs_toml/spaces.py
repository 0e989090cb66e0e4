"""`search` in a row: where each setting's value may lie, checked against the setting."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Literal

from ablate.runs_toml.file import File, flat, is_number, meant
from ablate.runs_toml.positions import Node
from ablate.runs_toml.settings import Baseline, Types
from ablate.settings import as_toml
from ablate.study import Range

RANGES: tuple[Literal["log", "uniform", "int", "choice"], ...] = ("log", "uniform", "int", "choice")


def read_space(file: File, row: str, node: Node, baseline: Baseline, changes: Collection[str]) -> dict[str, Range]:
    """changes: the settings that the row gives a value."""
    if row == baseline.row:
        raise file.wrong(
            node,
            f"{row} is the baseline: its settings are [settings]. To compare with a tuned one, add a row with this search, "
            f"such as {row}-tuned",
        )
    file.table(node, f"runs.{row}.search")
    searched = flat(node)
    if not searched:
        raise file.wrong(node, f"{row}: `search` must name a setting, such as {{ optim.lr = {{ log = [1e-6, 1e-3] }} }}")
    for name, child in searched.items():
        if name in changes:
            raise file.wrong(child, f"{row} gives {name} a value and searches it; take one of them out")
        if name in baseline.settings and name not in baseline.stateful:
            raise file.wrong(child, f"{row} searches {name}, which cannot change a result (it is stateless)")
    return {name: _range(file, name, child, baseline.types) for name, child in searched.items()}


def _range(file: File, name: str, node: Node, types: Types) -> Range:
    forms = "{ log = [low, high] }, { uniform = [low, high] }, { int = [low, high] } or { choice = [value, ...] }"
    if node.table is None or len(node.table) != 1:
        raise file.wrong(node, f"{name} is searched in {forms}, not in {as_toml(node.value)}")
    ((kind, child),) = node.table.items()
    if kind not in RANGES:
        raise file.wrong(child, f'{name}: there is no range "{kind}"{meant(kind, RANGES, f"; there are {forms}")}')
    values = tuple(types.cast({name: item})[name] for item in file.items(child, f"{name}.{kind}"))
    one = Range(kind, values)
    if wrong := _wrong_range(one):
        raise file.wrong(child, f"{name}: {wrong}, not {as_toml(child.value)}")
    return one


def _wrong_range(one: Range) -> str:
    """What is wrong with a range whose values are of its setting's type; "" if nothing is."""
    values = one.values
    if one.kind == "choice":
        distinct = len({json.dumps(value, sort_keys=True) for value in values})
        return "" if len(values) > 1 and distinct == len(values) else "a choice must name at least two values, each once"
    numbers = [value for value in values if is_number(value)]
    if len(numbers) != 2 or len(values) != 2 or numbers[0] >= numbers[1]:
        return f"`{one.kind}` must be two numbers, the lower first"
    whole = isinstance(numbers[0], int)
    if one.kind == "log" and numbers[0] <= 0:
        return "`log` must begin above 0"
    if one.kind == "int" and not whole:
        return "`int` is for settings that are whole numbers; write `uniform` or `log`"
    return "`uniform` is for settings that are no whole numbers; write `int`" if one.kind == "uniform" and whole else ""

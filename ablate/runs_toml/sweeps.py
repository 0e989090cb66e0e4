"""[sweep...]: questions, each with its trees, its learn lines, and what it is skipped by."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ablate.conditions import Condition, ConditionError, Otherwise, Took, atoms, parse, parse_take
from ablate.runs_toml.file import File
from ablate.runs_toml.names import Names, sweep_tables
from ablate.runs_toml.positions import Node
from ablate.settings import as_toml
from ablate.study import Learn, Line, Skip, Sweep, Take, Tree


@dataclass(frozen=True)
class _Words:
    """What the conditions of a sweep may speak of."""

    file: File
    names: Names
    metrics: Collection[str]
    on: str = ""
    """The metric meant where a condition names none."""

    def condition(self, node: Node) -> tuple[str, Condition]:
        text, names = self.file.string(node, "a condition"), self.names
        try:
            return text, parse(text, on=self.on, runs=names.runs, metrics=self.metrics, decisions=names.decisions)
        except ConditionError as error:
            raise self.file.wrong_in(node, error) from None

    def take(self, node: Node) -> Take:
        try:
            return Take(*parse_take(node.value, runs=self.names.runs))
        except ConditionError as error:
            raise self.file.wrong_in(node, error) from None


def read_sweeps(file: File, names: Names, metrics: Collection[str]) -> dict[str, Sweep]:
    words = _Words(file, names, metrics)
    return {name: _sweep(words, name, node) for name, node in sweep_tables(file)}


def _sweep(words: _Words, name: str, node: Node) -> Sweep:
    file = words.file
    keys = file.only(node, ("asks", "compare", "on", "skip", "decide", "learn"), name)
    on = file.string(keys["on"], f"{name}.on") if "on" in keys else ""
    if on:
        file.known(keys["on"], on, words.metrics, "metric")
    words = replace(words, on=on)
    compare = words.names.listed(file, keys["compare"], f"{name}.compare") if "compare" in keys else ()
    trees = file.table(keys["decide"], f"{name}.decide") if "decide" in keys else {}
    learn = file.items(keys["learn"], f"{name}.learn") if "learn" in keys else []
    if not trees and not learn:
        raise file.wrong(node, f"[{name}] has no `decide` tree and no `learn` lines: it asks nothing")
    return Sweep(
        name=name,
        asks=file.string(keys["asks"], f"{name}.asks") if "asks" in keys else "",
        compare=compare,
        on=on,
        trees=tuple(_tree(words, name, tree, child) for tree, child in trees.items()),
        learn=tuple(_learn(words, name, child) for child in learn),
        skip=_skip(words, name, keys["skip"]) if "skip" in keys else None,
        line=file.line(node),
    )


def _tree(words: _Words, sweep: str, name: str, node: Node) -> Tree:
    file, what = words.file, f"{sweep}.decide.{name}"
    nodes = file.items(node, what)
    lines = tuple(_line(words, what, child) for child in nodes)
    ends = [number for number, line in enumerate(lines) if isinstance(line.condition, Otherwise)]
    if not ends:
        raise file.wrong(
            nodes[-1] if nodes else node,
            f'the tree {name} does not end in a line ["otherwise", "RUN", "why"]: nothing would be taken when no line holds',
        )
    if ends[0] != len(lines) - 1:
        raise file.wrong(nodes[ends[0]], '"otherwise" must be the last line of its tree: no line below it is ever reached')
    return Tree(name, sweep, lines, file.line(node))


def _line(words: _Words, what: str, node: Node) -> Line:
    condition, take, because = _strings(words.file, node, ("condition", "take", "because"), what)
    text, parsed = words.condition(condition)
    return Line(text, parsed, words.take(take), because.value, words.file.line(node))


def _learn(words: _Words, sweep: str, node: Node) -> Learn:
    condition, say = _strings(words.file, node, ("condition", "what it tells"), f"{sweep}.learn")
    text, parsed = words.condition(condition)
    if isinstance(parsed, Otherwise):
        raise words.file.wrong(node, '"otherwise" has no place in `learn`: its lines do not exclude each other')
    return Learn(text, parsed, say.value, words.file.line(node))


def _strings(file: File, node: Node, parts: tuple[str, ...], what: str) -> list[Node]:
    """A line of a tree: so many strings."""
    items = file.items(node, f"a line of {what}")
    if len(items) != len(parts) or not all(isinstance(item.value, str) for item in items):
        form = ", ".join(f'"{part}"' for part in parts)
        raise file.wrong(node, f"a line of {what} is [{form}]")
    return items


def _skip(words: _Words, sweep: str, node: Node) -> Skip:
    file = words.file
    file.table(node, f"{sweep}.skip")
    keys = file.only(node, ("if", "because"), f"{sweep}.skip")
    if len(keys) < 2:
        raise file.wrong(node, f'{sweep}.skip must be {{ if = "DECISION took RUN", because = "why" }}')
    text, parsed = replace(words, on="").condition(keys["if"])
    if isinstance(parsed, Otherwise) or not all(isinstance(atom, Took) for atom in atoms(parsed)):
        raise file.wrong(keys["if"], f'a sweep is skipped by what a decision took ("freeze took F1"), not by {as_toml(text)}')
    return Skip(text, parsed, file.string(keys["because"], f"{sweep}.skip.because"))


def metric_of(file: File, node: Node, where: str, needs: str, metrics: Collection[str], sweeps: Mapping[str, Sweep]) -> str:
    """What `on` says in the table at a node; else the metric of the first sweep that decides something, else the first."""
    if "on" in node.keys:
        return file.known_string(node.keys["on"], f"{where}.on", metrics, "metric")
    decided = [sweep.on for sweep in sweeps.values() if sweep.trees and sweep.on]
    if not (decided or metrics):
        raise file.wrong(node, f"{needs}: declare one in [metrics]")
    return [*decided, *metrics][0]

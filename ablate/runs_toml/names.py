"""Every name that others may use, before what uses it is read: runs, other names for them, decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ablate.runs_toml.file import EMPTY, File
from ablate.runs_toml.positions import Node
from ablate.settings import as_toml


@dataclass(frozen=True)
class Names:
    runs: Mapping[str, str]
    """Every name of a run -> its row; an alias has another's."""
    aliases: Mapping[str, str]
    decisions: Mapping[str, Node]
    """Each with its tree's place in the file."""

    def listed(self, file: File, node: Node, what: str) -> tuple[str, ...]:
        """A list of runs, each once, named as the file does."""
        found: dict[str, str] = {}
        for item in file.items(node, what):
            name = file.known_string(item, f"a run in {what}", self.runs, "run")
            if self.runs[name] in found:
                also = f" ({name} is another name for it)" if name in self.aliases else ""
                raise file.wrong(item, f"{what} names {self.runs[name]} twice{also}")
            found[self.runs[name]] = name
        return tuple(found.values())

    def rows(self, file: File, node: Node, what: str) -> tuple[str, ...]:
        """The same, each by the name of its row."""
        return tuple(self.runs[name] for name in self.listed(file, node, what))


def read_names(file: File) -> Names:
    rows = file.section("runs").keys
    if not rows:
        raise file.wrong(file.section("runs"), "[runs] has no rows: nothing to study")
    for name, node in rows.items():
        file.name(node, name, "run")
    aliases = _aliases(file, rows)
    return Names({name: aliases.get(name, name) for name in rows}, aliases, _decisions(file, rows))


def _aliases(file: File, rows: Mapping[str, Node]) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for name, node in rows.items():
        if isinstance(node.value, str):
            aliases[name] = file.known(node, node.value, rows, "run")
        elif node.table is None:
            raise file.wrong(node, f"a row is {{ setting = value, ... }} or the name of another row, not {as_toml(node.value)}")
    for name, other in aliases.items():
        if other in aliases:
            raise file.wrong(rows[name], f"{other} is itself another name for {aliases[other]}; name the row itself")
    return aliases


def _decisions(file: File, rows: Mapping[str, Node]) -> dict[str, Node]:
    decisions: dict[str, Node] = {}
    for sweep, node in sweep_tables(file):
        file.name(node, sweep, "sweep")
        for name, tree in node.keys.get("decide", EMPTY).keys.items():
            file.name(tree, name, "decision")
            if name in decisions:
                first = file.line(decisions[name])
                raise file.wrong(tree, f'there are two decisions "{name}", the first in line {first}')
            if name in rows:
                raise file.wrong(tree, f'"{name}" is a run already; give the decision another name')
            decisions[name] = tree
    return decisions


def sweep_tables(file: File) -> Iterator[tuple[str, Node]]:
    """[sweep1], [sweep2], ... in their order."""
    return ((name, node) for name, node in file.root.keys.items() if name.startswith("sweep"))

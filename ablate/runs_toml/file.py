"""The file: its text, the tree of its keys, and how a mistake in it is told."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from ablate.conditions import RESERVED, ConditionError, near, quoted
from ablate.runs_toml.positions import Node, Text, first_defined_twice, scan
from ablate.settings import Setting, SettingError, as_toml
from ablate.study import LOCKED, NAME, REFERENCE, TRIAL, UserError

SECTIONS = (
    "study", "settings", "runs", "start", "search", "seeds", "evidence", "metrics",
    "blocks", "lock", "check", "not_swept", "figures", "profile",
)  # fmt: skip
"""Besides sweep1, sweep2, ..."""

Flat = dict[str, Node]
"""Dotted name of a setting -> where its value stands."""

EMPTY = Node(0)
"""A table that is not in the file."""
EMPTY.table = {}


@dataclass(frozen=True)
class File:
    """The text, its tree, and how a mistake in it is told: `wrong`; most methods answer what stands at a node, or tell it."""

    text: Text
    text_hash: str
    root: Node
    layers: tuple[Node, ...] = ()
    """The tables of the profile that is read and of those it is `like`, the most basic first."""

    def section(self, name: str) -> Node:
        return self.root.keys.get(name, EMPTY)

    @property
    def profiles(self) -> Mapping[str, Node]:
        """All there are: a mistake in one that nobody asked for is told too."""
        return self.section("profile").keys

    def layered(self, *path: str) -> Flat:
        """The settings that the profile gives below `path`."""
        return {name: node for layer in self.layers for name, node in flat(layer, *path).items()}

    def wrong(self, node: Node, message: str) -> UserError:
        return UserError(f"{self.text.path}: {message}" if node is EMPTY else self.text.told(node.at, message))

    def wrong_in(self, node: Node, error: ConditionError) -> UserError:
        """A mistake inside a string, with its column."""
        at = self.text.inside(node, error.column - 1)
        return UserError(self.text.told(at, str(error), caret=True))

    def line(self, node: Node) -> int:
        return self.text.line(node.at)

    def cast(self, node: Node, setting: Setting) -> Any:
        try:
            return setting.cast(node.value)
        except SettingError as error:
            raise self.wrong(node, str(error)) from None

    def table(self, node: Node, what: str) -> Mapping[str, Node]:
        if node.table is None:
            raise self.wrong(node, f"{what} must be a table, not {as_toml(node.value)}")
        return node.table

    def items(self, node: Node, what: str) -> list[Node]:
        if node.items is None:
            raise self.wrong(node, f"{what} must be a list, not {as_toml(node.value)}")
        return node.items

    def string(self, node: Node, what: str) -> str:
        if not isinstance(node.value, str):
            raise self.wrong(node, f"{what} must be a string, not {as_toml(node.value)}")
        return node.value

    def known(self, node: Node, name: str, names: Collection[str], kind: str) -> str:
        if name not in names:
            raise self.wrong(node, f"there is no {kind} {as_toml(name)}{meant(name, names, f'; {kind}s: {_some(names)}')}")
        return name

    def known_string(self, node: Node, what: str, names: Collection[str], kind: str) -> str:
        return self.known(node, self.string(node, what), names, kind)

    def key(self, node: Node, name: str, keys: Collection[str], where: str) -> None:
        if name not in keys:
            raise self.wrong(node, f'there is no key "{name}" in [{where}]{meant(name, keys, f". There are: {_some(keys)}")}')

    def only(self, node: Node, keys: Collection[str], where: str) -> Mapping[str, Node]:
        """A table's keys, when there are none but `keys`."""
        for name, child in node.keys.items():
            self.key(child, name, keys, where)
        return node.keys

    def filled(self, node: Node, keys: Mapping[str, Setting], where: str, besides: tuple[str, ...] = ()) -> dict[str, Any]:
        """The values of a table with known keys, defaults filled in; `besides` are keys read elsewhere."""
        self.table(node, f"[{where}]")
        found = {
            name: self.cast(child, replace(keys[name], name=f"{where}.{name}"))
            for name, child in self.only(node, (*keys, *besides), where).items()
            if name in keys
        }
        for name, setting in keys.items():
            if name not in found:
                if not setting.has_default:
                    raise self.wrong(node, f"[{where}] must say `{name}`")
                found[name] = setting.default
        return found

    def name(self, node: Node, name: str, what: str) -> str:
        """A name that becomes a folder's and a word of the conditions."""
        if why := _no_name(name, what):
            raise self.wrong(node, f"{as_toml(name)} cannot name a {what}{why}")
        return name


def meant(name: str, names: Collection[str], otherwise: str) -> str:
    """`. Did you mean "x"?`, or what else is to be said of a name that is not there."""
    guesses = near(name, names)
    return f". Did you mean {quoted(guesses)}?" if guesses else otherwise


def flat(node: Node, *path: str) -> Flat:
    """The settings given below node.path: the dotted key left of each `=`, and all that stands right of it."""
    for key in path:
        node = node.keys.get(key, EMPTY)
    return dict(_assignments(node))


def by_name(*settings: Setting) -> dict[str, Setting]:
    return {one.name: one for one in settings}


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _assignments(node: Node, prefix: str = "") -> Iterator[tuple[str, Node]]:
    for key, child in node.keys.items():
        if child.whole or child.table is None:
            yield prefix + key, child
        else:
            yield from _assignments(child, f"{prefix}{key}.")


def _no_name(name: str, what: str) -> str:
    if not NAME.fullmatch(name) or ".." in name:
        return '; a name is made of letters, digits, ".", "_" and "-", at most 64, a letter or digit first, no ".."'
    if name in RESERVED:
        return ": it is a word of the conditions"
    if what == "run" and name.endswith(TRIAL):
        return f": the trials of a search for LR2 are called LR2{TRIAL}"
    if what == "run" and name.endswith(REFERENCE):
        return f": what D1 is compared with is called D1{REFERENCE}"
    return ": the locked config is called that when it is confirmed" if what == "run" and name == LOCKED else ""


def _some(names: Collection[str], most: int = 12) -> str:
    shown = [*names][:most]
    return ", ".join(shown) + (", ..." if len(names) > most else "") if names else "none"


# ---------------------------------------------------------------- from bytes to the tree


def open_file(path: Path) -> File:
    """Raises UserError: it cannot be read, is not TOML, or has sections that no study has."""
    data = _bytes(path)
    file = _parsed(path, data)
    for name, node in file.root.keys.items():
        if name not in SECTIONS and not name.startswith("sweep"):
            there_are = f". There are: {', '.join(SECTIONS)}, and sweep..."
            raise file.wrong(node, f"there is no section [{name}]{meant(name, SECTIONS, there_are)}")
        file.table(node, f"[{name}]")
    for name in ("study", "runs", "seeds"):
        if name not in file.root.keys:
            raise UserError(f"{path}: there is no [{name}]; `ablate init` shows what a study needs")
    return file


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file. `ablate init` writes a first one") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name the file in it: {path / 'runs.toml'}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _parsed(path: Path, data: bytes) -> File:
    try:
        content = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise UserError(f"{path}:{line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from None
    text = Text(path, content)
    try:
        values = tomllib.loads(content)
    except RecursionError as error:
        raise UserError(f"{path}: brackets are nested too deep to be read; a study needs two or three levels") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(_not_toml(text, str(error))) from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: a value cannot be read: {error}") from error
    return File(text, hashlib.sha256(data).hexdigest(), scan(content, values))


def _not_toml(text: Text, message: str) -> str:
    if message.startswith(("Cannot overwrite a value", "Duplicate inline table key", "Cannot mutate immutable namespace")):
        twice = first_defined_twice(text.text)
        if twice is not None:
            return text.told(twice.second, f'"{twice.name}" is defined twice, first in line {text.line(twice.first)}')
    said, _, place = message.partition(" (at ")
    found = re.match(r"line (\d+), column (\d+)", place)
    if found is None:
        return f"{text.path}:{text.text.rstrip().count(chr(10)) + 1}: not TOML: {said}, where the file ends"
    at = sum(len(line) + 1 for line in text.text.split("\n")[: int(found[1]) - 1]) + int(found[2]) - 1
    declared = re.match(r"Cannot declare \((.*?),?\) twice", said)
    if declared:
        name = ".".join(re.findall(r"'([^']*)'", declared[1]))
        return text.told(at, f"[{name}] is there twice; put both into one")
    return text.told(at, f"not TOML: {said}", caret=True)

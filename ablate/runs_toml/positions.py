"""Where each key and value of a TOML text stands; tomllib reads the values and forgets the places.

One pass with regular expressions over a text that tomllib has accepted. tree-sitter does the same, but costs 20 ms to import and
0.4 s to walk 10 000 rows; this costs 0 and 0.2.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

_NAME = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_DOTTED = rf"{_NAME}(?:[ \t]*\.[ \t]*{_NAME})*"
_KEY = re.compile(_DOTTED)
_KEY_IS = re.compile(rf"({_DOTTED})[ \t]*=[ \t]*")
_PART = re.compile(_NAME)
_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_NEXT = re.compile(r"(?:[ \t\n]+|#[^\n]*)*(,?)(?:[ \t\n]+|#[^\n]*)*")
_SCALAR = re.compile(
    r'"""(?:[^"\\]|\\[\s\S]|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|[^\s,\]}#\"'\[{][^,\]}#\n]*"
)


class NotScannedError(Exception):
    """The text is not TOML at this offset (tomllib says it better)."""


class DefinedTwiceError(Exception):
    """One name is given a value in two places."""

    def __init__(self, name: str, first: int, second: int) -> None:
        super().__init__(name)
        self.name, self.first, self.second = name, first, second


class Node:
    """A key with its value, or an element of an array.

    at:       offset of the key (of the element) in the text.
    value_at: offset of the value.
    whole:    the value stands right of this key's `=`: `a.b = { c = 1 }` makes a.b and c whole, but not a.
    """

    __slots__ = ("at", "items", "table", "value", "value_at", "whole")

    def __init__(self, at: int, value_at: int = -1, whole: bool = False) -> None:
        self.at, self.value_at, self.whole = at, value_at, whole
        self.value: Any = None
        self.table: dict[str, Node] | None = None
        self.items: list[Node] | None = None

    @property
    def keys(self) -> dict[str, Node]:
        """The keys below this one; empty for anything but a table."""
        return self.table if self.table is not None else {}


def scan(text: str, values: dict[str, Any]) -> Node:
    """The tree of `text`, with the values that tomllib read from it. Newlines must be "\\n" alone."""
    root = _Scan(text).document()
    _attach(root, values)
    return root


def first_defined_twice(text: str) -> DefinedTwiceError | None:
    """The first name that has two values, when that is what is wrong with `text`."""
    try:
        _Scan(text).document()
    except DefinedTwiceError as twice:
        return twice
    except NotScannedError:
        return None
    return None


def _attach(node: Node, value: Any) -> None:
    node.value = value
    if node.table is not None:
        for key, child in node.table.items():
            _attach(child, value[key])
    elif node.items is not None:
        for child, element in zip(node.items, value, strict=True):
            _attach(child, element)


class _Scan:
    def __init__(self, text: str) -> None:
        self.text, self.pos = text, 0

    def document(self) -> Node:
        root = Node(0)
        root.table = {}
        here = root
        while True:
            self.skip(_GAP)
            if self.pos >= len(self.text):
                return root
            here = self.header(root) if self.text[self.pos] == "[" else self.statement(here)

    def header(self, root: Node) -> Node:
        at, many = self.pos, self.text.startswith("[[", self.pos)
        self.pos += 2 if many else 1
        self.skip(_BLANK)
        *parents, name = self.key()
        node = self.descend(root, parents)
        if not many:
            node = self.descend(node, [(name[0], at)])
        else:
            entry = node.keys.setdefault(name[0], Node(at))
            entry.items = entry.items if entry.items is not None else []
            node = Node(at)
            node.table = {}
            entry.items.append(node)
        self.skip(_BLANK)
        for _ in range(2 if many else 1):
            self.expect("]")
        return node

    def statement(self, table: Node) -> Node:
        """One `key = value` into `table`; answers the table, for the next one."""
        found = _KEY_IS.match(self.text, self.pos)
        if found is None:
            raise NotScannedError
        at, self.pos = found.start(), found.end()
        *parents, (name, name_at) = self.parts(found.group(1), at)
        into = self.descend(table, parents) if parents else table
        if into.table is None or name in into.table:
            raise DefinedTwiceError(name, into.keys[name].at if name in into.keys else into.at, name_at)
        node = into.table[name] = Node(at, self.pos, whole=True)
        self.value(node)
        return table

    def value(self, node: Node) -> None:
        opening = self.text[self.pos : self.pos + 1]
        if opening == "{":
            node.table = {}
            self.pos += 1
            self.sequence("}", lambda: self.statement(node))
        elif opening == "[":
            items: list[Node] = []
            node.items = items
            self.pos += 1
            self.sequence("]", lambda: self.element(items))
        else:
            self.skip(_SCALAR)

    def element(self, items: list[Node]) -> Node:
        node = Node(self.pos, self.pos)
        items.append(node)
        self.value(node)
        return node

    def sequence(self, closing: str, one: Callable[[], object]) -> None:
        text = self.text
        self.skip(_GAP)
        comma = True
        while not text.startswith(closing, self.pos):
            if not comma:
                raise NotScannedError
            one()
            found = _NEXT.match(text, self.pos)
            assert found is not None, "the pattern matches the empty text"
            self.pos, comma = found.end(), bool(found.group(1))
        self.pos += 1

    def key(self) -> list[tuple[str, int]]:
        """The parts of a dotted key, each with its offset."""
        start = self.pos
        return self.parts(self.skip(_KEY), start)

    def parts(self, dotted: str, start: int) -> list[tuple[str, int]]:
        if "." not in dotted and dotted[0] not in "\"'":
            return [(dotted, start)]
        return [(_unquoted(part.group()), start + part.start()) for part in _PART.finditer(dotted)]

    def descend(self, node: Node, parts: list[tuple[str, int]]) -> Node:
        for name, at in parts:
            if node.table is None:
                raise NotScannedError
            node = node.table[name] if name in node.table else node.table.setdefault(name, Node(at))
            if node.items and not node.whole:
                node = node.items[-1]  # below [[name]], `name` means its last entry
            elif node.table is None:
                if node.whole:
                    raise DefinedTwiceError(name, node.at, at)
                node.table = {}
        return node

    def skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.pos)
        if found is None:
            raise NotScannedError
        self.pos = found.end()
        return found.group()

    def expect(self, mark: str) -> None:
        if not self.text.startswith(mark, self.pos):
            raise NotScannedError
        self.pos += len(mark)


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_SHORT = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def _unquoted(part: str) -> str:
    if part[0] == "'":
        return part[1:-1]
    if part[0] == '"':
        return _ESCAPE.sub(lambda m: chr(int(m[1] or m[2], 16)) if m[1] or m[2] else _SHORT.get(m[3], m[3]), part[1:-1])
    return part


@dataclass(frozen=True)
class Text:
    """A file's text, and the words for a place in it."""

    path: Path
    text: str

    @cached_property
    def _ends(self) -> list[int]:
        return [found.start() for found in re.finditer("\n", self.text)]

    def line(self, at: int) -> int:
        """1-based line of an offset."""
        return bisect_left(self._ends, at) + 1

    def column(self, at: int) -> int:
        """1-based column of an offset."""
        return at - (self.text.rfind("\n", 0, at) + 1) + 1

    def source(self, line: int) -> str:
        lines = self.text.split("\n")
        return lines[line - 1] if line <= len(lines) else ""

    def inside(self, node: Node, index: int) -> int:
        """Offset in the file of character `index` of a one-line string; the string's start where escapes blur it."""
        if self.text[node.value_at : node.value_at + 3] in ('"""', "'''"):
            return node.value_at
        at = node.value_at + 1
        return node.value_at if "\\" in self.text[at : at + index] else at + index

    def told(self, at: int, message: str, *, caret: bool = False) -> str:
        """`FILE:LINE: message`, and the line itself below it; with `caret`, the column too."""
        line = self.line(at)
        source = self.source(line)
        shown = source.strip()
        if not caret:
            return f"{self.path}:{line}: {message}\n    {shown}"
        column = self.column(at)
        blanks = " " * (column - 1 - (len(source) - len(source.lstrip())))
        return f"{self.path}:{line}:{column}: {message}\n    {shown}\n    {blanks}^"

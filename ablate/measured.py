"""What a script measured, read from lines of its output or of a JSON-lines file. A number counts whole or not at all.

What a result rests on is the last word on a metric. If that cannot be read, the attempt has no result (`Metrics.unreadable`);
what cannot be read before it is counted and told (`Metrics.remarks`), and reading goes on. Standard library only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ablate.folders import METRICS, DiskError
from ablate.planning.failures import VERDICT
from ablate.study import UserError

LINES = "a line"
"""Stands for a metric where a whole line cannot be read: which numbers it holds is not known."""

NUMBERS = ("nan", "-inf", "-1.5", "2.5e-05")
"""As scripts print them: what every group of a metric must be able to take."""

_GROUP = re.compile(r"\(\?P<(\w+)>")
_GOES_ON = re.compile(r"\w|[.,+-]\d")
_BEGAN = re.compile(r"(?:\d|\d[.,_eE]|[-+])\Z")
_ANYTHING_BEFORE = re.compile(r"(?:\A|(?<!\\)(?:\.|\[\^[^\]]*\]|\\[SDW])[*+?]*)[()?:]*\Z")
_ANYTHING_BEHIND = re.compile(r"[()?:*+]*(?:\.|\[\^|\\[SDW])")
_QUOTED = 120


@dataclass(frozen=True)
class NoNumber:
    """What stands where a number should."""

    why: str


Values = Mapping[str, float | NoNumber]


@dataclass(frozen=True)
class _Group:
    """A named group of a pattern: what stands inside, and whether just anything may stand before it, and behind it."""

    name: str
    inside: str
    open_before: bool
    open_behind: bool

    @property
    def metric(self) -> str:
        return self.name.replace("__", "/")


class Pattern:
    """A user's regular expression for lines with numbers: every named group but `step` is a metric, and takes its number whole.

    A group that ends (or begins) within a number has read none: .+? in 0.25e-3, .* before the last digit of 12.5. What the
    pattern itself spells out beside the group is no part of the number. What is no number where one should stand is told.
    """

    def __init__(self, text: str) -> None:
        """re.error if it is none."""
        self._compiled = re.compile(text)
        self._groups = [group for group in _groups(text) if group.name != "step"]

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(group.metric for group in self._groups)

    @property
    def counts_steps(self) -> bool:
        return "step" in self._compiled.groupindex

    @property
    def too_narrow(self) -> str:
        """Which of its groups passes some numbers by, and what to write; "" if all take every number.

        [\\d.]+ does not see that a loss became nan: such a run would count with the last number it had.
        """
        for group in self._groups:
            missed = [text for text in NUMBERS if not self._takes(group, text)]
            if missed:
                return f"its group {group.name} passes {', '.join(missed)} by; write (?P<{group.name}>\\S+)"
        return ""

    def _takes(self, group: _Group, text: str) -> bool:
        try:
            return re.fullmatch(group.inside, text, self._compiled.flags) is not None
        except re.error:  # it speaks of other groups, and what it takes cannot be told
            return False

    def read(self, line: str) -> tuple[str | None, Values] | None:
        """The text of the step, and what each metric says; None for a line that speaks of none."""
        found = self._compiled.search(line)
        if found is None:
            return None
        values = {group.metric: _read_group(group, found) for group in self._groups if found[group.name] is not None}
        return (found["step"] if self.counts_steps else None), values


def _read_group(group: _Group, found: re.Match[str]) -> float | NoNumber:
    text, (start, end) = found[group.name].rstrip(".,;:)]}"), found.span(group.name)
    end, line = start + len(text), found.string
    value = number(text)
    if value is None:
        return NoNumber(f"{text!r} is no number")
    behind_is_open = group.open_behind or found.end() == end
    if (group.open_before and _BEGAN.search(line, max(start - 3, 0), start)) or (behind_is_open and _GOES_ON.match(line, end)):
        return NoNumber(f"{text!r} is a part of what stands there; have the pattern take it whole, with \\S+")
    return value


def _groups(text: str) -> Iterator[_Group]:
    """The named groups of a regular expression, in the order they end."""
    opened: list[tuple[str, int, int]] = []
    at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif text[at] == "[":
            at = _end_of_class(text, at)
        elif text.startswith("(?#", at):
            at = text.index(")", at) + 1
        elif text[at] == "(":
            named = _GROUP.match(text, at)
            opened.append((named[1] if named else "", at, named.end() if named else at + 1))
            at = opened[-1][2]
        else:
            if text[at] == ")" and opened:
                name, start, inside = opened.pop()
                if name:
                    before, behind = _ANYTHING_BEFORE.search(text[:start]), _ANYTHING_BEHIND.match(text, at + 1)
                    yield _Group(name, text[inside:at], before is not None, behind is not None)
            at += 1


def _end_of_class(text: str, at: int) -> int:
    """Behind the ] that closes the [ at `at`."""
    at += 1 + text.startswith("^", at + 1)
    at += text.startswith("]", at)
    while at < len(text) and text[at] != "]":
        at += 2 if text[at] == "\\" else 1
    return at + 1


class Metrics:
    """Appends what the script measured to metrics.jsonl. DiskError if it cannot."""

    def __init__(self, folder: Path, attempt: int, judged: Collection[str]) -> None:
        """judged: the metrics that the study is about; other fields of a JSON line need not be numbers."""
        self._path, self._attempt, self._judged = folder / METRICS, attempt, frozenset(judged)
        self._step = 0
        self._highest: dict[str, int] = {}
        self._unread: dict[str, str] = {}
        self._told: dict[str, tuple[int, str]] = {}
        self.last: dict[str, tuple[int, float]] = {}
        """Metric -> step and value of its last measurement."""

    def read_line(self, pattern: Pattern, line: str) -> None:
        """A line of output. Without a group `step` every match is the next step; __ in a group's name stands for /."""
        if (found := pattern.read(line)) is not None:
            step, values = found
            self._add(step if pattern.counts_steps else self._step + 1, values, line)

    def read_json(self, line: str) -> None:
        """A line of a JSON-lines file: an object of numbers, `step` among them. Without one, every line is the next step."""
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, a whole number of thousands of digits, nested too deep
            fields = None
        if not isinstance(fields, dict):
            self._not_read(LINES, "it is no JSON object", line)
            return
        self._unread.pop(LINES, None)
        step = fields.pop("step", self._step + 1)
        values: dict[str, float | NoNumber] = {}
        for name, value in fields.items():
            if (read := number(value)) is not None:
                values[name] = read
            elif name in self._judged or name in self.last or type(value) is int:
                values[name] = NoNumber(f"{_brief(value)} is no number")
        self._add(step, values, line)

    def diverged(self) -> str:
        """Which metrics ended as no finite number; "" for none."""
        lost = ((name, step, value) for name, (step, value) in self.last.items() if not math.isfinite(value))
        return "; ".join(f"{name} was {value} at step {step}" for name, step, value in lost)

    def unreadable(self) -> str:
        """Why there is no result, as far as the last word on a metric of the study cannot be read; else ""."""
        return "; ".join(why for name, why in self._unread.items() if name in self._judged or name == LINES)

    def remarks(self) -> str:
        """What was not read, and what was read otherwise than it was written; "" if there is nothing to say."""
        times = {name: "once" if count == 1 else f"{count} times" for name, (count, _) in self._told.items()}
        said = [f"{name}: not read {times[name]}, first because {why}" for name, (_, why) in self._told.items()]
        said += [
            f"{name}: last measured at step {step}, but what counts is step {self._highest[name]}, measured before"
            for name, (step, _) in self.last.items()
            if name in self._judged and step < self._highest[name]
        ]
        return "; ".join(said)

    def _add(self, step: object, values: Values, line: str) -> None:
        if (at := _whole(step)) is None:
            values = {name: NoNumber(f"step {_brief(step)} is no whole number below 2**63") for name in values}
        self._step = self._step if at is None else at
        measured: dict[str, float] = {}
        for name, value in values.items():
            if isinstance(value, NoNumber):
                self._not_read(name, value.why, line)
            else:
                measured[name] = value
                self._unread.pop(name, None)
                self._highest[name] = max(self._highest.get(name, self._step), self._step)
        if measured:
            self.last |= {name: (self._step, value) for name, value in measured.items()}
            self._write({"attempt": self._attempt, "step": self._step, "metrics": measured})

    def _not_read(self, name: str, why: str, line: str) -> None:
        told = f"{why}, in {line[:_QUOTED]!r}{'…' if len(line) > _QUOTED else ''}"
        count, first = self._told.get(name, (0, told))
        self._told[name] = count + 1, first
        self._unread[name] = f"the last {'line' if name == LINES else name} cannot be read: {told}"
        if count == 0:
            print(f"{VERDICT}{name}: not read here, because {told}", flush=True)

    def _write(self, point: Mapping[str, object]) -> None:
        try:
            with self._path.open("a") as log:
                log.write(json.dumps(point) + "\n")
        except OSError as error:
            raise DiskError(self._path, error) from error


class Tail:
    """The complete lines that a growing file has gained. UserError if it is there and cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def lines(self, last: bool = False) -> list[str]:
        """last: nothing will follow, so that a line without its end counts too. A file that became shorter is read anew."""
        try:
            with self._path.open("rb") as file:
                self._at = self._at if self._path.stat().st_size >= self._at else 0
                file.seek(self._at)
                fresh = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{self._path} cannot be read: {error.strerror}") from error
        complete = fresh if last else fresh[: fresh.rfind(b"\n") + 1]
        self._at += len(complete)
        return [line for line in complete.decode(errors="replace").split("\n") if line.strip()]


def number(value: object) -> float | None:
    """None for what is none. "nan" and "inf" are numbers; true is not."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):  # no number; a whole number above 1e308
        return None


def _brief(value: object) -> str:
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else json.dumps(value)[:40]


def _whole(value: object) -> int | None:
    """A step as the database keeps it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 2**63 else None
    found = number(value)
    return int(found) if found is not None and found.is_integer() and abs(found) < 2**63 else None

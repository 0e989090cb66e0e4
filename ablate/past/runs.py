"""Past results as values: what a file says was measured, before anybody asks which job of a study it was. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.study import UserError

Curves = Mapping[str, Mapping[int, float]]
"""Metric -> step -> value; one that is nan or infinite is evidence of a divergence."""

MISTAKES_TOLD = 10
SHOWN = 60
"""Characters of a value that is quoted."""
LONGEST_NAME = 200
"""Characters of a run's or metric's name."""


@dataclass(frozen=True)
class PastRun:
    """One training, as a file tells it."""

    name: str
    """As the file calls it."""
    seed: int | None
    """None: the file does not say."""
    curves: Curves
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the file says of its settings, dotted names; a table has them as text."""
    place: str = ""
    """Where the file tells of it first: "row 2"."""
    outcome: str = ""
    """"done" or "diverged"; "": not said, its last values tell."""
    unfinished: str = ""
    """Why it is no result: "crashed"; "" for one that ended."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    code_hash: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    ledger: bool = False
    """Whether `settings` are all there are and `facts` are what the trainer said: what fairness is checked with."""

    @property
    def ended(self) -> tuple[str, str]:
        """(outcome, reason). A metric whose last value is no number means that the training diverged, as everywhere."""
        last = {name: max(steps.items()) for name, steps in self.curves.items() if steps}
        lost = [f"{name} was {value} at step {step}" for name, (step, value) in last.items() if not math.isfinite(value)]
        return self.outcome or ("diverged" if lost else "done"), "; ".join(lost)


@dataclass(frozen=True)
class Past:
    """What one file (or folder) holds."""

    source: Path
    kind: str
    """In words: "CSV", "W&B, offline"."""
    sha256: str
    runs: tuple[PastRun, ...]
    unread: tuple[str, ...] = ()
    """Columns that mean nothing to the study."""


class Mistakes:
    """What is wrong with a file, told together: up to MISTAKES_TOLD of them, and how many there are in all."""

    def __init__(self, source: Path | str) -> None:
        self.source, self.count, self._told = source, 0, list[str]()

    def add(self, place: str, what: str) -> None:
        """place: in the source, or the source itself."""
        self.count += 1
        if self.count <= MISTAKES_TOLD:
            self._told.append(f"{place}: {what}" if place not in ("", str(self.source)) else what)

    def refuse(self) -> None:
        """UserError if there were any."""
        if not self.count:
            return
        if self.count == 1:
            end = "" if self._told[0].endswith("?") else "."
            raise UserError(f"{self.source}: {self._told[0]}{end} Nothing was imported")
        more = f"\n  and {self.count - MISTAKES_TOLD} more" if self.count > MISTAKES_TOLD else ""
        raise UserError(f"{self.source}: {self.count} mistakes, nothing was imported:\n  " + "\n  ".join(self._told) + more)


def shown(value: object) -> str:
    """A value as a message quotes it: its repr, cut where it is long."""
    text = repr(value[: SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN + 2 else f"{text[:SHOWN]}…"


def assignments(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """["run=name,seed=rng", "val_loss=eval, mean"] -> {"run": "name", ...}. One "=" is one assignment.

    UserError for what is none, and for a name that is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        parts = text.split(",") if text.count("=") > 1 else [text]
        for part in parts:
            name, equals, value = part.partition("=")
            if not equals or not name.strip() or not value.strip():
                raise UserError(f"{flag} {text}: {shown(part)} is not NAME=VALUE")
            if found.setdefault(name.strip(), value.strip()) != value.strip():
                raise UserError(f"{flag}: {name.strip()!r} is given twice, as {found[name.strip()]!r} and {value.strip()!r}")
    return found

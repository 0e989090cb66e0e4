"""What every answer is made of: a document of plain values, commands to type next, names in short."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.conditions import listed
from ablate.desk import Desk
from ablate.planning.plan import PlannedJob

Answer = dict[str, Any]


def at(job: PlannedJob) -> str:
    """How the command line names a job: F3@42."""
    return f"{job.run}@{job.seed}"


def command(desk: Desk, *words: str) -> str:
    """A command line that does this on the same study and profile."""
    study = desk.study
    file = [] if study.path.resolve() == Path("runs.toml").resolve() else ["--study", os.path.relpath(study.path)]
    profile = [] if study.profile == "full" else ["--profile", study.profile]
    return shlex.join(["ablate", *words, *file, *profile])


def head(desk: Desk) -> Answer:
    return {"study": desk.study.name, "profile": desk.study.profile}


def some(names: Sequence[str]) -> str:
    """The first few of many."""
    return listed(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def were(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def count(number: int, word: str) -> str:
    """ "1 job", "1,200 jobs"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def plain(document: Mapping[str, Any]) -> Answer:
    """As JSON has it: mappings as dicts, sequences as lists, numbers that are not finite as None."""
    return {str(key): _plain(value) for key, value in document.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value

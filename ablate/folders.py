"""Every path under outputs/, spelled once; and how a JSON file is written so that nobody ever sees half of it.

outputs/
  .cache/                                  shared by all jobs of this checkout
  <study>/<profile>/
    frozen.json  deviations.json  lock.json  earlier_locks.json
    decisions/0001-freeze.json             one file per record, never edited
    .importing/<id>/  .imports/<id>/       past results on their way to <job key>/: being written; whole
    <job key>/job.json
    code.json  .code/<hash>/               the trainer's code that jobs run from
    stop.json                              a person asks the launch to end
    <job key>/<attempt>/                   attempt.json  config.json  gang.json  stop.json   ours
                                           metrics.jsonl  facts.json  result.json       the trainer's
                                           rank0.log  checkpoints/00000120/

Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.study import NAME, UserError

ATTEMPT = "attempt.json"
CONFIG = "config.json"
METRICS = "metrics.jsonl"
FACTS = "facts.json"
RESULT = "result.json"
GANG = "gang.json"
CHECKPOINTS = "checkpoints"
JOB = "job.json"

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What may be a job's key: a run's name, its seed and a hash."""

EXIT_CODE = "exit_code"
"""A fact in the result.json of a command: its runner writes it, and a result.json without it is the script's own, for itself."""

CHECKPOINT = re.compile(r"\d{8,}")
"""A complete checkpoint: its step, eight digits or more."""


class BrokenFileError(UserError):
    """A file of ours (or of a trainer) that is not what its name promises."""


class DiskError(UserError):
    """A file of ours cannot be written: the disk is full, failing or read-only. One line for the person."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path}: cannot be written: {error.strerror or error}. Nothing half-written counts; make room or mend the disk, "
            "then launch again: it goes on from here"
        )


@dataclass(frozen=True)
class Folders:
    """The folders of one study in one profile. UserError if a name could leave `root`."""

    root: Path
    """outputs/"""
    study: str
    profile: str

    def __post_init__(self) -> None:
        for what, name in (("study", self.study), ("profile", self.profile)):
            _check(what, name, NAME)

    @property
    def cache(self) -> Path:
        return self.root / ".cache"

    @property
    def base(self) -> Path:
        return self.root / self.study / self.profile

    @property
    def frozen(self) -> Path:
        return self.base / "frozen.json"

    @property
    def deviations(self) -> Path:
        return self.base / "deviations.json"

    @property
    def lock(self) -> Path:
        return self.base / "lock.json"

    @property
    def earlier_locks(self) -> Path:
        return self.base / "earlier_locks.json"

    @property
    def decisions(self) -> Path:
        return self.base / "decisions"

    @property
    def code_record(self) -> Path:
        return self.base / "code.json"

    @property
    def code(self) -> Path:
        """Holds a copy of the trainer's code per hash."""
        return self.base / ".code"

    @property
    def importing(self) -> Path:
        """Imports that are being written; what a crash leaves here counts for nothing."""
        return self.base / ".importing"

    @property
    def imports(self) -> Path:
        """Imports that are whole, on their way to their jobs' places."""
        return self.base / ".imports"

    @property
    def stop_request(self) -> Path:
        return self.base / "stop.json"

    def decision(self, number: int, name: str) -> Path:
        """Of record `number`; the name is there for the reader only."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:64]
        return self.decisions / f"{number:04d}-{plain}.json"

    def job(self, key: str) -> Path:
        return self.base / _check("job", key, KEY)

    def job_record(self, key: str) -> Path:
        return self.job(key) / JOB

    def attempt(self, key: str, number: int) -> Path:
        if number < 1:
            raise UserError(f"job {key}: attempts count from 1, not {number!r}")
        return self.job(key) / str(number)

    def attempt_record(self, key: str, number: int) -> Path:
        return self.attempt(key, number) / ATTEMPT

    def config(self, key: str, number: int) -> Path:
        return self.attempt(key, number) / CONFIG

    def metrics(self, key: str, number: int) -> Path:
        return self.attempt(key, number) / METRICS

    def facts(self, key: str, number: int) -> Path:
        return self.attempt(key, number) / FACTS

    def result(self, key: str, number: int) -> Path:
        return self.attempt(key, number) / RESULT

    def gang(self, key: str, number: int) -> Path:
        return self.attempt(key, number) / GANG

    def log(self, key: str, number: int, rank: int = 0) -> Path:
        return log_of(self.attempt(key, number), rank)

    def checkpoints(self, key: str, number: int) -> Path:
        return self.attempt(key, number) / CHECKPOINTS

    def job_keys(self) -> tuple[str, ...]:
        """Jobs that have a folder, by name."""
        return tuple(sorted(path.parent.name for path in self.base.glob(f"*/{JOB}")))

    def names(self) -> frozenset[str]:
        """Of the jobs' folders, and of what lies beside them. One look, where `job_keys` looks into every folder."""
        return frozenset(path.name for path in _entries(self.base))

    def attempt_numbers(self, key: str) -> tuple[int, ...]:
        """Attempts that have a folder, ascending."""
        return tuple(sorted(int(path.name) for path in _entries(self.job(key)) if path.name.isdecimal() and path.is_dir()))

    def decision_files(self) -> tuple[Path, ...]:
        """In the order they were taken."""
        return tuple(sorted(self.decisions.glob("[0-9]*-*.json"), key=lambda path: int(path.name.partition("-")[0])))

    def resume_from(self, key: str) -> Path | None:
        """Newest complete checkpoint of the latest attempt that wrote one."""
        for number in reversed(self.attempt_numbers(key)):
            if found := newest_checkpoint(self.attempt(key, number)):
                return found
        return None


def studies_under(root: Path) -> tuple[Folders, ...]:
    """Every study and profile that has a folder under outputs/."""
    named = (path for path in sorted(root.glob("*/*/")) if all(NAME.fullmatch(part) for part in path.parts[-2:]))
    return tuple(Folders(root, path.parent.name, path.name) for path in named)


def is_kept_for_us(name: str) -> bool:
    """Whether that name, in an attempt's folder, means something already: a trainer may not use it for something else."""
    first = next(iter(Path(name).parts), ".")
    ours = (ATTEMPT, CONFIG, METRICS, FACTS, RESULT, GANG, "stop.json", CHECKPOINTS, "eval", ".")
    return first in ours or re.fullmatch(r"rank\d+\.log", first) is not None


def log_of(attempt_folder: Path, rank: int = 0) -> Path:
    return attempt_folder / f"rank{rank}.log"


def newest_checkpoint(attempt_folder: Path) -> Path | None:
    """The complete checkpoint with the highest step: complete as soon as it has its name."""
    found = [path for path in _entries(attempt_folder / CHECKPOINTS) if CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    return max(found, key=lambda path: int(path.name), default=None)


def write_json(path: Path, value: Any) -> None:
    """Write whole or not at all; on disk when this returns. The folder is made. DiskError if it cannot be written."""
    write_text(path, _as_text(value))


def write_text(path: Path, text: str) -> None:
    """The same for a text."""
    temporary = _written(path, text)
    try:
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DiskError(path, error) from error


def write_new_json(path: Path, value: Any) -> None:
    """Like write_json, but FileExistsError if `path` is there already: of two writers, one wins."""
    temporary = _written(path, _as_text(value))
    try:
        path.hardlink_to(temporary)
        _sync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise DiskError(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """BrokenFileError if it is not JSON; FileNotFoundError if it is not there."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BrokenFileError(f"{path}: not JSON ({error})") from error


def read_json_table(path: Path) -> dict[str, Any]:
    """A JSON object. BrokenFileError if it is anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise BrokenFileError(f"{path}: a {type(value).__name__}; a JSON object is expected")
    return value


def _as_text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=_plain) + "\n"


def _written(path: Path, text: str) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DiskError(path, error) from error
    return temporary


def _plain(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is not a JSON value: {value!r}")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _entries(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def _check(what: str, name: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(name):
        raise UserError(
            f"{what} {name!r} cannot name a folder; letters, digits, '.', '_' and '-' may, starting with a letter or digit"
        )
    return name

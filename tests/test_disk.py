"""A disk that is full, fails, or loses the database: one clear line, nothing half-written counts, the next launch goes on.

A short study is launched once per write it makes, and that write fails: every file and every transaction in turn. Ray is
replaced by gangs started here, one after the other; everything else is real.
"""

from __future__ import annotations

import errno
import itertools
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from ablate import clock
from ablate.desk import Desk, open_desk
from ablate.launching.gang import Gang, Stop, run_gang
from ablate.launching.jobs import Attempt, AttemptEnd, AttemptId
from ablate.launching.launch import Options, launch
from ablate.launching.provenance import Provenance
from ablate.runs_toml import read_study
from ablate.study import UserError
from db import store as storing
from db.records import StoreError
from tests.launching.test_launch import Witness

STUDY = """
[study]
name = "short"
asks = "Is B better?"
baseline = "A"
trainer = "fit"
gpus_per_run = 1
hours_per_run = 0.001
usd_per_gpu_hour = 0.0
max_attempts = 9
wandb = false
[settings]
x = 1.0
[runs]
A = {}
B = { x = 2.0 }
[seeds]
every = [1]
[metrics]
val_loss = { better = "lower", margin = 0.1, noise = 0.01, unit = "none" }
[sweep]
asks = "Is B better?"
compare = ["A", "B"]
on = "val_loss"
decide.which = [["B better than A", "B", "it is"], ["otherwise", "A", "it is not"]]
[blocks]
1 = ["A", "B"]
[lock]
after = 1
"""
TRAINER = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
job = json.loads((folder / "config.json").read_text())
with (folder / "metrics.jsonl").open("a") as log:
    for step in (1, 2, 3):
        loss = job["settings"]["x"] / step
        log.write(json.dumps({"attempt": job["attempt"], "step": step, "metrics": {"val_loss": loss}}) + "\\n")
(folder / "result.new").write_text(json.dumps({"outcome": "done", "reason": "", "facts": {}}))
os.replace(folder / "result.new", folder / "result.json")
"""


class Here:
    """One GPU; an attempt has ended when `start` returns."""

    def __init__(self) -> None:
        self.ends: list[AttemptEnd] = []
        self.started: list[AttemptId] = []

    def node_gpus(self) -> list[int]:
        return [1]

    def reattach(self, *_: object) -> list[AttemptId]:
        return []

    def start(self, attempt: Attempt) -> None:
        self.started.append(attempt.id)
        gang = Gang(attempt.folder, ("python3", "-S", str(Path(attempt.cwd) / "fit.py"), str(attempt.folder)))
        end = run_gang(gang, Stop())
        self.ends.append(AttemptEnd(*attempt.id, end.cause, end.exit_codes, end.log_tail))

    def poll(self, _: float) -> list[AttemptEnd]:
        ends, self.ends = self.ends, []
        return ends


def launched(desk: Desk) -> int:
    """Launch to the end; the exit code."""
    return launch(desk, Options(), Witness(), lambda *_: nullcontext(Here())).exit_code  # type: ignore[arg-type,return-value]


def desk_in(folder: Path) -> Desk:
    return open_desk(read_study(folder / "runs.toml"))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "runs.toml").write_text(STUDY)
    (tmp_path / "fit.py").write_text(TRAINER)
    return tmp_path


def picture(desk: Desk) -> dict[str, Any]:
    """What a study came to, whatever happened on the way."""
    lock = desk.store.lock()
    ended = [(key, attempt.state) for key, tries in desk.store.attempts().items() for attempt in tries if attempt.state == "done"]
    return {
        "states": {job.id: job.state for job in desk.plan().jobs},
        "decisions": {name: (one.status, one.took) for name, one in desk.store.decisions().items()},
        "lock": lock.hash if lock else "",
        "curves": desk.store.curves("val_loss"),
        "ended": sorted(ended),
    }


class Faulty:
    """Counts calls, and fails at one of them."""

    def __init__(self, at: int, error: Callable[[], Exception]) -> None:
        self.calls, self._at, self._error = 0, at, error

    def check(self) -> None:
        self.calls += 1
        if self.calls == self._at:
            raise self._error()


@contextmanager
def failing_files(at: int, number: int) -> Iterator[Faulty]:
    """Of the at-th file that folders.py writes half comes onto the disk, then it fails."""
    faulty = Faulty(at, lambda: OSError(number, errno.errorcode[number]))
    whole = os.fsync

    def half(handle: int) -> None:
        try:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                faulty.check()
        except OSError:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            raise
        whole(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", half)
        yield faulty


@contextmanager
def failing_database(at: int, words: str) -> Iterator[Faulty]:
    """The at-th transaction fails as it is committed: what it wrote is taken back."""
    faulty = Faulty(at, lambda: sqlite3.OperationalError(words))
    writing = storing.Store._writing

    @contextmanager
    def fails(self: storing.Store) -> Iterator[Any]:
        with writing(self) as connection:
            yield connection
            faulty.check()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storing.Store, "_writing", fails)
        yield faulty


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not under test and takes time: versions and git."""
    monkeypatch.setattr(Provenance, "of", staticmethod(lambda _: Provenance("c0de", "", False, {})))


def every_write(study: Path, failing: Callable[[int], Any], told: str, stride: int) -> int:
    """Launch afresh with the first, second, … write failing (or every `stride`-th), until one makes fewer; the last of them."""
    calm = study / "calm"
    copy_study(study, calm)
    assert launched(desk_in(calm)) == 0
    wanted = picture(desk_in(calm))
    for at in itertools.count(1, stride):
        folder = study / str(at)
        copy_study(study, folder)
        failed = None
        with failing(at) as faulty:
            try:
                launched(desk_in(folder))
            except (UserError, StoreError) as error:
                failed = error
        if faulty.calls < at:
            return at - stride
        assert failed is not None, f"write {at} failed and nobody said so"
        assert told in str(failed)
        assert "\n" not in str(failed)
        assert launched(desk_in(folder)) == 0, f"after write {at} failed"
        assert picture(desk_in(folder)) == wanted, f"after write {at} failed"
        assert not list(folder.glob("outputs/**/.*.json.*")), "nothing half-written is left"
    raise AssertionError("a launch writes without end")


def copy_study(study: Path, folder: Path) -> None:
    folder.mkdir()
    for name in ("runs.toml", "fit.py"):
        (folder / name).write_bytes((study / name).read_bytes())


@pytest.mark.parametrize(("number", "stride"), [(errno.ENOSPC, 1), (errno.EIO, 4)])
@pytest.mark.usefixtures("quick")
def test_whichever_file_cannot_be_written_the_next_launch_ends_like_an_undisturbed_one(
    study: Path, number: int, stride: int
) -> None:
    assert every_write(study, lambda at: failing_files(at, number), "cannot be written: ", stride) > 8


@pytest.mark.parametrize(
    ("words", "told", "stride"),
    [("database or disk is full", "the disk is full", 4), ("disk I/O error", "the disk failed to read or write", 1)],
)
@pytest.mark.usefixtures("quick")
def test_whichever_transaction_fails_the_next_launch_ends_like_an_undisturbed_one(
    study: Path, words: str, told: str, stride: int
) -> None:
    assert every_write(study, lambda at: failing_database(at, words), told, stride) > 12


def test_a_database_that_was_deleted_is_made_again_from_the_folders(study: Path) -> None:
    assert launched(desk_in(study)) == 0
    desk = desk_in(study)
    before, attempts, decisions = picture(desk), desk.store.attempts(), desk.store.all_decisions()
    desk.store.close()
    for file in (study / "db").iterdir():
        file.unlink()
    assert launched(desk_in(study)) == 0
    desk = desk_in(study)
    assert picture(desk) == before
    assert desk.store.attempts() == attempts, "and nothing was trained again"
    assert desk.store.all_decisions() == decisions


@pytest.mark.parametrize("day", ["2026-11-21", "2026-11-24"])
def test_a_clock_that_is_set_by_a_day_between_two_launches_changes_nothing(
    study: Path, monkeypatch: pytest.MonkeyPatch, day: str
) -> None:
    copy_study(study, study / "calm")
    assert launched(desk_in(study / "calm")) == 0
    with failing_database(14, "disk I/O error"), pytest.raises(StoreError):
        launched(desk_in(study))
    monkeypatch.setattr(clock, "utc_now", lambda: f"{day}T12:00:00Z")
    assert launched(desk_in(study)) == 0
    assert picture(desk_in(study)) == picture(desk_in(study / "calm"))
    assert all(attempt.gpu_s >= 0 for tries in desk_in(study).store.attempts().values() for attempt in tries)

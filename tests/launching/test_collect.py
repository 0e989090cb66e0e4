"""From an attempt's folder to records, and from all folders to the same database."""

from __future__ import annotations

import itertools
import json
import math
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.folders import Folders, write_json
from ablate.launching.collect import (
    Result,
    claim_attempt,
    collect,
    collect_points,
    end_attempt,
    lift_lock,
    read_facts,
    read_points,
    read_result,
    rebuild,
    rebuild_file,
    record_decision,
    record_deviation,
    record_frozen,
    record_job,
    record_lock,
    settle,
)
from ablate.study import UserError
from db.records import AttemptRecord, AttemptState, DecisionRecord, DeviationRecord, FrozenRecord, JobRecord, LockRecord, Point
from db.store import Store

NOW = "2026-02-14T09:30:00Z"
LATER = "2026-02-14T09:31:00Z"
KEY = "F3-s42-c16774a1"
JOB = JobRecord(KEY, "F3", 42, {"optim.lr": 1e-4, "data.mix": {"video": 0.4}}, 2, NOW)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "outputs", "study", "tiny")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "study.sqlite", "study", "tiny")


def write(folder: Path, text: str | bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def line(step: int, attempt: int = 1, **metrics: float) -> str:
    return json.dumps({"attempt": attempt, "step": step, "metrics": metrics}) + "\n"


# ---------------------------------------------------------------- metrics.jsonl


def test_points_are_read_from_where_the_last_reading_ended(tmp_path: Path) -> None:
    assert read_points(tmp_path, KEY, 1, 0).points == ()
    write(tmp_path, line(1, loss=2.0, lr=0.1))
    first = read_points(tmp_path, KEY, 1)
    assert first.points == (Point(KEY, 1, 1, "loss", 2.0), Point(KEY, 1, 1, "lr", 0.1))
    write(tmp_path, line(2, loss=1))
    second = read_points(tmp_path, KEY, 1, first.offset)
    assert second.points == (Point(KEY, 1, 2, "loss", 1.0),)
    assert read_points(tmp_path, KEY, 1, second.offset) == replace(second, points=())


def test_a_torn_last_line_is_left_for_the_next_reading(tmp_path: Path) -> None:
    whole, torn = line(1, loss=2.0), line(2, loss=1.0)
    write(tmp_path, whole + torn[:20])
    first = read_points(tmp_path, KEY, 1)
    assert (len(first.points), first.offset, first.malformed) == (1, len(whole), 0)
    write(tmp_path, torn[20:])
    assert read_points(tmp_path, KEY, 1, first.offset).points == (Point(KEY, 1, 2, "loss", 1.0),)


def test_nan_and_infinities_are_values(tmp_path: Path) -> None:
    write(tmp_path, line(1, a=math.nan, b=math.inf, c=-math.inf))
    assert [repr(point.value) for point in read_points(tmp_path, KEY, 1).points] == ["nan", "inf", "-inf"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("{oops}\n", "not JSON"),
        (b"\xff\n", "not JSON"),
        ("[1]\n", "not of the form"),
        ('{"step": 1}\n', "not of the form"),
        ('{"step": 1.5, "metrics": {"loss": 1}}\n', "step 1.5 is not a whole number"),
        ('{"step": true, "metrics": {"loss": 1}}\n', "step True is not a whole number"),
        (f'{{"step": {2**63}, "metrics": {{}}}}\n', "is not a whole number"),
        ('{"step": 1, "metrics": {"loss": "low"}}\n', "metric 'loss' is 'low'; a number is expected"),
        ('{"step": 1, "metrics": {"loss": null}}\n', "metric 'loss' is 'None'; a number is expected"),
        ('{"step": 1, "metrics": {"loss": true}}\n', "metric 'loss' is 'True'; a number is expected"),
        ('{"step": 1, "metrics": {"": 1}}\n', "'' cannot name a metric"),
        ('{"step": 1, "metrics": {"\\ud800": 1}}\n', "cannot name a metric"),
        ("[" * 100_000 + "\n", "not JSON"),
    ],
)
def test_a_malformed_line_is_reported_and_the_next_is_read(tmp_path: Path, bad: str | bytes, why: str) -> None:
    write(tmp_path, line(1, loss=2.0))
    write(tmp_path, bad)
    write(tmp_path, "\n" + line(2, loss=1.0))
    reading = read_points(tmp_path, KEY, 1)
    assert [point.step for point in reading.points] == [1, 2]
    assert reading.malformed == 1
    assert reading.complaints[0].startswith(f"{tmp_path / 'metrics.jsonl'}: byte {len(line(1, loss=2.0))}: ")
    assert why in reading.complaints[0]
    assert reading.offset == (tmp_path / "metrics.jsonl").stat().st_size


def test_of_many_malformed_lines_three_are_quoted_and_all_counted(tmp_path: Path) -> None:
    write(tmp_path, "x\n" * 10)
    reading = read_points(tmp_path, KEY, 1)
    assert (reading.malformed, len(reading.complaints)) == (10, 3)


def test_lines_of_another_attempt_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, line(1, attempt=2, loss=2.0) + line(2, loss=1.0) + '{"step": 3, "metrics": {"loss": 0.5}}\n')
    reading = read_points(tmp_path, KEY, 1)
    assert ([point.step for point in reading.points], reading.foreign) == ([2, 3], 1)


def test_a_file_that_was_replaced_is_read_from_its_start(tmp_path: Path) -> None:
    write(tmp_path, line(1, loss=2.0))
    assert len(read_points(tmp_path, KEY, 1, offset=10_000).points) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=6), st.integers(1, 200))
def test_however_the_file_grows_and_is_read_every_point_comes_once(cuts: list[int], at_once: int) -> None:
    text = "".join(line(step, loss=float(step)) for step in range(8)).encode()
    with tempfile.TemporaryDirectory() as folder:
        offset, steps, before = 0, [], 0
        for cut in [*sorted(min(cut, len(text)) for cut in cuts), len(text)]:
            write(Path(folder), text[before:cut])
            before = cut
            reading = None
            while reading is None or reading.points:
                reading = read_points(Path(folder), KEY, 1, offset, at_once)
                steps += [point.step for point in reading.points]
                offset = reading.offset
        assert steps == list(range(8))
        assert offset == len(text)


# ---------------------------------------------------------------- facts.json, result.json


def test_a_result_is_what_result_json_says(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    write_json(tmp_path / "result.json", {"outcome": "diverged", "reason": "5 non-finite steps", "facts": {"samples": 3}})
    assert read_result(tmp_path) == Result("diverged", "5 non-finite steps", {"samples": 3})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("[]", "a list; a JSON object is expected"),
        ("{}", 'outcome None; "done" or "diverged" is expected'),
        ('{"outcome": "great"}', 'outcome \'great\'; "done" or "diverged" is expected'),
        ('{"outcome": "done", "facts": 3}', "facts '3'; a JSON object is expected"),
    ],
)
def test_a_result_that_says_something_else_is_broken(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "result.json").write_text(text)
    result = read_result(tmp_path)
    assert result is not None
    assert result.outcome == "broken"
    assert why in result.reason
    assert str(tmp_path / "result.json") in result.reason


def test_facts_that_cannot_be_read_say_so_as_a_fact(tmp_path: Path) -> None:
    assert read_facts(tmp_path) == {}
    (tmp_path / "facts.json").write_text("{")
    assert "not JSON" in read_facts(tmp_path)["facts_error"]


# ---------------------------------------------------------------- three witnesses

DONE, DIVERGED, BROKEN = Result("done"), Result("diverged", "loss is nan"), Result("broken", "result.json: not JSON")


def test_of_a_command_only_the_result_of_its_runner_counts(tmp_path: Path) -> None:
    own = {"outcome": "done", "reason": "\x1b[2Jmine", "facts": {"samples": 1}}
    (tmp_path / "result.json").write_text(json.dumps(own))
    assert read_result(tmp_path, of_command=True) is None
    assert read_result(tmp_path) == Result("done", "mine", {"samples": 1})
    (tmp_path / "result.json").write_text(json.dumps({**own, "facts": {"exit_code": 0}}))
    assert read_result(tmp_path, of_command=True) == Result("done", "mine", {"exit_code": 0})


@pytest.mark.parametrize(
    ("alive", "result", "started", "action", "state", "reason"),
    [
        (True, None, True, "watch", "running", ""),
        (True, None, False, "watch", "running", ""),
        (True, DONE, True, "watch", "running", ""),
        (None, None, True, "watch", "running", "the cluster does not answer"),
        (None, None, False, "watch", "running", "the cluster does not answer"),
        (None, DONE, True, "end", "done", ""),
        (False, DONE, True, "end", "done", ""),
        (False, DIVERGED, True, "end", "diverged", "loss is nan"),
        (False, BROKEN, True, "end", "failed", "result.json: not JSON"),
        (False, None, True, "end", "lost", "it ended while nobody watched, without a result.json; its log ends:\nlast words"),
        (False, None, False, "end", "interrupted", "claimed, but never started"),
    ],
)
def test_a_running_row_is_settled_by_ray_and_the_folder(
    alive: bool | None, result: Result | None, started: bool, action: str, state: str, reason: str
) -> None:
    verdict = settle("running", alive, result, started=started, log_tail="last words\n")
    assert (verdict.action, verdict.state, verdict.reason) == (action, state, reason)


@pytest.mark.parametrize(
    ("seen", "state", "reason"),
    [
        ("ended", "failed", "ended, without a result.json; its log ends:\nValueError"),
        ("rank failed", "failed", "rank failed, without a result.json; its log ends:\nValueError"),
        ("killed", "interrupted", "stopped on request, with no time to save"),
        ("stopped", "interrupted", "stopped on request"),
        ("lost", "lost", "its supervisor or its machine was lost; its log ends:\nValueError"),
    ],
)
def test_an_end_that_was_seen_names_its_cause(seen: str, state: str, reason: str) -> None:
    for alive in (False, None):
        verdict = settle("running", alive, None, started=True, seen=seen, log_tail="ValueError")  # type: ignore[arg-type]  # a table
        assert (verdict.action, verdict.state, verdict.reason) == ("end", state, reason)
        assert settle("running", alive, DONE, started=True, seen=seen).state == "done"  # type: ignore[arg-type]  # a table


@pytest.mark.parametrize("state", ["done", "diverged", "failed", "interrupted", "lost"])
def test_an_ended_row_is_never_changed_and_its_processes_are_stopped(state: AttemptState) -> None:
    for result, started in itertools.product((None, DONE, DIVERGED, BROKEN), (True, False)):
        assert settle(state, False, result, started=started).action == "leave"
        assert settle(state, None, result, started=started).action == "leave"
        assert settle(state, True, result, started=started).action == "stop"
        assert settle(state, True, result, started=started).state == state


# ---------------------------------------------------------------- records


def begun(store: Store, folders: Folders) -> AttemptRecord:
    record_job(store, folders, JOB)
    record = claim_attempt(
        store, folders, KEY, NOW, host="here", gpus=2, code_hash="abc", git_dirty=True, versions={"torch": "2"}
    )
    assert record is not None
    return record


def test_an_attempt_is_claimed_in_row_and_folder_and_ends_with_its_facts(store: Store, folders: Folders) -> None:
    record = begun(store, folders)
    assert store.attempts() == {KEY: (record,)}
    assert claim_attempt(store, folders, KEY, NOW) is None
    write_json(folders.facts(KEY, 1), {"device": "cpu", "samples": 1})
    write_json(folders.result(KEY, 1), {"outcome": "done", "facts": {"samples": 9600}})
    ended = end_attempt(store, folders, record, "done", "", LATER, 102.4)
    assert ended.facts == {"device": "cpu", "samples": 9600}
    assert store.attempts() == {KEY: (ended,)}
    assert end_attempt(store, folders, record, "lost", "late", LATER, 0.0) == ended
    assert json.loads(folders.attempt_record(KEY, 1).read_text())["state"] == "done"


def test_an_attempt_takes_no_folder_that_is_there(store: Store, folders: Folders) -> None:
    record_job(store, folders, JOB)
    folders.attempt(KEY, 3).mkdir(parents=True)
    record = claim_attempt(store, folders, KEY, NOW)
    assert record is not None
    assert record.number == 4


def test_points_of_many_attempts_are_taken_over_at_once(store: Store, folders: Folders) -> None:
    begun(store, folders)
    write(folders.attempt(KEY, 1), line(1, loss=2.0) + "x\n" * 4)
    offsets = store.offsets()
    collected = collect_points(store, folders, [(KEY, 1)], offsets)
    assert collected.points == 1
    assert collected.complaints[-1] == f"{folders.metrics(KEY, 1)}: 4 malformed in all"
    assert offsets == store.offsets() == {(KEY, 1): len(line(1, loss=2.0)) + 8}
    assert collect_points(store, folders, [(KEY, 1)], offsets).points == 0


def decision(name: str, took: str) -> DecisionRecord:
    comparison = {"a": "F1", "b": "F3", "delta": 0.1, "holds": ["better"]}
    return DecisionRecord(
        name, "sweep1", "decided", took, "otherwise", {"x.y": 1}, "because", "rule", NOW, (comparison,), {"k": "h"}
    )


def filled(store: Store, folders: Folders) -> None:
    """A job with a crashed and a finished attempt, one running, decisions, two locks, frozen, a deviation."""
    first = begun(store, folders)
    write(folders.attempt(KEY, 1), line(1, loss=3.0) + line(2, loss=math.nan) + '{"torn')
    end_attempt(store, folders, first, "failed", "a rank raised", LATER, 10.0)
    second = claim_attempt(store, folders, KEY, LATER, gpus=2)
    assert second is not None
    write(folders.attempt(KEY, 2), line(2, 2, loss=2.0) + line(3, 2, loss=1.0, accuracy=math.inf))
    write_json(folders.facts(KEY, 2), {"device": "cpu"})
    write_json(folders.result(KEY, 2), {"outcome": "done", "facts": {"samples": 9600}})
    end_attempt(store, folders, second, "done", "", LATER, 20.5)
    record_job(store, folders, replace(JOB, key="F1-s42-00000000", run="F1"))
    claim_attempt(store, folders, "F1-s42-00000000", LATER)
    record_frozen(store, folders, FrozenRecord("f", NOW, {"margins": {"loss": 0.08}}))
    record_deviation(store, folders, DeviationRecord("g", LATER, "typo", ("margin 0.08 → 0.05",)))
    record_decision(store, folders, decision("freeze", "F3"))
    record_decision(store, folders, decision("freeze DINO", "F1"))
    lock = LockRecord({"x": 1}, {"x": "baseline"}, {"freeze": 1}, ("a and b",), "F3", True, "h", NOW)
    record_lock(store, folders, lock)
    lift_lock(store, folders, LATER, "wrong mix")
    record_lock(store, folders, replace(lock, hash="i", at=LATER))
    collect(store, folders)


def dump(path: Path) -> list[str]:
    """Every row but leases, as SQL. Rows of a table are numbered in the order they came, which may differ."""
    with sqlite3.connect(path) as shell:
        points = [repr(row) for row in shell.execute("SELECT * FROM points ORDER BY 1, 2, 3, 4, 5, 6")]
        attempts = "SELECT jobs.study, jobs.profile, jobs.key, attempts.* FROM attempts JOIN jobs ON jobs.id = job_id"
        rows = [repr((*row[:3], *row[5:])) for row in shell.execute(attempts)]
        for table in ("jobs", "locks", "deviations"):
            rows += [repr(row[1:]) for row in shell.execute(f"SELECT * FROM {table}")]
        rows += [repr(row) for table in ("decisions", "frozen") for row in shell.execute(f"SELECT * FROM {table}")]
    shell.close()
    return points + sorted(rows)


def test_a_database_rebuilt_from_the_folders_is_the_same(store: Store, folders: Folders, tmp_path: Path) -> None:
    filled(store, folders)
    filled(store.scoped("study", "smoke"), replace(folders, profile="smoke"))
    assert store.curve(KEY, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert [attempt.state for attempt in store.attempts()[KEY]] == ["failed", "done"]
    before = dump(tmp_path / "study.sqlite")
    store.close()
    collected = rebuild_file(tmp_path / "study.sqlite", folders.root)
    assert dump(tmp_path / "study.sqlite") == before
    assert dump(tmp_path / "study.sqlite.before-rebuild") == before
    assert (collected.jobs, collected.attempts, collected.points, collected.decisions) == (4, 6, 10, 4)
    assert collected.complaints == ()
    again = Store.open(tmp_path / "study.sqlite", "study", "tiny")
    assert [lock.hash for lock in again.locks()] == ["h", "i"]
    assert again.lock() == again.locks()[1]


def test_collecting_twice_changes_nothing(store: Store, folders: Folders, tmp_path: Path) -> None:
    filled(store, folders)
    before = dump(tmp_path / "study.sqlite")
    collected = collect(store, folders)
    assert (collected.jobs, collected.attempts, collected.points, collected.decisions) == (0, 0, 0, 0)
    assert dump(tmp_path / "study.sqlite") == before


def test_a_file_that_a_crash_prevented_is_written_by_the_next_collect(store: Store, folders: Folders) -> None:
    store.add_decision(decision("freeze", "F3"))
    collect(store, folders)
    assert json.loads(folders.decision(1, "freeze").read_text())["took"] == "F3"


def test_an_end_that_a_crash_kept_out_of_the_database_is_taken_over(store: Store, folders: Folders) -> None:
    record = begun(store, folders)
    write_json(folders.attempt_record(KEY, 1), vars(replace(record, state="failed", ended_at=LATER)))
    assert collect(store, folders).attempts == 1
    assert store.attempts()[KEY][0].state == "failed"


def test_of_two_attempts_that_say_running_only_the_last_is(store: Store, folders: Folders) -> None:
    record = begun(store, folders)
    write_json(folders.attempt_record(KEY, 2), vars(replace(record, number=2)))
    collect(store, folders)
    assert [attempt.state for attempt in store.attempts()[KEY]] == ["lost", "running"]


def test_a_broken_file_is_a_complaint_and_the_rest_is_collected(store: Store, folders: Folders, tmp_path: Path) -> None:
    filled(store, folders)
    folders.decision(1, "freeze").write_text("{")
    folders.attempt_record(KEY, 1).write_text('{"job": 3}')
    folders.deviations.write_text("{}")
    fresh = Store.open(tmp_path / "fresh.sqlite", "study", "tiny")
    collected = collect(fresh, folders)
    assert [complaint.partition(": ")[2] for complaint in collected.complaints] == [
        "job is 3; str is expected",
        "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        "a list of JSON objects is expected",
    ]
    assert [attempt.number for attempt in fresh.attempts()[KEY]] == [2]
    assert list(fresh.decisions()) == ["freeze DINO"]
    assert fresh.lock() is not None


def test_nothing_to_rebuild_from_says_so_and_leaves_the_database(store: Store, folders: Folders, tmp_path: Path) -> None:
    store.save_job(JOB)
    store.close()
    with pytest.raises(UserError, match="no study has written anything there; nothing to rebuild"):
        rebuild_file(tmp_path / "study.sqlite", folders.root)
    assert list(Store.open(tmp_path / "study.sqlite", "study", "tiny").jobs()) == [KEY]


def test_a_rebuild_says_that_what_was_frozen_is_gone(store: Store, folders: Folders) -> None:
    folders.base.mkdir(parents=True, exist_ok=True)
    assert rebuild(store, folders.root).complaints == (), "nothing was launched here"
    write_json(folders.code_record, [])
    (complaint,) = rebuild(store, folders.root).complaints
    assert complaint.startswith(f"{folders.frozen}: it is gone, with what the first launch froze")

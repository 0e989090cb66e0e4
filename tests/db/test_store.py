"""The database's answers: real SQLite files, real processes."""

from __future__ import annotations

import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from db import schema
from db.records import DecisionRecord, DeviationRecord, FrozenRecord, JobRecord, LockRecord, Point, StoreError
from db.store import Store, _upgrade, network_mount

NOW = "2026-02-14T09:30:00Z"
LATER = "2026-02-14T09:31:00Z"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db" / "study.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store.open(path, "study", "tiny", busy_s=0.2)
    opened.save_jobs([job("F1"), job("F3")])
    yield opened
    opened.close()


def job(key: str) -> JobRecord:
    return JobRecord(key, key.partition("-")[0], 42, {"optim.lr": 1e-4, "data.mix": {"video": 0.4}}, 2, NOW)


def points(attempt: int, values: dict[int, float], name: str = "loss", key: str = "F1") -> list[Point]:
    return [Point(key, attempt, step, name, value) for step, value in values.items()]


def claimed(store: Store, key: str = "F1") -> int:
    number = store.claim(key, started_at=NOW)
    assert number is not None
    return number


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


# ---------------------------------------------------------------- jobs and attempts


def test_a_job_saved_twice_is_there_once_and_stays_as_it_was(store: Store) -> None:
    assert not store.save_job(replace(job("F1"), gpus=8))
    assert store.save_job(job("LR2"))
    assert store.jobs() == {key: job(key) for key in ("F1", "F3", "LR2")}


def test_an_attempt_is_refused_while_one_runs_and_after_a_result(store: Store) -> None:
    assert store.claim("F1", started_at=NOW, host="here", gpus=2, versions={"torch": "2"}) == 1
    assert store.claim("F1", started_at=NOW) is None
    assert store.end_attempt("F1", 1, "failed", "a rank raised", LATER, 120.0, {"samples": 10})
    assert store.claim("F1", started_at=LATER) == 2
    assert store.end_attempt("F1", 2, "diverged", "loss is nan", LATER)
    assert store.claim("F1", started_at=LATER) is None
    first, second = store.attempts()["F1"]
    assert (first.state, first.reason, first.gpu_s, first.facts, first.host) == (
        "failed",
        "a rank raised",
        120.0,
        {"samples": 10},
        "here",
    )
    assert second == store.attempt("F1", 2)


def test_the_first_end_of_an_attempt_stands(store: Store) -> None:
    claimed(store)
    assert store.end_attempt("F1", 1, "lost", "node lost", NOW)
    assert not store.end_attempt("F1", 1, "done", "", LATER)
    assert store.attempts()["F1"][0].state == "lost"


def test_an_attempt_takes_no_number_whose_folder_is_there(store: Store) -> None:
    assert store.claim("F1", started_at=NOW, above=3) == 4


def test_facts_are_added_to_those_known(store: Store) -> None:
    claimed(store)
    store.update_facts("F1", 1, {"device": "cpu", "samples": 1})
    store.end_attempt("F1", 1, "done", "", LATER, facts={"samples": 9})
    assert store.attempts()["F1"][0].facts == {"device": "cpu", "samples": 9}


def test_an_attempt_can_be_saved_whole_and_again(store: Store) -> None:
    claimed(store)
    store.add_points("F1", 1, points(1, {1: 2.0}), 77)
    saved = replace(store.attempts()["F1"][0], state="interrupted", reason="Ctrl-C", ended_at=LATER)
    store.save_attempt(saved)
    store.save_attempt(saved)
    assert store.attempts()["F1"] == (saved,)
    assert store.offsets() == {("F1", 1): 77}


def test_of_many_processes_that_claim_at_once_each_job_is_given_to_one(store: Store, path: Path) -> None:
    keys = [f"J{n}" for n in range(30)]
    store.save_jobs(job(key) for key in keys)
    code = """
        import sys
        from db.store import Store
        store = Store.open(sys.argv[1], "study", "tiny")
        print("ready", flush=True)
        sys.stdin.readline()
        print(*[key for key in store.jobs() if store.claim(key, started_at="2026-02-14T09:30:00Z")])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    claimers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    for claimer in claimers:
        assert claimer.stdout is not None
        assert claimer.stdout.readline() == "ready\n"
    for claimer in claimers:
        assert claimer.stdin is not None
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    answers = [claimer.communicate(timeout=60)[0].split() for claimer in claimers]
    assert sorted(answers[0] + answers[1]) == sorted([*keys, "F1", "F3"])


def test_two_processes_may_make_the_database_at_once(path: Path) -> None:
    code = "import sys; from db.store import Store; Store.open(sys.argv[1], 's', 'p').save_job"
    makers = [python(code, path) for _ in range(2)]
    assert [maker.communicate(timeout=60)[1] for maker in makers] == ["", ""]


def test_studies_and_profiles_do_not_see_each_other(store: Store) -> None:
    other = store.scoped("study", "smoke")
    assert other.jobs() == {}
    other.save_job(job("F1"))
    claimed(other)
    other.add_points("F1", 1, points(1, {1: 1.0}), 10)
    assert store.attempts() == {}
    assert store.curve("F1", "loss") == []
    with pytest.raises(StoreError, match="there is no attempt 1 of job 'F1' in study/tiny"):
        store.add_points("F1", 1, points(1, {1: 1.0}), 10)


# ---------------------------------------------------------------- metrics


def test_the_same_points_twice_add_nothing(store: Store) -> None:
    claimed(store)
    new = points(1, {1: 2.0, 2: math.nan, 3: -math.inf})
    assert store.add_points("F1", 1, new, 100) == 3
    assert store.add_points("F1", 1, [*new, *points(1, {4: 1.0})], 120) == 1
    assert repr(store.curve("F1", "loss")) == "[(1, 2.0), (2, nan), (3, -inf), (4, 1.0)]"
    assert store.offsets() == {("F1", 1): 120}


def test_of_two_values_at_one_step_the_later_counts(store: Store) -> None:
    claimed(store)
    store.add_points("F1", 1, [*points(1, {1: 2.0, 2: 9.0}), *points(1, {2: 1.0})], 100)
    assert store.curve("F1", "loss") == [(1, 2.0), (2, 1.0)]
    assert store.add_points("F1", 1, points(1, {1: math.nan, 2: 1.0}), 120) == 1
    assert repr(store.curve("F1", "loss")) == "[(1, nan), (2, 1.0)]"


def test_reading_again_from_the_start_does_not_move_the_offset_back(store: Store) -> None:
    claimed(store)
    store.add_points("F1", 1, points(1, {1: 2.0}), 100)
    store.add_points("F1", 1, points(1, {1: 2.0}), 50)
    assert store.offsets() == {("F1", 1): 100}


def test_a_batch_with_an_unknown_attempt_is_refused_whole(store: Store) -> None:
    claimed(store)
    with pytest.raises(StoreError, match="there is no attempt 2 of job 'F1'"):
        store.add_batches([("F1", 1, points(1, {1: 2.0}), 10), ("F1", 2, points(2, {1: 2.0}), 10)])
    assert store.curve("F1", "loss") == []
    assert store.offsets() == {("F1", 1): 0}


def test_the_curve_of_a_resumed_job_takes_the_latest_attempt_per_step(store: Store) -> None:
    claimed(store)
    store.add_points("F1", 1, points(1, {1: 4.0, 2: 3.0, 3: math.nan}), 10)
    store.end_attempt("F1", 1, "failed", "", NOW)
    claimed(store)
    store.add_points("F1", 2, points(2, {3: 2.0, 4: 1.0}), 10)
    assert store.curve("F1", "loss") == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
    assert store.final_values(["F1"], {"loss": 3}) == {"F1": {"loss": 2.0}}
    assert store.final_values(["F1"], {"loss": 99}) == {"F1": {"loss": 2.5}}
    (last,) = {store.finals(["F1"], {"loss": count})["F1"]["loss"].step for count in (1, 3, 99)}
    assert last == store.curve("F1", "loss")[-1][0]
    assert store.latest(["F1"], ["loss"]) == {"F1": {"loss": (4, 1.0)}}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(-5, 30), st.floats(allow_nan=False, width=32)), max_size=40),
    st.integers(1, 6),
)
def test_final_values_agree_with_the_whole_curve(measured: list[tuple[int, int, float]], last: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "x.sqlite", "study", "tiny")
        store.save_job(job("F1"))
        expected: dict[int, tuple[int, float]] = {}
        for number in (1, 2, 3):
            claimed(store)
            mine = [(step, value) for attempt, step, value in measured if attempt == number]
            store.add_points("F1", number, [Point("F1", number, step, "loss", value) for step, value in mine], 1)
            expected |= {step: (number, value) for step, value in mine}
            store.end_attempt("F1", number, "failed", "", NOW)
        curve = [(step, value) for step, (_, value) in sorted(expected.items())]
        assert store.curve("F1", "loss") == curve
        ends = [value for _, value in reversed(curve[-last:])]
        final = {"F1": {"loss": pytest.approx(sum(ends) / len(ends), nan_ok=True)}} if ends else {}
        assert store.final_values(None, {"loss": last}) == final
        store.close()


def test_what_was_not_measured_is_absent(store: Store) -> None:
    claimed(store)
    store.add_points("F1", 1, points(1, {1: 2.0}), 10)
    assert store.final_values(["F1", "F3", "unknown"], {"loss": 1, "accuracy": 1}) == {"F1": {"loss": 2.0}}
    assert store.latest(["F3"], ["loss"]) == {}
    assert store.metric_names("F1") == ("loss",)
    assert store.metric_names("F3") == ()


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 300), st.floats(-9, 9)), min_size=30), st.integers(1, 5))
def test_a_thinned_curve_has_of_every_column_the_least_and_the_most_of_the_whole_one(
    measured: list[tuple[int, int, float]], columns: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "study.sqlite", "study", "tiny")
        store.save_job(job("F1"))
        for attempt in (1, 2):
            claimed(store)
            store.add_points("F1", attempt, points(attempt, {step: value for at, step, value in measured if at == attempt}), 0)
            store.end_attempt("F1", attempt, "failed", "", NOW)
        whole, thinned = store.curve("F1", "loss"), store.thinned_curves("loss", ["F1"], columns)["F1"]
        store.close()
    assert set(thinned) <= set(whole)
    assert (thinned[0], thinned[-1]) == (whole[0], whole[-1])
    if len({(at, step) for at, step, _ in measured}) <= 2 * columns:
        assert thinned == whole
    assert extremes(thinned, whole, columns) == extremes(whole, whole, columns)


def extremes(curve: list[tuple[int, float]], whole: list[tuple[int, float]], columns: int) -> dict[int, tuple[float, float]]:
    """Column -> its least and its most value."""
    first, span = whole[0][0], max(whole[-1][0] - whole[0][0], 1)
    found: dict[int, list[float]] = {}
    for step, value in curve:
        found.setdefault((step - first) * columns // span, []).append(value)
    return {column: (min(values), max(values)) for column, values in found.items()}


def test_curves_of_many_jobs_come_at_once(store: Store) -> None:
    for key in ("F1", "F3"):
        claimed(store, key)
        store.add_points(key, 1, points(1, {1: 2.0}, key=key), 10)
    assert store.curves("loss") == {"F1": [(1, 2.0)], "F3": [(1, 2.0)]}
    assert store.curves("loss", ["F3"]) == {"F3": [(1, 2.0)]}
    assert store.curves("loss", []) == {}


def test_a_person_reads_and_corrects_metrics_with_plain_sql(store: Store, path: Path) -> None:
    claimed(store)
    store.add_points("F1", 1, [*points(1, {1: 2.0, 2: math.nan}), *points(1, {2: 5.0}, "lr")], 10)
    shell = sqlite3.connect(path)
    rows = shell.execute("SELECT study, profile, job, attempt, step, name, value FROM points ORDER BY name, step").fetchall()
    assert rows[:2] == [("study", "tiny", "F1", 1, 1, "loss", 2.0), ("study", "tiny", "F1", 1, 2, "loss", None)]
    shell.execute("UPDATE points SET value = 0.5 WHERE job = 'F1' AND name = 'loss' AND step = 2")
    shell.commit()
    shell.close()
    assert store.final_values(["F1"], {"loss": 2, "lr": 1}) == {"F1": {"loss": 1.25, "lr": 5.0}}


def test_reading_goes_on_while_another_process_writes(store: Store, path: Path) -> None:
    claimed(store)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO metrics VALUES (1, 'loss', 1, 0.5)")
    assert store.curve("F1", "loss") == []
    writer.execute("COMMIT")
    assert store.curve("F1", "loss") == [(1, 0.5)]
    writer.close()


def test_what_was_written_survives_kill_9(path: Path) -> None:
    code = """
        import os, sys
        from db.records import JobRecord
        from db.store import Store
        store = Store.open(sys.argv[1], "study", "tiny")
        store.save_job(JobRecord("F1", "F1", 42, {}, 2, "2026-02-14T09:30:00Z"))
        os.kill(os.getpid(), 9)
    """
    assert python(code, path).wait(60) == -9
    assert list(Store.open(path, "study", "tiny").jobs()) == ["F1"]


# ---------------------------------------------------------------- decisions, lock, lease


def decision(name: str, took: str) -> DecisionRecord:
    comparison = {"a": "F1", "b": "F3", "p": math.nan, "holds": ["better"]}
    return DecisionRecord(
        name, "sweep1", "decided", took, "otherwise", {"x.y": 1}, "because", "rule", NOW, (comparison,), {"k": "h"}
    )


def test_a_later_decision_of_the_same_name_supersedes(store: Store) -> None:
    assert store.add_decision(decision("freeze", "F1")) == 1
    assert store.add_decision(decision("lr", "LR2")) == 2
    assert store.add_decision(decision("freeze", "F3")) == 3
    current = store.decisions()
    assert {name: (record.took, record.number) for name, record in current.items()} == {"freeze": ("F3", 3), "lr": ("LR2", 2)}
    assert [record.took for record in store.all_decisions()] == ["F1", "LR2", "F3"]
    assert current["lr"].comparisons[0]["holds"] == ["better"]


def test_a_numbered_decision_twice_is_harmless_and_another_content_is_refused(store: Store) -> None:
    numbered = replace(decision("freeze", "F1"), number=4)
    assert (store.add_decision(numbered), store.add_decision(numbered)) == (4, 4)
    with pytest.raises(StoreError, match="decision 4 of study/tiny is there with another content"):
        store.add_decision(replace(numbered, took="F3"))
    assert store.add_decision(decision("lr", "LR2")) == 5
    assert store.add_decision(decision("lr", "LR2"), above=9) == 10


def locked(at: str) -> LockRecord:
    return LockRecord({"x": 1}, {"x": "baseline"}, {"freeze": 1}, (), "F3", True, "hash", at)


def test_a_lock_holds_until_it_is_lifted(store: Store) -> None:
    first = LockRecord({"x": 1}, {"x": "baseline"}, {"freeze": 1}, ("a, b",), "F3", True, "hash", NOW)
    assert store.lock() is None
    store.save_lock(first)
    store.save_lock(first)
    assert store.lock() == first
    assert store.lift_lock(LATER, "wrong mix")
    assert not store.lift_lock(LATER, "again")
    assert store.lock() is None
    store.save_lock(replace(first, hash="second"))
    assert [lock.lifted_because for lock in store.locks()] == ["wrong mix", ""]


def test_the_first_freeze_counts(store: Store) -> None:
    first = FrozenRecord("a", NOW, {"margins": {"loss": 0.08}})
    assert store.frozen() is None
    assert store.freeze(first) == first
    assert store.freeze(FrozenRecord("b", LATER, {})) == first
    assert store.frozen() == first


def test_a_deviation_twice_is_there_once(store: Store) -> None:
    deviation = DeviationRecord("b", NOW, "typo", ("margin 0.08 → 0.05",))
    store.add_deviation(deviation)
    store.add_deviation(deviation)
    assert store.deviations() == (deviation,)


def test_one_lease_at_a_time(store: Store) -> None:
    mine = store.acquire_lease("me@here:1", NOW, stale_after_s=30)
    assert mine is not None
    assert store.acquire_lease("you@there:2", NOW, stale_after_s=30) is None
    assert store.renew_lease("me@here:1", LATER)
    assert store.acquire_lease("you@there:2", "2026-02-14T09:31:29Z", stale_after_s=30) is None
    taken = store.acquire_lease("you@there:2", "2026-02-14T09:31:30Z", stale_after_s=30)
    assert taken == store.lease()
    assert not store.renew_lease("me@here:1", LATER)
    assert not store.release_lease("me@here:1")
    assert store.release_lease("you@there:2")
    assert store.lease() is None


def test_the_lease_of_a_holder_known_dead_is_given_at_once(store: Store) -> None:
    store.acquire_lease("gone", NOW, stale_after_s=30)
    assert store.acquire_lease("a", NOW, stale_after_s=30, dead="gone") is not None
    assert store.acquire_lease("b", NOW, stale_after_s=30, dead="gone") is None


# ---------------------------------------------------------------- a file that cannot be used


def test_a_locked_database_says_so(store: Store, path: Path) -> None:
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=f"^{path}: another process is writing and did not end in time; .*try again"):
        store.save_job(job("LR2"))
    writer.execute("ROLLBACK")
    writer.close()
    assert store.save_job(job("LR2"))


@pytest.mark.skipif(os.geteuid() != 0, reason="as another user the next test does it")
def test_a_read_only_database_says_so_to_another_user() -> None:
    code = """
        import os, sys
        from db.records import JobRecord, StoreError
        from db.store import Store
        store = Store.open(sys.argv[1], "study", "tiny")
        store.jobs()
        store.close()
        os.setuid(65534)
        try:
            store.save_job(JobRecord("F1", "F1", 42, {}, 2, "2026-02-14T09:30:00Z"))
        except StoreError as error:
            print(error)
    """
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed to others
    try:
        folder.chmod(0o755)
        told, errors = python(code, folder / "x.sqlite").communicate(timeout=60)
    finally:
        shutil.rmtree(folder)
    assert errors == ""
    assert told.startswith(
        f"{folder / 'x.sqlite'}: the database or its folder is read-only; make both writable, or copy it elsewhere"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to everything")
def test_a_read_only_database_says_so(store: Store, path: Path) -> None:
    store.close()
    path.chmod(0o444)
    with pytest.raises(StoreError, match="the database or its folder is read-only; make both writable"):
        Store.open(path, "study", "tiny").save_job(job("LR2"))


@pytest.mark.parametrize("damage", ["text", "torn"])
def test_a_damaged_database_says_so(store: Store, path: Path, damage: str) -> None:
    store.save_jobs(job(f"J{n}") for n in range(500))
    store.close()
    path.write_bytes(b"this is no database at all, is it?" * 200 if damage == "text" else path.read_bytes()[:8192])
    with pytest.raises(
        StoreError, match=rf"^{path}: the (file is not a database, or|database) is damaged; move it away and run `ablate rebuild`"
    ):
        Store.open(path, "study", "tiny").jobs()


def test_a_newer_database_says_so(store: Store, path: Path) -> None:
    store.close()
    newer = sqlite3.connect(path)
    newer.execute("UPDATE alembic_version SET version_num = '0007'")
    newer.commit()
    newer.close()
    with pytest.raises(StoreError) as caught:
        Store.open(path, "study", "tiny")
    assert str(caught.value) == f"{path}: written by a newer ablate (schema 0007; this one knows up to 0002); upgrade ablate"


def test_somebody_elses_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE songs (title)")
    other.close()
    with pytest.raises(StoreError, match="a database, but not one of ablate's \\(it holds songs\\); give another path"):
        Store.open(path, "study", "tiny")


def test_a_folder_in_the_databases_place_says_so(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match="the database cannot be opened; check"):
        Store.open(path, "study", "tiny")


def test_only_sqlite_is_understood(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the database is an SQLite file; give a path, or sqlite:///path"):
        Store.open("postgresql://host/db", "study", "tiny")
    with pytest.raises(StoreError, match=r"^postgresql://…@host/db: "):
        Store.open("postgresql://me:secret@host/db", "study", "tiny")
    Store.open(f"sqlite:///{tmp_path}/x.sqlite", "study", "tiny").close()
    assert (tmp_path / "x.sqlite").exists()


MOUNTS = """\
/dev/vda / ext4 rw 0 0
host:/home /home nfs4 rw 0 0
/dev/vdb /home/me/local ext4 rw 0 0
me@host:/ /mnt/my\\040disk fuse.sshfs rw 0 0
tmpfs /tmp tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/tmp/x.sqlite", None),
        ("/homes/x.sqlite", None),
        ("/home/x.sqlite", ("/home", "nfs4")),
        ("/home/me/x.sqlite", ("/home", "nfs4")),
        ("/home/me/local/x.sqlite", None),
        ("/mnt/my disk/x.sqlite", ("/mnt/my disk", "fuse.sshfs")),
    ],
)
def test_a_network_disk_is_recognised(path: str, found: tuple[str, str] | None) -> None:
    assert network_mount(Path(path), MOUNTS) == found


# ---------------------------------------------------------------- what is new


def test_who_follows_a_study_reads_what_changed_whoever_changed_it_and_nothing_else(store: Store, path: Path) -> None:
    somebody, elsewhere = Store.open(path, "study", "tiny"), store.scoped("study", "full")
    elsewhere.save_jobs([job("F1")])
    before = store.state()
    claimed(somebody, "F1"), claimed(somebody, "F3"), claimed(elsewhere, "F1")
    assert [record.job for record in store.attempts_since(before.change) if record.state == "running"] == ["F1", "F3"]
    begun = store.state()
    somebody.add_points("F3", 1, points(1, {1: 0.5}, key="F3"), 100)
    assert store.state() == begun, "what is read of an attempt's metrics is no change of the attempt"
    somebody.end_attempt("F3", 1, "failed", "!", LATER)
    somebody.end_attempt("F1", 1, "done", "", LATER)
    somebody.update_facts("F3", 1, {"forgiven": "me"})
    changed = [(record.job, record.state, dict(record.facts)) for record in store.attempts_since(begun.change)]
    assert changed == [("F1", "done", {}), ("F3", "failed", {"forgiven": "me"})], "in the order of their last changes"
    assert store.attempts_since(store.state().change) == []


def test_decisions_and_locks_move_the_state_too(store: Store) -> None:
    seen = [store.state()]
    for write in (
        lambda: store.add_decision(decision("freeze", "F1")),
        lambda: store.save_lock(locked(NOW)),
        lambda: store.save_lock(replace(locked(NOW), provisional=False)),
        lambda: store.lift_lock(LATER, "why not"),
        lambda: store.save_lock(locked(LATER)),
    ):
        write()
        assert store.state() not in seen
        seen.append(store.state())
    assert [record.name for record in store.decisions_since(0)] == ["freeze"]
    assert store.decisions_since(1) == ()


# ---------------------------------------------------------------- schema


def test_migrations_end_at_the_schema_a_fresh_database_has(tmp_path: Path) -> None:
    Store.open(tmp_path / "fresh.sqlite", "study", "tiny").close()
    migrated = create_engine(f"sqlite:///{tmp_path / 'migrated.sqlite'}")
    with migrated.begin() as connection:
        _upgrade(connection)
    migrated.dispose()
    assert tables(tmp_path / "migrated.sqlite") == tables(tmp_path / "fresh.sqlite")
    assert Store.open(tmp_path / "migrated.sqlite", "study", "tiny").jobs() == {}


def tables(path: Path) -> list[tuple[str, str, str]]:
    shell = sqlite3.connect(path)
    rows = shell.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    shell.close()
    return sorted((kind, name, re.sub(r"\s+", " ", sql or "")) for kind, name, sql in rows)


def test_every_migration_is_known() -> None:
    files = sorted(path.name for path in (ROOT / "db" / "migrations" / "versions").glob("0*.py"))
    assert tuple(name[:4] for name in files) == schema.KNOWN_VERSIONS


def test_opening_a_current_database_does_not_import_alembic(store: Store, path: Path) -> None:
    store.close()
    code = "import sys; from db.store import Store; Store.open(sys.argv[1], 's', 'p').jobs(); print('alembic' in sys.modules)"
    assert python(code, path).communicate(timeout=60) == ("False\n", "")

"""Another ablate database: what comes over, that it is only read, and whose ledger its results have."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from ablate.answers import compare as compare_answers
from ablate.desk import Desk, open_desk
from ablate.launching import collect
from ablate.past.databases import is_database
from ablate.past.importing import Options, bring_in
from ablate.runs_toml import read_study
from ablate.study import IMPORTED, UserError
from db.records import AttemptState, JobRecord, Point, StoreError
from tests.past.conftest import FINAL, OFF, STUDY, Bring, Write, finals, rows

NOW = "2026-11-22T12:00:00Z"


@pytest.fixture
def other(tmp_path: Path, desk: Desk) -> Desk:
    """Another checkout, in which F3 and F1 were trained: two attempts of the first job, one still running."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "runs.toml").write_text(STUDY)
    made = open_desk(read_study(folder / "runs.toml"))
    for job in desk.plan().jobs:
        if job.run not in ("F3", "F1") or job.key is None or job.settings is None:
            continue
        collect.record_job(made.store, made.folders, JobRecord(job.key, job.run, job.seed, job.settings, 1, NOW))
        for number in (1, 2) if job.id == "F3-s42" else (1,):
            record = collect.claim_attempt(made.store, made.folders, job.key, NOW, gpus=1, code_hash="c0de")
            assert record is not None
            made.store.add_points(
                job.key, number, [Point(job.key, number, 10 * number, "val_loss", FINAL[job.run] + OFF[job.seed])], 0
            )
            state: AttemptState = "lost" if number == 1 and job.id == "F3-s42" else "done"
            facts = {"samples": 9600, "manifest_hash": f"m{job.seed}", "eval_hash": "e"}
            if job.id != "F1-s44":
                made.store.end_attempt(job.key, number, state, "", NOW, 60.0, {**facts, "failure": "node lost"})
    return made


def test_jobs_that_ended_come_over_with_their_curves_and_facts(desk: Desk, other: Desk, bring: Bring) -> None:
    answer = bring(Path(other.store.path))
    assert [(row["run"], row["seed"]) for row in answer["imported"]] == [
        ("F3", 42),
        ("F3", 43),
        ("F3", 44),
        ("F1", 42),
        ("F1", 43),
    ]
    key = desk.plan().of_run("F3")[0].key or ""
    (attempt,) = desk.store.attempts()[key]
    assert desk.store.curve(key, "val_loss") == [(10, 1.0), (20, 1.0)], "of both attempts"
    assert (attempt.code_hash, attempt.gpu_s, attempt.facts["manifest_hash"]) == ("c0de", 0.0, "m42")
    assert "failure" not in attempt.facts, "of another study's launches"
    assert bring(Path(other.store.path))["imported"] == []


def test_its_results_have_its_ledger(desk: Desk, other: Desk, bring: Bring) -> None:
    bring(Path(other.store.path))
    one = compare_answers.compare(desk, "F1", "F3", ())["comparisons"][0]
    assert "imported: the fairness ledger is that of its source" in one["labels"]
    checks = {check["check"]: check["ok"] for check in one["fairness"]}
    assert (checks["settings"], checks["manifest"], checks["trainer's code"]) == (True, True, True)


def test_what_had_no_ledger_there_has_none_here(desk: Desk, other: Desk, write: Write) -> None:
    bring_in(other, write(*rows(("LR2",))), Options())
    bring_in(desk, Path(other.store.path), Options())
    stamps = {key.rpartition("-")[0]: tried[-1].facts[IMPORTED]["ledger"] for key, tried in desk.store.attempts().items()}
    assert (stamps["LR2-s42"], stamps["F3-s42"]) == (False, True)


def test_other_settings_than_the_row_s_are_a_mistake(desk: Desk, other: Desk, tmp_path: Path) -> None:
    (tmp_path / "runs.toml").write_text(STUDY.replace("optim.lr     = 0.01", "optim.lr     = 0.02"))
    edited = open_desk(read_study(tmp_path / "runs.toml"))
    with pytest.raises(UserError, match=r"optim\.lr = 0\.01, and F3@42 has 0\.02 in the study: another config"):
        bring_in(edited, Path(other.store.path), Options())
    assert finals(desk) == {}


def test_it_is_only_read(desk: Desk, other: Desk, tmp_path: Path, bring: Bring) -> None:
    other.store.close()
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(other.store.path, alone / "ablate.sqlite")
    before = (alone / "ablate.sqlite").read_bytes()
    alone.chmod(0o555)
    bring(alone / "ablate.sqlite")
    assert len(finals(desk)) == 5
    assert (alone / "ablate.sqlite").read_bytes() == before
    assert [path.name for path in alone.iterdir()] == ["ablate.sqlite"]


def test_which_study_of_several_must_be_said(desk: Desk, other: Desk, bring: Bring) -> None:
    path = Path(other.store.path)
    renamed = replace(desk, study=replace(desk.study, name="mine"))
    assert len(bring_in(renamed, path, Options(dry_run=True))["imported"]) == 5, "one study: that is meant"
    other.store.scoped("third", "tiny").save_job(JobRecord("A-s1-00000000", "A", 1, {}, 1, NOW))
    with pytest.raises(UserError, match=r"which study and profile of it\? It holds small/full, third/tiny; say --from"):
        bring_in(renamed, path, Options(dry_run=True))
    assert len(bring_in(renamed, path, Options(place="small/full", dry_run=True))["imported"]) == 5
    with pytest.raises(UserError, match="there is no 'big/full' in it; it holds small/full, third/tiny"):
        bring(path, place="big/full")
    with pytest.raises(UserError, match="no job of third/tiny has ended there"):
        bring(path, place="third/tiny")


def test_a_newer_schema_and_a_database_that_is_not_ours_are_refused(other: Desk, bring: Bring, tmp_path: Path) -> None:
    path = Path(other.store.path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError, match=r"written by a newer ablate \(schema 9999"):
        bring(path)
    with sqlite3.connect(tmp_path / "foreign.sqlite") as connection:
        connection.execute("CREATE TABLE things (a)")
    connection.close()
    with pytest.raises(StoreError, match="not one of ablate's"):
        bring(tmp_path / "foreign.sqlite")


def test_a_database_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"SQLite format 3\0 and so on")
    (tmp_path / "b").write_bytes(b"run,seed")
    assert [is_database(tmp_path / name) for name in "ab"] == [True, False]

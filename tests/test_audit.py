"""The audit: a decision falls when a number, a margin, a tree, a row or what it was built on is another now; and only then."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from ablate import cli, evidence
from ablate.answers import decide as decide_answers
from ablate.answers import lock as lock_answers
from ablate.audit import audit, evidence_keys, recorded_results
from ablate.deciding.pooled import looked_in
from ablate.desk import Desk, open_desk
from ablate.runs_toml import read_study
from tests.written_study import NOW, STUDY, written_desk


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's folder when all has ended. Read only: tests get copies."""
    folder = tmp_path_factory.mktemp("written")
    written_desk(folder).store.close()
    return folder


@pytest.fixture
def desk(written: Path, tmp_path: Path) -> Desk:
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return open_desk(read_study(tmp_path / "runs.toml"))


@pytest.fixture
def typed(desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(desk.study.path.parent)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ablate", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def sql(desk: Desk, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(desk.store.path)
    with connection:
        connection.execute(statement, values)
    connection.close()


def tamper(desk: Desk, job: str, value: float) -> None:
    statement = "UPDATE points SET value = ? WHERE job LIKE ? AND name = 'val_loss' AND step = 40"
    sql(desk, statement, value, f"{job}-%")


def verdicts(desk: Desk) -> dict[str, str]:
    return {one.name: one.verdict for one in audit(desk)}


def problems(desk: Desk, name: str) -> str:
    return "; ".join(next(one for one in audit(desk) if one.name == name).problems)


def edited(desk: Desk, old: str, new: str) -> Desk:
    path = desk.study.path
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return open_desk(read_study(path))


def test_an_untouched_study_follows(desk: Desk, typed: Any) -> None:
    assert verdicts(desk) == {"freeze": "follows", "lr": "follows", "lock": "follows"}
    code, out, _ = typed("audit")
    assert code == 0
    assert "audit: all 3 follow" in out


def test_one_number_changed_in_the_database_names_the_decision_that_fell_and_the_job(desk: Desk, typed: Any) -> None:
    for seed in (42, 43, 44):
        tamper(desk, f"F1-s{seed}", 1 + (seed - 42) / 1000)
    assert verdicts(desk) == {"freeze": "fell", "lr": "moved", "lock": "fell"}
    code, out, _ = typed("audit", "--json")
    document = json.loads(out)
    assert (code, document["ok"], document["fell"]) == (1, False, ["freeze", "lock"])
    freeze = document["decisions"][0]
    assert "F1@42 val_loss: taken at 1.31067, the database says 1" in freeze["problems"]
    assert (freeze["took"], freeze["again"]["took"]) == ("F3", "F1")
    assert document["lock"]["problems"] == ["it rests on freeze, which fell"]


def test_a_number_that_turns_no_line_is_still_named(desk: Desk, typed: Any) -> None:
    tamper(desk, "F1-s42", 1.32)
    assert verdicts(desk)["freeze"] == "moved"
    code, out, _ = typed("audit")
    assert code == 1
    assert "≈ freeze took F3  moved" in out
    assert "F1@42 val_loss: taken at 1.31067, the database says 1.32" in out


def test_the_trainers_own_file_says_which_of_the_two_was_changed(desk: Desk) -> None:
    key = next(key for key in desk.store.jobs() if key.startswith("F1-s42"))
    line = {"attempt": 1, "step": 40, "metrics": {"val_loss": 1.31067}}
    desk.folders.metrics(key, 1).write_text(json.dumps(line) + "\n")
    tamper(desk, "F1-s42", 1.0)
    assert "the database says 1, its metrics.jsonl 1.31067" in problems(desk, "freeze")


def test_a_run_that_only_lends_its_noise_is_found_too(desk: Desk) -> None:
    key = next(key for key in desk.store.jobs() if key.startswith("F2-s42"))
    line = {"attempt": 1, "step": 40, "metrics": {"val_loss": 1.09067}}
    desk.folders.metrics(key, 1).write_text(json.dumps(line) + "\n")
    tamper(desk, "F2-s42", 1.3)
    told = problems(desk, "lr")
    assert "F2@42 val_loss: the database says 1.3, its metrics.jsonl 1.09067" in told
    assert "noise between seeds was" in told


def test_a_margin_edited_later_moves_what_it_judged(desk: Desk) -> None:
    later = edited(desk, "margin = 0.05", "margin = 0.5")
    assert "F1 − F3 on val_loss: margin was 0.05, now 0.5" in problems(later, "freeze")
    assert verdicts(later)["freeze"] == "fell"


def test_a_tree_edited_later_is_told(desk: Desk) -> None:
    later = edited(desk, '"full unfreeze is justified"', '"we like it"')
    assert problems(later, "freeze") == "its tree reads differently now than when it was taken"
    assert verdicts(later)["freeze"] == "moved"


def test_a_row_of_a_decision_changed_in_the_database_is_not_what_its_file_says(desk: Desk) -> None:
    sql(desk, "UPDATE decisions SET took = 'F1' WHERE name = 'freeze'")
    assert "its row in the database is not what 0001-freeze.json says: took" in problems(desk, "freeze")
    assert verdicts(desk)["freeze"] == "fell"


def test_a_lock_changed_in_the_database_fell(desk: Desk) -> None:
    held = desk.store.lock()
    assert held is not None
    sql(desk, "UPDATE locks SET settings = ?", json.dumps({**held.settings, "optim.lr": 1.0}))
    told = problems(desk, "lock")
    assert "optim.lr: locked 1.0 (baseline), now 1e-05 (baseline)" in told
    assert "its settings are not those it was locked with" in told
    assert verdicts(desk) == {"freeze": "follows", "lr": "follows", "lock": "fell"}


def test_seeds_trained_later_are_no_reason_to_fall(tmp_path: Path) -> None:
    desk = written_desk(tmp_path, without=("A1", "A6", "B1"))
    assert verdicts(desk) == {"freeze": "follows", "lr": "follows"}
    path = desk.study.path
    path.write_text(STUDY.replace("F3 = [43, 44] }", "F3 = [43, 44], LR2 = [43] }"))
    later = open_desk(read_study(path))
    assert verdicts(later) == {"freeze": "follows", "lr": "follows"}


def test_what_a_person_decided_follows_from_that_person(desk: Desk) -> None:
    lock_answers.lift(desk, "to try")
    decide_answers.overrule(desk, ("sweep1",), "", "F2", "memory")
    assert verdicts(desk)["freeze"] == "follows"
    later = edited(desk, "F2  = { model.freeze_llm = true }", "F2  = { model.freeze_dino = true }")
    assert verdicts(later)["freeze"] == "fell"
    assert "F2 changes {'model.freeze_dino': True} now" in problems(later, "freeze")


def test_the_evidence_of_a_decision_is_every_job_it_saw(desk: Desk) -> None:
    record = desk.store.decisions()["freeze"]
    keys = evidence_keys(desk, record)
    assert len(keys) == len(desk.store.jobs())
    results = recorded_results(desk, set(record.jobs))
    assert {run: len(of_run) for run, of_run in results.items()} == {"F3": 3, "F1": 3}


def test_explained_a_decision_shows_seeds_ledger_pool_and_sources_and_records_nothing(desk: Desk, typed: Any) -> None:
    before = desk.store.all_decisions()
    code, out, _ = typed("decide", "sweep1", "--explain")
    assert code == 0
    for text in (
        "✓ freeze took F3  follows",
        "42: 1.31067",
        "pool     F3, F1, F2",
        "trainer's code",
        "Holm 1979",
        "rests on 6 jobs",
    ):
        assert text in out
    assert desk.store.all_decisions() == before


def test_explained_what_is_open_says_how_to_decide_it(tmp_path: Path) -> None:
    desk = written_desk(tmp_path, without=("F3",))
    from ablate.answers.audit import explained

    assert explained(desk, ("sweep1",))["open"] == ["freeze is open: `ablate decide sweep1`"]


def test_explain_and_take_are_not_given_together(typed: Any) -> None:
    code, _, err = typed("decide", "sweep1", "--explain", "--take", "F1", "--because", "x")
    assert code == 2
    assert "--explain records nothing and --take does" in err


def test_decisions_recorded_when_every_pool_named_all_its_jobs_are_audited_as_ever(desk: Desk) -> None:
    evidence.decide(desk, NOW)
    for record in desk.store.decisions().values():
        keys = sorted(looked_in(record, desk.store.all_decisions()))
        whole = [{**one, "pool": {**one["pool"], "jobs": keys}} if one.get("pool") else one for one in record.comparisons]
        sql(desk, "UPDATE decisions SET comparisons = ? WHERE number = ?", json.dumps(whole), record.number)
        desk.folders.decision(record.number, record.name).unlink()
    assert set(verdicts(desk).values()) == {"follows"}
    assert len(evidence_keys(desk, desk.store.decisions()["lr"])) == len(desk.store.jobs())


def test_a_decision_taken_without_its_pool_in_the_record_can_still_be_audited(desk: Desk) -> None:
    evidence.decide(desk, NOW)
    for record in desk.store.decisions().values():
        bare = [{name: value for name, value in one.items() if name != "pool"} for one in record.comparisons]
        sql(desk, "UPDATE decisions SET comparisons = ? WHERE number = ?", json.dumps(bare), record.number)
        path = desk.folders.decision(record.number, record.name)
        path.unlink()
    assert verdicts(desk)["freeze"] in ("follows", "moved")


def test_another_result_of_the_same_job_than_an_earlier_record_was_taken_at_is_told(desk: Desk) -> None:
    tamper(desk, "F1-s43", 1.3)
    evidence.decide(desk, NOW)
    found = problems(desk, "freeze")
    assert "F1@43 val_loss: record 1 was taken at" in found
    assert "the database says 1.3: another result of the same job" in found
    assert verdicts(desk)["freeze"] == "moved"

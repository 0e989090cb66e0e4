"""What a decision that turns makes stale: jobs, decisions, skips, the lock, figures; held back until a person asks."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablate import cli, evidence
from ablate.conditions import ITS_START, Compared, Otherwise, Took
from ablate.desk import open_desk
from ablate.planning.plan import Plan, make_plan
from ablate.planning.stale import Stale, find_stale, turned_below
from ablate.runs_toml import read_study
from ablate.study import Skip
from ablate.tables import load
from db.records import AttemptRecord, DecisionRecord, LockRecord
from tests.small_study import STUDY as SMALL
from tests.small_study import write
from tests.studies import study, sweep, tree

NOW = "2026-11-22T12:00:00Z"
FREEZE = tree("freeze", "sweep1", ("otherwise", Otherwise(), "F3", "stay"))
LR = tree(
    "lr", "sweep2", ("otherwise", Otherwise(), "LR1", "stay"), ("x", Compared("LR2", "better", "LR1", "val_loss"), "LR2", "x")
)
MIX = tree("mix", "sweep4", ("D1 better", Compared("D1", "better", ITS_START, "val_loss"), "D1", "pays"))
SKIP = Skip("freeze took F1", Took("freeze", "F1"), "one rate is left")
STUDY = replace(
    study(sweep("sweep1", FREEZE), sweep("sweep2", LR, skip=SKIP), sweep("sweep4", MIX)),
    figures={"Fig 1: mixes": ("F3", "D1"), "Fig 2: freezing": ("F1", "F3")},
)


def decided(number: int, name: str, took: str, sets: dict[str, Any] | None = None, status: Any = "decided") -> DecisionRecord:
    of = {"freeze": "sweep1", "lr": "sweep2", "mix": "sweep4"}[name]
    return DecisionRecord(name, of, status, took, "", sets or {}, "so it is", "rule", NOW, number=number)


def done(plan: Plan, *runs: str) -> dict[str, tuple[AttemptRecord, ...]]:
    return {job.key: (AttemptRecord(job.key, 1, "done", NOW),) for job in plan.jobs if job.run in runs and job.key}


def plan_of(history: list[DecisionRecord], attempts: dict[str, tuple[AttemptRecord, ...]], **more: Any) -> Plan:
    return make_plan(STUDY, attempts, {record.name: record for record in history}, history=history, **more)


F3, F2 = decided(1, "freeze", "F3"), decided(4, "freeze", "F2", {"model.freeze_llm": True})
LR1, TOOK_MIX = decided(2, "lr", "LR1"), decided(3, "mix", "D1", {"data.mix": {"video": 0.9, "image": 0.1}})
FIRST = [F3, LR1, TOOK_MIX]
TURNED = [*FIRST, F2]


def states(plan: Plan, run: str) -> list[tuple[str, bool]]:
    return [(job.state, job.stale) for job in plan.of_run(run)]


def trained() -> dict[str, tuple[AttemptRecord, ...]]:
    return done(plan_of(FIRST, {}), "F1", "F2", "F3", "LR2", "LR3", "LR4", "D1")


def test_nothing_is_stale_while_no_decision_has_turned() -> None:
    plan = plan_of(FIRST, trained())
    assert find_stale(STUDY, plan, FIRST, None) == ()
    assert states(plan, "D1") == [("done", False)]


def test_a_row_that_started_from_another_winner_is_stale_and_waits_for_a_person() -> None:
    plan = plan_of(TURNED, trained())
    assert states(plan, "D1") == [("waiting", True)]
    (job,) = plan.of_run("D1")
    assert job.reason == "stale: trained before freeze took F2; `ablate launch --redo-stale` trains it anew"
    found = find_stale(STUDY, plan, TURNED, None)
    key = plan.orphans[0]
    assert Stale("job", key, "it started from what freeze and lr took before freeze took F2") in found
    assert Stale("decision", "mix", "it was taken before freeze took F2") in found
    assert Stale("figure", "Fig 1: mixes", "it draws D1") in found


def test_asked_for_what_is_stale_is_trained_anew() -> None:
    assert states(plan_of(TURNED, trained(), redo_stale=True), "D1") == [("ready", False)]


def test_a_finished_job_whose_key_is_unchanged_is_never_stale() -> None:
    plan = plan_of(TURNED, trained())
    assert {state for run in ("F1", "F2", "F3", "LR2") for state in states(plan, run)} == {("done", False)}
    assert not {"F1", "F2", "F3"} & {one.name.split("-")[0] for one in find_stale(STUDY, plan, TURNED, None) if one.kind == "job"}


def test_a_row_that_was_never_trained_just_starts_from_the_new_winner() -> None:
    attempts = {key: tried for key, tried in trained().items() if not key.startswith("D1")}
    assert states(plan_of(TURNED, attempts), "D1") == [("ready", False)]


def test_once_trained_anew_the_job_is_done_and_not_stale() -> None:
    again = done(plan_of(TURNED, trained(), redo_stale=True), "D1")
    plan = plan_of(TURNED, trained() | again)
    assert states(plan, "D1") == [("done", False)]
    assert plan.orphans, "its earlier results are kept"
    assert {one.kind for one in find_stale(STUDY, plan, TURNED, None)} == {"decision"}, "to be taken again from the new ones"


def test_a_sweep_that_was_skipped_and_is_not_any_more_waits_for_a_person() -> None:
    history = [
        decided(1, "freeze", "F1", {"model.freeze_llm": True}),
        decided(2, "lr", "", status="skipped"),
        decided(3, "freeze", "F3"),
    ]
    plan = plan_of(history, done(plan_of([], {}), "F1", "F2", "F3"))
    assert states(plan, "LR2") == [("waiting", True)]
    assert (
        plan.of_run("LR2")[0].reason == "stale: sweep2 was skipped before freeze took F3; `ablate launch --redo-stale` trains it"
    )
    assert {one.name for one in find_stale(STUDY, plan, history, None) if one.kind == "skip"} == {"LR2"}, (
        "LR3 and LR4 are in no sweep here"
    )
    assert states(plan_of(history, {}, redo_stale=True), "LR2") == [("ready", False)]


def test_a_lock_made_before_a_decision_turned_is_stale() -> None:
    lock = LockRecord({}, {}, {"freeze": 1, "lr": 2}, (), "", True, "ab" * 32, NOW)
    assert Stale("lock", "ab" * 6, "it was made before freeze took F2") in find_stale(STUDY, plan_of(TURNED, {}), TURNED, lock)
    assert find_stale(STUDY, plan_of(TURNED, {}), TURNED, replace(lock, lifted_at=NOW, decisions={"freeze": 4})) == (
        Stale("decision", "mix", "it was taken before freeze took F2"),
    )


def test_an_alias_taken_instead_of_its_run_changes_nothing() -> None:
    history = [*FIRST, decided(5, "lr", "F3")]
    assert find_stale(STUDY, plan_of(history, trained()), history, None) == ()


def test_a_tree_is_built_on_the_answers_it_asked_for_not_on_whatever_the_decision_said() -> None:
    assert turned_below(STUDY, TOOK_MIX, TURNED) == ("freeze",)
    assert turned_below(STUDY, LR1, TURNED) == (), "neither F3 nor F2 skips sweep2"
    assert turned_below(STUDY, LR1, [*FIRST, decided(4, "freeze", "F1")]) == ("freeze",)


# ---------------------------------------------------------------- as commands show it


def test_plan_shows_what_is_stale_and_launch_acts_on_it_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs.toml").write_text(SMALL)
    (tmp_path / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    desk = open_desk(read_study(tmp_path / "runs.toml"))

    def typed(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ablate", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli.main()
        return capsys.readouterr().out

    write(desk, "F3", "F1", "LR2")
    evidence.decide(desk, NOW)
    write(desk, "D1", last=0.9)
    assert json.loads(typed("plan", "--json"))["stale"] == []
    typed("decide", "sweep1", "--take", "F1", "--because", "no memory")
    document = json.loads(typed("plan", "--json"))
    stale = {one["kind"]: one for one in document["stale"]}
    assert stale["job"]["name"].startswith("D1-s4")
    assert stale["job"]["because"] == "it started from what freeze and lr took before freeze took F1"
    assert {job["state"] for job in document["jobs"] if job["run"] == "D1"} == {"waiting"}
    assert "stale    job D1-s42-" in typed("plan")
    assert "stale    job D1-s42-" in typed("status")
    assert json.loads(typed("status", "--json"))["stale"] == document["stale"]
    of_notebook = load(tmp_path / "runs.toml").stale()
    assert list(of_notebook["name"]) == [one["name"] for one in document["stale"]]
    typed("decide", "sweep2")
    starts = json.loads(typed("launch", "--dry-run", "--json"))["starts"]
    assert "D1" not in {job["run"] for job in starts}
    asked = json.loads(typed("launch", "--redo-stale", "--dry-run", "--json"))["starts"]
    assert {"D1-s42", "D1-s43", "D1-s44"} <= {job["id"] for job in asked}


def test_a_baseline_edited_after_a_decision_opens_it_again_everywhere_and_nothing_starts_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs.toml").write_text(SMALL)
    (tmp_path / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    desk = open_desk(read_study(tmp_path / "runs.toml"))

    def typed(*words: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["ablate", *words, "--json"])
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli.main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    write(desk, "F3", "F1", "LR2")
    evidence.decide(desk, NOW)
    assert {one["status"] for one in typed("status")["decisions"]} == {"decided"}
    (tmp_path / "runs.toml").write_text(SMALL.replace("optim.lr     = 0.01", "optim.lr     = 0.03"))
    status = typed("status")
    assert [(one["status"], one["took"]) for one in status["decisions"]] == [("open", ""), ("open", "")]
    assert {one["name"] for one in status["stale"] if one["kind"] == "decision"} == {"freeze", "lr"}
    assert {"reason": "decision freeze and lr are open", "jobs": ["D1-s42", "D1-s43", "D1-s44"]} in status["waiting"]
    assert "D1" not in {job["run"] for job in typed("launch", "--dry-run", "--block", "2")["starts"]}
    audit = typed("audit")
    assert audit["fell"] == ["freeze", "lr"]
    assert "which the study of today does not ask for any more" in audit["decisions"][0]["problems"][-1]
    assert typed("lock")["reasons"][0] == "decision 'freeze' (sweep1) is open"
    assert status["next"] == "ablate launch"
    assert load(tmp_path / "runs.toml").decisions().empty
    (tmp_path / "runs.toml").write_text(SMALL)
    assert {one["status"] for one in typed("status")["decisions"]} == {"decided"}, "the edit taken back, nothing was lost"


def test_a_lock_that_rests_on_a_decision_that_is_open_again_is_stale() -> None:
    lock = LockRecord({}, {}, {"freeze": 1, "lr": 2}, (), "", True, "ab" * 32, NOW)
    history = [replace(F3, jobs={"F1-s42-00000000": ""}), LR1]
    found = find_stale(STUDY, plan_of(history, {}), history, lock)
    reason = "it took F3 by F1-s42-00000000, which the study of today does not ask for any more; it is open again"
    assert Stale("decision", "freeze", reason) in found
    assert Stale("lock", "ab" * 6, "it rests on freeze, which is open again") in found

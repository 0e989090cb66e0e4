"""Confirmation: planned and priced from the start, run under the lock, judged on fresh seeds alone, told with the lock."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablate import cli, evidence
from ablate.answers import decide as decide_answers
from ablate.answers import lock as lock_answers
from ablate.answers import plan as plan_answers
from ablate.audit import audit
from ablate.deciding.confirm import claim, suspects
from ablate.deciding.lock import CONFIRMATION, standing
from ablate.desk import Desk, open_desk
from ablate.launching.collect import claim_attempt, record_job
from ablate.launching.launch import Options, launch
from ablate.planning.plan import PlannedJob
from ablate.runs_toml import read_study
from ablate.screens import drawing
from ablate.screens import lock as lock_screens
from ablate.study import LOCKED
from db.records import JobRecord, LockRecord, Point
from tests.launching.test_launch import Witness

NOW = "2026-11-22T12:00:00Z"
STUDY = """
[study]
name             = "small"
baseline         = "F3"
trainer          = { command = "true", metrics = { file = "log.jsonl" } }
gpus_per_run     = 2
hours_per_run    = 0.5
usd_per_gpu_hour = 2.0

[settings]
model.frozen = false
optim.ratio  = 10.0

[runs]
F3  = {}
F1  = { model.frozen = true }
LR2 = { optim.ratio = 100.0 }

[seeds]
every = [42, 43, 44]

[metrics]
val_loss = { better = "lower", margin = 0.05, noise = 0.02, unit = "nats" }

[sweep1]
on = "val_loss"
decide.freeze = [["F1 better than F3", "F1", "frozen is better"], ["otherwise", "F3", "stay"]]

[sweep2]
on = "val_loss"
decide.lr = [["LR2 no worse than F3", "LR2", "as good"], ["otherwise", "F3", "stay"]]

[blocks]
1 = ["F3", "F1", "LR2"]

[lock]
after   = 1
confirm = { against = "F3", seeds = [45, 46, 47] }
"""
SHIFT = {42: 0.0, 43: 0.01, 44: -0.01, 45: 0.002, 46: 0.012, 47: -0.008}


def desk_of(folder: Path, text: str = STUDY) -> Desk:
    (folder / "runs.toml").write_text(text)
    return open_desk(read_study(folder / "runs.toml"))


def end(desk: Desk, job: PlannedJob, value: float) -> None:
    assert job.key is not None
    assert job.settings is not None
    desk.store.save_job(JobRecord(job.key, job.run, job.seed, job.settings, 2, NOW))
    number = desk.store.claim(job.key, started_at=NOW, host="here", gpus=2, code_hash="c0de")
    assert number is not None
    desk.store.add_points(job.key, number, [Point(job.key, number, 100, "val_loss", value + SHIFT[job.seed])], 0)
    desk.store.end_attempt(job.key, number, "done", "", NOW, 3600.0, {"samples": 960})


def ended(desk: Desk, **values: float) -> Desk:
    """The study with all its rows trained, decided and locked."""
    for job in desk.plan().jobs:
        if not job.confirms:
            end(desk, job, {"F3": 1.0, "F1": 0.8, "LR2": 1.2, **values}[job.run])
    evidence.decide(desk, NOW)
    assert isinstance(evidence.lock(desk, NOW), LockRecord)
    return desk


def confirmed(desk: Desk, locked: float, baseline: float = 1.0) -> Desk:
    for job in desk.plan().jobs:
        if job.confirms:
            end(desk, job, locked if job.run == LOCKED else baseline)
    evidence.confirm(desk, NOW)
    return desk


def held(desk: Desk) -> LockRecord:
    lock = desk.store.lock()
    assert lock is not None
    return lock


@pytest.fixture
def typed(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ablate", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli.main()
        return " ".join(capsys.readouterr().out.split())

    return run


def test_it_is_planned_and_priced_before_anything_has_run(tmp_path: Path) -> None:
    document = plan_answers.plan(desk_of(tmp_path))
    jobs = {job["id"]: job for job in document["jobs"] if job["block"] == "confirmation"}
    assert list(jobs) == [f"lock-confirm-s{seed}" for seed in (45, 46, 47)] + [f"F3-s{seed}" for seed in (45, 46, 47)]
    assert {(job["state"], job["reason"], job["cost"]) for job in jobs.values()} == {
        ("waiting", "the lock is not there yet", 2.0)
    }
    assert document["totals"]["gpu_hours"] == 15.0


def test_the_lock_does_not_wait_for_its_own_confirmation_and_then_it_may_start(tmp_path: Path) -> None:
    desk = ended(desk_of(tmp_path))
    assert held(desk).provisional
    fresh = [job for job in desk.plan().jobs if job.confirms]
    assert {job.state for job in fresh} == {"ready"}
    assert fresh[0].settings == {"model.frozen": True, "optim.ratio": 10.0}
    assert fresh[0].key is not None
    assert fresh[0].key.startswith("lock-confirm-s45-")


def test_no_decision_sees_the_fresh_seeds(tmp_path: Path) -> None:
    desk = ended(desk_of(tmp_path))
    before = desk.store.decisions()
    confirmed(desk, 0.8)
    evidence.decide(desk, NOW)
    assert {name: desk.store.decisions()[name] for name in before} == before
    assert [job.seed for job in desk.plan().of_run("F3")] == [42, 43, 44]


def test_a_lock_that_keeps_its_promise_is_not_provisional_any_more(tmp_path: Path, typed: Any) -> None:
    desk = confirmed(ended(desk_of(tmp_path)), 0.8)
    record = desk.store.decisions()[CONFIRMATION]
    assert record.took == LOCKED
    assert record.line == "lock-confirm better than F3 on val_loss"
    assert record.because.startswith("confirmed: lock-confirm − F3 = -0.2 [")
    assert not held(desk).provisional
    assert standing(desk.study, held(desk), desk.store.decisions()) == "confirmed"
    for command in ("lock", "status", "plan"):
        assert "confirmed on 3 fresh seeds" in typed(command)


def test_until_then_it_says_that_it_is_provisional_wherever_it_is_shown(tmp_path: Path, typed: Any) -> None:
    ended(desk_of(tmp_path))
    for command in ("lock", "status", "plan"):
        assert "provisional until it is confirmed on fresh seeds (6 of 6 jobs to go)" in typed(command)
    assert json.loads(typed("lock", "--json"))["confirmation"]["status"] == "pending"


def test_a_lock_that_does_not_keep_it_stays_provisional_and_names_the_weakest_decision(tmp_path: Path, typed: Any) -> None:
    desk = confirmed(ended(desk_of(tmp_path), LR2=1.01), 1.01)
    record = desk.store.decisions()[CONFIRMATION]
    assert record.took == "F3"
    assert "not confirmed: lock-confirm − F3 = +0.01" in record.because
    assert "the lock claims better, shown is no worse" in record.because
    assert "Most likely at fault: lr took LR2 (LR2 − F3 = +0.01 on val_loss" in record.because
    assert "They may also not add up" in record.because
    assert held(desk).provisional
    for command in ("lock", "status", "plan"):
        assert "it was NOT confirmed on fresh seeds" in typed(command)


def test_a_decision_of_a_person_is_the_first_suspect(tmp_path: Path) -> None:
    desk = ended(desk_of(tmp_path), LR2=1.01)
    lock_answers.lift(desk, "to overrule")
    decide_answers.overrule(desk, ("sweep2",), "", "LR2", "we like it")
    first = suspects(desk.study, desk.store.decisions())[0]
    assert (first.name, first.p) == ("lr", 1.0)
    assert "a person took LR2" in first.text


def test_what_is_claimed_is_what_the_lines_taken_ask(tmp_path: Path) -> None:
    desk = ended(desk_of(tmp_path), F1=1.0, LR2=1.0)
    assert desk.store.decisions()["lr"].took == "LR2"
    assert desk.store.decisions()["freeze"].sets == {}
    assert claim(desk.study, desk.store.decisions()) == "no worse"
    assert confirmed(desk, 1.0).store.decisions()[CONFIRMATION].took == LOCKED


def test_a_lock_that_is_the_baseline_has_nothing_to_confirm(tmp_path: Path, typed: Any) -> None:
    desk = ended(desk_of(tmp_path), F1=1.2)
    assert not held(desk).provisional
    assert {job.state for job in desk.plan().jobs if job.confirms} == {"skipped"}
    assert "the baseline itself: nothing to confirm" in typed("lock")


class NoCluster:
    """Has GPUs, and no jobs."""

    def node_gpus(self) -> list[float]:
        return [4.0]

    def reattach(self, *_: Any) -> list[Any]:
        return []

    def stop_all(self, _: float) -> None:
        """Nothing runs on it."""


def test_under_the_lock_only_its_confirmation_starts(tmp_path: Path) -> None:
    desk = ended(desk_of(tmp_path, STUDY.replace('1 = ["F3", "F1", "LR2"]', '1 = ["F3", "F1", "LR2"]\n2 = []')))

    class Nobody(Witness):
        def stop_asked(self) -> Any:
            return "stop"

    end_ = launch(desk, Options(gpus=4), Nobody(), lambda *_: nullcontext(NoCluster()))  # type: ignore[arg-type,return-value]  # a far edge
    assert end_.interrupted, "a locked study with its confirmation to do may be launched"


def test_the_audit_judges_the_confirmation_again(tmp_path: Path) -> None:
    desk = confirmed(ended(desk_of(tmp_path)), 0.8)
    assert {one.name: one.verdict for one in audit(desk)} == dict.fromkeys(("freeze", "lr", "lock", CONFIRMATION), "follows")
    import sqlite3

    with sqlite3.connect(desk.store.path) as connection:
        connection.execute("UPDATE points SET value = 1.1 WHERE job LIKE 'lock-confirm-%'")
    connection.close()
    found = {one.name: one for one in audit(desk)}
    assert found[CONFIRMATION].verdict == "fell"
    assert found["freeze"].verdict == "follows"


def test_a_combination_that_only_its_confirmation_trained_stays_locked_as_it_is(tmp_path: Path) -> None:
    desk = confirmed(ended(desk_of(tmp_path), LR2=1.01), 0.8)
    assert held(desk).trained_as == ""
    assert held(desk).settings == {"model.frozen": True, "optim.ratio": 100.0}
    before = held(desk)
    assert evidence.lock(desk, "2026-11-22T13:00:00Z") == before
    assert not before.provisional
    assert {one.verdict for one in audit(desk)} == {"follows"}


def test_another_lock_needs_another_confirmation(tmp_path: Path) -> None:
    desk = confirmed(ended(desk_of(tmp_path)), 0.8)
    lock_answers.lift(desk, "to overrule")
    decide_answers.overrule(desk, ("sweep1",), "", "F3", "no memory")
    decide_answers.overrule(desk, ("sweep2",), "", "LR2", "we like it")
    assert isinstance(evidence.lock(desk, NOW), LockRecord)
    assert standing(desk.study, held(desk), desk.store.decisions()) == "pending"
    assert held(desk).provisional


def test_a_confirmed_lock_is_drawn_with_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    desk = confirmed(ended(desk_of(tmp_path)), 0.8)
    lock_screens.lock(lock_answers.lock(desk))
    out = capsys.readouterr().out
    assert "lock-confirm − F3" in out
    assert max(map(len, out.splitlines())) <= drawing.WIDTH


def test_a_lock_with_conflicts_cannot_be_confirmed(tmp_path: Path) -> None:
    desk = ended(desk_of(tmp_path))
    lock = replace(held(desk), conflicts=("a: b",), at="2026-11-22T13:00:00Z")
    desk.store.save_lock(lock)
    assert {job.reason for job in desk.plan().jobs if job.confirms} == {"the lock has conflicts: a: b"}


def test_a_confirmation_whose_launch_was_killed_is_taken_up_again(tmp_path: Path) -> None:
    desk = ended(desk_of(tmp_path))
    job = next(job for job in desk.plan().jobs if job.run == LOCKED)
    assert job.key is not None
    assert job.settings is not None
    record_job(desk.store, desk.folders, JobRecord(job.key, job.run, job.seed, dict(job.settings), 2, NOW))
    assert claim_attempt(desk.store, desk.folders, job.key, NOW) is not None
    for other in desk.plan().jobs:
        if other.confirms and other.id != job.id:
            end(desk, other, 0.8 if other.run == LOCKED else 1.0)
    asked: list[str] = []

    class Passing(Witness):
        def stop_asked(self) -> Any:
            asked.append("asked")
            return "stop"

    launch(desk, Options(gpus=4), Passing(), lambda *_: nullcontext(NoCluster()))  # type: ignore[arg-type,return-value]  # a far edge
    assert asked, "the loop was reached"
    assert next(one for one in desk.plan().jobs if one.id == job.id).state == "interrupted"

"""What may start, what waits and for what, what is skipped: tables over hand-made attempts and decisions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.conditions import Took
from ablate.planning.needs import needed_jobs
from ablate.planning.plan import Plan, PlannedJob, make_plan
from ablate.runs_toml import read_study
from ablate.study import Skip, Start, Study
from db.records import AttemptRecord, DecisionRecord
from tests.conftest import REPOSITORY
from tests.shared_study import STUDY as SHARED

SEED = read_study(REPOSITORY / "runs.toml")
NOW = "2026-11-22T12:00:00Z"


def decision(name: str, took: str, sets: dict[str, Any] | None = None, status: Any = "decided") -> DecisionRecord:
    sweep = next(sweep.name for sweep in SEED.sweeps.values() for tree in sweep.trees if tree.name == name)
    return DecisionRecord(name, sweep, status, took, "", sets or {}, "", "rule", NOW)


F1_SETS = {"model.freeze_dino": True, "model.freeze_llm": True}
FREEZE_F1 = decision("freeze", "F1", F1_SETS)
FREEZE_F2 = decision("freeze", "F2", {"model.freeze_llm": True})
FREEZE_F3 = decision("freeze", "F3")
LR_F3 = decision("lr", "F3")
LR_LR4 = decision("lr", "LR4", {"optim.connector_ratio": 1.0})
LR_SKIPPED = decision("lr", "", status="skipped")


def planned(
    *decisions: DecisionRecord, attempts: dict[str, tuple[AttemptRecord, ...]] | None = None, study: Study = SEED
) -> Plan:
    return make_plan(study, attempts or {}, {record.name: record for record in decisions})


def job(plan: Plan, id: str) -> PlannedJob:
    return next(job for job in plan.jobs if job.id == id)


def key(id: str, *decisions: DecisionRecord) -> str:
    found = job(planned(*decisions), id).key
    assert found is not None
    return found


def tried(id: str, *states: str, decisions: tuple[DecisionRecord, ...] = ()) -> dict[str, tuple[AttemptRecord, ...]]:
    name = key(id, *decisions)
    return {name: tuple(AttemptRecord(name, n, state, NOW, reason=f"{state}!") for n, state in enumerate(states, 1))}  # type: ignore[arg-type]  # states come as text


def test_before_anything_ran_what_needs_no_decision_is_ready() -> None:
    plan = planned()
    ready = [job.run for job in plan.jobs if job.state == "ready"]
    assert ready == ["F3", "F1", "F2", "A1", "A6", "B1", "A8a", "A8b"]


def test_the_plan_says_what_a_job_waits_for() -> None:
    plan = planned()
    assert job(plan, "LR3-s42").reason == "decision freeze is open: it may skip sweep2"
    assert job(plan, "D1-s42").reason == "decision freeze and lr are open"
    assert job(plan, "D1-start-s42").reason == (
        "decision freeze and lr are open: only needed if they take a combination that no row trains"
    )


def test_a_row_that_starts_from_winners_has_no_key_before_they_are_decided() -> None:
    assert job(planned(), "D1-s42").key is None
    assert job(planned(FREEZE_F3, LR_F3), "D1-s42").key is not None


@pytest.mark.parametrize(
    ("decisions", "comparator", "added"),
    [
        ((FREEZE_F3, LR_F3), "F3", False),
        ((FREEZE_F1, LR_SKIPPED), "F1", False),
        ((FREEZE_F2, LR_F3), "F2", False),
        ((FREEZE_F3, LR_LR4), "LR4", False),
        ((FREEZE_F2, LR_LR4), "D1-start", True),
    ],
)
def test_d1_is_compared_with_its_start_and_a_job_is_added_only_when_nobody_trains_it(
    decisions: tuple[DecisionRecord, ...], comparator: str, added: bool
) -> None:
    plan = planned(*decisions)
    assert plan.its_start["D1"] == comparator
    assert any(job.added for job in plan.jobs) is added
    assert job(plan, "D1-s42").state == "ready"
    if added:
        reference, row = job(plan, "D1-start-s42"), job(plan, "D1-s42")
        assert reference.settings is not None
        assert row.settings is not None
        assert {name for name in row.settings if row.settings[name] != reference.settings[name]} == {"data.mix"}


def test_its_start_of_a_plain_row_is_the_baseline_and_of_a8b_is_a8a() -> None:
    its = planned().its_start
    assert its["A1"] == "F3"
    assert its["A8b"] == "A8a", "A8a changes nothing in the start they share"
    assert "F3" not in its


def test_a_skipped_sweep_skips_its_own_runs_and_nobody_elses() -> None:
    plan = planned(FREEZE_F1)
    assert {job.run for job in plan.jobs if job.state == "skipped"} == {"LR2", "LR3", "LR4"}
    assert job(plan, "LR2-s42").reason.startswith("sweep2 is skipped: freeze took F1: ")


def test_finished_jobs_of_a_sweep_skipped_later_stay_done() -> None:
    plan = planned(FREEZE_F1, attempts=tried("LR2-s42", "done", decisions=(FREEZE_F3,)))
    assert job(plan, "LR2-s42").state == "done"
    assert job(plan, "LR3-s42").state == "skipped"


def test_a_stop_holds_up_what_starts_from_the_winners() -> None:
    stop = DecisionRecord("freeze", "sweep1", "decided", "stop", "", {}, "nothing trains", "rule", NOW)
    assert job(planned(stop, LR_F3), "D1-s42").reason == 'decision freeze says stop: "nothing trains"'


def test_winners_that_set_one_key_differently_are_a_conflict_not_a_guess() -> None:
    clash = decision("lr", "LR4", {"model.freeze_llm": False})
    assert (
        job(planned(FREEZE_F2, clash), "D1-s42").reason
        == "decisions freeze and lr both set model.freeze_llm: overrule one of them"
    )


@pytest.mark.parametrize(
    ("states", "state", "reason"),
    [
        (("running",), "running", "attempt 1 on this machine"),
        (("done",), "done", "done!"),
        (("diverged",), "diverged", "diverged!"),
        (("interrupted",), "interrupted", "attempt 1 was interrupted; goes on from its last checkpoint"),
        (("failed",), "ready", "attempt 1 failed: failed!; 2 tries left"),
        (("failed", "interrupted", "lost"), "ready", "attempt 3 lost: lost!; 1 try left"),
        (("failed", "lost", "failed"), "failed", "3 attempts failed, the last one: failed!"),
        (("failed", "done"), "done", "done!"),
    ],
)
def test_a_jobs_state_follows_from_its_attempts(states: tuple[str, ...], state: str, reason: str) -> None:
    found = job(planned(attempts=tried("F2-s42", *states)), "F2-s42")
    assert (found.state, found.reason) == (state, reason)


def test_results_that_todays_file_does_not_ask_for_are_orphans() -> None:
    old = {"D1-s42-00000000": (AttemptRecord("D1-s42-00000000", 1, "done", NOW),)}
    assert planned(attempts=old).orphans == ("D1-s42-00000000",)


def test_d1_needs_every_job_of_the_trees_it_starts_from() -> None:
    needs = needed_jobs(SEED, planned())
    assert set(needs["D1-s42"]) == {f"{run}-s42" for run in ["F1", "F2", "F3", "LR2", "LR3", "LR4"]}
    assert set(needs["LR3-s42"]) == {"F1-s42", "F2-s42", "F3-s42"}
    assert needs["A6-s42"] == ()


def test_a_change_of_seed_settings_or_reference_changes_the_key() -> None:
    text = (REPOSITORY / "runs.toml").read_text()
    b1 = key("B1-s42")
    changed = _study(text.replace("eval.every_samples      = 50_000", "eval.every_samples      = 40_000"))
    assert job(planned(study=changed), "B1-s42").key != b1


def test_a_setting_that_cannot_change_a_result_leaves_the_key_alone() -> None:
    text = (REPOSITORY / "runs.toml").read_text()
    changed = _study(text.replace("data.mix                = {", "data.workers            = 7\ndata.mix                = {", 1))
    assert job(planned(study=changed), "F3-s42").settings != job(planned(), "F3-s42").settings
    assert job(planned(study=changed), "F3-s42").key == key("F3-s42")


def _study(text: str) -> Study:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.toml"
        path.write_text(text)
        return read_study(path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([FREEZE_F1, FREEZE_F2, FREEZE_F3, LR_F3, LR_LR4, LR_SKIPPED]), max_size=3), st.data())
def test_no_job_starts_before_what_it_needs_and_the_plan_is_the_same_each_time(
    decisions: list[DecisionRecord], data: st.DataObject
) -> None:
    known = {record.name: record for record in decisions}
    plan = make_plan(SEED, {}, known)
    assert plan == make_plan(SEED, {}, known)
    for planned_job in plan.jobs:
        if planned_job.state == "ready":
            run = SEED.runs.get(planned_job.run)
            assert planned_job.key is not None
            assert run is None or run.start.kind != "winners" or set(run.start.names) <= set(known)
        if planned_job.state == "waiting":
            assert planned_job.reason
    assert len({job.id for job in plan.jobs}) == len(plan.jobs)
    ended = data.draw(st.sets(st.sampled_from([job.key for job in plan.jobs if job.key])))
    attempts = {name: (AttemptRecord(name, 1, "done", NOW),) for name in ended}
    assert {job.key for job in make_plan(SEED, attempts, known).jobs if job.state == "done"} == ended


# ---------------------------------------------------------------- what is trained once


@pytest.fixture
def shared(tmp_path: Path) -> Study:
    (tmp_path / "runs.toml").write_text(SHARED)
    return read_study(tmp_path / "runs.toml")


def of_shared(name: str, took: str, sets: dict[str, Any], *jobs: str) -> DecisionRecord:
    return DecisionRecord(name, "", "decided", took, "", sets, "", "rule", NOW, jobs=dict.fromkeys(jobs, ""))


X_BASE, Z_QUAD = of_shared("x", "base", {}), of_shared("z", "quad", {"m.z": 1.0})


def ids(plan: Plan) -> set[str]:
    return {job.run for job in plan.jobs}


def test_before_decisions_no_start_is_planned_that_some_row_trains_whatever_they_take(shared: Study) -> None:
    assert ids(planned(study=shared)) == {"base", "b", "keep", "quad", "more", "less"}


def test_a_start_that_no_row_may_train_is_planned_once_for_all_rows_that_start_there(shared: Study) -> None:
    other = replace(shared.runs["quad"], start=Start())  # now z sets m.z, and nobody trains it with what x sets
    plan = planned(study=replace(shared, runs={**shared.runs, "quad": other}))
    assert [job.id for job in plan.jobs if job.added] == ["more-start-s1", "more-start-s2", "more-start-s3"]


def test_rows_that_came_out_as_the_same_config_are_trained_once(shared: Study) -> None:
    plan = planned(X_BASE, Z_QUAD, study=shared)
    assert ids(plan) == {"base", "b", "quad", "more", "less"}
    assert plan.same == {
        **{f"keep-s{seed}": f"base-s{seed}" for seed in (1, 2, 3)},
        **{f"more-start-s{seed}": f"quad-s{seed}" for seed in (1, 2, 3)},
    }
    assert [job.id for job in plan.of_run("keep")] == ["base-s1", "base-s2", "base-s3"]
    assert plan.its_start == {"b": "base", "keep": "base", "quad": "base", "more": "quad", "less": "quad"}


def test_what_was_trained_twice_before_stays_by_itself(shared: Study) -> None:
    jobs = {job.id: job for job in make_plan(shared, {}, {"x": X_BASE}, once=False).jobs}
    twice = {str(jobs[id].key): (AttemptRecord(str(jobs[id].key), 1, "done", NOW),) for id in ("base-s1", "keep-s1")}
    plan = planned(X_BASE, study=shared, attempts=twice)
    assert job(plan, "keep-s1").state == "done"
    assert (plan.same["keep-s2"], plan.orphans) == ("base-s2", ())


def test_what_is_skipped_trains_for_nobody(shared: Study) -> None:
    skip = Skip("x took base", Took("x", "base"), "why")
    skipping = replace(shared, sweeps={**shared.sweeps, "sweep2": replace(shared.sweeps["sweep2"], skip=skip)})
    plan = planned(X_BASE, Z_QUAD, study=skipping)
    assert job(plan, "quad-s1").state == "skipped"
    assert plan.its_start["more"] == "more-start"
    assert job(plan, "more-start-s1").state == "ready"


# ---------------------------------------------------------------- decisions that stand no more


def test_a_decision_whose_jobs_are_not_in_the_plan_any_more_is_open_again_and_what_starts_from_it_waits(shared: Study) -> None:
    rested = [str(job.key) for job in planned(study=shared).jobs if job.run in ("base", "b")]
    x = of_shared("x", "b", {"m.x": 2.0}, *rested)
    plan = planned(x, study=shared)
    assert (plan.fallen, plan.decisions, job(plan, "quad-s1").state) == ({}, {"x": x}, "ready")
    edited = planned(x, study=replace(shared, settings={**shared.settings, "m.w": 5.0}))
    assert edited.fallen == {"x": f"it took b by {rested[0]} and 5 more, which the study of today does not ask for any more"}
    assert edited.decisions == {}
    assert (job(edited, "quad-s1").state, job(edited, "quad-s1").reason) == ("waiting", "decision x is open")


def test_what_rests_on_a_decision_that_is_open_again_is_open_too(shared: Study) -> None:
    x = of_shared("x", "base", {}, "base-s1-00000000")
    z = of_shared("z", "quad", {"m.z": 1.0}, *(str(job.key) for job in planned(X_BASE, study=shared).of_run("quad")))
    assert planned(X_BASE, z, study=shared).fallen == {}
    plan = planned(x, z, study=shared)
    assert plan.fallen.keys() == {"x", "z"}
    assert job(plan, "more-s1").reason == "decision x and z are open"


def test_what_a_person_decided_stands_whatever_became_of_the_jobs(shared: Study) -> None:
    x = replace(of_shared("x", "b", {"m.x": 2.0}, "b-s1-00000000"), status="overruled")
    plan = planned(x, study=shared)
    assert (plan.fallen, job(plan, "quad-s1").state) == ({}, "ready")


def test_a_tree_skipped_by_what_is_not_so_any_more_is_open_again() -> None:
    assert planned(FREEZE_F1, LR_SKIPPED).fallen == {}
    plan = planned(FREEZE_F3, LR_SKIPPED)
    assert plan.fallen == {"lr": "sweep2 was skipped: ; nothing says so any more"}
    assert job(plan, "D1-s42").reason == "decision lr is open"

"""What a launch keeps in memory equals what is read from scratch, whatever happens and whoever does it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ablate import evidence
from ablate.deciding.decide import SweepAnswer
from ablate.desk import Desk, measured_hours, open_desk
from ablate.evidence import Judge, job_results
from ablate.launching.present import Present
from ablate.planning.cost import Hours
from ablate.planning.plan import PlannedJob
from ablate.planning.states import FAILURE, FORGIVEN, HELD, STARTABLE
from ablate.runs_toml import read_study
from db.records import DecisionRecord, JobRecord, Point
from tests.conftest import REPOSITORY
from tests.shared_study import LOSS
from tests.shared_study import STUDY as SHARED

NOW = "2026-11-22T12:00:00Z"
STUDY = (REPOSITORY / "examples" / "quick" / "runs.toml").read_text()
LOOKS = STUDY.replace("[evidence]", "[evidence]\nlooks = [2, 3]")


def desk_of(folder: Path, text: str = STUDY) -> Desk:
    (folder / "runs.toml").write_text(text)
    return open_desk(read_study(folder / "runs.toml"))


def start(desk: Desk, job: PlannedJob) -> None:
    assert job.key is not None
    desk.store.save_job(JobRecord(job.key, job.run, job.seed, dict(job.settings or {}), job.gpus, NOW))
    assert desk.store.claim(job.key, started_at=NOW, gpus=job.gpus)


def end(desk: Desk, job: PlannedJob, state: str = "done", value: float = 1.0) -> None:
    assert job.key is not None
    facts = {FAILURE: "code error"} if state == "failed" else {HELD: "me"} if state == "interrupted" else {"samples": 1}
    desk.store.add_points(job.key, job.attempt, [Point(job.key, job.attempt, 1, "val_loss", value)], 9)
    desk.store.end_attempt(job.key, job.attempt, state, f"{state}!", NOW, 36.0, facts)  # type: ignore[arg-type]  # drawn as text


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = desk_of(tmp_path)
    yield made
    made.store.close()


class Somebody:
    """Does at random what launches and people do, from a process of their own (a connection of its own, here)."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk, self.draw = open_desk(desk.study), random.Random(seed)

    def acts(self) -> str:
        plan = self.desk.plan()
        running = [job for job in plan.jobs if job.state == "running"]
        ready = [job for job in plan.jobs if job.state in STARTABLE]
        stuck = [job for job in plan.jobs if job.attempt and job.state in ("failed", "waiting")]
        does = self.draw.choices(("start", "end", "retry", "decide", "overrule", "lock"), (6, 7, 1, 2, 1, 1))[0]
        match does:
            case "start" if ready:
                start(self.desk, self.draw.choice(ready))
            case "end" if running:
                states = ("done", "diverged", "failed", "lost", "interrupted")
                state = self.draw.choices(states, (9, 1, 1, 1, 1))[0]
                end(self.desk, self.draw.choice(running), state, self.draw.gauss(1.0, 0.02))
            case "retry" if stuck:
                job = self.draw.choice(stuck)
                self.desk.store.update_facts(job.key or "", job.attempt, {FORGIVEN: "me", HELD: ""})
            case "decide":
                evidence.decide(self.desk, NOW)
            case "overrule":
                self.overrules()
            case "lock":
                if self.desk.store.lock():
                    self.desk.store.lift_lock(NOW, "why not")
                else:
                    evidence.lock(self.desk, NOW)
        return does

    def overrules(self) -> None:
        tree = self.draw.choice([*self.desk.study.trees.values()])
        take = self.draw.choice([*self.desk.study.sweeps[tree.sweep].compare, "F3"])
        sets = dict(self.desk.study.run_named(take).changes)
        self.desk.store.add_decision(DecisionRecord(tree.name, tree.sweep, "overruled", take, "", sets, "because", "person", NOW))


@pytest.mark.parametrize(("text", "seed"), [(STUDY, 0), (STUDY, 1), (LOOKS, 2)], ids=["one", "another", "two looks"])
def test_whatever_happens_the_present_equals_what_is_read_from_scratch(tmp_path: Path, text: str, seed: int) -> None:
    desk = desk_of(tmp_path, text)
    present, somebody, done = Present(desk), Somebody(desk, seed), set()
    for _ in range(50):
        done.add(somebody.acts())
        present.refresh()
        plan = desk.plan()
        assert present.plan == plan
        assert present.its_start == plan.its_start
        for sweep in desk.study.sweeps:
            assert dict(present.results(sweep)) == job_results(desk, plan, sweep)
        ended = [attempt for tried in desk.store.attempts().values() for attempt in tried]
        assert present.ended_gpu_s == pytest.approx(sum(attempt.gpu_s for attempt in ended))
        hours = Hours(desk.study, measured_hours(desk))
        for run in desk.study.runs:
            assert present.hours.of(run)[0] == pytest.approx(hours.of(run)[0])
    assert len(done) >= 4


def test_a_job_that_starts_ends_or_is_tried_again_does_not_plan_the_whole_study(desk: Desk) -> None:
    present = Present(desk)
    for state in ("failed", "done"):
        start(desk, desk.plan().startable()[0])
        present.refresh()
        job = next(job for job in present.plan.jobs if job.state == "running")
        end(desk, job, state)
        present.refresh()
    assert present.plans == 1
    evidence.decide(desk, NOW)
    present.refresh()
    assert present.plans == 1, "no decision is new"
    tree = next(iter(desk.study.trees.values()))
    desk.store.add_decision(DecisionRecord(tree.name, tree.sweep, "overruled", "F3", "", {}, "because", "person", NOW))
    present.refresh()
    assert present.plans == 2


def test_jobs_come_in_the_order_of_the_plan_once_and_again_when_they_may_start_again(desk: Desk) -> None:
    present = Present(desk)
    given = list(iter(present.next_startable, None))
    assert [job.id for job in given] == [job.id for job in desk.plan().startable()]
    start(desk, given[0])
    present.refresh()
    assert present.next_startable() is None
    end(desk, replace(given[0], attempt=1), "lost")
    present.refresh()
    again = present.next_startable()
    assert again is not None
    assert (again.id, again.attempt) == (given[0].id, 1)
    present.queue_anew()
    assert len(list(iter(present.next_startable, None))) == len(given)


def test_reading_what_has_not_changed_asks_one_question(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    present = Present(desk)
    present.refresh()
    for name in ("attempts", "attempts_since", "all_decisions", "decisions_since", "lock"):
        monkeypatch.delattr(type(desk.store), name)
    present.refresh()


class Counted(Judge):
    """Says which sweeps were judged."""

    def decide_sweep(self, name: str, now: str) -> SweepAnswer:
        self.judged = [*getattr(self, "judged", []), name]
        return super().decide_sweep(name, now)


def test_a_sweep_is_judged_when_the_last_job_of_a_run_in_its_trees_has_ended_or_a_decision_it_asks_for_falls(desk: Desk) -> None:
    present = Present(desk)
    judge = Counted(present, keep_standing=True)
    by_run: dict[str, list[PlannedJob]] = {}
    for job in desk.plan().startable():
        by_run.setdefault(job.run, []).append(job)
    for job in by_run["F1"]:
        assert getattr(judge, "judged", []) == []
        start(desk, job)
        end(desk, replace(job, attempt=1), value=1.5)
        judge.decide_due(NOW)
    assert judge.judged == ["sweep1"], "F1 is in a tree of this sweep alone"
    for job in (*by_run["F3"], *by_run["F2"]):
        start(desk, job)
        end(desk, replace(job, attempt=1), value=1.0 + job.seed / 1000)
        judge.decide_due(NOW)
    assert desk.store.decisions()["freeze"].status == "decided"
    heard = judge.judged[judge.judged.index("sweep1", 1) :]
    assert "sweep2" in heard, "its skip rule asks what freeze took"


def test_a_job_that_two_rows_share_is_in_the_results_of_both_and_its_end_is_heard_for_both(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, SHARED)
    present = Present(desk)
    judge = Judge(present, keep_standing=True)
    while ready := desk.plan().startable():
        for job in ready:
            start(desk, job)
            end(desk, replace(job, attempt=1), value=LOSS[job.run] + job.seed / 100)
            judge.decide_due(NOW)
            plan = desk.plan()
            assert present.plan == plan
            for sweep in desk.study.sweeps:
                assert dict(present.results(sweep)) == job_results(desk, plan, sweep)
    assert {name: record.took for name, record in desk.store.decisions().items()} == {"x": "base", "z": "quad", "w": "quad"}
    assert [job.key for job in present.results("sweep2")["keep"]] == [job.key for job in present.jobs_of("base")]
    assert len(desk.store.jobs()) == 5 * 3, "neither `keep` nor the start of `more` was trained"
    (comparison,) = desk.store.decisions()["z"].comparisons
    pool = comparison["pool"]
    assert (pool["runs"], pool["ended"]) == (["base", "b", "quad"], 9), "one config lends its noise once"


def test_the_end_of_a_shared_job_is_heard_by_the_tree_of_the_row_that_shares_it(tmp_path: Path) -> None:
    more = 'both = { from = ["x", "y"], m.z = 1.0 }\nd    = { m.w = 5.0 }\n[seeds]'
    trees = """
[sweep4]
on = "val_loss"
decide.y = [["d better than base", "d", "yes"], ["otherwise", "base", "no"]]
[sweep5]
on = "val_loss"
decide.v = [["both better than its start", "both", "yes"], ["otherwise", "its start", "no"]]
[blocks]"""
    desk = desk_of(tmp_path, SHARED.replace("[seeds]", more).replace("[blocks]", trees))
    present = Present(desk)
    judge = Judge(present, keep_standing=True)
    for run in ("base", "b", "d", "quad"):
        for job in desk.plan().of_run(run):
            start(desk, job)
            end(desk, replace(job, attempt=1), value={**LOSS, "d": 1.03}[run] + job.seed / 100)
        judge.decide_due(NOW)
    assert set(present.sharing("quad")) == {"both", "more-start"}, "the start of `more` as well: z took quad"
    assert desk.store.decisions()["v"].took == "both"

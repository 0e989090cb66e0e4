"""The study as it is at present, in memory: its plan and its results, brought up to date by what changed, whoever changed it.

A launch asks after every job that ends what may start and what can be judged. Planning 100 000 jobs anew and reading all their
attempts each time would cost more than starting one. So a job is planned anew by itself when its attempts change, and the whole
study only when a decision or the lock does. What is here equals what `Desk.plan` and `evidence.job_results` read from scratch.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ablate.desk import Desk, wall_hours
from ablate.planning.cost import Hours
from ablate.planning.gates import asked_for
from ablate.planning.plan import Plan, PlannedJob, tried_again
from ablate.planning.states import STARTABLE
from ablate.study import ENDED, TRIAL, JobResult, run_of, seed_place
from db.records import AttemptRecord, DecisionRecord, LockRecord
from db.store import Final, State


@dataclass
class Present:
    """What the database held at the last `refresh`, put in order."""

    desk: Desk
    wanted: Callable[[PlannedJob], bool] = lambda _: True
    """Which of the jobs that may start `next_startable` gives out."""
    attempts: dict[str, tuple[AttemptRecord, ...]] = field(default_factory=dict)
    """Job key -> its attempts, oldest first."""
    decisions: dict[str, DecisionRecord] = field(default_factory=dict)
    """The latest record of each name."""
    history: list[DecisionRecord] = field(default_factory=list)
    """Every decision record, superseded ones too."""
    lock: LockRecord | None = None
    hours: Hours = field(init=False)
    ended_gpu_s: float = 0.0
    """GPU-seconds of all attempts that have ended."""
    news: set[str] = field(default_factory=set)
    """Runs of which a job got a result since somebody cleared this."""
    plans: int = 0
    """How often the whole study was planned: so often was the queue of `next_startable` made anew."""

    _state: State = field(init=False)
    """Of the store, when it was read last."""
    _planned: Plan = field(init=False)
    """As the whole study was planned last; its jobs may be out of date."""
    _jobs: list[PlannedJob] = field(default_factory=list)
    """Up to date, in the order in which they would be started."""
    _all: tuple[PlannedJob, ...] | None = None
    """The same, for a Plan; None after a change."""
    _places: dict[str, int] = field(default_factory=dict)
    """Job key -> place among the jobs."""
    _of_run: dict[str, list[int]] = field(default_factory=dict)
    """Run -> places of its jobs, those that confirm the lock left out."""
    _starting_from: dict[str, list[str]] = field(default_factory=dict)
    """Run -> rows of which it trains the start."""
    _sharing: dict[str, set[str]] = field(default_factory=dict)
    """Run -> runs whose jobs, or some of them, are its jobs."""
    _ready: list[int] = field(default_factory=list)
    """Places of jobs that may start, as a heap; of some it may not be true any more."""
    _finals: dict[str, Mapping[str, Final]] = field(default_factory=dict)
    """Key of a job with a result -> what it scored: that stays."""
    _results: dict[str, list[JobResult]] = field(default_factory=dict)
    _outdated: set[str] = field(default_factory=set)
    """Runs whose results must be put together again."""

    def __post_init__(self) -> None:
        self.hours = Hours(self.desk.study, {})
        self._state = State(self.desk.store.state().change, 0, ())
        for tried in self.desk.store.attempts().values():  # of an older database not all are among the changes
            for record in tried:
                self._take(record)
        self._take_changes()
        self._plan_anew()

    def refresh(self) -> None:
        """See what changed in the database since the last time: by us, by another launch, by a person."""
        changed, rules_changed = self._take_changes()
        if rules_changed or any(key not in self._places or run_of(key).endswith(TRIAL) for key in changed):
            self._plan_anew()
        else:
            for key in changed:
                self._plan_again(key)

    def _take_changes(self) -> tuple[set[str], bool]:
        """Keys of jobs whose attempts changed; whether a decision or the lock did."""
        store, before = self.desk.store, self._state
        self._state = store.state()
        records = store.attempts_since(before.change) if self._state.change != before.change else []
        for record in records:
            self._take(record)
        rules_changed = self._state[1:] != before[1:]
        if rules_changed:
            newer = store.decisions_since(before.decision)
            self.history += newer
            self.decisions |= {record.name: record for record in newer}
            self.lock = store.lock()
        return {record.job for record in records}, rules_changed

    def _take(self, record: AttemptRecord) -> None:
        known = {each.number: each for each in self.attempts.get(record.job, ())}
        self.ended_gpu_s += record.gpu_s - (known[record.number].gpu_s if record.number in known else 0.0)
        had_result = any(each.state in ENDED for each in known.values())
        known[record.number] = record
        self.attempts[record.job] = tried = tuple(known[number] for number in sorted(known))
        if record.state in ENDED and not had_result:
            self.news.add(run_of(record.job))
            if record.state == "done" and (hours := wall_hours(tried)):
                self.hours.add(run_of(record.job), hours)

    # ------------------------------------------------------------ the plan

    @property
    def plan(self) -> Plan:
        """Every job as it stands."""
        if self._all is None:
            self._all = tuple(self._jobs)
            self._planned = replace(self._planned, jobs=self._all)
        return self._planned

    @property
    def its_start(self) -> Mapping[str, str]:
        return self._planned.its_start

    def starting_from(self, run: str) -> Sequence[str]:
        """The rows whose start this run trains."""
        return self._starting_from.get(run, ())

    @property
    def standing(self) -> Mapping[str, DecisionRecord]:
        """The decisions that stand: `decisions` without those that are open again."""
        return self._planned.decisions

    def sharing(self, run: str) -> Collection[str]:
        """Other runs whose jobs are those of this one."""
        return self._sharing.get(run, ())

    def next_startable(self) -> PlannedJob | None:
        """The next job that may start, given out once. One whose attempts change after that, and that may start, comes again."""
        while self._ready:
            job = self._jobs[heapq.heappop(self._ready)]
            if job.state in STARTABLE:
                return job
        return None

    def queue_anew(self) -> None:
        """Give out again what was given out and has not started."""
        self._ready = [place for place, job in enumerate(self._jobs) if job.state in STARTABLE and self.wanted(job)]

    def _plan_anew(self) -> None:
        self._planned = self.desk.plan_of(self.attempts, self.history, self.lock)
        self.plans += 1
        self._all, self._jobs = self._planned.jobs, list(self._planned.jobs)
        self._places = {job.key: place for place, job in enumerate(self._jobs) if job.key}
        self._of_run = {}
        for place, job in enumerate(self._jobs):
            if not (job.confirms or job.trial):
                self._of_run.setdefault(job.run, []).append(place)
        self._starting_from = {}
        for row, start in self._planned.its_start.items():
            self._starting_from.setdefault(start, []).append(row)
        self._sharing = {}
        ids = {job.id: place for place, job in enumerate(self._jobs)} if self._planned.same else {}
        for id, owner in self._planned.same.items():
            self._of_run.setdefault(run_of(id), []).append(ids[owner])
            self._sharing.setdefault(run_of(owner), set()).add(run_of(id))
        for run in dict.fromkeys(map(run_of, self._planned.same)):
            self._of_run[run].sort(key=lambda place: seed_place(self.desk.study, run, self._jobs[place].seed))
        self._results, self._outdated = {run: [] for run in self._of_run}, set(self._of_run)
        self.queue_anew()

    def _plan_again(self, key: str) -> None:
        place = self._places[key]
        job = self._jobs[place] = tried_again(self.desk.study, self._jobs[place], self.attempts[key])
        self._all = None
        self._outdated |= {job.run, *self.sharing(job.run)}
        if job.state in STARTABLE and self.wanted(job):
            heapq.heappush(self._ready, place)

    # ------------------------------------------------------------ results

    def jobs_of(self, run: str) -> list[PlannedJob]:
        """Those that the study compares."""
        return [self._jobs[place] for place in self._of_run.get(run, ())]

    def results(self, sweep: str) -> Mapping[str, list[JobResult]]:
        """Run -> what its planned jobs scored, as this sweep may see it: see `evidence.job_results`."""
        self._put_results_together()
        if not any(job.look > 1 for run in self.desk.study.runs for job in self.jobs_of(run)[-1:]):
            return self._results
        asked = asked_for(self.decisions, sweep)
        seen = {
            run: [result for job, result in zip(self.jobs_of(run), results, strict=True) if job.look == 1 or job.key in asked]
            for run, results in self._results.items()
        }
        return {run: results for run, results in seen.items() if results}

    def _put_results_together(self) -> None:
        jobs = {run: self.jobs_of(run) for run in self._outdated & self._of_run.keys()}
        new = [job.key for of_run in jobs.values() for job in of_run if job.state in ENDED and job.key not in self._finals]
        if new:
            names = {name: metric.last for name, metric in self.desk.study.metrics.items()}
            found = self.desk.store.finals([key for key in new if key], names)
            self._finals |= {key: found.get(key, {}) for key in new if key}
        for run, of_run in jobs.items():
            self._results[run] = [job_result(job, self.attempts, self._finals) for job in of_run]
        self._outdated.clear()


def job_result(
    job: PlannedJob, attempts: Mapping[str, tuple[AttemptRecord, ...]], finals: Mapping[str, Mapping[str, Final]]
) -> JobResult:
    """What a planned job scored, whatever its state. finals: job key -> metric -> what it scored."""
    tried = attempts.get(job.key or "", ())
    scored = finals.get(job.key or "", {}) if job.state in ENDED else {}
    facts: Mapping[str, Any] = tried[-1].facts if tried else {}
    return JobResult(
        key=job.key or job.id,
        run=job.run,
        seed=job.seed,
        state=job.state,
        values={name: final.value for name, final in scored.items()},
        settings=job.settings or {},
        facts=facts,
        code_hash=tried[-1].code_hash if tried else "",
        steps={name: final.step for name, final in scored.items()},
    )

"""From what the database holds today to decisions and the lock: fetches facts, has them judged, records the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ablate.deciding.confirm import judge, unfinished
from ablate.deciding.decide import SweepAnswer, asked_by, decide_sweep
from ablate.deciding.lock import CONFIRMATION, NotYet, make_lock, same_lock, standing
from ablate.deciding.looks import Settling, settling, undeclared
from ablate.deciding.pooled import brief
from ablate.deciding.turned import rests_on_the_same, superseded
from ablate.desk import Desk as Desk
from ablate.desk import measured_hours as measured_hours
from ablate.launching import collect
from ablate.launching.present import Present, job_result
from ablate.planning.cost import hours_of
from ablate.planning.freeze import changes, content_hash, frozen_content
from ablate.planning.gates import LOOK_OF, asked_for
from ablate.planning.needs import askers
from ablate.planning.plan import Plan, PlannedJob
from ablate.planning.starts import is_made
from ablate.planning.states import COMING
from ablate.study import LOCKED, JobResult, Settings, Sweep, UserError, with_shared
from db.records import DecisionRecord, DeviationRecord, FrozenRecord, LockRecord


def job_results(desk: Desk, plan: Plan, sweep: str = "") -> dict[str, list[JobResult]]:
    """Run -> what its planned jobs scored, whatever their state; the values come from the metrics in the database.

    Jobs that confirm the lock are not among them: no decision may see those. Nor are seeds of a later look, unless they were
    asked for: to settle `sweep`, where one is named. A sweep does not look twice because another one was settled.
    """
    asked = asked_for(desk.store.decisions(), sweep) if desk.study.looks else frozenset()
    seen = [job for job in plan.jobs if not (job.confirms or job.trial) and (job.look == 1 or job.key in asked)]
    return with_shared(desk.study, results_of(desk, seen), plan.same)


def results_of(desk: Desk, jobs: Sequence[PlannedJob]) -> dict[str, list[JobResult]]:
    """Run -> what these jobs scored."""
    attempts = desk.store.attempts()
    keys = [job.key for job in jobs if job.key]
    finals = desk.store.finals(keys, {name: metric.last for name, metric in desk.study.metrics.items()})
    results: dict[str, list[JobResult]] = {}
    for job in jobs:
        results.setdefault(job.run, []).append(job_result(job, attempts, finals))
    return results


def decide(
    desk: Desk, now: str, sweeps: tuple[str, ...] = (), *, keep_standing: bool = False, keep_record: bool = True
) -> dict[str, SweepAnswer]:
    """Evaluate the trees of `sweeps` (default: all, in order), record every verdict that is new, and return the answers.

    A decision can open the next one (a skip rule, a start from winners), so the plan is made anew after each sweep.
    What a person overruled stays until that person says otherwise.
    keep_standing: a decision stays as long as its own numbers do. Noise is pooled over every run with replicates, so it is known
    better as the study goes on; that alone must not turn a decision that others were already started from.
    keep_record: false judges and writes nothing down.
    """
    judge = Judge(Present(desk), keep_standing, keep_record)
    return {name: judge.decide_sweep(name, now) for name in desk.study.sweeps if not sweeps or name in sweeps}


class Judge:
    """Judges sweeps; one that lasts as long as a launch judges only those that may say something new.

    A tree says something new when the last job of a run it names has ended, or a decision it was built on has changed. (That
    noise is known better because of other runs may decide one earlier: `decide_all` finds those.)
    """

    def __init__(self, present: Present, keep_standing: bool, keep_record: bool = True) -> None:
        """keep_standing, keep_record: see `decide`."""
        desk = present.desk
        self.present, self.keep_standing, self.keep_record = present, keep_standing, keep_record
        self._desk, self._study = desk, desk.study
        self._undeclared, self._edits = undeclared_looks(desk), edits_since_frozen(desk)
        self._asking, self._place = askers(desk.study), {name: place for place, name in enumerate(desk.study.sweeps)}
        self._heard = 0

    def decide_all(self, now: str) -> None:
        """Judge every sweep, and what hears of what that says."""
        for name in self._study.sweeps:
            self.decide_sweep(name, now)
        self.decide_due(now)

    def decide_due(self, now: str) -> None:
        """Judge the sweeps that may say something new since they were judged last, and those that hear of it."""
        while due := self._due():
            for name in due:
                self.decide_sweep(name, now)

    def _due(self) -> list[str]:
        self.present.refresh()
        runs, self.present.news = self.present.news, set()
        ended = {run for run in runs if all(job.state not in COMING for job in self.present.jobs_of(run))}
        ended |= {other for run in ended for other in self.present.sharing(run)}
        ended |= {row for run in ended for row in self.present.starting_from(run)}
        changed = {record.name for record in self.present.history[self._heard :]}
        self._heard = len(self.present.history)
        asking = {sweep for what in (*ended, *changed) for sweep in self._asking.get(what, ())}
        return sorted(asking, key=self._place.__getitem__)

    def decide_sweep(self, name: str, now: str) -> SweepAnswer:
        self.present.refresh()
        current = self.present.decisions
        answer = decide_sweep(
            self._study,
            self._study.sweeps[name],
            self.present.results(name),
            self.present.standing,
            self.present.its_start,
            now=now,
            hours_of=lambda run: self.present.hours.of(run)[0],
            undeclared=self._undeclared,
            edits=self._edits,
        )
        for decision in answer.decisions:
            old = current.get(decision.name)
            if old is not None and (old.status == "overruled" or (self.keep_standing and rests_on_the_same(decision, old))):
                continue
            if self.keep_record and decision.status != "waiting" and superseded(decision, old):
                record(self._desk, decision)
        return answer


def undeclared_looks(desk: Desk) -> dict[str, str]:
    """Run -> why what is said of it is exploratory; nothing before the first launch, which freezes the seeds."""
    frozen = desk.store.frozen()
    return undeclared(desk.study, frozen.content.get("seeds", {})) if frozen else {}


def edits_since_frozen(desk: Desk) -> dict[str, str]:
    """What the file says otherwise than when it was frozen -> the reason given."""
    frozen = desk.store.frozen()
    if frozen is None:
        return {}
    now = frozen_content(desk.study)
    reasons = {deviation.hash: deviation.because for deviation in desk.store.deviations()}
    return dict.fromkeys(changes(frozen.content, now), reasons.get(content_hash(now), "none given yet"))


def to_settle(desk: Desk, sweep: Sweep) -> Settling:
    """The cheapest seeds of the next look that could still decide a line of the sweep. UserError where there are none."""
    study = desk.study
    if len(study.looks) < 2:
        raise UserError(
            f"{study.path.name} declares no looks; more seeds would be an undeclared look, and exploratory. Declare them before "
            "the first launch: [evidence] looks = [3, 5]"
        )
    plan = desk.plan()
    decisions = plan.decisions
    waiting = [tree.name for tree in sweep.trees if not is_made(decisions.get(tree.name))]
    if waiting:
        raise UserError(f"{sweep.name} is not decided yet ({', '.join(waiting)}); settle it when this look's seeds have ended")
    lines = asked_by(study, sweep, job_results(desk, plan, sweep.name), decisions, plan.its_start)
    asked = asked_for(decisions, sweep.name)
    found = settling(study, sweep.name, plan, lines, asked, _hours(desk, measured_hours(desk)))
    if isinstance(found, str):
        raise UserError(found)
    return found


def settle(desk: Desk, sweep: Sweep, now: str) -> Settling:
    """Ask for those seeds: recorded, so that every later reader sees which look was taken, when, and for which line."""
    found = to_settle(desk, sweep)
    before = desk.store.decisions().get(f"{LOOK_OF}{sweep.name}")
    record(
        desk,
        DecisionRecord(
            name=f"{LOOK_OF}{sweep.name}",
            sweep=sweep.name,
            status="decided",
            took="",
            line=found.text,
            sets={},
            because=f"look {found.look} of {len(desk.study.looks)} was asked for, to decide {found.text!r}",
            by="person",
            at=now,
            jobs={**(dict(before.jobs) if before else {}), **{job.key: "" for job in found.jobs if job.key}},
        ),
    )
    return found


def record(desk: Desk, decision: DecisionRecord) -> DecisionRecord:
    """Store a decision, in the database and as a file; returns it with its number."""
    return collect.record_decision(desk.store, desk.folders, brief(decision, desk.store.all_decisions()))


def lock(desk: Desk, now: str) -> LockRecord | NotYet:
    """The lock as it follows from today's decisions; recorded when it is new."""
    plan = desk.plan()
    made = make_lock(desk.study, plan.decisions, trained_runs(plan), plan, now)
    if isinstance(made, NotYet):
        return made
    old = desk.store.lock()
    if old is not None and not old.lifted_at and same_lock(made, old):
        return old
    collect.record_lock(desk.store, desk.folders, made)
    return made


def trained_runs(plan: Plan) -> dict[str, Settings]:
    """Run -> resolved settings, of every run with a finished job; the lock's own confirmation does not count as one."""
    done = [job for job in plan.jobs if job.state == "done" and not (job.confirms or job.trial)]
    return {job.run: job.settings for job in done if job.settings is not None}


def confirm(desk: Desk, now: str) -> DecisionRecord | None:
    """Judge the lock when its fresh seeds have ended; recorded when it is new. None while there is nothing to judge.

    Confirmed, the lock is not provisional any more.
    """
    held, plan = desk.store.lock(), desk.plan()
    decisions = desk.store.decisions()
    jobs = [job for job in plan.jobs if job.confirms]
    if held is None or not jobs or unfinished(plan) or standing(desk.study, held, decisions) == "nothing to confirm":
        return None
    made = judge(desk.study, held, results_of(desk, jobs), job_results(desk, plan), decisions, now)
    old = decisions.get(CONFIRMATION)
    if old is not None and old.tree_hash == made.tree_hash and not superseded(made, old):
        return old
    recorded = record(desk, made)
    if recorded.took == LOCKED and held.provisional:
        collect.record_lock(desk.store, desk.folders, replace(held, provisional=False))
    return recorded


def refuse_when_locked(desk: Desk) -> None:
    """Raises UserError when the study is locked."""
    held = desk.store.lock()
    if held is not None and not held.lifted_at:
        raise UserError(
            f"the study is locked since {held.at} (profile {desk.study.profile}); nothing it rests on may change. "
            'To go on: ablate lock --lift --because "…"'
        )


def freeze(desk: Desk, now: str, because: str) -> tuple[str, ...]:
    """Freeze margins, metrics, trees and seeds at the first launch; later edits need a reason and become a deviation.

    Returns what was changed since the freeze (empty: nothing). Raises UserError for an edit without a reason.
    """
    content = frozen_content(desk.study)
    frozen = desk.store.frozen()
    if frozen is None:
        collect.record_frozen(desk.store, desk.folders, FrozenRecord(content_hash(content), now, content))
        return ()
    known = {frozen.hash, *(deviation.hash for deviation in desk.store.deviations())}
    edits = changes(frozen.content, content)
    if content_hash(content) in known:
        return edits
    if not because:
        raise UserError(
            f"{desk.study.path.name}: changed since it was frozen at the first launch ({frozen.at}): {'; '.join(edits)}. "
            'Take the edit back, or say why with --because "…": it is kept as a deviation'
        )
    collect.record_deviation(desk.store, desk.folders, DeviationRecord(content_hash(content), now, because, edits))
    return edits


def _hours(desk: Desk, measured: Mapping[str, list[float]]) -> Callable[[str], float]:
    return lambda run: hours_of(desk.study, run, measured)[0]

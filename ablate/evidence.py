"""From what the database holds today to decisions and the lock: fetches facts, has them judged, records the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ablate import collect
from ablate.cost import hours_of
from ablate.decide import SweepAnswer, decide_sweep, rests_on_the_same, superseded
from ablate.desk import Desk as Desk
from ablate.desk import measured_hours as measured_hours
from ablate.freeze import changes, content_hash, frozen_content
from ablate.lock import NotYet, make_lock, same_lock
from ablate.plan import Plan
from ablate.study import JobResult, UserError
from db.records import AttemptRecord, DecisionRecord, DeviationRecord, FrozenRecord, LockRecord


def job_results(desk: Desk, plan: Plan) -> dict[str, list[JobResult]]:
    """Run -> what its planned jobs scored, whatever their state; the values come from the metrics in the database."""
    attempts = desk.store.attempts()
    keys = [job.key for job in plan.jobs if job.key]
    values = desk.store.final_values(keys, {name: metric.last for name, metric in desk.study.metrics.items()})
    results: dict[str, list[JobResult]] = {}
    for job in plan.jobs:
        last = _last(attempts, job.key)
        results.setdefault(job.run, []).append(
            JobResult(
                key=job.key or job.id,
                run=job.run,
                seed=job.seed,
                state=job.state,
                values=values.get(job.key, {}) if job.key and job.state in ("done", "diverged") else {},
                settings=job.settings or {},
                facts=last.facts if last else {},
                code_hash=last.code_hash if last else "",
            )
        )
    return results


def decide(desk: Desk, now: str, sweeps: tuple[str, ...] = (), *, keep_standing: bool = False) -> dict[str, SweepAnswer]:
    """Evaluate the trees of `sweeps` (default: all, in order), record every verdict that is new, and return the answers.

    A decision can open the next one (a skip rule, a start from winners), so the plan is made anew after each sweep.
    What a person overruled stays until that person says otherwise.
    keep_standing: a decision stays as long as its own numbers do. Noise is pooled over every run with replicates, so it is known
    better as the study goes on; that alone must not turn a decision that others were already started from.
    """
    answers = {}
    for name, sweep in desk.study.sweeps.items():
        if sweeps and name not in sweeps:
            continue
        plan, hours = desk.plan(), measured_hours(desk)
        current = desk.store.decisions()
        answer = decide_sweep(
            desk.study,
            sweep,
            job_results(desk, plan),
            current,
            plan.its_start,
            now=now,
            hours_of=_hours(desk, hours),
        )
        for decision in answer.decisions:
            old = current.get(decision.name)
            if old is not None and (old.status == "overruled" or (keep_standing and rests_on_the_same(decision, old))):
                continue
            if decision.status != "waiting" and superseded(decision, old):
                record(desk, decision)
        answers[name] = answer
    return answers


def record(desk: Desk, decision: DecisionRecord) -> DecisionRecord:
    """Store a decision, in the database and as a file; returns it with its number."""
    return collect.record_decision(desk.store, desk.folders, decision)


def lock(desk: Desk, now: str) -> LockRecord | NotYet:
    """The lock as it follows from today's decisions; recorded when it is new."""
    plan = desk.plan()
    trained = {job.run: job.settings for job in plan.jobs if job.settings is not None and job.state == "done"}
    made = make_lock(desk.study, desk.store.decisions(), trained, plan, now)
    if isinstance(made, NotYet):
        return made
    old = desk.store.lock()
    if old is not None and not old.lifted_at and same_lock(made, old):
        return old
    collect.record_lock(desk.store, desk.folders, made)
    return made


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
            'Take the edit back, or say why and it is kept as a deviation: ablate launch --because "…"'
        )
    collect.record_deviation(desk.store, desk.folders, DeviationRecord(content_hash(content), now, because, edits))
    return edits


def _hours(desk: Desk, measured: Mapping[str, list[float]]) -> Callable[[str], float]:
    return lambda run: hours_of(desk.study, run, measured)[0]


def _last(attempts: Mapping[str, tuple[AttemptRecord, ...]], key: str | None) -> AttemptRecord | None:
    tried = attempts.get(key or "", ())
    return tried[-1] if tried else None

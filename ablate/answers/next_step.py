"""The command that brings a study on: what a person is told to type next, and what only a person can bring on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ablate.answers.books import is_maybe
from ablate.answers.document import at, command, some
from ablate.desk import Desk
from ablate.planning.outcomes import STOP
from ablate.planning.plan import Plan, PlannedJob
from ablate.planning.starts import is_made, start_settings, trainable
from ablate.planning.states import STARTABLE
from ablate.study import Study, run_of, runs_of_sweep
from db.records import DecisionRecord, LockRecord


def after_plan(desk: Desk, planned: Plan, shown: Sequence[PlannedJob], block: str, held: LockRecord | None) -> str:
    if held is not None and not held.lifted_at:
        return command(desk, "lock", *(("--lift", "--because", "…") if planned.fallen else ()))
    if words := next_for(shown, block):
        return command(desk, *words)
    if any(job.state == "waiting" and not is_maybe(job) for job in shown):
        return command(desk, *(next_for(planned.jobs) or overruling(desk.study, planned) or ("launch",)))
    return command(desk, "lock" if planned.jobs else "init")


def next_for(jobs: Sequence[PlannedJob], block: str = "") -> tuple[str, ...]:
    """The command that brings these jobs on; () where none does by itself."""
    states = {job.state for job in jobs}
    if states & STARTABLE:
        return ("launch", *(("--block", block) if block else ()))
    if "running" in states:
        return ("status", "--follow")
    if failed := next((job for job in jobs if job.state == "failed"), None):
        return ("logs", at(failed))
    if any(job.stale for job in jobs):
        return ("launch", "--redo-stale")
    held = next((job for job in jobs if job.state == "waiting" and job.gate is None), None)
    return ("retry", at(held)) if held else ()


def overruling(study: Study, planned: Plan) -> tuple[str, ...]:
    """The command by which a person overrules what holds jobs up for good; () where nothing does, or launching helps still."""
    held = next(_for_a_person(study, planned), None)
    return _overrule(study, held.decision) if held and not _launching_helps(study, planned) else ()


def person_notes(desk: Desk, planned: Plan) -> Iterator[str]:
    """A line per decision that holds jobs up for good: why, and what a person may do."""
    for held in _for_a_person(desk.study, planned):
        wait = "waits" if len(held.jobs) == 1 else "wait"
        yield (
            f"{some(held.jobs)} {wait} for a person: {held.why}. Launching cannot help; overrule "
            f"{held.decision.name}: {command(desk, *_overrule(desk.study, held.decision))}"
        )


class _Held(NamedTuple):
    """Jobs that start from what decisions took, which are all made, and cannot: one says `stop`, or they do not go together."""

    why: str
    decision: DecisionRecord
    jobs: list[str]


def _for_a_person(study: Study, planned: Plan) -> Iterator[_Held]:
    """What holds up jobs that wait until a person overrules a decision."""
    waiting: dict[str, list[str]] = {}
    for job in planned.jobs:
        if job.state == "waiting":
            waiting.setdefault(job.run, []).append(job.id)
    found: dict[str, _Held] = {}
    for run, jobs in waiting.items():
        row = study.runs.get(run)
        made = [planned.decisions.get(name) for name in row.start.names] if row and row.start.kind == "winners" else []
        records = [one for one in made if one is not None and is_made(one)]
        if row is None or not made or len(records) < len(made):
            continue
        why = trainable(study, row, start_settings(study, row, planned.decisions))
        if isinstance(why, str):
            stop = next((one for one in records if one.took == STOP), None)
            why = f"decision {stop.name} ({stop.sweep}) took `stop`" if stop else why
            found.setdefault(why, _Held(why, stop or records[-1], [])).jobs.extend(jobs)
    yield from found.values()


def _overrule(study: Study, record: DecisionRecord) -> tuple[str, ...]:
    which = ("--tree", record.name) if len(study.sweeps[record.sweep].trees) > 1 else ()
    return ("decide", record.sweep, *which, "--take", "…", "--because", "…")


def _launching_helps(study: Study, planned: Plan) -> bool:
    """Whether a launch would train something, or judge a decision that is open and of which no job waits."""
    waiting = {job.id: job.run for job in planned.jobs if job.state == "waiting"}
    runs = {*waiting.values(), *(run_of(id) for id, owner in planned.same.items() if owner in waiting)}
    open_ = {tree.sweep for name, tree in study.trees.items() if not is_made(planned.decisions.get(name))}
    judged = any(not runs.intersection(runs_of_sweep(study, study.sweeps[sweep])) for sweep in open_)
    return judged or any(job.state in (*STARTABLE, "running") for job in planned.jobs)

"""The trials of searches, done: draws a point when one begins, gives up the losers, records the choice when all have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ablate.desk import Desk
from ablate.evidence import record
from ablate.launching import intervene
from ablate.planning.plan import Plan, PlannedJob, row_of
from ablate.planning.search import Tried, choose, declaration, searched, trial_settings, trial_text, with_chosen
from ablate.planning.starts import start_settings
from ablate.study import ENDED, Run, job_key
from db.records import DecisionRecord

OVER = (*ENDED, "stopped", "failed")
"""States of a trial that will not be tried again."""


def with_point(desk: Desk, plan: Plan, job: PlannedJob) -> PlannedJob:
    """A trial that begins now, at a point drawn from what is over; the same again if nothing comes of it."""
    from ablate.launching import tune

    row, decisions = desk.study.runs[row_of(job)], desk.store.decisions()
    start = start_settings(desk.study, row, decisions)
    assert not isinstance(start, str), f"{job.id} waits for {start}"
    point = tune.ask(searched(row), _lower(desk, row), job.trial, trials_of(desk, plan, row))
    settings = trial_settings(row, start, point)
    key = job_key(desk.study, job.run, job.seed, settings)
    return replace(job, key=key, settings=settings, change=trial_text(row, job.trial, settings))


def trials_of(desk: Desk, plan: Plan, row: Run) -> list[Tried]:
    """Those of a row's trials that are over, with what they scored."""
    return _tried(desk, row, _trials(plan, row))


def _tried(desk: Desk, row: Run, jobs: Sequence[PlannedJob]) -> list[Tried]:
    search, attempts = searched(row), desk.store.attempts()
    over = [(job, job.key, job.settings) for job in jobs if job.state in OVER and job.key and job.settings]
    keys = [key for _, key, _ in over]
    scores = desk.store.final_values(keys, {search.on: desk.study.metrics[search.on].last})
    curves = desk.store.curves(search.on, keys) if keys else {}
    return [
        Tried(
            number=job.trial,
            key=key,
            code_hash=attempts[key][-1].code_hash if key in attempts else "",
            point={name: settings[name] for name in search.space},
            state=job.state,
            score=scores.get(key, {}).get(search.on) if job.state == "done" else None,
            curve=tuple(value for _, value in curves.get(key, ())),
        )
        for job, key, settings in over
    ]


def give_up(desk: Desk, plan: Plan, at: str) -> list[str]:
    """Have running trials stop that ASHA gives up, each with a line that says why; their ids. Asked again, nothing is added."""
    from ablate.launching import tune

    asked = []
    for row in desk.study.searching:
        search, jobs = searched(row), _trials(plan, row)
        running = [job for job in jobs if job.state == "running" and job.key]
        if not running or not search.halving:
            continue
        curves = desk.store.curves(search.on, [job.key for job in jobs if job.key])
        values = {job.trial: [value for _, value in curves.get(job.key or "", ())] for job in jobs}
        losers = tune.given_up(search, _lower(desk, row), values)
        for job in running:
            if job.trial in losers:
                place = losers[job.trial] - 1
                step, value = curves[job.key or ""][place]
                why = (
                    f"stopped by the search: {search.on} {value:.4g} at step {step} is not in the best 1/{search.halving} "
                    "of the trials before it"
                )
                if intervene.give_up(desk.folders.attempt(job.key or "", job.attempt), at, why):
                    asked.append(job.id)
    return asked


def conclude(desk: Desk, plan: Plan, decisions: Mapping[str, DecisionRecord], now: str) -> list[DecisionRecord]:
    """Record the choice of every search that has none yet and whose trials are all over; those that are new.

    decisions: the records that stand, by name.
    """
    made = []
    for row in with_chosen(desk.study, decisions).searching:
        jobs = _trials(plan, row)
        if not row.chosen and jobs and all(job.state in OVER for job in jobs):
            declared = declaration(desk.study, row, decisions)
            chosen = choose(desk.study, row, _tried(desk, row, jobs), declared, now)
            made += [record(desk, chosen)] if chosen else []
    return made


def _trials(plan: Plan, row: Run) -> list[PlannedJob]:
    return [job for job in plan.jobs if job.trial and row_of(job) == row.name]


def _lower(desk: Desk, row: Run) -> bool:
    return desk.study.metrics[searched(row).on].better == "lower"

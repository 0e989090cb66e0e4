"""What `ablate show` answers: one run's config with its resolved rates, its attempts, its curve, what rests on it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from ablate.answers.books import Books
from ablate.answers.decide import decision
from ablate.answers.document import Answer, at, command, head, plain
from ablate.answers.next_step import after_plan
from ablate.conditions import near
from ablate.desk import Desk
from ablate.planning.plan import Plan, PlannedJob
from ablate.planning.search import budget, range_text
from ablate.planning.states import STARTABLE
from ablate.study import Settings, Study, UserError, nested, run_of

COLUMNS = 400
"""Of a thinned curve: some for each that a terminal has."""


def show(desk: Desk, jobs: Sequence[PlannedJob], metric: str, *, whole: bool = True) -> Answer:
    """One run (or one job of it): settings, resolved rates, attempts, curve, the decisions that rest on it.

    whole: every point of the curve; else those that a terminal can show.
    """
    study, run = desk.study, jobs[0].run
    planned, books = desk.plan(), Books(desk)
    keys = [job.key for job in jobs if job.key]
    settings = next((job.settings for job in jobs if job.settings is not None), None)
    curves = desk.store.curves(metric, keys) if whole else desk.store.thinned_curves(metric, keys, COLUMNS)
    if not curves and any(books.tried(job) for job in jobs):
        _refuse_unmeasured(desk, keys, metric)
    unit = study.metrics[metric].unit if metric in study.metrics else ""
    return plain(
        {
            **head(desk),
            "run": run,
            "aliases": [*(alias for alias, name in study.aliases.items() if name == run), *_sharing(planned, run)],
            "change": jobs[0].change,
            "jobs": [books.row(job) for job in jobs],
            "settings": settings,
            "differs": _differences(study, settings or {}),
            "derived": derived(study, settings or {}),
            "curve": {"metric": metric, "unit": unit, "jobs": {job.id: curves[job.key] for job in jobs if job.key in curves}},
            "attempts": [{**asdict(tried), "id": job.id} for job in jobs for tried in books.tried(job)],
            "decisions": [
                one
                for one in map(decision, desk.store.decisions().values())
                if set(keys) & set(one["jobs"]) or one["took"] == run
            ],
            "search": _search(desk, run),
            "next": _next_after_show(desk, planned, books, jobs),
        }
    )


def _sharing(planned: Plan, run: str) -> list[str]:
    """Rows that came out as this one's config, so that its jobs are theirs."""
    return list(dict.fromkeys(run_of(id) for id, owner in planned.same.items() if run_of(owner) == run))


def _next_after_show(desk: Desk, planned: Plan, books: Books, jobs: Sequence[PlannedJob]) -> str:
    if tried := next(filter(books.tried, jobs), None):
        return command(desk, "logs", at(tried))
    if any(job.state in STARTABLE for job in jobs):
        return command(desk, "launch", "--run", jobs[0].run)
    return after_plan(desk, planned, planned.jobs, "", desk.store.lock())


def _search(desk: Desk, run: str) -> Answer | None:
    """How a row is tuned: where it looks, what it chose, and each trial that is over; None for a row that is not."""
    row = desk.study.runs.get(run)
    if row is None or row.search is None:
        return None
    from ablate.launching.trials import trials_of

    search = row.search
    return {
        "space": {name: range_text(one) for name, one in search.space.items()},
        "budget": budget(search),
        "on": search.on,
        "by": search.by,
        "chosen": row.chosen,
        "trials": [
            {"trial": one.number, "job": one.key, "state": one.state, "point": dict(one.point), "score": one.score}
            for one in trials_of(desk, desk.plan(), row)
        ],
    }


def _refuse_unmeasured(desk: Desk, keys: Sequence[str], metric: str) -> None:
    """UserError when these jobs measured other things, but never `metric`."""
    known = sorted({name for key in keys for name in desk.store.metric_names(key)})
    if known and metric not in desk.study.metrics:
        guess = near(metric, known)
        hint = f'Did you mean "{guess[0]}"?' if guess else f"There are: {', '.join(known)}"
        raise UserError(f"--metric {metric!r} was never measured here. {hint}")


def _differences(study: Study, settings: Settings) -> list[Answer]:
    """Settings that are not the baseline's."""
    return [
        {"setting": name, "baseline": study.settings.get(name), "value": value}
        for name, value in settings.items()
        if study.settings.get(name) != value
    ]


def derived(study: Study, settings: Settings) -> dict[str, Any]:
    """What the trainer's config computes from these settings: its properties, such as optim.connector_lr = lr × ratio."""
    module, _, name = study.trainer.config.partition(":")
    if not name or not settings:
        return {}
    config = getattr(importlib.import_module(module), name)
    found: dict[str, Any] = {}
    for part, values in nested(settings).items():
        kind = type(getattr(config(), part, None))
        if is_dataclass(kind) and isinstance(values, dict):
            made = kind(**values)
            found |= {f"{part}.{each}": getattr(made, each) for each, value in vars(kind).items() if isinstance(value, property)}
    return found

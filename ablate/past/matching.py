"""Which job of today's plan each past run is: by name and seed, in the study's words. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ablate.conditions import near, quoted
from ablate.past.runs import MISTAKES_TOLD, Mistakes, Past, PastRun, shown
from ablate.planning.plan import PlannedJob, row_of
from ablate.settings import as_toml
from ablate.study import IMPORTED, LOCKED, Study, run_of
from db.records import AttemptRecord

Waits = Literal["", "decide", "launch"]
"""The command after which a run can be taken, by the same import: a decision says what its settings are, or a search does."""

NOT_WANTED = "-"
"""--as NAME=- leaves a run out on purpose."""


@dataclass(frozen=True)
class Match:
    job: PlannedJob
    run: PastRun


@dataclass(frozen=True)
class LeftOut:
    """A past run that is not brought in, and why."""

    name: str
    why: str
    waits: Waits = ""


@dataclass(frozen=True)
class Matched:
    """Every run of a file, sorted."""

    found: tuple[Match, ...]
    """Jobs that nobody has trained here; some may be imported already."""
    left_out: tuple[LeftOut, ...]


def matched(
    study: Study,
    jobs: Sequence[PlannedJob],
    attempts: Mapping[str, tuple[AttemptRecord, ...]],
    past: Past,
    named: Mapping[str, str],
    same: Mapping[str, str],
) -> Matched:
    """named: a run as the file calls it -> "ROW", "ROW@SEED", or "-" to leave it out. same: of the plan.

    UserError with every mistake: a name that is no row, a seed that is not planned, settings that are not the row's, two runs
    that are one job.
    """
    mistakes = Mistakes(past.source)
    theirs = {run.name for run in past.runs}
    for name in named.keys() - theirs:
        mistakes.add("", f"--as {name}={named[name]}: there is no run {shown(name)} in it{_hint(name, theirs)}")
    mistakes.refuse()  # else the run that was meant would be told too, as no row
    of_row = _of_rows(study, jobs, same)
    rows = _rows_meant(study, of_row, past.runs, named, mistakes)
    found: dict[str, Match] = {}
    left_out: list[LeftOut] = []
    for run in past.runs:
        if named.get(run.name) == NOT_WANTED:
            left_out.append(LeftOut(run.name, "left out as --as says"))
            continue
        job = _job(study, of_row, run, rows[run.name], named, mistakes) if run.name in rows else None
        if job is None:
            continue
        if job.id in found:
            other = found[job.id].run
            if rows[run.name][0] != rows[other.name][0] and job.id in same.values():
                left_out.append(
                    LeftOut(run.name, f"{at(job)} is the same config with the same seed: run {shown(other.name)} counts")
                )
                continue
            mistakes.add(run.place, f"run {shown(run.name)} is {at(job)}, and so is run {shown(other.name)} of {other.place}")
        found[job.id] = Match(job, run)
        for what in _other_settings(job, run, study.stateful):
            mistakes.add(run.place, what)
    mistakes.refuse()
    kept = []
    for match in found.values():
        why, waits = _obstacle(study, match, attempts.get(match.job.key or "", ()))
        if why:
            left_out.append(LeftOut(at(match.job), why, waits))
        else:
            kept.append(match)
    places = {run: place for place, run in enumerate(study.runs)}
    return Matched(tuple(sorted(kept, key=lambda match: (places[row_of(match.job)], match.job.seed))), tuple(left_out))


def at(job: PlannedJob) -> str:
    return f"{job.run}@{job.seed}"


def _of_rows(study: Study, jobs: Sequence[PlannedJob], same: Mapping[str, str]) -> dict[str, list[PlannedJob]]:
    """Row, alias or reference run -> its jobs, those that confirm the lock among them: they are found, to be refused."""
    found: dict[str, list[PlannedJob]] = {}
    planned = {job.id: job for job in jobs}
    shared = ((run_of(id), planned[owner]) for id, owner in same.items())
    for run, job in (*((job.run, job) for job in jobs), *shared):
        for name in (run, *(alias for alias, its in study.aliases.items() if its == run)):
            found.setdefault(name, []).append(job)
    return found


def _rows_meant(
    study: Study, of_row: Mapping[str, list[PlannedJob]], runs: Sequence[PastRun], named: Mapping[str, str], mistakes: Mistakes
) -> dict[str, tuple[str, int | None]]:
    """Name of runs in the file -> the row it means, and the seed if it says one. A name that means none is one mistake."""
    places: dict[str, list[str]] = {}
    for run in runs:
        if named.get(run.name) != NOT_WANTED:
            places.setdefault(run.name, []).append(run.place)
    found = {}
    for name, (first, *more) in places.items():
        called = named.get(name, name)
        row, seed = (called, None) if called in of_row else _row_and_seed(called)
        if row in of_row:
            found[name] = row, seed
            continue
        hint = (_hint(row, of_row.keys()) if mistakes.count < MISTAKES_TOLD else "") or "."
        mistakes.add(
            f"{first} and {len(more)} more" if more else first,
            f"{_told(name, row, named)} is no row of {study.path.name}{hint} Say which it is: --as {name}=ROW, or - for none",
        )
    return found


def _told(name: str, row: str, named: Mapping[str, str]) -> str:
    return f"--as {name}={named[name]}: {shown(row)}" if name in named else f"run {shown(name)}"


def _job(
    study: Study,
    of_row: Mapping[str, list[PlannedJob]],
    run: PastRun,
    meant: tuple[str, int | None],
    named: Mapping[str, str],
    mistakes: Mistakes,
) -> PlannedJob | None:
    """The job that a run is; None, and a mistake, if that cannot be said. meant: its row, and its seed if the name says it."""
    row, seed = meant
    what = _told(run.name, row, named)
    if seed is None and run.seed is None:
        where = f"--map seed=COLUMN, or --as {run.name}={row}@SEED"
        mistakes.add(run.place, f"{what} has no seed; say where it is, or which job this is: {where}")
        return None
    if seed is not None and run.seed is not None and seed != run.seed:
        mistakes.add(run.place, f"{what} is called seed {seed}, and its column says {run.seed}")
        return None
    wanted = run.seed if seed is None else seed
    job = next((job for job in of_row[row] if job.seed == wanted), None)
    if job is None:
        seeds = ", ".join(str(job.seed) for job in of_row[row] if not job.confirms)
        mistakes.add(run.place, f"{row} has no seed {wanted}; it has {seeds}. Declare it under [seeds] of {study.path.name}")
    return job


def _row_and_seed(name: str) -> tuple[str, int | None]:
    """ "F3@42", "F3-s42" and a key, "F3-s42-c16774a1", all mean a job."""
    found = re.fullmatch(r"(.+?)(?:@|-s)([0-9]{1,18})(?:-[0-9a-f]{8})?", name)
    return (found[1], int(found[2])) if found else (name, None)


def _other_settings(job: PlannedJob, run: PastRun, stateful: Collection[str]) -> Iterator[str]:
    """Settings that the file tells and that are not the row's; those that cannot change a result may differ."""
    for name, value in run.settings.items() if job.settings is not None else ():
        assert job.settings is not None, "asked above"
        if name in stateful and name in job.settings and not _equal(value, job.settings[name]):
            wanted = as_toml(job.settings[name])
            yield f"run {shown(run.name)}: {name} = {shown(value)}, and {at(job)} has {wanted} in the study: another config"


def _equal(told: Any, setting: Any) -> bool:
    """Whether a value of a file is that setting; a table has it as text."""
    if isinstance(told, str) and not isinstance(setting, str):
        try:
            told = json.loads(told if told not in ("True", "False") else told.lower())
        except (ValueError, RecursionError):
            return False
    return bool(told == setting) and isinstance(told, bool) == isinstance(setting, bool)


def _obstacle(study: Study, match: Match, tried: tuple[AttemptRecord, ...]) -> tuple[str, Waits]:
    """Why a past run cannot be this job's result, and after which command it can be; ("", "") if it can be now."""
    job, run = match.job, match.run
    if run.unfinished:
        return f"it did not end: {run.unfinished}", ""
    if not run.curves.keys() & study.metrics.keys():
        return f"it measured none of {', '.join(study.metrics)}", ""
    if job.confirms or job.run == LOCKED:
        return "it would confirm the lock, which only a fresh training can", ""
    if job.trial:
        return "it would be a trial of a search, which only a training of this study can be", ""
    if job.key is None:
        row = study.runs[row_of(job)]
        return f"settings not known yet: {job.reason}", "launch" if row.search and not row.chosen else "decide"
    if tried and IMPORTED not in tried[-1].facts:
        told = {"running": "is being trained here"}.get(tried[-1].state, f"was trained here ({tried[-1].state})")
        return f"it {told}; what is trained here stays", ""
    return "", ""


def _hint(name: str, known: Collection[str]) -> str:
    guesses = near(name, known)
    return f". Did you mean {quoted(guesses)}?" if guesses else ""

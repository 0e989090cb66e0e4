"""What `ablate status` answers: where the study stands, from the database alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

from ablate.answers.books import Books, is_maybe
from ablate.answers.decide import decisions_of, stale_things
from ablate.answers.document import Answer, at, command, head, plain, some, were
from ablate.answers.lock import confirmation, moved_notes
from ablate.answers.next_step import after_plan, person_notes
from ablate.clock import utc_now
from ablate.desk import Desk
from ablate.folders import JOB
from ablate.launching import watch
from ablate.planning.plan import Plan, PlannedJob
from ablate.study import ENDED

LARGE_LOG_GIB = 1.0
"""A log of a running job above this is told, before it fills the disk."""


def status(desk: Desk) -> Answer:
    """Where the study stands, from the database alone."""
    planned = desk.plan()
    books = Books(desk)
    counted = [job for job in planned.jobs if not is_maybe(job)]
    running = [job for job in counted if job.state == "running"]
    latest = watch.latest(desk, [job.key for job in running if job.key])
    held, lease = desk.store.lock(), desk.store.lease()
    layout = books.totals(planned, planned.jobs, None)
    return plain(
        {
            **head(desk),
            "at": utc_now(),
            "states": Counter(job.state for job in counted),
            "running": [_running(desk, job, books, latest.get(job.key or "", {})) for job in running],
            "ended": _ended(desk, books, [job for job in counted if job.state in ENDED]),
            "failed": [
                {"id": job.id, "reason": job.reason, "failure": books.failure(job)} for job in counted if job.state == "failed"
            ],
            "lost_gpu_minutes": books.lost_gpu_s() / 60,
            "waiting": _reasons(job for job in counted if job.state == "waiting"),
            **books.spent(planned),
            "left_gpu_hours": layout["left_gpu_hours"],
            "left_cost": layout["left_cost"],
            "left_wall_hours": layout["wall_hours"],
            "gpus": layout["gpus"],
            "decisions": decisions_of(desk, planned),
            "stale": stale_things(desk, planned, held),
            "notes": [
                *moved_notes(desk, held),
                *(_noise_notes(desk, planned, books) if held else ()),
                *person_notes(desk, planned),
                *_log_notes(desk, running),
                *_folder_notes(desk, books.attempts),
            ],
            "launching": {**asdict(lease), "gone": books.dead_since is not None} if lease else None,
            "lock": {"hash": held.hash, "at": held.at, "provisional": held.provisional, "confirmation": confirmation(desk, held)}
            if held and not held.lifted_at
            else None,
            "next": command(desk, *(("launch",) if books.dead_since else ("status", "--follow")))
            if lease
            else after_plan(desk, planned, planned.jobs, "", held),
        }
    )


def _running(desk: Desk, job: PlannedJob, books: Books, latest: watch.Latest) -> Answer:
    """A running job, by the last numbers it wrote."""
    elapsed = books.running_hours(job) * 3600
    fraction = latest["progress"][1] if "progress" in latest else None
    measured = watch.measured(desk, latest)
    return {
        "id": job.id,
        "change": job.change,
        "attempt": job.attempt,
        "progress": fraction,
        "samples": int(latest["samples"][1]) if "samples" in latest else None,
        "loss": latest["loss"][1] if "loss" in latest else None,
        "elapsed_s": elapsed,
        "eta_s": elapsed * (1 - fraction) / fraction if fraction else None,
        "measured": asdict(measured) if measured else None,
    }


def _ended(desk: Desk, books: Books, jobs: Sequence[PlannedJob]) -> list[Answer]:
    """What ended jobs scored on the study's first metric."""
    metric = next(iter(desk.study.metrics), "")
    values = desk.store.latest([job.key for job in jobs if job.key], [metric]) if metric else {}
    return [
        {
            "id": job.id,
            "run": job.run,
            "seed": job.seed,
            "state": job.state,
            "metric": metric,
            "value": values.get(job.key or "", {}).get(metric, (0, None))[1],
            "imported": books.imported(job),
            "selected": job.trial > 0,
        }
        for job in jobs
    ]


def _reasons(jobs: Iterable[PlannedJob]) -> list[Answer]:
    """Reason -> the jobs that wait for it."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        found.setdefault(job.reason, []).append(job.id)
    return [{"reason": reason, "jobs": ids} for reason, ids in found.items()]


def _noise_notes(desk: Desk, planned: Plan, books: Books) -> Iterator[str]:
    """Decisions older than results from which noise is known better; what they would say today takes statistics: see audit."""
    seeds = Counter(job.run for job in planned.jobs if job.state == "done" and not (job.confirms or job.trial))
    ends = [books.tried(job)[-1].ended_at for job in planned.jobs if job.state == "done" and seeds[job.run] > 1]
    newest = max(filter(None, ends), default="")
    made = [planned.decisions[name] for name in desk.study.trees if name in planned.decisions]
    before = [one.name for one in made if one.status == "decided" and one.comparisons and one.at < newest]
    if before:
        yield (
            f"{some(before)} {were(before)} taken before seeds had ended from which noise is known better now; whether other "
            f"lines would be taken today: {command(desk, 'audit')}"
        )


def _log_notes(desk: Desk, running: Sequence[PlannedJob]) -> Iterator[str]:
    """Logs of running jobs that grow large. One look at each file's size; logs of jobs that have ended are not looked at."""
    for job in running:
        for rank in range(desk.study.ranks_per_run):
            path = desk.folders.log(job.key or "", job.attempt, rank)
            size = path.stat().st_size / 2**30 if path.exists() else 0.0
            if size > LARGE_LOG_GIB:
                stop = command(desk, "stop", at(job))
                yield f"{job.id} runs and its log has {size:.1f} GiB already: {path}. Have it print less ({stop} ends it well)"


def _folder_notes(desk: Desk, attempts: Mapping[str, object]) -> list[str]:
    """Where the database and the folders under outputs/ disagree on which jobs there are. One look at one folder's names."""
    there = desk.folders.names()
    gone = sorted(attempts.keys() - there)
    unknown = sorted(name for name in there - attempts.keys() if (desk.folders.base / name / JOB).exists())
    notes = []
    if gone:
        notes.append(
            f"{some(gone)}: no folder under {desk.folders.base} any more, so no checkpoint and no log; the numbers are in the "
            "database. Put the folders back, or go on without them"
        )
    if unknown and not desk.store.lease():
        notes.append(
            f"{some(unknown)}: under {desk.folders.base} and not in the database; take them in with {command(desk, 'rebuild')}"
        )
    return notes

"""What `ablate launch` answers, before, meanwhile and in the end; and `ablate stop` and `ablate retry`, which step in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ablate.answers.books import Books, is_maybe
from ablate.answers.decide import decisions_of, otherwise_today, stale_things
from ablate.answers.document import Answer, at, command, head, plain
from ablate.answers.lock import lock_document
from ablate.answers.next_step import after_plan, next_for, overruling
from ablate.clock import utc_now
from ablate.desk import Desk
from ablate.planning.plan import Plan, PlannedJob
from ablate.planning.states import STARTABLE
from db.records import AttemptRecord

if TYPE_CHECKING:  # types only: launch imports Ray
    from ablate.launching.launch import Outcome, Progress, Tick


def dry_run(desk: Desk, block: str, wanted: Collection[str], gpus: int | None) -> Answer:
    """What a launch would start now, in order, and what it would find waiting. wanted: ids of jobs; empty: all."""
    planned = desk.plan()
    books = Books(desk)
    asked = [job for job in planned.jobs if (not block or job.block == block) and (not wanted or job.id in wanted)]
    return plain(
        {
            **head(desk),
            "block": block,
            "starts": [books.row(job) for job in asked if job.state in STARTABLE],
            "waits": [books.row(job) for job in asked if job.state == "waiting"],
            "totals": books.totals(planned, asked, gpus),
            "next": _next_after_dry_run(desk, planned, asked, block),
        }
    )


def _next_after_dry_run(desk: Desk, planned: Plan, asked: Sequence[PlannedJob], block: str) -> str:
    if not any(job.state in STARTABLE for job in asked):
        return after_plan(desk, planned, asked, block, desk.store.lock())
    redo = ("--redo-stale",) if desk.redo_stale else ()
    return command(desk, "launch", *(("--block", block) if block else ()), *redo)


def to_settle(desk: Desk, sweep: str) -> Answer:
    """Which seeds `launch --settle` would train, for which line, and what they cost; nothing is recorded."""
    from ablate import evidence

    found = evidence.to_settle(desk, desk.study.sweeps[sweep])
    looks = desk.study.looks
    return plain(
        {
            **head(desk),
            "sweep": sweep,
            "line": found.text,
            "look": found.look,
            "looks": looks,
            "jobs": [{"id": job.id, "run": job.run, "seed": job.seed, "change": job.change} for job in found.jobs],
            "gpu_hours": found.gpu_hours,
            "cost": found.gpu_hours * desk.study.usd_per_gpu_hour,
            "next": command(desk, "launch", "--settle", sweep),
        }
    )


def tick(desk: Desk, now: Tick, gpus: int | None = None) -> Answer:
    """The study after one round of the launch loop; `left_wall_hours` on `gpus` GPUs, if everything that waits will run."""
    running = {each.job: each for each in now.progress}
    return plain(
        {
            **head(desk),
            "states": Counter(job.state for job in now.plan.jobs if not is_maybe(job)),
            "running": [_progress(job, running[job.id]) for job in now.plan.jobs if job.id in running],
            "gpu_hours": now.gpu_s / 3600,
            "cost": now.usd,
            "left_wall_hours": Books(desk).totals(now.plan, now.plan.jobs, gpus)["wall_hours"],
        }
    )


def _progress(job: PlannedJob, progress: Progress) -> Answer:
    return {
        "id": job.id,
        "change": job.change,
        "attempt": job.attempt,
        "progress": progress.fraction,
        "samples": progress.samples,
        "loss": progress.loss,
        "elapsed_s": progress.elapsed_s,
        "eta_s": progress.eta_s,
        "measured": asdict(progress.measured) if progress.measured else None,
    }


def outcome(desk: Desk, end: Outcome) -> Answer:
    """How a launch ended: states, what failed, what waits, decisions, the lock."""
    books = Books(desk)
    failed = [job for job in end.plan.jobs if job.state == "failed"]
    held = end.lock or desk.store.lock()
    return plain(
        {
            **head(desk),
            "exit_code": end.exit_code,
            "interrupted": end.interrupted,
            "states": Counter(job.state for job in end.plan.jobs if not is_maybe(job)),
            "failed": [{"id": job.id, "reason": job.reason, "log": command(desk, "logs", at(job))} for job in failed],
            "waiting_for": end.waiting_for,
            "over_budget": end.over_budget,
            **books.spent(end.plan),
            "decisions": decisions_of(desk, end.plan),
            "today": otherwise_today(desk),
            "stale": stale_things(desk, end.plan, held),
            "lock": lock_document(desk, held) if held else None,
            "next": _next_after_launch(desk, end, failed),
        }
    )


def _next_after_launch(desk: Desk, end: Outcome, failed: Sequence[PlannedJob]) -> str:
    if failed:
        return command(desk, "logs", at(failed[0]))
    if end.interrupted:
        return command(desk, "launch")
    if end.lock:
        return command(desk, "lock")
    waits = any(job.state == "waiting" and not is_maybe(job) for job in end.plan.jobs)
    person = overruling(desk.study, end.plan) if waits else ()
    return command(desk, *(next_for(end.plan.jobs) or person or ("decide" if waits else "lock",)))


def stop(desk: Desk, jobs: Sequence[PlannedJob] | None) -> Answer:
    """Ask jobs to checkpoint and stop (None: all, and the launch with them). It happens within seconds, not when this returns."""
    from ablate.launching import intervene

    if jobs is not None:
        asked, holder = intervene.stop_jobs(desk, jobs, utc_now()), ""
        return plain({**head(desk), "stopping": asked, "launch": holder, "next": command(desk, "retry", *asked)})
    asked, holder = intervene.stop_all(desk, utc_now())
    return plain({**head(desk), "stopping": asked, "launch": holder, "next": command(desk, "launch")})


def retry(desk: Desk, jobs: Sequence[PlannedJob]) -> Answer:
    """Let failed or stopped jobs be tried again."""
    from ablate.launching import intervene

    again = intervene.retry(desk, jobs, utc_now())
    lease = desk.store.lease()
    words = ("status", "--follow") if lease else ("launch",)
    return plain({**head(desk), "again": again, "launch": lease.holder if lease else "", "next": command(desk, *words)})


def attempt(record: AttemptRecord) -> Answer:
    """One attempt, as it ended."""
    return plain(asdict(record))

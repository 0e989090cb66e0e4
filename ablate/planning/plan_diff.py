"""What an edit of the study's file does to its jobs: kept, new, stale, reopened, orphaned, dropped. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ablate.planning.freeze import changes, frozen_content
from ablate.planning.plan import Plan, PlannedJob
from ablate.study import Study


@dataclass(frozen=True)
class PlanDiff:
    """Jobs of two plans of the same study, on the same attempts and decisions."""

    kept: tuple[PlannedJob, ...]
    """Asked for by both, under one key: whatever they have, they keep."""
    new: tuple[PlannedJob, ...]
    """Asked for by the new file only."""
    stale: tuple[tuple[PlannedJob, PlannedJob], ...]
    """(old, new) of one run and seed whose settings differ now: the old one was begun, and is not used any more."""
    reopened: tuple[tuple[PlannedJob, PlannedJob], ...]
    """(old, new) of one run and seed, not edited, while a decision it starts from is open again; the old one was begun."""
    orphaned: tuple[PlannedJob, ...]
    """Begun under the old file; the new one asks for no job of that run and seed."""
    dropped: tuple[PlannedJob, ...]
    """Planned by the old file, never begun, and not asked for any more."""
    edits: tuple[str, ...]
    """What changed of what is frozen at the first launch: margins, metrics, trees, seeds."""


def plan_diff(old_study: Study, old: Plan, study: Study, plan: Plan, begun: Collection[str]) -> PlanDiff:
    """Compare two plans. begun: keys of jobs that have an attempt."""
    before, after = {_identity(job): job for job in old.jobs}, {_identity(job): job for job in plan.jobs}
    named = {job.id: job for job in plan.jobs}
    gone = [job for identity, job in before.items() if identity not in after]
    started = [job for job in gone if job.key in begun]
    again = [(job, named[job.id]) for job in started if job.id in named]
    replaced = {new.id for _, new in again}
    return PlanDiff(
        kept=tuple(job for identity, job in after.items() if identity in before),
        new=tuple(job for identity, job in after.items() if identity not in before and job.id not in replaced),
        stale=tuple(pair for pair in again if not _reopened(*pair)),
        reopened=tuple(pair for pair in again if _reopened(*pair)),
        orphaned=tuple(job for job in started if job.id not in named),
        dropped=tuple(job for job in gone if job.key not in begun),
        edits=changes(frozen_content(old_study), frozen_content(study)),
    )


def _reopened(old: PlannedJob, new: PlannedJob) -> bool:
    """Whether nothing of the job itself was edited: its settings are not known until a decision is made again."""
    return new.key is None and new.change == old.change


def _identity(job: PlannedJob) -> tuple[str, str]:
    """Its key; before that is known, what it changes."""
    return (job.id, job.key or f"changes {job.change}")

"""What the jobs of one run scored on one metric: a value per seed, which of them diverged, whether they learned. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from ablate.conditions import Outcome
from ablate.study import JobResult, Metric

LEARNED = 0.05
"""A job has learned when it beats the answer without information by more than this share of it."""


@dataclass(frozen=True)
class Scores:
    """What the jobs of one run scored on one metric."""

    run: str
    metric: str
    jobs: int
    values: Mapping[int, float] = field(default_factory=dict)
    """Seed -> value at the full budget, of every job that ended, did not diverge, and measured it."""
    diverged: int = 0
    unlearned: int = 0
    """Jobs among `values` that are not 5 % better than the answer without information."""
    pooled_as: str = ""
    """The run's name in the pool, when `run` is an alias of it."""

    @property
    def mean(self) -> float:
        return fmean(self.values.values()) if self.values else math.nan

    @property
    def outcome(self) -> Outcome | None:
        """diverged: more than half of its jobs. did not learn: more than half of those that have a value."""
        if 2 * self.diverged > self.jobs:
            return "diverged"
        return "did not learn" if 2 * self.unlearned > len(self.values) else None

    @property
    def outcome_text(self) -> str:
        """ "F3 diverged (2 of 3 seeds)"; "" for a run that trained."""
        match self.outcome:
            case "diverged":
                return f"{self.run} diverged ({self.diverged} of {self.jobs} seeds)"
            case "did not learn":
                return f"{self.run} did not learn {self.metric} ({self.unlearned} of {len(self.values)} seeds)"
            case _:
                return ""


def scores(metric: Metric, run: str, jobs: Sequence[JobResult], pooled_as: str = "") -> Scores:
    """What the jobs of a run scored; jobs that have not ended count as jobs without a value.

    pooled_as: the run's own name, when `run` is an alias of it.
    """
    values = {
        job.seed: job.values[metric.name]
        for job in jobs
        if job.state == "done" and math.isfinite(job.values.get(metric.name, math.nan))
    }
    unlearned = sum(not _learned(metric, job) for job in jobs if job.seed in values)
    return Scores(run, metric.name, len(jobs), values, sum(job.state == "diverged" for job in jobs), unlearned, pooled_as)


def _learned(metric: Metric, job: JobResult) -> bool:
    """Whether a job beats the answer without information by 5 % of it; yes, where no trainer says what that scores."""
    uninformed = job.facts.get("uninformed", {}).get(metric.name)
    if uninformed is None:
        return True
    floor, value = float(uninformed), job.values[metric.name]
    step = LEARNED * abs(floor)
    return value > floor + step if metric.better == "higher" else value < floor - step


# ---------------------------------------------------------------- in words


def strawman(*sides: Scores) -> str:
    """Why nothing holds of a comparison with these: nobody wins against a run that did not train."""
    return "; ".join(side.outcome_text for side in sides if side.outcome)


def seed_notes(*sides: Scores) -> tuple[str, ...]:
    """Seeds that are missing from what is compared, and those that did not learn."""
    notes = []
    for side in sides:
        missing = side.jobs - len(side.values) - side.diverged
        if side.outcome is None and side.diverged:
            notes.append(f"{diverged_text(side.diverged, side.jobs, side.run)}: the difference is that of the others")
        if side.outcome is None and side.unlearned:
            notes.append(f"{side.unlearned} of {len(side.values)} seeds of {side.run} did not learn")
        if missing:
            notes.append(f"{missing} of {side.jobs} seeds of {side.run} have no {side.metric}")
    return tuple(notes)


def diverged_text(diverged: int, jobs: int, run: str) -> str:
    return f"{diverged} of {jobs} seeds of {run} diverged"

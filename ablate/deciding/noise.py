"""Noise between seeds on one metric: whose spread is pooled, which runs are left out of the pool, and why. Pure.

Jobs of a run differ by their seed alone. Their variance is pooled over all runs that are like those compared. A run whose spread
stands out is left out, named, and compared with its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import variance
from typing import Any, Literal

from scipy import special

from ablate.deciding.fairness import seedless
from ablate.deciding.scores import scores
from ablate.study import ENDED, JobResult, Metric, hash_of

NoiseSource = Literal["measured", "declared", "none"]

OUTLIER_LEVEL = 0.01
"""Over all runs of a pool: each run's variance is tested at this, divided by their number."""


@dataclass(frozen=True)
class Pool:
    """Noise between seeds on one metric."""

    metric: str
    sd: float
    df: float
    """Degrees of freedom; infinite for a declared noise, which is treated as known."""
    source: NoiseSource
    runs: tuple[str, ...] = ()
    """Whose seeds it was measured from."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Run with replicates -> why it is not in the pool."""
    own: frozenset[str] = frozenset()
    """Runs left out because their spread is another; compared with their own variance."""
    jobs: tuple[str, ...] = ()
    """Keys of every job that had ended: what the pool was looked for in."""


def noise_pool(
    metric: Metric,
    results: Mapping[str, Sequence[JobResult]],
    samples: float | None = None,
    evaluation: str | None = None,
    imported: bool | None = None,
) -> Pool:
    """Pool the variance between seeds.

    results: run -> its jobs, of every run that may lend its seeds; only jobs that are done count.
    samples: the budget, as jobs report it; a run at another budget is left out. None: any.
    evaluation: the validation set's hash, as jobs report it; a run judged on another set is left out. None: any.
    imported: whether the runs compared were imported or trained here; a run of another origin is left out. None: any.

    Left out, and named, are runs that diverged, runs in which a seed did not learn or seeds made no difference, and runs whose
    variance exceeds the others' pooled variance (one-sided F test, p < 0.01 / number of runs). A config that several rows came
    out as lends its noise once. Without any replicate the metric's declared noise is used.
    """
    lending = once(results)
    left_out: dict[str, str] = {}
    own: set[str] = set()
    spread: dict[str, tuple[float, int]] = {}  # run -> variance, degrees of freedom
    for run, jobs in lending.items():
        of_run = scores(metric, run, jobs)
        if of_run.outcome:
            left_out[run] = of_run.outcome_text.removeprefix(f"{run} ")
        elif len(of_run.values) < 2:
            continue
        elif why := _unlike(jobs, samples, evaluation, imported):
            left_out[run] = why
        elif of_run.unlearned:
            left_out[run] = f"{of_run.unlearned} of {len(of_run.values)} seeds did not learn"
            own.add(run)
        elif why := seedless(jobs, metric.name):
            left_out[run] = f"seeds made no difference: {why}"
        else:
            spread[run] = variance(of_run.values.values()), len(of_run.values) - 1
    outliers, spread = _outliers(spread)
    left_out |= outliers
    own |= outliers.keys()
    twins = {run: twin for run, twin in _twins(results, lending).items() if twin in left_out}
    left_out |= {run: left_out[twin] for run, twin in twins.items()}
    own |= {run for run, twin in twins.items() if twin in own}
    sd, df, source = _found(metric, spread)
    seen = dict.fromkeys(job.key for jobs in results.values() for job in jobs if job.state in ENDED)
    return Pool(metric.name, sd, df, source, tuple(spread), left_out, frozenset(own), tuple(seen))


def _found(metric: Metric, spread: Mapping[str, tuple[float, int]]) -> tuple[float, float, NoiseSource]:
    """Standard deviation, its degrees of freedom, and where they are from."""
    if spread:
        pooled, df = _pooled(spread)
        return math.sqrt(pooled), df, "measured"
    return (math.nan, math.nan, "none") if metric.noise is None else (metric.noise, math.inf, "declared")


def once(results: Mapping[str, Sequence[JobResult]]) -> dict[str, list[JobResult]]:
    """Each result under the first run that has it: rows that came out as one config lend their noise once.

    By the hash in their keys: so too where that config was trained for each of them.
    """
    seen: set[str] = set()
    found: dict[str, list[JobResult]] = {}
    for run, jobs in results.items():
        found[run] = [job for job in jobs if job.state not in ENDED or hash_of(job.key) not in seen]
        seen.update(hash_of(job.key) for job in found[run] if job.state in ENDED)
    return found


def _twins(results: Mapping[str, Sequence[JobResult]], lending: Mapping[str, Sequence[JobResult]]) -> dict[str, str]:
    """Run whose results are all another run's too -> that other run: what is said of its spread is said of both."""
    lost = [run for run, jobs in results.items() if len(lending[run]) < len(jobs)]
    owner = {hash_of(job.key): run for run, jobs in lending.items() for job in jobs if job.state in ENDED} if lost else {}
    owners = {run: {owner[hash_of(job.key)] for job in results[run] if job.state in ENDED} for run in lost}
    return {run: min(of) for run, of in owners.items() if len(of) == 1 and run not in of}


# ---------------------------------------------------------------- like those compared


def _unlike(jobs: Sequence[JobResult], samples: float | None, evaluation: str | None, imported: bool | None) -> str:
    """In what a run with replicates is unlike those that are compared; "" if in nothing."""
    budgets = _reported("samples", jobs)
    if samples is not None and budgets - {samples}:
        return f"another budget: {', '.join(f'{budget:,.0f}' for budget in sorted(budgets))} samples, not {samples:,.0f}"
    if evaluation is not None and _reported("eval_hash", jobs) - {evaluation}:
        return "judged on another validation set"
    if imported is not None and _origins(jobs) - {imported}:
        return "trained here" if imported else "imported"
    return ""


def _origins(jobs: Sequence[JobResult]) -> set[bool]:
    """Whether the jobs that are done were imported."""
    return {job.imported for job in jobs if job.state == "done"}


def _reported(fact: str, jobs: Sequence[JobResult]) -> set[Any]:
    """What the jobs that are done say of themselves."""
    return {job.facts[fact] for job in jobs if job.state == "done" and fact in job.facts}


# ---------------------------------------------------------------- spreads that stand out


def _outliers(spread: dict[str, tuple[float, int]]) -> tuple[dict[str, str], dict[str, tuple[float, int]]]:
    """Run -> why its spread stands out (the one that exceeds the others' most, then the next, until none does); all others."""
    found: dict[str, str] = {}
    level = OUTLIER_LEVEL / max(len(spread), 1)
    while (out := _stands_out(spread, level)) is not None:
        run, p = out
        others = math.sqrt(_pooled(_without(spread, run))[0])
        found[run] = f"its spread stands out: sd {math.sqrt(spread[run][0]):.3g} against {others:.3g} (F test, p = {p:.2g})"
        spread = _without(spread, run)
    return found, spread


def _stands_out(spread: Mapping[str, tuple[float, int]], level: float) -> tuple[str, float] | None:
    """The run whose variance exceeds the others' pooled variance most, with its p, if that is below `level`."""
    if len(spread) < 2:
        return None
    found: dict[str, float] = {}
    for (run, (own, own_df)), (others, df) in zip(spread.items(), _others([*spread.values()]), strict=True):
        if own > 0:
            found[run] = float(special.fdtrc(own_df, df, own / others)) if others > 0 else 0.0
    if not found:
        return None
    run = min(found, key=lambda name: found[name])
    return (run, found[run]) if found[run] < level else None


def _pooled(spread: Mapping[str, tuple[float, int]]) -> tuple[float, int]:
    df = sum(own_df for _, own_df in spread.values())
    return sum(own * own_df for own, own_df in spread.values()) / df, df


def _without(spread: Mapping[str, tuple[float, int]], run: str) -> dict[str, tuple[float, int]]:
    return {name: of_run for name, of_run in spread.items() if name != run}


def _others(spread: Sequence[tuple[float, int]]) -> Iterator[tuple[float, int]]:
    """For each (variance, degrees of freedom) the pooled variance of all others, and its degrees of freedom.

    From sums that grow from both ends: taking one out of the whole sum would cancel where it dwarfs the rest.
    """
    squares, dfs = [own * df for own, df in spread], [df for _, df in spread]
    after = [*accumulate(reversed(squares), initial=0.0)][-2::-1]
    before, df = accumulate(squares, initial=0.0), sum(dfs)
    return (((one + other) / (df - own_df), df - own_df) for one, other, own_df in zip(before, after, dfs, strict=False))

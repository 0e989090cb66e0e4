"""Two runs' numbers on one metric -> a comparison: what holds, how sure, how fair. Pure; the only file that knows scipy.

A difference is always a − b in the metric's unit, with its own sign; `better` knows the metric's direction. Two tests answer two
questions, and several verdicts may hold at once:

    better, worse    two-sided at `level` (set by Holm within a tree); the interval [low, high] leaves out 0, and the estimate
                     passes the margin
    no worse, same   one-sided at 0.05 each (non-inferiority; two one-sided tests, Schuirmann 1987); the 90 % interval
                     [tost_low, tost_high] lies above −margin in the metric's good direction, or inside ±margin. Where looks are
                     declared they share the 0.05, and the interval is wider: it covers 1 − 2 × tost_level

Noise. Jobs differ by their seed. Its variance is pooled over all runs with at least two learned seeds at one budget. A run whose
spread stands out is compared with its own (Welch 1947; Satterthwaite's degrees of freedom). Without replicates, the declared
noise is taken as known and the normal distribution is used.

Pairing. Runs are paired by seed when at least three seeds are common and their correlation over those seeds is shown to be
positive at PAIRING_LEVEL. The rule is fixed here because picking the shorter interval afterwards would raise the error; if seeds
mean nothing, this rule adds at most PAIRING_LEVEL to it. Simulated with 3, 5 and 10 seeds, correlations from 0 to 0.99 and levels
of 0.05, 0.0125 and 0.004, a wrong verdict came at most 1.1 times as often as its level says, and mostly more seldom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from statistics import fmean, variance
from typing import Any, Literal

import numpy as np
from scipy import special

from ablate.conditions import Outcome, Verdict
from ablate.fairness import Check, hints, seedless, unfair
from ablate.study import ENDED, JobResult, Metric

NoiseSource = Literal["measured", "declared", "none"]
Method = Literal["pooled", "declared", "welch", "paired", "none"]

OUTLIER_LEVEL = 0.01
"""Over all runs of a pool: each run's variance is tested at this, divided by their number."""
PAIRING_LEVEL = 0.001
POWER = 0.80
LEARNED = 0.05
"""A job has learned when it beats the answer without information by more than this share of it."""
ERRORS_AVERAGED = 200
"""Quantiles of the measured error over which the visible effect averages."""
MOST_SEEDS = 1000
"""Above this many seeds per run, the price of knowing is "out of reach"."""


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


@dataclass(frozen=True)
class Comparison:
    """Run `a` against run `b` on one metric; with `b` a number, `a` against that constant."""

    a: str
    b: str
    metric: str
    unit: str
    better: Literal["lower", "higher"]
    margin: float
    holds: tuple[Verdict, ...]
    """Empty: not shown."""
    reason: str
    """Why no verdict can hold whatever the numbers are (diverged, did not learn, not fair, ...); "" if one could."""
    delta: float
    """a − b; nan when one has no value."""
    low: float
    high: float
    level: float
    """[low, high] covers the difference with probability 1 − level."""
    p: float
    """Two-sided, of "no difference"."""
    tost_low: float
    tost_high: float
    tost_level: float
    """[tost_low, tost_high] covers it with probability 1 − 2 × tost_level."""
    values_a: Mapping[int, float]
    values_b: Mapping[int, float]
    sd: float
    """Noise of one job."""
    df: float
    source: NoiseSource
    method: Method
    correlation: float
    """Between the runs over their common seeds; nan with fewer than three."""
    visible: float
    """True difference that is called better (or worse) with probability 0.8 at `level`: the interval leaves out 0, and the
    estimate passes the margin."""
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    error: float = math.nan
    """Standard error of `delta`."""
    pool: Pool | None = None
    """The noise it was judged with, and where that came from."""
    diverged: tuple[tuple[int, int], ...] = ()
    """Of `a`, then of `b`: how many of its jobs diverged, and how many it has."""
    labels: tuple[str, ...] = ()
    """What a reader must know before any number: "exploratory: ..."."""

    @property
    def n_a(self) -> int:
        return len(self.values_a)

    @property
    def n_b(self) -> int:
        return len(self.values_b)

    @property
    def paired(self) -> bool:
        return self.method == "paired"

    @property
    def shown(self) -> bool:
        return bool(self.holds)


def compare(
    metric: Metric,
    a: Scores,
    b: Scores,
    pool: Pool,
    alpha: float,
    alpha_tost: float = 0.05,
    checks: Sequence[Check] = (),
    refused: str = "",
) -> Comparison:
    """Compare two runs whose jobs have all ended.

    alpha:   level of better and worse, two-sided. Several comparisons share a budget: see `holm_levels` and `at_level`.
    checks:  from `fairness`; one that is unfair blocks every verdict.
    refused: why these two may not be compared at all; "" if they may.
    """
    estimate = _estimate(a, b, pool)
    left_out = (f"not in the pooled noise: {run}, {why}" for run, why in pool.left_out.items())
    notes = (*hints(checks), *_seed_notes(a, b), *left_out)
    reason = refused or _strawman(a, b) or unfair(checks) or estimate.reason
    made = _judged(metric, a.run, b.run, estimate, reason, metric.margin, alpha, alpha_tost, tuple(checks), notes)
    return replace(made, pool=pool, diverged=((a.diverged, a.jobs), (b.diverged, b.jobs)))


def within(metric: Metric, a: Scores, distance: float, of: float, pool: Pool, alpha_tost: float = 0.05) -> Comparison:
    """Compare a run with the constant `of`: `same` holds when its 90 % interval lies inside `of` ± `distance`."""
    part = _part(a, pool)
    reason = _strawman(a) or part.reason
    estimate = _Estimate(
        a.mean - of,
        math.sqrt(part.variance / len(a.values)) if a.values and not part.reason else math.nan,
        part.df,
        math.sqrt(part.variance),
        pool.source if not part.own else "measured",
        ("welch" if part.own else "declared" if pool.source == "declared" else "pooled") if not reason else "none",
        a.values,
        {},
    )
    made = _judged(metric, a.run, f"{of:g}", estimate, reason, distance, 2 * alpha_tost, alpha_tost, (), _seed_notes(a))
    return replace(made, pool=pool, diverged=((a.diverged, a.jobs),))


def at_level(comparison: Comparison, alpha: float) -> Comparison:
    """The same comparison with better and worse judged at another level."""
    half = _quantile(1 - alpha / 2, comparison.df) * comparison.error
    low, high = comparison.delta - half, comparison.delta + half
    margin = comparison.margin if comparison.values_b else 0.0
    visible = _visible(comparison.error, comparison.df, alpha, margin)
    moved = replace(comparison, level=alpha, low=low, high=high, visible=visible)
    return replace(moved, holds=_holds(moved))


def holm_levels(p: Sequence[float], alpha: float, nominal: Callable[[int, float], float] = lambda _, share: share) -> list[float]:
    """The level at which Holm's step-down procedure (1979) judges each of these p-values; same order.

    The i-th to be rejected is held against alpha / (m − i); when none is left that can be, the rest are held against that share,
    so that an interval at the level given leaves out 0 exactly when Holm rejects.

    nominal: (place, share) -> the level at which that hypothesis is judged, when all its looks together may spend `share`;
    hypotheses may be at different looks (Maurer & Bretz 2013).
    """
    levels = [math.nan] * len(p)
    left = list(range(len(p)))
    while left:
        now = {place: nominal(place, alpha / len(left)) for place in left}
        first = min(left, key=lambda place: p[place] / now[place] if now[place] else math.inf)
        if not p[first] < now[first]:
            return [now.get(place, level) for place, level in enumerate(levels)]
        levels[first] = now[first]
        left.remove(first)
    return levels


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
    variance stands out: the one that exceeds the others' pooled variance most (one-sided F test, p < 0.01 / number of runs), then
    the next, until none does. Without any replicate the metric's declared noise is used.
    """
    left_out: dict[str, str] = {}
    own: set[str] = set()
    spread: dict[str, tuple[float, int]] = {}  # run -> variance, degrees of freedom
    results = once(results)
    for run, jobs in results.items():
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
    tested = len(spread)
    while (found := _stands_out(spread, OUTLIER_LEVEL / max(tested, 1))) is not None:
        run, p = found
        others = math.sqrt(_pooled(_without(spread, run))[0])
        left_out[run] = f"its spread stands out: sd {math.sqrt(spread[run][0]):.3g} against {others:.3g} (F test, p = {p:.2g})"
        own.add(run)
        spread = _without(spread, run)
    seen = tuple(job.key for jobs in results.values() for job in jobs if job.state in ENDED)
    if spread:
        pooled, df = _pooled(spread)
        return Pool(metric.name, math.sqrt(pooled), df, "measured", tuple(spread), left_out, frozenset(own), seen)
    if metric.noise is not None:
        return Pool(metric.name, metric.noise, math.inf, "declared", (), left_out, frozenset(own), seen)
    return Pool(metric.name, math.nan, math.nan, "none", (), left_out, frozenset(own), seen)


def once(results: Mapping[str, Sequence[JobResult]]) -> dict[str, list[JobResult]]:
    """Each job under the first run that has it: rows that came out the same share their jobs, and lend their noise once."""
    seen: set[str] = set()
    found: dict[str, list[JobResult]] = {}
    for run, jobs in results.items():
        new = [job for job in jobs if job.key not in seen]
        seen.update(job.key for job in new)
        if new:
            found[run] = new
    return found


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


def seeds_to_see(comparison: Comparison, effect: float) -> int | None:
    """Smallest number of seeds per run with which a true difference of `effect` is shown with probability 0.8 at this level.

    From t(1 − level/2, df) + the noncentrality that gives power 0.8, times sd · √(2/n). The degrees of freedom grow with the
    seeds added; a declared noise is replaced by a measured one as soon as both runs have two seeds. None: more than MOST_SEEDS.
    """
    if not effect > 0 or not math.isfinite(comparison.sd):
        return None

    def enough(n: int) -> bool:
        return _visible(comparison.sd * math.sqrt(2 / n), _df_with(comparison, n), comparison.level) <= effect

    fewest = max(comparison.n_a, comparison.n_b, 1)
    return next((n for n in range(fewest, MOST_SEEDS + 1) if enough(n)), None)


def number_text(comparison: Comparison) -> str:
    """`F1 − F3 = +0.167 [0.119, 0.216] nats per token, margin 0.08, n 3/3, sd 0.049 (6 df, measured)`.

    The interval is the one its verdicts rest on: that of `no worse` and `same` when only those hold, with its coverage.
    """
    if math.isnan(comparison.delta):
        return f"{comparison.a} − {comparison.b}: {comparison.reason}"
    equivalence = bool(comparison.holds) and not {"better", "worse"} & set(comparison.holds)
    low, high = (comparison.tost_low, comparison.tost_high) if equivalence else (comparison.low, comparison.high)
    counts = f"{comparison.n_a}/{comparison.n_b}" if comparison.values_b else f"{comparison.n_a}"
    parts = [
        f"{comparison.a} − {comparison.b} = {comparison.delta:+.3g}"
        + (f" [{low:.3g}, {high:.3g}]" if math.isfinite(low) else "")
        + (f" ({100 * (1 - 2 * comparison.tost_level):.3g} %)" if equivalence else "")
        + (f" {comparison.unit}" if comparison.unit else ""),
        f"margin {comparison.margin:g}",
        f"n {counts}",
    ]
    if math.isfinite(comparison.sd):
        df = "known" if math.isinf(comparison.df) else f"{comparison.df:.3g} df"
        parts.append(f"sd {comparison.sd:.2g} ({df}, {comparison.source})")
    return ", ".join(parts) + (f": {comparison.reason}" if comparison.reason else "")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Plain values; what is not a finite number (no interval, degrees of freedom of a known noise) is null."""
    return {
        "a": comparison.a,
        "b": comparison.b,
        "metric": comparison.metric,
        "holds": list(comparison.holds),
        "delta": _finite(comparison.delta),
        "low": _finite(comparison.low),
        "high": _finite(comparison.high),
        "margin": comparison.margin,
        "n_a": comparison.n_a,
        "n_b": comparison.n_b,
        "noise": {"sd": _finite(comparison.sd), "df": _finite(comparison.df), "source": comparison.source},
        "unit": comparison.unit,
        "better": comparison.better,
        "reason": comparison.reason,
        "p": _finite(comparison.p),
        "level": comparison.level,
        "tost_low": _finite(comparison.tost_low),
        "tost_high": _finite(comparison.tost_high),
        "tost_level": comparison.tost_level,
        "values_a": {str(seed): value for seed, value in comparison.values_a.items()},
        "values_b": {str(seed): value for seed, value in comparison.values_b.items()},
        "method": comparison.method,
        "paired": comparison.paired,
        "correlation": _finite(comparison.correlation),
        "visible": _finite(comparison.visible),
        "fairness": [
            {"check": check.name, "ok": check.ok, "a": check.a, "b": check.b, "declared": check.declared, "blocks": check.blocks}
            for check in comparison.checks
        ],
        "notes": list(comparison.notes),
        "labels": list(comparison.labels),
        "diverged": [list(counts) for counts in comparison.diverged],
        "budget": _budget(comparison.checks),
        "pool": _pool_json(comparison.pool) if comparison.pool else None,
    }


def _budget(checks: Sequence[Check]) -> dict[str, str]:
    """The budget both were measured at, as their trainers report it: samples of a and of b; "" where one does not."""
    return next(({"a": check.a, "b": check.b} for check in checks if check.name == "samples"), {"a": "", "b": ""})


def _pool_json(pool: Pool) -> dict[str, Any]:
    return {
        "sd": _finite(pool.sd),
        "df": _finite(pool.df),
        "source": pool.source,
        "runs": list(pool.runs),
        "left_out": dict(pool.left_out),
        "ended": len(pool.jobs),
        "jobs": list(pool.jobs),
    }


# ---------------------------------------------------------------- the estimate and its error


@dataclass(frozen=True)
class _Estimate:
    delta: float
    error: float
    df: float
    sd: float
    source: NoiseSource
    method: Method
    values_a: Mapping[int, float]
    values_b: Mapping[int, float]
    correlation: float = math.nan
    reason: str = ""


@dataclass(frozen=True)
class _Part:
    """The noise that one run is judged with."""

    variance: float
    df: float
    own: bool
    reason: str = ""


def _estimate(a: Scores, b: Scores, pool: Pool) -> _Estimate:
    common = sorted(a.values.keys() & b.values.keys())
    correlation = _correlation([a.values[seed] for seed in common], [b.values[seed] for seed in common])
    if _pairs(correlation, len(common)):
        return _paired(a, b, common, correlation)
    parts = [_part(side, pool) for side in (a, b)]
    reason = next((part.reason for part in parts if part.reason), "")
    delta = a.mean - b.mean
    if reason:
        return _Estimate(delta, math.nan, math.nan, pool.sd, pool.source, "none", a.values, b.values, correlation, reason=reason)
    shares = [part.variance / len(side.values) for part, side in zip(parts, (a, b), strict=True)]
    error = math.sqrt(sum(shares))
    if any(part.own for part in parts):
        sd = math.sqrt(fmean(part.variance for part in parts))
        df = _satterthwaite(shares, [part.df for part in parts])
        return _Estimate(delta, error, df, sd, "measured", "welch", a.values, b.values, correlation)
    method: Method = "declared" if pool.source == "declared" else "pooled"
    return _Estimate(delta, error, pool.df, pool.sd, pool.source, method, a.values, b.values, correlation)


def _part(side: Scores, pool: Pool) -> _Part:
    if not side.values:
        return _Part(math.nan, math.nan, False, f"{side.run} has no {side.metric}")
    name = side.pooled_as or side.run
    if name in pool.own:
        if len(side.values) < 3:
            return _Part(math.nan, math.nan, True, f"{side.run} needs 3 seeds, has {len(side.values)}: {pool.left_out[name]}")
        return _Part(variance(side.values.values()), len(side.values) - 1, True)
    if pool.source == "none":
        return _Part(
            math.nan, math.nan, False, f"the noise of {side.metric} is not known: no run has two seeds, none is declared"
        )
    return _Part(pool.sd**2, pool.df, False)


def _paired(a: Scores, b: Scores, common: Sequence[int], correlation: float) -> _Estimate:
    differences = [a.values[seed] - b.values[seed] for seed in common]
    spread = variance(differences)
    return _Estimate(
        fmean(differences),
        math.sqrt(spread / len(common)),
        len(common) - 1,
        math.sqrt(spread / 2),
        "measured",
        "paired",
        {seed: a.values[seed] for seed in common},
        {seed: b.values[seed] for seed in common},
        correlation,
    )


def _pairs(correlation: float, n: int) -> bool:
    """Whether the correlation is shown to be positive: one-sided t test with n − 2 degrees of freedom."""
    if n < 3 or not correlation > 0:
        return False
    if correlation >= 1:
        return True
    t = correlation * math.sqrt((n - 2) / (1 - correlation**2))
    return float(special.stdtr(n - 2, -t)) < PAIRING_LEVEL


def _correlation(x: Sequence[float], y: Sequence[float]) -> float:
    if len(x) < 3:
        return math.nan
    mean_x, mean_y = fmean(x), fmean(y)
    spread = math.sqrt(sum((value - mean_x) ** 2 for value in x) * sum((value - mean_y) ** 2 for value in y))
    return sum((p - mean_x) * (q - mean_y) for p, q in zip(x, y, strict=True)) / spread if spread > 0 else math.nan


def _satterthwaite(shares: Sequence[float], dfs: Sequence[float]) -> float:
    """Degrees of freedom of a sum of variances: (Σ v)² / Σ v²/df."""
    total = sum(share**2 / df for share, df in zip(shares, dfs, strict=True))
    return sum(shares) ** 2 / total if total > 0 else min(dfs)


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


# ---------------------------------------------------------------- intervals, verdicts, power


def _judged(
    metric: Metric,
    a: str,
    b: str,
    estimate: _Estimate,
    reason: str,
    margin: float,
    alpha: float,
    alpha_tost: float,
    checks: tuple[Check, ...],
    notes: tuple[str, ...],
) -> Comparison:
    tost = _quantile(1 - alpha_tost, estimate.df) * estimate.error
    unfinished = Comparison(
        a=a,
        b=b,
        metric=metric.name,
        unit=metric.unit,
        better=metric.better,
        margin=margin,
        holds=(),
        reason=reason,
        delta=estimate.delta,
        low=math.nan,
        high=math.nan,
        level=alpha,
        p=_p_value(estimate),
        tost_low=estimate.delta - tost,
        tost_high=estimate.delta + tost,
        tost_level=alpha_tost,
        values_a=estimate.values_a,
        values_b=estimate.values_b,
        sd=estimate.sd,
        df=estimate.df,
        source=estimate.source,
        method=estimate.method,
        correlation=estimate.correlation,
        visible=math.nan,
        checks=checks,
        notes=notes,
        error=estimate.error,
    )
    return at_level(unfinished, alpha)


def _holds(comparison: Comparison) -> tuple[Verdict, ...]:
    if comparison.reason or math.isnan(comparison.error):
        return ()
    margin, constant = comparison.margin, not comparison.values_b
    same = comparison.tost_low > -margin and comparison.tost_high < margin
    if constant:
        return ("same",) if same else ()
    if comparison.better == "higher":
        gain, low, high, worst = comparison.delta, comparison.low, comparison.high, comparison.tost_low
    else:
        gain, low, high, worst = -comparison.delta, -comparison.high, -comparison.low, -comparison.tost_high
    answers: list[tuple[Verdict, bool]] = [
        ("better", low > 0 and gain >= margin),
        ("worse", high < 0 and -gain >= margin),
        ("no worse", worst > -margin),
        ("same", same),
    ]
    return tuple(verdict for verdict, holds in answers if holds)


def _p_value(estimate: _Estimate) -> float:
    if math.isnan(estimate.error):
        return math.nan
    if estimate.error == 0:
        return 1.0 if estimate.delta == 0 else 0.0
    t = -abs(estimate.delta) / estimate.error
    return 2 * float(special.ndtr(t) if math.isinf(estimate.df) else special.stdtr(estimate.df, t))


def _quantile(probability: float, df: float) -> float:
    if math.isnan(df):
        return math.nan
    return float(special.ndtri(probability) if math.isinf(df) else special.stdtrit(df, probability))


def _visible(error: float, df: float, alpha: float, margin: float = 0.0) -> float:
    """Difference found with probability POWER by a two-sided test whose estimate must also pass the margin.

    The chance of finding it with the wrong sign is left out. Without a margin this is a quantile of the noncentral t; with one,
    the estimate must pass the larger of margin and critical × measured error, averaged over what error would be measured.
    """
    if math.isnan(error):
        return math.nan
    critical, normal = _quantile(1 - alpha / 2, df), float(special.ndtri(POWER))
    if math.isinf(df):
        return max(critical * error, margin) + normal * error
    by_test = float(special.nctdtrinc(df, 1 - POWER, critical)) * error
    if not margin > 0 or not error > 0:
        return max(by_test, margin)
    chances = (np.arange(ERRORS_AVERAGED) + 0.5) / ERRORS_AVERAGED
    needed = np.maximum(critical * error * np.sqrt(special.chdtri(df, chances) / df), margin)
    low, high = max(by_test, margin), by_test + margin + normal * error
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        enough = float(special.ndtr((middle - needed) / error).mean()) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def _df_with(comparison: Comparison, n: int) -> float:
    """Degrees of freedom if both runs had `n` seeds."""
    if comparison.method == "paired":
        return n - 1
    if comparison.method == "pooled":
        return comparison.df + max(n - comparison.n_a, 0) + max(n - comparison.n_b, 0)
    return 2 * (n - 1) if n > 1 else comparison.df


# ---------------------------------------------------------------- outcomes


def _learned(metric: Metric, job: JobResult) -> bool:
    """Whether a job beats the answer without information by 5 % of it; yes, where no trainer says what that scores."""
    uninformed = job.facts.get("uninformed", {}).get(metric.name)
    if uninformed is None:
        return True
    floor, value = float(uninformed), job.values[metric.name]
    step = LEARNED * abs(floor)
    return value > floor + step if metric.better == "higher" else value < floor - step


def _strawman(*sides: Scores) -> str:
    return "; ".join(side.outcome_text for side in sides if side.outcome)


def _seed_notes(*sides: Scores) -> tuple[str, ...]:
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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

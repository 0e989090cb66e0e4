"""Two runs' numbers on one metric -> a comparison: what holds, how sure, how fair. Pure.

A difference is always a − b in the metric's unit, with its own sign; `better` knows the metric's direction. Two tests answer two
questions, and several verdicts may hold at once:

    better, worse    two-sided at `level` (set by Holm within a tree); the interval [low, high] leaves out 0, and the estimate
                     passes the margin
    no worse, same   one-sided at 0.05 each (non-inferiority; two one-sided tests, Schuirmann 1987); the 90 % interval
                     [tost_low, tost_high] lies above −margin in the metric's good direction, or inside ±margin. Where looks are
                     declared they share the 0.05, and the interval is wider: it covers 1 − 2 × tost_level

Noise between seeds is pooled over runs (noise.py). A run whose spread stands out is compared with its own (Welch 1947;
Satterthwaite's degrees of freedom). Without replicates, the declared noise is taken as known and the normal distribution is used.

Pairing. Runs are paired by seed when at least three seeds are common and their correlation over those seeds is shown to be
positive at PAIRING_LEVEL. The rule is fixed here because picking the shorter interval afterwards would raise the error; if seeds
mean nothing, this rule adds at most PAIRING_LEVEL to it. Simulated with 3, 5 and 10 seeds, correlations from 0 to 0.99 and levels
of 0.05, 0.0125 and 0.004, a wrong verdict came at most 1.1 times as often as its level says, and mostly more seldom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance

import numpy as np
from scipy import special

from ablate.conditions import Verdict
from ablate.deciding.comparison import Comparison, Method
from ablate.deciding.fairness import Check, hints, unfair
from ablate.deciding.noise import NoiseSource, Pool
from ablate.deciding.scores import Scores, seed_notes, strawman
from ablate.study import Metric

PAIRING_LEVEL = 0.001

POWER = 0.80

ERRORS_AVERAGED = 200
"""Quantiles of the measured error over which the visible effect averages."""


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
    notes = (*hints(checks), *seed_notes(a, b), *left_out)
    reason = refused or strawman(a, b) or unfair(checks) or estimate.reason
    made = _judged(metric, a.run, b.run, estimate, reason, metric.margin, alpha, alpha_tost, tuple(checks), notes)
    return replace(made, pool=pool, diverged=((a.diverged, a.jobs), (b.diverged, b.jobs)))


def within(
    metric: Metric, a: Scores, distance: float, of: float, pool: Pool, alpha_tost: float = 0.05, checks: Sequence[Check] = ()
) -> Comparison:
    """Compare a run with the constant `of`: `same` holds when its 90 % interval lies inside `of` ± `distance`.

    checks: from `fairness`, of the run's seeds among themselves; one that is unfair blocks the verdict.
    """
    part = _part(a, pool)
    reason = strawman(a) or unfair(checks) or part.reason
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
    notes = (*hints(checks), *seed_notes(a))
    made = _judged(metric, a.run, f"{of:g}", estimate, reason, distance, 2 * alpha_tost, alpha_tost, tuple(checks), notes)
    return replace(made, pool=pool, diverged=((a.diverged, a.jobs),))


def at_level(comparison: Comparison, alpha: float) -> Comparison:
    """The same comparison with better and worse judged at another level."""
    half = quantile(1 - alpha / 2, comparison.df) * comparison.error
    low, high = comparison.delta - half, comparison.delta + half
    margin = comparison.margin if comparison.values_b else 0.0
    seen = visible(comparison.error, comparison.df, alpha, margin)
    moved = replace(comparison, level=alpha, low=low, high=high, visible=seen)
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


# ---------------------------------------------------------------- intervals, verdicts, what would be seen


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
    tost = quantile(1 - alpha_tost, estimate.df) * estimate.error
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


def quantile(probability: float, df: float) -> float:
    """Of Student's t; of the normal distribution where `df` is infinite."""
    if math.isnan(df):
        return math.nan
    return float(special.ndtri(probability) if math.isinf(df) else special.stdtrit(df, probability))


def visible(error: float, df: float, alpha: float, margin: float = 0.0) -> float:
    """Difference found with probability POWER by a two-sided test whose estimate must also pass the margin.

    The chance of finding it with the wrong sign is left out. Without a margin this is a quantile of the noncentral t; with one,
    the estimate must pass the larger of margin and critical × measured error, averaged over what error would be measured.
    """
    if math.isnan(error):
        return math.nan
    critical, normal = quantile(1 - alpha / 2, df), float(special.ndtri(POWER))
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

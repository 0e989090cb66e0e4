"""The comparisons of compare.py for thousands of rehearsed studies at once: arrays in, arrays out. Pure.

Every rule here is one of compare.py's or noise.py's, in the same order; a test holds them against each other on random studies.
Nothing is decided here that is not decided there: change a rule there first.

    n   rehearsed studies          s   seeds of a run          m   pairs in a tree
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ablate.conditions import Outcome, Verdict
from ablate.deciding.compare import PAIRING_LEVEL
from ablate.deciding.noise import OUTLIER_LEVEL
from ablate.study import Metric

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ManyScores:
    """What the jobs of one run scored on one metric; `scores.Scores` of n studies."""

    seeds: tuple[int, ...]
    values: Floats
    """[n, s]; nan where a job diverged."""
    diverged: Bools
    """[n, s]"""
    unlearned: Bools
    """[n, s]; jobs that have a value, but one no better than the answer without information."""
    planned: Bools
    """[n, s]; jobs that are there; the first seeds of a run."""

    def first(self, seeds: NDArray[np.intp]) -> ManyScores:
        """Only the first seeds, so many of them: [n]."""
        there = self.planned & (np.arange(self.values.shape[1]) < seeds[:, None])
        return ManyScores(self.seeds, np.where(there, self.values, np.nan), self.diverged & there, self.unlearned & there, there)

    @property
    def count(self) -> Floats:
        """[n] jobs that have a value."""
        count: Floats = np.isfinite(self.values).sum(axis=1).astype(np.float64)
        return count

    @property
    def mean(self) -> Floats:
        """[n]; nan where no job has a value."""
        return mean_of(self.values, np.isfinite(self.values))

    def outcome(self, asked: Outcome) -> Bools:
        """[n] whether more than half of the jobs ended like this; "diverged" goes before "did not learn"."""
        diverged: Bools = 2 * self.diverged.sum(axis=1) > self.planned.sum(axis=1)
        if asked == "diverged":
            return diverged
        unlearned: Bools = ~diverged & (2 * self.unlearned.sum(axis=1) > self.count)
        return unlearned

    @property
    def trained(self) -> Bools:
        """[n] neither diverged nor failed to learn."""
        return ~self.outcome("diverged") & ~self.outcome("did not learn")


@dataclass(frozen=True)
class ManyPools:
    """Noise between seeds on one metric; `compare.Pool` of n studies."""

    variance: Floats
    """[n]; nan where it is not known."""
    df: Floats
    """[n]; infinite where the declared noise is used."""
    own: Mapping[str, Bools]
    """Run -> [n] whether it is left out of the pool and compared with its own variance."""


@dataclass(frozen=True)
class ManyComparisons:
    """Run a against run b (or a constant) on one metric; `compare.Comparison` of n studies, without its level."""

    sign: int
    """+1 where higher is better, −1 where lower is."""
    margin: float
    delta: Floats
    """[n] a − b."""
    error: Floats
    """[n] its standard error; nan where there is none."""
    df: Floats
    """[n]"""
    blocked: Bools
    """[n] no verdict can hold."""
    p: Floats
    """[n] two-sided, of "no difference"; 1 where blocked."""
    spread: Floats | None = None
    """[n] Σ 1/n over its runs, n the values compared."""

    def holds(self, verdict: Verdict, level: Floats | float, tost_level: Floats | float = 0.05) -> Bools:
        """[n]; better and worse at `level`, no worse and same at `tost_level`."""
        gain = self.sign * self.delta
        if verdict in ("better", "worse"):
            gain = gain if verdict == "better" else -gain
            return ~self.blocked & (self.p < level) & (gain >= self.margin) & (gain > 0)
        not_below: Bools = ~self.blocked & self._above(gain, tost_level)
        return not_below & self._above(-gain, tost_level) if verdict == "same" else not_below

    def covers(self, truth: Floats | float, level: float) -> Bools:
        """[n] whether the interval at `level` holds the true difference."""
        inside: Bools = two_sided_p(self.delta - truth, self.error, self.df) >= level
        return inside

    def _above(self, gain: Floats, level: Floats | float) -> Bools:
        """[n] whether the one-sided interval of `gain` lies above −margin."""
        above: Bools = one_sided_p(gain + self.margin, self.error, self.df) < level
        return above


def mean_of(values: Floats, valid: Bools) -> Floats:
    """[n] mean over the valid values of each row; nan where there is none."""
    count = valid.sum(axis=1)
    total = np.where(valid, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def variance_of(values: Floats, valid: Bools) -> Floats:
    """[n] variance over the valid values of each row; nan where there are fewer than two."""
    count = valid.sum(axis=1)
    apart = np.where(valid, values - mean_of(values, valid)[:, None], 0.0)
    return np.where(count > 1, (apart**2).sum(axis=1) / np.maximum(count - 1, 1), np.nan)


def one_sided_p(distance: Floats, error: Floats, df: Floats) -> Floats:
    """[n] chance of an estimate at least `distance` above the truth; at error 0, certain. nan where the error is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -distance / error
    t = np.where((error == 0) & (distance == 0), np.inf, t)
    known = np.isinf(df)
    if known.all():
        return np.asarray(special.ndtr(t))
    p = np.where(known, special.ndtr(t), special.stdtr(np.where(known, 1.0, df), t))
    return np.where(np.isnan(error), np.nan, p)


def two_sided_p(delta: Floats, error: Floats, df: Floats) -> Floats:
    """[n] as `compare` has it; nan where the error is."""
    return np.minimum(2 * one_sided_p(np.abs(delta), error, df), 1.0)


def noise_pools(metric: Metric, runs: Mapping[str, ManyScores]) -> ManyPools:
    """Pool the variance between seeds; see `noise.noise_pool`.

    runs: those that may lend their seeds, all at one budget, in the order of the file.
    """
    n = len(next(iter(runs.values())).values) if runs else 0
    names = [run for run, of_run in runs.items() if of_run.values.shape[1] >= 2]
    own = {run: np.zeros(n, dtype=np.bool_) for run in runs}
    if not names:
        return _unmeasured(metric, n, own)
    spread = np.empty((n, len(names)))
    df = np.zeros((n, len(names)))
    for place, run in enumerate(names):
        of_run = runs[run]
        able = of_run.trained & (of_run.count >= 2)
        own[run] |= able & of_run.unlearned.any(axis=1)
        spread[:, place] = variance_of(of_run.values, np.isfinite(of_run.values))
        df[:, place] = np.where(able & ~own[run], of_run.count - 1, 0.0)
    spread = np.where(df > 0, spread, 0.0)
    _leave_out(spread, df, own, names)
    total = df.sum(axis=1)
    declared = _unmeasured(metric, n, own)
    measured = total > 0
    pooled = (spread * df).sum(axis=1) / np.maximum(total, 1)
    return ManyPools(np.where(measured, pooled, declared.variance), np.where(measured, total, declared.df), own)


def _unmeasured(metric: Metric, n: int, own: Mapping[str, Bools]) -> ManyPools:
    declared = metric.noise is not None
    return ManyPools(
        np.full(n, (metric.noise or 0.0) ** 2 if declared else np.nan), np.full(n, np.inf if declared else np.nan), own
    )


def _leave_out(spread: Floats, df: Floats, own: Mapping[str, Bools], names: Sequence[str]) -> None:
    """Take out, one after another, the run whose variance stands out most; writes 0 into `df` and True into `own`.

    spread: [n, r] variance of a run. df: [n, r] its degrees of freedom; 0: not in the pool.
    """
    level = OUTLIER_LEVEL / np.maximum((df > 0).sum(axis=1), 1)
    at = np.arange(len(spread))
    while len(at):
        here, here_df = spread[at], df[at]
        weighted = here * here_df
        others_df = here_df.sum(axis=1, keepdims=True) - here_df
        # Summed without the run, not by taking it away: a difference of two sums is never exactly 0.
        others_sum = np.stack([np.delete(weighted, place, axis=1).sum(axis=1) for place in range(len(names))], axis=1)
        others = others_sum / np.maximum(others_df, 1)
        tested = (here_df > 0) & (here > 0) & ((here_df > 0).sum(axis=1, keepdims=True) >= 2)
        ratio = here / np.where(others > 0, others, 1.0)
        p = special.fdtrc(np.where(tested, here_df, 1.0), np.maximum(others_df, 1.0), ratio)
        p = np.where(tested, np.where(others > 0, p, 0.0), np.inf)
        found = p.argmin(axis=1)
        out = p[np.arange(len(at)), found] < level[at]
        at, found = at[out], found[out]
        df[at, found] = 0.0
        for place, run in enumerate(names):
            own[run][at[found == place]] = True


def compare_many(
    metric: Metric, runs: Mapping[str, ManyScores], a: str, b: str, pools: ManyPools, refused: bool = False
) -> ManyComparisons:
    """Compare runs `a` and `b`; see `compare.compare`. refused: whether they may not be compared at all."""
    left, right = runs[a], runs[b]
    delta, error, df = left.mean - right.mean, *_unpaired(left, right, a, b, pools)
    paired, pair_delta, pair_error, pair_df = _paired(left, right)
    delta, error, df = (
        np.where(paired, of_pairs, of_runs) for of_pairs, of_runs in ((pair_delta, delta), (pair_error, error), (pair_df, df))
    )
    blocked = ~left.trained | ~right.trained | np.isnan(error) | refused
    spread = np.where(paired, 2 / np.maximum(pair_df + 1, 1), _inverse(left) + _inverse(right))
    return replace(judged(metric, delta, error, df, blocked, metric.margin), spread=spread)


def within_many(
    metric: Metric, runs: Mapping[str, ManyScores], a: str, distance: float, of: float, pools: ManyPools
) -> ManyComparisons:
    """Compare run `a` with the constant `of`; see `compare.within`."""
    share, df = _part(runs[a], a, pools)
    error = np.sqrt(share)
    made = judged(metric, runs[a].mean - of, error, df, ~runs[a].trained | np.isnan(error), distance)
    return replace(made, spread=_inverse(runs[a]))


def _inverse(side: ManyScores) -> Floats:
    return np.asarray(1 / np.maximum(side.count, 1))


def judged(metric: Metric, delta: Floats, error: Floats, df: Floats, blocked: Bools, margin: float) -> ManyComparisons:
    p = np.where(blocked, 1.0, two_sided_p(delta, error, df))
    return ManyComparisons(1 if metric.better == "higher" else -1, margin, delta, error, df, blocked, p)


def _unpaired(left: ManyScores, right: ManyScores, a: str, b: str, pools: ManyPools) -> tuple[Floats, Floats]:
    """[n] standard error and degrees of freedom."""
    (share_a, df_a), (share_b, df_b) = _part(left, a, pools), _part(right, b, pools)
    total = share_a + share_b
    with np.errstate(divide="ignore", invalid="ignore"):
        welch = total**2 / (share_a**2 / df_a + share_b**2 / df_b)
    welch = np.where(total > 0, welch, np.minimum(df_a, df_b))
    return np.sqrt(total), np.where(pools.own[a] | pools.own[b], welch, pools.df)


def _part(side: ManyScores, run: str, pools: ManyPools) -> tuple[Floats, Floats]:
    """[n] variance of one run's mean and its degrees of freedom; nan where they are not known."""
    count, own = side.count, pools.own[run]
    enough = np.where(own, count >= 3, count >= 1)
    variance = np.where(own, variance_of(side.values, np.isfinite(side.values)) if own.any() else np.nan, pools.variance)
    return np.where(enough, variance / np.maximum(count, 1), np.nan), np.where(own, np.maximum(count - 1, 1), pools.df)


def _paired(left: ManyScores, right: ManyScores) -> tuple[Bools, Floats, Floats, Floats]:
    """[n] whether the runs are paired by seed, and the difference, its error and degrees of freedom if they are."""
    common = [(left.seeds.index(seed), right.seeds.index(seed)) for seed in left.seeds if seed in right.seeds]
    n = len(left.values)
    if len(common) < 3:
        nothing = np.full(n, np.nan)
        return np.zeros(n, dtype=np.bool_), nothing, nothing, nothing
    x, y = left.values[:, [i for i, _ in common]], right.values[:, [j for _, j in common]]
    valid = np.isfinite(x) & np.isfinite(y)
    count = valid.sum(axis=1)
    apart_x = np.where(valid, x - mean_of(x, valid)[:, None], 0.0)
    apart_y = np.where(valid, y - mean_of(y, valid)[:, None], 0.0)
    spread = np.sqrt((apart_x**2).sum(axis=1) * (apart_y**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = (apart_x * apart_y).sum(axis=1) / spread
        t = correlation * np.sqrt((count - 2) / (1 - correlation**2))
    t = np.where(correlation >= 1, np.inf, t)
    p = special.stdtr(np.maximum(count - 2, 1).astype(np.float64), -t)
    paired = (count >= 3) & (spread > 0) & (correlation > 0) & (p < PAIRING_LEVEL)
    differences = np.where(valid, x - y, np.nan)
    error = np.sqrt(variance_of(differences, valid) / np.maximum(count, 1))
    return paired, mean_of(differences, valid), error, (count - 1).astype(np.float64)


def holm_levels_many(p: Floats, table: Floats, looks: NDArray[np.intp]) -> Floats:
    """[n, m] the level at which Holm's procedure judges each p-value of a row; see `compare.holm_levels`.

    table: [looks, m] the level of a look for the share of Holm's step 0 … m − 1. looks: [n, m] which look each is at, from 1.
    """
    n, m = p.shape
    levels, left = np.full((n, m), np.nan), np.ones((n, m), dtype=np.bool_)
    rows = np.arange(n)
    going = np.ones(n, dtype=np.bool_)
    for step in range(m):
        now = table[looks - 1, step]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(left & (now > 0), p / now, np.inf)
        first = ratio.argmin(axis=1)
        rejected = going & (p[rows, first] < now[rows, first])
        stops = going & ~rejected
        levels[stops] = np.where(left[stops], now[stops], levels[stops])
        levels[rows[rejected], first[rejected]] = now[rows[rejected], first[rejected]]
        left[rows[rejected], first[rejected]] = False
        going = rejected
    return levels


def chance_in_the_end_many(
    one: ManyComparisons, verdict: Verdict, seeds: Sequence[int], level: float, equivalence: float
) -> Floats:
    """[n] chance that a verdict will hold at the last look; see `looks.chance_in_the_end`.

    seeds: of each of its runs at the last look.
    """
    assert one.spread is not None, "of compare_many or within_many"
    after = sum(1 / n for n in seeds)
    df = one.df + np.maximum(len(seeds) / after - len(seeds) / one.spread, 0.0)
    later = one.error * np.sqrt(np.minimum(after / one.spread, 1.0))
    wander = np.sqrt(np.maximum(one.error**2 - later**2, 0.0))
    gain = one.sign * one.delta
    if verdict in ("better", "worse"):
        needs = np.maximum(_quantile(1 - level / 2, df) * later, one.margin)
        return _chance_above(needs, gain if verdict == "better" else -gain, wander)
    half = _quantile(1 - equivalence, df) * later
    above = _chance_above(half - one.margin, gain, wander)
    return above if verdict == "no worse" else np.maximum(above - _chance_above(one.margin - half, gain, wander), 0.0)


def _chance_above(bound: Floats, mean: Floats, sd: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sd > 0, special.ndtr((mean - bound) / sd), (mean > bound).astype(np.float64))


def _quantile(probability: float, df: Floats) -> Floats:
    known = np.isinf(df)
    return np.where(known, special.ndtri(probability), special.stdtrit(np.where(known | np.isnan(df), 1.0, df), probability))

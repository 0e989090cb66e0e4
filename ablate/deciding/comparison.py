"""A comparison of two runs on one metric, as a value: what holds and why; in one line, and as a document. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ablate.conditions import Verdict
from ablate.deciding.fairness import Check
from ablate.deciding.noise import NoiseSource, Pool

Method = Literal["pooled", "declared", "welch", "paired", "none"]


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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

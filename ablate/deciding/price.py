"""What it would take to know what was not shown: seeds, GPU-hours, money. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ablate.deciding.compare import visible
from ablate.deciding.comparison import Comparison
from ablate.deciding.facts import Facts

MOST_SEEDS = 1000
"""Above this many seeds per run, the price of knowing is "out of reach"."""


def price(facts: Facts, comparisons: Sequence[Comparison], hours_of: Callable[[str], float]) -> str:
    """What it would cost to know what was not shown: see `seeds_to_see`, with the margin as the effect.

    Jobs to add: per run the most seeds any comparison asks for, less those it has; GPU-hours: jobs × hours × GPUs per run.
    """
    parts: list[str] = []
    wanted: dict[str, int] = {}
    seen: set[frozenset[str]] = set()
    for item in comparisons:
        pair = frozenset((facts.name(item.a), facts.name(item.b), item.metric))
        if item.shown or item.reason or not item.values_b or pair in seen or _mirror_shown(item, comparisons):
            continue
        seen.add(pair)
        effect = f"{item.a} − {item.b} on {item.metric} ({item.margin:g}{f' {item.unit}' if item.unit else ''})"
        seeds = seeds_to_see(item, item.margin)
        if seeds is None:
            parts.append(f"{effect}: out of reach")
        elif seeds <= min(item.n_a, item.n_b):
            parts.append(f"{effect}: the {seeds} seeds at hand; the difference lies near the margin")
        else:
            parts.append(f"{effect}: {seeds} seeds each")
            for run in (facts.name(item.a), facts.name(item.b)):
                wanted[run] = max(wanted.get(run, 0), seeds)
    if not parts:
        return ""
    added = {run: max(seeds - len(facts.jobs(run)), 0) for run, seeds in wanted.items()}
    text = f"to show a difference of the margin with probability 0.8: {'; '.join(parts)}"
    if not sum(added.values()):
        return text
    gpu_hours = sum(count * hours_of(run) for run, count in added.items()) * facts.study.gpus_per_run
    usd = gpu_hours * facts.study.usd_per_gpu_hour
    return f"{text}. Together {sum(added.values())} more jobs, {gpu_hours:,.3g} GPU-hours, ${usd:,.2f}"


def _mirror_shown(item: Comparison, comparisons: Sequence[Comparison]) -> bool:
    return any((other.a, other.b, other.metric) == (item.b, item.a, item.metric) and other.shown for other in comparisons)


def seeds_to_see(comparison: Comparison, effect: float) -> int | None:
    """Smallest number of seeds per run with which a true difference of `effect` is shown with probability 0.8 at this level.

    From t(1 − level/2, df) + the noncentrality that gives power 0.8, times sd · √(2/n). The degrees of freedom grow with the
    seeds added; a declared noise is replaced by a measured one as soon as both runs have two seeds. None: more than MOST_SEEDS.
    """
    if not effect > 0 or not math.isfinite(comparison.sd):
        return None

    def enough(n: int) -> bool:
        return visible(comparison.sd * math.sqrt(2 / n), _df_with(comparison, n), comparison.level) <= effect

    fewest = max(comparison.n_a, comparison.n_b, 1)
    return next((n for n in range(fewest, MOST_SEEDS + 1) if enough(n)), None)


def _df_with(comparison: Comparison, n: int) -> float:
    """Degrees of freedom if both runs had `n` seeds."""
    if comparison.method == "paired":
        return n - 1
    if comparison.method == "pooled":
        return comparison.df + max(n - comparison.n_a, 0) + max(n - comparison.n_b, 0)
    return 2 * (n - 1) if n > 1 else comparison.df

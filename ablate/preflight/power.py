"""What the planned seeds can show: per line of a tree the effect it can see, and what it would take to see a margin. Pure.

One comparison of runs with n_a and n_b seeds, noise sd of one job, df degrees of freedom: its difference has the standard error
se = sd · √(1/n_a + 1/n_b). A verdict's power is computed exactly under the normal model, integrating over the estimated noise s:

    better     P(G > max(δ, t(1 − level/2, df) · s/sd · se)),  G ~ N(true gain, se²),  df · s²/sd² ~ χ²(df)
    no worse   P(G > t(0.95, df) · s/sd · se − δ)
    same       P(|G| < δ − t(0.95, df) · s/sd · se)

With δ = 0 the first is the noncentral t distribution, to which it is tested (statsmodels' TTestIndPower, simulation). Assumed:
runs are not paired, none diverges, each has the same spread. Levels are the strictest Holm may ask for: a tree's share of
`wrong_adoptions` divided by the number of its pairs; learn lines are at 0.05. With declared looks each is judged at what it may
spend (looks.py); a look's power is told by itself, as if those before it had shown nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import special

from ablate.conditions import ITS_START, Compared, Condition, Took, Verdict, Within, atoms
from ablate.deciding.compare import POWER
from ablate.deciding.facts import EQUIVALENCE_LEVEL, LEARN_LEVEL
from ablate.deciding.looks import level_at
from ablate.deciding.price import MOST_SEEDS
from ablate.study import REFERENCE, Study, Sweep, Tree, likeness, most_alike, own_runs, runs_of_tree, sweeps_of_runs

NODES = 80
"""Of the quadrature over the estimated noise."""


@dataclass(frozen=True)
class Design:
    """One comparison before it is made."""

    sd: float
    """Of one job."""
    df: float
    """Degrees of freedom of the noise; infinite for a declared noise, which is treated as known."""
    n_a: int
    n_b: int
    """0: against a constant."""
    margin: float
    level: float
    """Two-sided, of `better` and `worse`."""
    equivalence: float = EQUIVALENCE_LEVEL
    """One-sided, of `no worse`, and of each side of `same`."""

    @property
    def se(self) -> float:
        return self.sd * math.sqrt(1 / self.n_a + (1 / self.n_b if self.n_b else 0.0))


@dataclass(frozen=True)
class Price:
    """What it takes beyond the planned seeds; seeds None: out of reach."""

    seeds: int | None
    """Per run."""
    jobs: int = 0
    gpu_hours: float = 0.0
    usd: float = 0.0


@dataclass(frozen=True)
class Glance:
    """What one declared look can show by itself; as in Sight."""

    n_a: int
    n_b: int
    df: float
    level: float
    visible: float
    power: float


@dataclass(frozen=True)
class Sight:
    """What one comparison of a line can show with all its seeds: at the last look, where several are declared."""

    a: str
    b: str
    metric: str
    verdict: Verdict
    n_a: int
    n_b: int
    sd: float
    """nan: nothing is known of the noise."""
    df: float
    level: float
    margin: float
    visible: float
    """better, worse: the smallest true difference shown with probability 0.8. no worse, same: the smallest margin within which
    two equal runs are shown to be equal with probability 0.8. nan: unknown noise."""
    power: float
    """better, worse: the chance that a true difference of one margin tells itself from 0 (the estimate must then also reach the
    margin, which a true difference of one margin does half of the time). no worse, same: of two equal runs."""
    answerable: bool
    """`power` is at least 0.8."""
    price: Price | None
    """Of making it answerable, when it is not."""
    expected: float | None = None
    """a − b, as the rows' authors expect it; None where they do not say."""
    chance: float | None = None
    """That the verdict is shown if they are right; None where they expect that it is false."""
    looks: tuple[Glance, ...] = ()
    """The declared looks, first to last; () where there is one only."""


@dataclass(frozen=True)
class LineSight:
    """What one line can see with the planned seeds."""

    sweep: str
    tree: str
    """"" for a learn line."""
    text: str
    sights: tuple[Sight, ...]

    @property
    def answerable(self) -> bool:
        return all(sight.answerable for sight in self.sights)


# ---------------------------------------------------------------- a study


def lines_of(
    study: Study, sweep: Sweep, noise: Mapping[str, float | None], its_start: Mapping[str, str], hours_of: Callable[[str], float]
) -> tuple[LineSight, ...]:
    """What every line of a sweep that compares can see.

    noise:     metric -> standard deviation between seeds, declared or measured; None: unknown.
    its_start: row -> the run trained as its start; a row that is not in it is compared with a run of as many seeds.
    hours_of:  run -> wall hours of one of its jobs.
    """
    books = _Books(study, noise, its_start, hours_of)
    found = []
    for tree in sweep.trees:
        then = replace(books, later=later(study, tree.name))
        asked = [atom for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared)]
        pairs = {books.pair(atom) for atom in asked if atom.verdict in ("better", "worse")}
        level = study.wrong_adoptions / max(len(study.trees), 1) / max(len(pairs), 1)
        found += [(tree.name, line.text, then.sights(line.condition, level)) for line in tree.lines]
    found += [("", learn.text, books.sights(learn.condition, LEARN_LEVEL)) for learn in sweep.learn]
    return tuple(LineSight(sweep.name, tree, text, sights) for tree, text, sights in found if sights)


def later(study: Study, decision: str) -> frozenset[str]:
    """The rows that cannot have ended when this is decided: they start from it or may be skipped by it, at one remove or more."""
    trees, of_runs = {decision}, sweeps_of_runs(study)
    rows: set[str] = set()
    while True:
        waiting = {name for name, row in study.runs.items() if row.start.kind == "winners" and trees & {*row.start.names}}
        for sweep in study.sweeps.values():
            if sweep.skip and trees & _decisions(sweep.skip.condition):
                waiting |= {*own_runs(study, sweep.name, of_runs)}
        above = {tree.name for tree in study.trees.values() if _waits(study, tree, waiting, trees)}
        if waiting <= rows and above <= trees:
            return frozenset(rows)
        rows, trees = rows | waiting, trees | above


def _waits(study: Study, tree: Tree, rows: Collection[str], trees: Collection[str]) -> bool:
    """Whether a tree compares one of these rows, or asks what one of these trees took."""
    compared = {study.aliases.get(run, run) for run in runs_of_tree(tree)}
    asked = {name for line in tree.lines for name in _decisions(line.condition)}
    return not compared.isdisjoint(rows) or not asked.isdisjoint(trees)


def _decisions(condition: Condition) -> set[str]:
    return {atom.decision for atom in atoms(condition) if isinstance(atom, Took)}


@dataclass(frozen=True)
class _Books:
    study: Study
    noise: Mapping[str, float | None]
    its_start: Mapping[str, str]
    hours_of: Callable[[str], float]
    later: frozenset[str] = frozenset()
    """Rows that lend no noise, because they have not ended when it is judged."""

    def name(self, run: str) -> str:
        return self.study.aliases.get(run, run)

    def other(self, atom: Compared) -> str:
        if atom.b != ITS_START:
            return self.name(atom.b)
        return self.its_start.get(self.name(atom.a), f"{self.name(atom.a)}'s start")

    def seeds(self, run: str) -> int:
        return len(self.study.seeds[run.removesuffix("'s start").removesuffix("-start")])

    def pair(self, atom: Compared) -> frozenset[str]:
        return frozenset((self.name(atom.a), self.other(atom), f"on {atom.metric}"))

    def df(self, *runs: str, most: int = MOST_SEEDS) -> float:
        """Degrees of freedom of the noise pooled over runs like these, once all have ended that can have; infinite without any.

        most: seeds per run that are looked at.
        """
        known = [row for run in runs if (row := run.removesuffix("'s start").removesuffix(REFERENCE)) in self.study.runs]
        like = most_alike(self.study, known)
        lending = [run for run in self.study.runs if run not in self.later and likeness(self.study, run) == like]
        seeds = [len(self.study.seeds[run]) for run in lending]
        return sum(min(of_run, most) - 1 for of_run in seeds) or math.inf

    def design(self, sd: float, a: str, b: str, n: tuple[int, int], margin: float, level: float, look: int) -> Design:
        """The comparison at a look (1, 2, ...), when all looks together may spend `level`; n: seeds of a and b."""
        looks, spending = self.study.looks, self.study.spending
        most = looks[look - 1] if looks else MOST_SEEDS
        equivalence = level_at(2 * EQUIVALENCE_LEVEL, look, looks, spending) / 2
        at = level_at(level, look, looks, spending)
        return Design(sd, self.df(a, b, most=most), min(n[0], most), min(n[1], most), margin, at, equivalence)

    def sights(self, condition: Condition, level: float) -> tuple[Sight, ...]:
        """One per comparison that a condition asks for."""
        asked = [atom for atom in atoms(condition) if isinstance(atom, Compared | Within)]
        return tuple(self.sight(atom, level) for atom in dict.fromkeys(asked))

    def sight(self, atom: Compared | Within, level: float) -> Sight:
        metric = self.study.metrics[atom.metric]
        verdict: Verdict
        if isinstance(atom, Within):
            a, b, verdict, margin, n_b = self.name(atom.run), f"{atom.of:g}", "same", atom.distance, 0
        else:
            a, b, verdict, margin = self.name(atom.a), self.other(atom), atom.verdict, metric.margin
            n_b = self.seeds(b)
        n_a, sd = self.seeds(a), self.noise.get(metric.name)
        if sd is None:
            nan = math.nan
            return Sight(a, b, metric.name, verdict, n_a, n_b, nan, self.df(a, b), level, margin, nan, 0.0, False, None)
        *before, design = [
            self.design(sd, a, b, (n_a, n_b), margin, level, look) for look in range(1, max(len(self.study.looks), 1) + 1)
        ]
        power = resolving_power(design, verdict)
        answerable = power >= POWER
        price = None if answerable else self.price(design, verdict, a, b)
        seen = visible(design, verdict)
        expected = self.expected(atom)
        sign = 1 if metric.better == "higher" else -1
        hoped = expected is not None and _is_true(verdict, sign * expected, margin)
        chance = power_of(design, verdict, sign * expected) if expected is not None and hoped else None
        return Sight(
            a,
            b,
            metric.name,
            verdict,
            n_a,
            n_b,
            sd,
            design.df,
            design.level,
            margin,
            seen,
            power,
            answerable,
            price,
            expected,
            chance,
            tuple(glance(each, verdict) for each in (*before, design)) if before else (),
        )

    def expected(self, atom: Compared | Within) -> float | None:
        """a − b, where the author of either row says what it shifts and the other's start is the same."""
        if isinstance(atom, Within):
            return None
        rows = [self.study.runs.get(self.name(run)) for run in (atom.a, atom.b)]
        said = [row.expected(atom.metric) if row else None for row in rows]
        if said == [None, None]:
            return None
        return (said[0] or 0.0) - (said[1] or 0.0)

    def price(self, design: Design, verdict: Verdict, a: str, b: str) -> Price:
        """Seeds per run, both runs alike, that give the verdict its power; and what the jobs to add cost."""
        seeds = seeds_for(design, verdict)
        if seeds is None:
            return Price(None)
        added = {a: seeds - design.n_a} | ({b: seeds - design.n_b} if design.n_b else {})
        hours = sum(max(count, 0) * self.hours_of(run) for run, count in added.items()) * self.study.gpus_per_run
        return Price(seeds, sum(max(count, 0) for count in added.values()), hours, hours * self.study.usd_per_gpu_hour)


def unanswered(lines: Sequence[LineSight]) -> list[LineSight]:
    """Lines whose question this budget cannot answer."""
    return [line for line in lines if not line.answerable]


# ---------------------------------------------------------------- one comparison


def glance(design: Design, verdict: Verdict) -> Glance:
    seen, power = visible(design, verdict), resolving_power(design, verdict)
    return Glance(design.n_a, design.n_b, design.df, design.level, seen, power)


def power_of(design: Design, verdict: Verdict, gain: float) -> float:
    """Chance that `verdict` is shown when a is truly better by `gain` (in the metric's good direction)."""
    match verdict:
        case "better":
            return _chance(design, design.level / 2, gain, lambda half: np.maximum(half, design.margin), None)
        case "worse":
            return power_of(design, "better", -gain)
        case "no worse":
            return _chance(design, design.equivalence, gain, lambda half: half - design.margin, None)
        case "same":
            inside = _chance(
                design, design.equivalence, gain, lambda half: half - design.margin, lambda half: design.margin - half
            )
            return max(inside, 0.0)


def _is_true(verdict: Verdict, gain: float, margin: float) -> bool:
    """Whether a verdict would be true of a true gain."""
    match verdict:
        case "better":
            return gain > 0
        case "worse":
            return gain < 0
        case "no worse":
            return gain > -margin
        case "same":
            return abs(gain) < margin


def resolving_power(design: Design, verdict: Verdict) -> float:
    """better, worse: that the interval leaves out 0 at a true difference of one margin. no worse, same: shown at none."""
    if verdict in ("better", "worse"):
        return power_of(_with(design, margin=0.0), "better", design.margin)
    return power_of(design, verdict, 0.0)


def visible(design: Design, verdict: Verdict) -> float:
    """See Sight.visible."""
    if design.se == 0:
        return design.margin if verdict in ("better", "worse") else 0.0
    if verdict in ("better", "worse"):
        return _smallest(lambda gain: power_of(design, "better", gain), design)
    return _smallest(lambda margin: power_of(_with(design, margin=margin), verdict, 0.0), design)


def seeds_for(design: Design, verdict: Verdict) -> int | None:
    """Smallest number of seeds per run with which `resolving_power` reaches 0.8; None: more than MOST_SEEDS.

    Every seed added beyond a run's first also adds a degree of freedom; a declared noise is replaced by a measured one as soon
    as a run has two seeds.
    """
    fewest = max(design.n_a, design.n_b, 1)

    def enough(seeds: int) -> bool:
        return resolving_power(_with_seeds(design, seeds), verdict) >= POWER

    first = next((seeds for seeds in range(fewest, min(fewest + 8, MOST_SEEDS)) if enough(seeds)), None)
    if first is not None or not enough(MOST_SEEDS):
        return first
    low, high = fewest + 7, MOST_SEEDS  # by now power grows with every seed
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _with(design: Design, margin: float) -> Design:
    return replace(design, margin=margin)


def _with_seeds(design: Design, seeds: int) -> Design:
    runs = [design.n_a, *([design.n_b] if design.n_b else [])]
    known = 0.0 if math.isinf(design.df) else design.df
    df = known + sum(seeds - max(n, 1) for n in runs)
    return replace(design, df=df or math.inf, n_a=seeds, n_b=seeds if design.n_b else 0)


def _smallest(power: Callable[[float], float], design: Design) -> float:
    """Smallest argument with which `power`, which grows, reaches POWER; to a part in 10^5."""
    low, high = 0.0, max(design.margin, design.se)
    while power(high) < POWER:
        low, high = high, 2 * high
    while high - low > 1e-5 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


_Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def _chance(
    design: Design, tail: float, gain: float, above: Callable[[_Array], _Array], below: Callable[[_Array], _Array] | None
) -> float:
    """P(above(half) < G < below(half)), half being the half width of the interval with `tail` outside on either side.

    Without noise G is the gain itself, and half is nothing.
    """
    if design.se == 0:
        exact = np.zeros(1)
        return float(above(exact)[0] <= gain and (below is None or gain < below(exact)[0]))
    ratio, weight = _noise_ratios(design.df)
    critical = float(special.ndtri(1 - tail) if math.isinf(design.df) else special.stdtrit(design.df, 1 - tail))
    half = critical * ratio * design.se
    upper = 1.0 if below is None else special.ndtr((below(half) - gain) / design.se)
    inside = np.maximum(upper - special.ndtr((above(half) - gain) / design.se), 0.0)
    return float(np.dot(weight, inside))


@lru_cache(maxsize=256)
def _noise_ratios(df: float) -> tuple[_Array, _Array]:
    """Nodes and weights for s/sd, where df · s²/sd² ~ χ²(df): Gauss and Legendre on pieces of its quantiles."""
    if math.isinf(df):
        return np.ones(1), np.ones(1)
    x, w = np.polynomial.legendre.leggauss(NODES // 4)
    edges = np.array([0.0, 0.02, 0.3, 0.8, 0.98, 1.0])
    spans = np.diff(edges)
    u = np.concatenate([low + span * (x + 1) / 2 for low, span in zip(edges[:-1], spans, strict=True)])
    weight = np.concatenate([span * w / 2 for span in spans])
    return np.sqrt(special.chdtri(df, 1 - u) / df), weight

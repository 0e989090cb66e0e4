"""More seeds without more wrong adoptions: looks declared beforehand share the error budget; which seeds to train next. Pure.

    [evidence] looks = [3, 5]       judged at 3 seeds per run, and again at 5 where somebody asks to settle a sweep

Each look is judged at the level that it spends; together they spend what one look would (Lan & DeMets 1983, Biometrika 70):

    obrien-fleming   by the share t of the seeds, 4 − 4 Φ(z(1 − α/4) / √t) is spent: almost all is left for the last look
    pocock           α ln(1 + (e − 1) t) is spent: looks are nearly equal

The levels add up to α, so the error is kept whatever the looks have in common (Boole). The usual bounds, from the joint normal
distribution of the looks, are a little wider (0.0476 instead of 0.0424 at the second of [3, 5]), but with Student's t on so few
seeds they let 5.3 % through instead of 5 % (simulated: two runs, their own noise). Within a tree, Holm steps down at each
look with these levels (Maurer & Bretz 2013). `no worse` and `same` spend their 0.05 a side the same way: of [3, 5] their interval
covers 97.7 % at the first look and 92.3 % at the second, not 90 %.

Two runs are at the look that both have reached, and are compared by the seeds of that look; so a pair is judged once at each
look, whatever seeds one of its runs was given for another pair's sake.

Whether more seeds could still decide is a prediction: the chance that the verdict would hold with all seeds of the last look,
given the difference seen (Spiegelhalter, Freedman & Parmar 1986, Controlled Clinical Trials 7, with a flat prior):

    the last difference ~ N(Δ, se² − se'²), se and se' the standard errors now and then; the noise as known now, with a degree
    of freedom more for each seed that its runs (in the harmonic mean) will have gained

Below WORTH_A_LOOK nobody is asked for seeds. Stopping for that reason spends nothing: it can only make verdicts rarer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import special

from ablate.conditions import AllOf, Answer, AnyOf, Atom, Compared, Condition, Otherwise, Verdict
from ablate.deciding.compare import quantile
from ablate.deciding.comparison import Comparison
from ablate.planning.plan import Plan, PlannedJob
from ablate.study import REFERENCE, Study

Spending = Literal["obrien-fleming", "pocock"]
EXPLORATORY = "exploratory"
"""What a verdict is called that rests on a look nobody declared."""
WORTH_A_LOOK = 0.05
"""Seeds are asked for when the verdict they are for has at least this chance to hold in the end."""


# ---------------------------------------------------------------- levels


def spent(alpha: float, share: float, spending: Spending) -> float:
    """How much of the two-sided `alpha` may be spent when `share` of the seeds (0 to 1) has been seen."""
    if share >= 1:
        return alpha
    if spending == "pocock":
        return alpha * math.log(1 + (math.e - 1) * share)
    return 4 - 4 * float(special.ndtr(special.ndtri(1 - alpha / 4) / math.sqrt(share)))


def level_at(alpha: float, look: int, looks: Sequence[int], spending: Spending) -> float:
    """The two-sided level of a look (1, 2, ...) when all looks together may spend `alpha`; `alpha` with a single look."""
    if len(looks) < 2:
        return alpha
    before = spent(alpha, looks[look - 2] / looks[-1], spending) if look > 1 else 0.0
    return spent(alpha, looks[look - 1] / looks[-1], spending) - before


def look_of(looks: Sequence[int], seeds: int) -> int:
    """The look at which a run with so many seeds is; 1 where none are declared."""
    return next((number for number, most in enumerate(looks, 1) if seeds <= most), max(len(looks), 1))


def reached(looks: Sequence[int], seeds: int, declared: int) -> int:
    """The look a run has reached with so many seeds asked for, of those declared; the last one, when it has no more to give."""
    return max(len(looks), 1) if seeds >= declared else look_of(looks, seeds)


# ---------------------------------------------------------------- what to train next


@dataclass(frozen=True)
class Standing:
    """One fact that a line asks for, as it stands."""

    holds: Answer
    comparison: Comparison | None
    """None: it compares nothing, or is not measured."""
    runs: tuple[str, ...]
    """The runs compared, by their own names."""
    final: float
    """Two-sided level at which better and worse would be judged at the last look."""
    final_equivalence: float
    """One-sided level of no worse and same, there."""


@dataclass(frozen=True)
class Asked:
    """A line that more seeds could change."""

    tree: str
    """"" for a learn line."""
    text: str
    condition: Condition
    known: Mapping[Atom, Standing]


@dataclass(frozen=True)
class Settling:
    """The seeds to train so that a line could be decided at the next look."""

    text: str
    """The line."""
    jobs: tuple[PlannedJob, ...]
    look: int
    gpu_hours: float
    """Of those that nobody has asked for yet."""


def settling(
    study: Study,
    sweep: str,
    plan: Plan,
    lines: Sequence[Asked],
    asked: frozenset[str],
    hours_of: Callable[[str], float],
) -> Settling | str:
    """The cheapest seeds of the next look that could still decide a line of the sweep; or why there are none.

    lines:    of `decide.asked_by`. A tree's go first: a learn line changes nothing, so it is settled when no tree can be.
    asked:    keys of the jobs that were asked for to settle this sweep before.
    hours_of: run -> wall hours of one of its jobs.
    """

    def hours(jobs: Iterable[PlannedJob]) -> float:
        return sum(job.gpus * hours_of(job.run) for job in jobs if job.held_for_look)

    for of_trees in (True, False):
        found = []
        for line in lines:
            if bool(line.tree) is of_trees:
                seeds = {atom: _seeds_for(study, plan, standing, atom, asked) for atom, standing in line.known.items()}
                ways = _ways(line.condition, seeds, hours)
                found += [(line.text, jobs) for jobs in ways if jobs and () not in ways]
        if found:
            text, jobs = min(found, key=lambda each: hours(each[1]))
            return Settling(text, jobs, max(job.look for job in jobs), hours(jobs))
    return (
        f"no seeds of the next look could still decide a line of {sweep}: what is not shown has a chance below "
        f"{WORTH_A_LOOK:.0%} to be shown in the end, or its runs have no seeds left"
    )


Jobs = tuple[PlannedJob, ...]


def _ways(condition: Condition, seeds: Mapping[Atom, Jobs | None], hours: Callable[[Jobs], float]) -> list[Jobs]:
    """Sets of seeds, each of which could make the condition hold; () among them where it holds already."""
    match condition:
        case AnyOf(parts=parts):
            return [way for part in parts for way in _ways(part, seeds, hours)]
        case AllOf(parts=parts):
            ways = [_ways(part, seeds, hours) for part in parts]
            if not all(ways):
                return []
            cheapest = [min(of_part, key=hours) for of_part in ways]
            return [tuple({job.id: job for jobs in cheapest for job in jobs}.values())]
        case Otherwise():
            return [()]
        case _:
            jobs = seeds[condition]
            return [] if jobs is None else [jobs]


def _seeds_for(study: Study, plan: Plan, standing: Standing, atom: Atom, asked: frozenset[str]) -> Jobs | None:
    """Jobs of the next look that could show what the atom asks; () where it is shown; None: no seeds can show it."""
    if standing.holds:
        return ()
    one = standing.comparison
    if one is None or one.reason or math.isnan(one.error):
        return None
    verdict = atom.verdict if isinstance(atom, Compared) else "same"
    most = [len(study.seeds[run.removesuffix(REFERENCE)]) for run in standing.runs]
    if chance_in_the_end(one, verdict, most, standing.final, standing.final_equivalence) < WORTH_A_LOOK:
        return None
    return next_seeds(plan, standing.runs, asked) or None


def chance_in_the_end(one: Comparison, verdict: Verdict, seeds: Sequence[int], level: float, equivalence: float) -> float:
    """Chance that a verdict will hold at the last look, given the difference seen.

    seeds:       of each of its runs at the last look.
    level:       two-sided, of better and worse, there. equivalence: one-sided, of no worse and same.
    """
    now = [len(one.values_a), *([len(one.values_b)] if one.values_b else [])]
    before, after = sum(1 / n for n in now), sum(1 / n for n in seeds)
    df = one.df + max(len(now) / after - len(now) / before, 0.0)
    later = one.error * math.sqrt(min(after / before, 1.0))
    wander = math.sqrt(max(one.error**2 - later**2, 0.0))
    gain = one.delta if one.better == "higher" else -one.delta
    needs = max(quantile(1 - level / 2, df) * later, one.margin)
    half = quantile(1 - equivalence, df) * later
    match verdict:
        case "better":
            return _above(needs, gain, wander)
        case "worse":
            return _above(needs, -gain, wander)
        case "no worse":
            return _above(half - one.margin, gain, wander)
        case "same":
            return max(_above(half - one.margin, gain, wander) - _above(one.margin - half, gain, wander), 0.0)


def _above(bound: float, mean: float, sd: float) -> float:
    """P(N(mean, sd²) > bound)."""
    return float(special.ndtr((mean - bound) / sd)) if sd > 0 else float(mean > bound)


def next_seeds(plan: Plan, runs: Sequence[str], asked: frozenset[str]) -> Jobs:
    """Jobs of the next look that these runs have and nobody asked for to settle this sweep; () unless one of them has any."""
    left = [job for run in dict.fromkeys(runs) for job in plan.of_run(run) if job.look > 1 and job.key not in asked]
    following = min((job.look for job in left), default=0)
    return tuple(job for job in left if job.look == following)


# ---------------------------------------------------------------- looks nobody declared


def undeclared(study: Study, frozen_seeds: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Run -> why a verdict on it is exploratory: seeds that were not declared when the study was frozen."""
    found = {}
    for run, seeds in study.seeds.items():
        known = frozen_seeds.get(run)
        added = [seed for seed in seeds if seed not in known] if known is not None else []
        if added:
            found[run] = f"{run} has seeds {', '.join(map(str, added))} that were not declared before the first launch"
    return found

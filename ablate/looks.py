"""More seeds without more wrong adoptions: looks declared beforehand share the error budget; which seeds to train next. Pure.

    [evidence] looks = [3, 5]       judged at 3 seeds per run, and again at 5 where somebody asks to settle a sweep

Each look is judged at the level that it spends; together they spend what one look would (Lan & DeMets 1983, Biometrika 70):

    obrien-fleming   by the share t of the seeds, 4 − 4 Φ(z(1 − α/4) / √t) is spent: almost all is left for the last look
    pocock           α ln(1 + (e − 1) t) is spent: looks are nearly equal

The levels add up to α, so the error is kept whatever the looks have in common (Boole). The usual bounds, from the joint normal
distribution of the looks, are a little wider (0.0476 instead of 0.0424 at the second of [3, 5]), but with Student's t on so few
seeds they let 5.3 % through instead of 5 % (simulated: two runs, their own noise). Within a tree, Holm steps down at each
look with these levels (Maurer & Bretz 2013). `no worse` and `same` spend their 0.05 a side the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy import special

from ablate.conditions import ITS_START, AllOf, AnyOf, Atom, Compared, Condition, Took, atoms
from ablate.plan import Plan, PlannedJob, took
from ablate.study import JobResult, Study, Sweep
from db.records import DecisionRecord

Spending = Literal["obrien-fleming", "pocock"]


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


# ---------------------------------------------------------------- what to train next


@dataclass(frozen=True)
class Settling:
    """The seeds to train so that a line could be decided at the next look."""

    text: str
    """The line."""
    jobs: tuple[PlannedJob, ...]
    look: int
    gpu_hours: float


def settling(
    study: Study,
    sweep: Sweep,
    plan: Plan,
    decisions: Mapping[str, DecisionRecord],
    compare: Callable[[str, str, str], Mapping[str, Any]],
    hours_of: Callable[[str], float],
) -> Settling | str:
    """The cheapest seeds of the next look that could still decide a line of the sweep; or why there are none.

    compare:  (a, b, metric) -> their comparison as a document, by the seeds there are.
    hours_of: run -> wall hours of one of its jobs.

    A line could be decided when no verdict it lacks is ruled out by an interval already: seeds cannot bring those back.
    """
    found = [each for each in _candidates(study, sweep, plan, decisions, compare, hours_of) if each.jobs]
    if not found:
        return (
            f"no seeds of the next look could still decide a line of {sweep.name}: what is not shown is ruled out by now, or its "
            "runs have no seeds left"
        )
    return min(found, key=lambda each: each.gpu_hours)


def undecided_lines(sweep: Sweep, decisions: Mapping[str, DecisionRecord]) -> Iterator[tuple[str, Condition]]:
    """Lines above the one each tree took; all learn lines."""
    for tree in sweep.trees:
        record = decisions.get(tree.name)
        if record is None or record.status != "decided":
            continue
        for line in tree.lines:
            if line.text == record.line:
                break
            yield line.text, line.condition
    for learn in sweep.learn:
        yield learn.text, learn.condition


def _candidates(
    study: Study,
    sweep: Sweep,
    plan: Plan,
    decisions: Mapping[str, DecisionRecord],
    compare: Callable[[str, str, str], Mapping[str, Any]],
    hours_of: Callable[[str], float],
) -> Iterator[Settling]:
    def priced(text: str, jobs: Sequence[PlannedJob]) -> Settling:
        unique = tuple({job.id: job for job in jobs}.values())
        hours = sum(job.gpus * hours_of(job.run) for job in unique)
        return Settling(text, unique, max((job.look for job in unique), default=0), hours)

    for text, condition in undecided_lines(sweep, decisions):
        wanted = [(atom, _seeds_for(study, plan, decisions, atom, compare)) for atom in atoms(condition)]
        if any(jobs == () for _, jobs in wanted) and not isinstance(condition, AnyOf):
            continue
        open_ = [jobs for _, jobs in wanted if jobs]
        if isinstance(condition, AllOf):
            yield priced(text, [job for jobs in open_ for job in jobs])
        elif not any(jobs is None for _, jobs in wanted):
            yield from (priced(text, jobs) for jobs in open_)


def _seeds_for(
    study: Study,
    plan: Plan,
    decisions: Mapping[str, DecisionRecord],
    atom: Atom,
    compare: Callable[[str, str, str], Mapping[str, Any]],
) -> tuple[PlannedJob, ...] | None:
    """Jobs of the next look that could show what the atom asks; None: it is shown already; (): no seeds can show it."""
    if isinstance(atom, Took):
        return None if took(study, atom, decisions) else ()
    if not isinstance(atom, Compared):
        return ()
    a, b = (study.aliases.get(run, run) for run in (atom.a, atom.b))
    b = plan.its_start.get(a, "") if b == ITS_START else b
    if not b:
        return ()
    one = compare(a, b, atom.metric)
    if atom.verdict in one["holds"]:
        return None
    if one["reason"] or ruled_out(one, atom.verdict):
        return ()
    return next_seeds(plan, (a, b))


def next_seeds(plan: Plan, runs: Sequence[str]) -> tuple[PlannedJob, ...]:
    """Jobs of the next look that these runs have and nobody has asked for; () unless one of them has any."""
    waiting = [job for run in runs for job in plan.of_run(run) if job.held_for_look]
    following = min((job.look for job in waiting), default=0)
    return tuple(job for job in waiting if job.look == following)


def ruled_out(one: Mapping[str, Any], verdict: str) -> bool:
    """Whether an interval at hand excludes that the verdict is true."""
    if one["low"] is None or one["tost_low"] is None:
        return False
    sign = 1.0 if one["better"] == "higher" else -1.0
    low, high = sorted((sign * one["low"], sign * one["high"]))
    narrow_low, narrow_high = sorted((sign * one["tost_low"], sign * one["tost_high"]))
    margin = one["margin"]
    match verdict:
        case "better":
            return bool(high < margin)
        case "worse":
            return bool(low > -margin)
        case "no worse":
            return bool(narrow_high <= -margin)
        case _:
            return bool(narrow_high <= -margin or narrow_low >= margin)


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


def looked_at(results: Mapping[str, Sequence[JobResult]], runs: Sequence[str], looks: Sequence[int]) -> int:
    """The look a tree is at: that of its run with the most seeds asked for."""
    return look_of(looks, max((len(results.get(run, ())) for run in runs), default=0))

"""What takes a tree's decision in rehearsed studies: the trees themselves, with or without more looks, or what people do. Pure.

k   studies of a view          m   pairs in a tree
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ablate.conditions import AllOf, AnyOf, Atom, Compared, Condition, Ended, Otherwise, Took, Within, atoms
from ablate.deciding.facts import EQUIVALENCE_LEVEL
from ablate.deciding.looks import WORTH_A_LOOK, level_at
from ablate.planning.outcomes import STOP
from ablate.rehearsal.compare_many import Bools, Floats, ManyComparisons, chance_in_the_end_many, holm_levels_many, judged
from ablate.rehearsal.oracle import NOTHING, metric_of, takeable
from ablate.rehearsal.view import Ints, View, keeps, taken_by_start
from ablate.study import Line, Study, Tree

Rule = Literal["trees", "lowest first seed", "lowest of all seeds", "lowest mean", "per-sample test"]
RULES: tuple[Rule, ...] = ("trees", "lowest first seed", "lowest of all seeds", "lowest mean", "per-sample test")
ONE_SEED: frozenset[Rule] = frozenset({"lowest first seed", "per-sample test"})
"""Rules that train one seed of each run."""
ONE_SAMPLE_LEVEL = 0.05
"""Of the per-sample test."""


@dataclass(frozen=True)
class Taken:
    """Some studies' outcome of a tree."""

    where: Bools
    """[k]"""
    took: str
    line: int
    """Of the tree; −1 for a rule that reads no lines."""
    says_true: Bools
    """[k] whether the reason for it is true."""


Verdicts = Mapping[Atom, Bools]


def decide(view: View, tree: Tree, rule: Rule) -> Iterator[Taken]:
    """What a rule that is not the trees' takes."""
    match rule:
        case "per-sample test":
            yield from by_lines(view, tree, _per_sample(view, tree))
        case _:
            yield from _by_lowest(view, tree, rule == "lowest mean")


# ---------------------------------------------------------------- the trees


@dataclass(frozen=True)
class Judged:
    """Every comparison of a tree, at its level; `decide._Evidence` of k studies."""

    found: Mapping[Atom, ManyComparisons]
    levels: Mapping[Atom, Floats]
    """[k] of better and worse."""
    verdicts: Verdicts


def judge(view: View, tree: Tree) -> Judged:
    """Holm over the pairs some line asks `better` or `worse` about, each pair at its look; as decide.py."""
    asked = dict.fromkeys(atom for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared | Within))
    found: dict[Atom, ManyComparisons] = {atom: view.comparison(atom) for atom in asked}
    looks: dict[Atom, Ints] = {atom: view.look(*view.runs(atom)) for atom in asked}
    family: dict[frozenset[str], Atom] = {}
    for atom in asked:
        if isinstance(atom, Compared) and atom.verdict in ("better", "worse"):
            family.setdefault(pair(view, atom), atom)
    study = view.study
    table = _nominal(study, study.wrong_adoptions / max(len(study.trees), 1), max(len(family), 1))
    levels: dict[Atom, Floats] = {atom: table[looks[atom] - 1, 0] for atom in asked}
    if family:
        p = np.stack([found[atom].p for atom in family.values()], axis=1)
        at = np.stack([looks[atom] for atom in family.values()], axis=1)
        of_family = dict(zip(family, holm_levels_many(p, table, at).T, strict=True))
        levels |= {
            atom: of_family[pair(view, atom)] for atom in asked if isinstance(atom, Compared) and pair(view, atom) in family
        }
    verdicts: dict[Atom, Bools] = {
        atom: one.holds(
            atom.verdict if isinstance(atom, Compared) else "same", levels[atom], equivalence_levels(study)[looks[atom] - 1]
        )
        for atom, one in found.items()
    }
    return Judged(found, levels, verdicts)


def _nominal(study: Study, alpha: float, m: int) -> Floats:
    """[looks, m] the level of each look for the share alpha / (m − j) of Holm's step j."""
    looks = range(1, max(len(study.looks), 1) + 1)
    return np.array([[level_at(alpha / (m - j), look, study.looks, study.spending) for j in range(m)] for look in looks])


def equivalence_levels(study: Study) -> Floats:
    """[looks] one-sided, of `no worse` and `same`."""
    return _nominal(study, 2 * EQUIVALENCE_LEVEL, 1)[:, 0] / 2


def pair(view: View, atom: Compared) -> frozenset[str]:
    return frozenset((view.name(atom.a), view.other(atom), f"on {atom.metric}"))


# ---------------------------------------------------------------- settling


@dataclass(frozen=True)
class _Way:
    """Seeds that could make a condition hold; as a set of jobs in looks.py."""

    open: Bools
    """[k] whether it could, or does."""
    adds: Mapping[str, Ints]
    """Run -> [k] seeds to add."""
    hours: Floats
    """[k] infinite where it could not."""


def seeds_to_settle(view: View, tree: Tree, of_tree: Judged, taken: Ints) -> Mapping[str, Ints]:
    """Run -> [k] the cheapest seeds of the next look that could still decide a line above the one taken; see `looks.settling`.

    taken: [k] number of that line.
    """
    k = len(view.at)
    best = _Way(np.zeros(k, dtype=np.bool_), {}, np.full(k, np.inf))
    for number, line in enumerate(tree.lines):
        above = taken > number
        for way in _ways(view, tree, of_tree, line.condition) if above.any() else ():
            added = np.add.reduce(list(way.adds.values())) if way.adds else np.zeros(k, dtype=np.intp)
            usable = _Way(way.open & above & (added > 0), way.adds, np.where(way.open & above & (added > 0), way.hours, np.inf))
            best = _cheaper(best, usable)
    return {run: np.where(best.open, add, 0) for run, add in best.adds.items()}


def _cheaper(one: _Way, other: _Way) -> _Way:
    """The first where neither is cheaper."""
    takes = other.hours < one.hours
    zero = np.zeros(len(takes), dtype=np.intp)
    adds = {run: np.where(takes, other.adds.get(run, zero), one.adds.get(run, zero)) for run in {**one.adds, **other.adds}}
    return _Way(np.where(takes, other.open, one.open), adds, np.where(takes, other.hours, one.hours))


def _ways(view: View, tree: Tree, of_tree: Judged, condition: Condition) -> list[_Way]:
    k = len(view.at)
    match condition:
        case AnyOf(parts=parts):
            return [way for part in parts for way in _ways(view, tree, of_tree, part)]
        case AllOf(parts=parts):
            cheapest = []
            for part in parts:
                ways = _ways(view, tree, of_tree, part)
                best = ways[0]
                for way in ways[1:]:
                    best = _cheaper(best, way)
                cheapest.append(best)
            open_ = np.logical_and.reduce([way.open for way in cheapest])
            zero = np.zeros(k, dtype=np.intp)
            runs = dict.fromkeys(run for way in cheapest for run in way.adds)
            adds = {run: np.maximum.reduce([way.adds.get(run, zero) for way in cheapest]) for run in runs}
            return [_Way(open_, adds, np.where(open_, _added_hours(view, adds), np.inf))]
        case Compared() | Within():
            return [_way_of(view, of_tree, condition)]
        case Otherwise():
            return [_Way(np.ones(k, dtype=np.bool_), {}, np.zeros(k))]
        case _:
            holds = holds_many(view, condition, of_tree.verdicts, view.study.sweeps[tree.sweep].on)
            return [_Way(holds, {}, np.where(holds, 0.0, np.inf))]


def _way_of(view: View, of_tree: Judged, atom: Compared | Within) -> _Way:
    study, runs, one, holds = view.study, view.runs(atom), of_tree.found[atom], of_tree.verdicts[atom]
    most = [len(view.declared(run)) for run in runs]
    asked = {pair(view, each) for each in of_tree.found if isinstance(each, Compared) and each.verdict in ("better", "worse")}
    alpha = study.wrong_adoptions / max(len(study.trees), 1) / max(len(asked), 1)
    level = level_at(alpha, len(study.looks), study.looks, study.spending)
    verdict = atom.verdict if isinstance(atom, Compared) else "same"
    chance = chance_in_the_end_many(one, verdict, most, level, float(equivalence_levels(study)[-1]))
    adds = _next_seeds(view, runs)
    some = np.add.reduce(list(adds.values())) > 0
    open_ = holds | (~one.blocked & (chance >= WORTH_A_LOOK) & some)
    adds = {run: np.where(open_ & ~holds, add, 0) for run, add in adds.items()}
    return _Way(open_, adds, np.where(open_, _added_hours(view, adds), np.inf))


def _next_seeds(view: View, runs: tuple[str, ...]) -> dict[str, Ints]:
    """Run -> [k] seeds of the next look; see `looks.next_seeds`."""
    looks = np.array(view.study.looks, dtype=np.intp)
    nothing = len(looks) + 1
    following, sizes = {}, {}
    for run in dict.fromkeys(runs):
        have, most = view.seeds[run], len(view.declared(run))
        at = np.searchsorted(looks, have)
        following[run] = np.where(have < most, at + 2, nothing)
        sizes[run] = np.minimum(looks[np.minimum(at + 1, len(looks) - 1)], most) - have
    first = np.minimum.reduce(list(following.values()))
    return {run: np.where((following[run] == first) & (first < nothing), sizes[run], 0) for run in following}


def _added_hours(view: View, adds: Mapping[str, Ints]) -> Floats:
    """[k] GPU-hours of those that nobody has asked for yet."""
    new = {run: np.maximum(view.seeds[run] + add - view.trained[run], 0) for run, add in adds.items()}
    each = [view.study.gpus_per_run * view.stage.hours_of(run) * add for run, add in new.items()]
    return np.add.reduce(each) if each else np.zeros(len(view.at))


# ---------------------------------------------------------------- reading lines


def by_lines(view: View, tree: Tree, verdicts: Verdicts) -> Iterator[Taken]:
    """Read the lines from the top; the first that holds is taken."""
    open_ = np.ones(len(view.at), dtype=np.bool_)
    for number, line in enumerate(tree.lines):
        holds = open_ & holds_many(view, line.condition, verdicts, view.study.sweeps[tree.sweep].on)
        open_ &= ~holds
        if holds.any():
            for took, where in _take(view, tree, line, verdicts).items():
                yield Taken(holds & where, took, number, says_true_many(view, line.condition, took))


def holds_many(view: View, condition: Condition, verdicts: Verdicts, on: str) -> Bools:
    """[k] whether a condition holds; everything it asks for is known."""
    match condition:
        case Otherwise():
            return np.ones(len(view.at), dtype=np.bool_)
        case AllOf(parts=parts):
            return np.asarray(np.logical_and.reduce([holds_many(view, part, verdicts, on) for part in parts]))
        case AnyOf(parts=parts):
            return np.asarray(np.logical_or.reduce([holds_many(view, part, verdicts, on) for part in parts]))
        case Ended(run=run, outcome=outcome):
            return view.scores(on or view.drawn.metrics[0])[view.name(run)].outcome(outcome)
        case Took(decision=decision, run=run):
            took = view.decisions[decision].took
            return np.full(len(view.at), bool(took) and view.name(took) == view.name(run))
        case Compared() | Within():
            return verdicts[condition]


def says_true_many(view: View, condition: Condition, took: str = "") -> Bools:
    """[k] whether what a condition says is true. Of "any of A, B better …, take the best", what it says of the run taken."""
    match condition:
        case AllOf(parts=parts):
            return np.asarray(np.logical_and.reduce([says_true_many(view, part, took) for part in parts]))
        case AnyOf(parts=parts):
            of_taken = [part for part in parts if isinstance(part, Compared) and view.name(part.a) == took]
            return np.asarray(np.logical_or.reduce([says_true_many(view, part, took) for part in of_taken or parts]))
        case Otherwise():
            return np.ones(len(view.at), dtype=np.bool_)
        case _:
            return view.says_true(condition)


def _take(view: View, tree: Tree, line: Line, verdicts: Verdicts) -> dict[str, Bools]:
    """Run taken -> [k] where; see `decide._take`."""
    everywhere = np.ones(len(view.at), dtype=np.bool_)
    match line.take.kind:
        case "run":
            return {view.name(line.take.runs[0]): everywhere}
        case "its start":
            return {taken_by_start(view, tree): everywhere}
        case "stop":
            return {STOP: everywhere}
        case "best":
            return _best(view, tree, line, verdicts)


def _best(view: View, tree: Tree, line: Line, verdicts: Verdicts) -> dict[str, Bools]:
    """The run with the best mean, among those shown; see `decide._best`."""
    asked = [atom for atom in atoms(line.condition) if isinstance(atom, Compared)]
    metric = asked[0].metric if asked else view.study.sweeps[tree.sweep].on
    runs = [view.name(run) for run in line.take.runs]
    allowed = np.ones((len(view.at), len(runs)), dtype=np.bool_)
    if isinstance(line.condition, AnyOf) and asked:
        for place, run in enumerate(runs):
            of_run = [verdicts[atom] for atom in asked if view.name(atom.a) == run]
            allowed[:, place] = np.logical_or.reduce(of_run) if of_run else False
        allowed |= ~allowed.any(axis=1, keepdims=True)
    sign = 1 if view.study.metrics[metric].better == "higher" else -1
    means = np.stack(
        [np.where(one.trained, sign * one.mean, np.nan) for one in (view.scores(metric)[run] for run in runs)], axis=1
    )
    means = np.where(allowed & np.isfinite(means), means, -np.inf)
    nobody = np.isinf(means).all(axis=1)
    winner = means.argmax(axis=1)
    return {**{run: ~nobody & (winner == place) for place, run in enumerate(runs)}, STOP: nobody}


def _by_lowest(view: View, tree: Tree, mean: bool) -> Iterator[Taken]:
    """The run with the best single value, or the best mean, wins; whatever the lines say."""
    metric = view.study.metrics[metric_of(view.study, tree)]
    kept = keeps(view, tree)
    runs = [*([kept] if kept else []), *(run for run in takeable(view.study, tree) if run != kept)]
    sign = 1 if metric.better == "higher" else -1
    scores = [view.scores(metric.name)[run] for run in runs]
    values = [sign * one.mean[:, None] if mean else sign * one.values for one in scores]
    best = np.stack([_finite_max(of_run) for of_run in values], axis=1)
    winner = best.argmax(axis=1)
    truth = [sign * view.truth(run, metric.name) for run in runs]
    for place, run in enumerate(runs):
        line = _line_taking(view, tree, run)
        yield Taken(winner == place, run, line, np.asarray(truth[place] > truth[0] + NOTHING) | (run == kept))


def _finite_max(values: Floats) -> Floats:
    best: Floats = np.where(np.isfinite(values), values, -np.inf).max(axis=1)
    return best


def _line_taking(view: View, tree: Tree, run: str) -> int:
    """A line that takes this run; the last, `otherwise`, for what is kept."""
    if run == keeps(view, tree):
        return len(tree.lines) - 1
    taking = (number for number, line in enumerate(tree.lines) if run in [view.name(name) for name in line.take.runs])
    return next(taking)


def _per_sample(view: View, tree: Tree) -> Verdicts:
    """Verdicts of a paired test over the validation samples of one seed, each at 0.05: it knows no noise between seeds."""
    verdicts: dict[Atom, Bools] = {}
    for line in tree.lines:
        for atom in atoms(line.condition):
            if isinstance(atom, Compared | Within):
                verdict = atom.verdict if isinstance(atom, Compared) else "same"
                verdicts[atom] = _sampled(view, atom).holds(verdict, ONE_SAMPLE_LEVEL, EQUIVALENCE_LEVEL)
    return verdicts


def _sampled(view: View, atom: Compared | Within) -> ManyComparisons:
    metric = view.study.metrics[atom.metric]
    error = view.stage.sample_error * view.world.sd[metric.name]
    left = view.name(atom.run if isinstance(atom, Within) else atom.a)
    right = "" if isinstance(atom, Within) else view.other(atom)
    sides = [(run, view.scores(metric.name)[run]) for run in (left, right) if run]
    measured = [
        of_run.values[:, 0] + error / math.sqrt(2) * view.drawn.sample_noise[run, metric.name][view.at] for run, of_run in sides
    ]
    delta = measured[0] - (measured[1] if right else atom.of if isinstance(atom, Within) else 0.0)
    blocked = np.logical_or.reduce([~of_run.trained for _, of_run in sides]) | (bool(right) and view.refused(left, right))
    k = len(view.at)
    margin = atom.distance if isinstance(atom, Within) else metric.margin
    return judged(metric, delta, np.full(k, error), np.full(k, np.inf), blocked, margin)

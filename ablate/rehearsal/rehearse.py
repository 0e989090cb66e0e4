"""A whole study, thousands of times, on simulated results: what its rules would conclude, and how often wrongly. Pure numpy.

Every rehearsed study goes through the same plan, skips, starts from winners and lock as a real one (plan.py, lock.py are called),
and its trees are read with the comparisons of compare_many.py. Jobs end in the order of the blocks; a tree is decided when all
its jobs have ended, with the noise measured in the blocks so far, and stays so; learn lines are read at the end.

    adoption          a tree takes another run than its line `otherwise` would
    wrong adoption    and what the line taken says is false: `better` when the true difference is 0 or against it, `no worse` when
                      the true loss is a margin or more, `same` when the true difference is. Adopting a run that is as good
                      because the line asks for no more ("no worse, and cheaper") is not wrong. What was seen (diverged) is true.
    miss              a run that the tree may take is truly better than what it took, by a margin or more
    regret            true value of the best lock the trees could reach, less that of the lock reached; in margins, summed over
                      the trees, each on the metric its first comparison names. No lock has the baseline's value.

Beside the trees, three rules people use: the lowest first seed wins; the lowest of all seeds wins (the same GPU-hours as the
trees); and the trees read with a paired per-sample test of one seed, which takes two checkpoints' difference for two runs'.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ablate.conditions import ITS_START, AllOf, AnyOf, Atom, Compared, Condition, Ended, Otherwise, Took, Within, atoms
from ablate.decide import EQUIVALENCE_LEVEL, LEARN_LEVEL, STOP, refusal
from ablate.lock import BASELINE, NotYet, make_lock
from ablate.plan import Plan, is_made, make_plan, needs_of_tree
from ablate.rehearsal.compare_many import (
    Bools,
    Floats,
    ManyComparisons,
    ManyPools,
    ManyScores,
    compare_many,
    holm_levels_many,
    judged,
    noise_pools,
    within_many,
)
from ablate.rehearsal.oracle import (
    JUST_BELOW,
    NOTHING,
    best_reachable,
    good_effect,
    kept_row,
    metric_of,
    skipped_trees,
    takeable,
    true_gains,
)
from ablate.rehearsal.worlds import UNLEARNED_SD, Drawn, World, draw
from ablate.study import REFERENCE, Line, Study, Tree, likeness, most_alike, runs_of
from db.records import DecisionRecord

Rule = Literal["trees", "lowest first seed", "lowest of all seeds", "per-sample test"]
RULES: tuple[Rule, ...] = ("trees", "lowest first seed", "lowest of all seeds", "per-sample test")
ONE_SEED: frozenset[Rule] = frozenset({"lowest first seed", "per-sample test"})
"""Rules that train one seed of each run."""
SAMPLE_ERROR = 0.1
"""Standard error of a paired per-sample test, as a share of the sd between seeds; measured on the tiny study: 0.005 and 0.049."""
CHUNK = 2_000
"""Studies rehearsed at once."""
COVERED_LEVEL = 0.05

Counts = defaultdict[tuple[str, ...], float]
Decisions = Mapping[str, DecisionRecord]


# ---------------------------------------------------------------- what comes out


@dataclass(frozen=True)
class Shown:
    """One comparison over all studies that made it."""

    where: str
    """The tree, or "learn"."""
    a: str
    b: str
    metric: str
    made: int
    blocked: int
    """No verdict could hold: diverged, did not learn, too few seeds."""
    covered: float
    """Share of 95 % intervals that hold the true difference."""
    better: float
    worse: float
    no_worse: float
    same: float


@dataclass(frozen=True)
class Fired:
    """One line of a tree or one learn line over all studies."""

    where: str
    text: str
    take: str
    """What it takes, or says."""
    asked: int
    """Studies whose tree was decided (whose runs were all there)."""
    fired: int
    false: int
    """Of these, how often what the line says is false."""


@dataclass(frozen=True)
class Outcome:
    """What one rule did over all studies."""

    rule: Rule
    studies: int
    locks: Mapping[str, float]
    """Final config -> its chance, most frequent first."""
    wrong: float
    """Share of studies with a wrong adoption."""
    wrong_in: Mapping[str, float]
    """Tree -> share of studies."""
    missed: float
    missed_in: Mapping[str, float]
    regret: float
    """In margins, mean over studies."""
    gpu_hours: float
    """Mean over studies."""
    fired: tuple[Fired, ...]
    """Empty for the rules that read no lines."""
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Rehearsal:
    world: World
    studies: int
    rng_seed: int
    outcomes: Mapping[Rule, Outcome]


def rehearse(
    study: Study,
    world: World,
    *,
    studies: int,
    rng_seed: int = 0,
    rules: Sequence[Rule] = RULES,
    sample_error: float = SAMPLE_ERROR,
    hours_of: Callable[[str], float] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Rehearsal:
    """Play the study `studies` times in a world.

    sample_error: of the per-sample rule, as a share of the sd between seeds.
    hours_of:     run -> wall hours of one of its jobs; without it what the file declares.
    progress:     called with the number of studies played, now and then.

    The same arguments give the same numbers; every rule sees the same studies.
    """
    metrics = metrics_asked(study)
    books = {rule: Books() for rule in rules}
    stage = Stage(study, sample_error, hours_of or (lambda _: study.hours_per_run))
    streams = np.random.SeedSequence(rng_seed).spawn(math.ceil(studies / CHUNK))
    for number, stream in enumerate(streams):
        size = min(CHUNK, studies - number * CHUNK)
        drawn = draw(study, world, metrics, size, np.random.default_rng(stream))
        ceiling = best_reachable(study, drawn)
        for rule in rules:
            play(stage, world, drawn, rule, ceiling, books[rule])
        progress(size)
    return Rehearsal(world, studies, rng_seed, {rule: _outcome(study, rule, books[rule], studies) for rule in rules})


def metrics_asked(study: Study) -> tuple[str, ...]:
    """The metrics that some line compares, in the order of the file."""
    asked = {atom.metric for condition in _conditions(study) for atom in atoms(condition) if isinstance(atom, Compared | Within)}
    asked |= {sweep.on for sweep in study.sweeps.values() if sweep.on}
    return tuple(name for name in study.metrics if name in asked) or tuple(study.metrics)[:1]


# ---------------------------------------------------------------- the flow of a study


class Books:
    """Sums over the studies played so far."""

    def __init__(self) -> None:
        self.counts: Counts = defaultdict(float)


@dataclass(frozen=True)
class Stage:
    """What every rehearsed study shares. Plans and locks are kept: they depend only on what was decided."""

    study: Study
    sample_error: float
    hours_of: Callable[[str], float]
    plans: dict[tuple[tuple[str, ...], ...], Plan] = field(default_factory=dict)
    locks: dict[tuple[tuple[str, ...], ...], str] = field(default_factory=dict)

    def plan(self, decisions: Decisions) -> Plan:
        key = _key(decisions)
        if key not in self.plans:
            self.plans[key] = make_plan(self.study, {}, decisions)
        return self.plans[key]

    def lock(self, decisions: Decisions, plan: Plan, ended: frozenset[str]) -> str:
        """The final config in words: what it took beside the baseline."""
        key = _key(decisions)
        if key not in self.locks:
            jobs = tuple(replace(job, state="done") if job.run in ended else job for job in plan.jobs)
            self.locks[key] = _lock_text(self.study, decisions, replace(plan, jobs=jobs))
        return self.locks[key]


@dataclass(frozen=True)
class View:
    """Some of the studies drawn, all with the same decisions so far, as their rule sees them."""

    stage: Stage
    world: World
    drawn: Drawn
    at: NDArray[np.intp]
    """[k] which of the n studies."""
    decisions: Decisions
    plan: Plan
    ended: frozenset[str]
    first_only: bool
    """Whether one seed of each run was trained."""
    cache: dict[str, dict[str, ManyScores]] = field(default_factory=dict)
    pools: dict[tuple[str, object], ManyPools] = field(default_factory=dict)

    @property
    def study(self) -> Study:
        return self.stage.study

    def name(self, run: str) -> str:
        return self.study.aliases.get(run, run)

    def other(self, atom: Compared) -> str:
        """The run that `atom.a` is compared with."""
        return self.plan.its_start[self.name(atom.a)] if atom.b == ITS_START else self.name(atom.b)

    def scores(self, metric: str) -> Mapping[str, ManyScores]:
        """Run -> its scores, of every run that has ended."""
        if metric not in self.cache:
            self.cache[metric] = {run: self._scores(run, metric) for run in self.drawn.diverged if run in self.ended}
        return self.cache[metric]

    def _scores(self, run: str, metric: str) -> ManyScores:
        seeds = slice(0, 1) if self.first_only else slice(None)
        worse = -1.0 if self.study.metrics[metric].better == "higher" else 1.0
        diverged, unlearned = self.drawn.diverged[run][self.at, seeds], self.drawn.unlearned[run][self.at, seeds]
        values = self.truth(run, metric)[:, None] + self.drawn.noise[run, metric][self.at, seeds]
        values = values + worse * UNLEARNED_SD * self.world.sd[metric] * unlearned
        trained = self.study.seeds[run.removesuffix(REFERENCE)][seeds]
        return ManyScores(trained, np.where(diverged, np.nan, values), diverged, unlearned)

    def pool(self, metric: str, *runs: str) -> ManyPools:
        """The noise among runs like these, as `decide` finds it: at their budget, judged on their validation set."""
        scores = self.scores(metric)
        likes = {run: likeness(self.study, run) for run in scores}
        like = most_alike(self.study, map(self.name, runs))
        if (metric, like) not in self.pools:
            found = noise_pools(self.study.metrics[metric], {run: scores[run] for run in scores if likes[run] == like})
            never = np.zeros(len(self.at), dtype=np.bool_)
            self.pools[metric, like] = replace(found, own={run: found.own.get(run, never) for run in scores})
        return self.pools[metric, like]

    def truth(self, run: str, metric: str) -> Floats:
        """[k] true value of a run."""
        row = self.study.runs.get(run) or self.study.runs[run.removesuffix(REFERENCE)]
        value = self.own(self.study.baseline, metric)
        if row.start.kind == "named":
            value = value + self.own(row.start.names[0], metric)
        if row.start.kind == "winners":
            value = value + sum((self.gain(self.decisions[name], metric) for name in row.start.names), np.zeros(len(self.at)))
        return value + self.own(run, metric) if run != self.study.baseline else value

    def own(self, run: str, metric: str) -> Floats:
        """[k] true effect of a row (or a named start) against its start."""
        drawn = self.drawn.effects.get((run, metric))
        return drawn[self.at] if drawn is not None else np.zeros(len(self.at))

    def gain(self, decision: DecisionRecord, metric: str) -> Floats:
        """[k] what a decision adds to the baseline's value."""
        took = self.name(decision.took)
        return self.own(took, metric) if decision.sets and took != self.study.baseline else np.zeros(len(self.at))

    def refused(self, a: str, b: str) -> bool:
        return bool(refusal(self.study, self.plan.its_start, a, b))

    def comparison(self, atom: Compared | Within) -> ManyComparisons:
        metric = self.study.metrics[atom.metric]
        runs = self.scores(atom.metric)
        if isinstance(atom, Within):
            return within_many(metric, runs, self.name(atom.run), atom.distance, atom.of, self.pool(atom.metric, atom.run))
        a, b = self.name(atom.a), self.other(atom)
        return compare_many(metric, runs, a, b, self.pool(atom.metric, a, b), self.refused(a, b))

    def true_difference(self, atom: Compared | Within) -> Floats:
        """[k] a − b, as it truly is."""
        if isinstance(atom, Within):
            return self.truth(self.name(atom.run), atom.metric) - atom.of
        return self.truth(self.name(atom.a), atom.metric) - self.truth(self.other(atom), atom.metric)

    def says_true(self, atom: Atom) -> Bools:
        """[k] whether what a fact says is true; what was seen is."""
        if isinstance(atom, Within):
            inside: Bools = np.abs(self.true_difference(atom)) < atom.distance
            return inside
        if not isinstance(atom, Compared):
            return np.ones(len(self.at), dtype=np.bool_)
        metric = self.study.metrics[atom.metric]
        gain = self.true_difference(atom) * (1 if metric.better == "higher" else -1)
        margin = metric.margin * JUST_BELOW
        match atom.verdict:
            case "better":
                return np.asarray(gain > NOTHING)
            case "worse":
                return np.asarray(gain < -NOTHING)
            case "no worse":
                return np.asarray(gain > -margin)
            case "same":
                return np.asarray(np.abs(gain) < margin)


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


def play(stage: Stage, world: World, drawn: Drawn, rule: Rule, ceiling: Floats, books: Books) -> None:
    """All studies drawn, from the first block to the lock; groups with the same decisions go on together."""
    study = stage.study
    wrong, missed = np.zeros(drawn.n, dtype=np.bool_), np.zeros(drawn.n, dtype=np.bool_)
    value, hours = np.zeros(drawn.n), np.zeros(drawn.n)
    groups: list[tuple[NDArray[np.intp], dict[str, DecisionRecord], int]] = [(np.arange(drawn.n), {}, 0)]
    while groups:
        at, decisions, block = groups.pop()
        decisions = {**decisions, **skipped_trees(study, decisions)}
        view = _view(stage, world, drawn, at, decisions, block, rule)
        tree = next((tree for tree in study.trees.values() if _ready(view, tree)), None)
        if tree is None and block < len(study.blocks):
            groups.append((at, decisions, block + 1))
        elif tree is None:
            lock = stage.lock(decisions, view.plan, view.ended)
            books.counts["lock", lock] += len(at)
            hours[at] = _hours(view)
            value[at] = 0.0 if lock.startswith(NO_LOCK) else _value(view)
            _count_skipped(study, decisions, books, len(at))
            if rule == "trees":
                _read_learn_lines(view, books)
        else:
            for taken in _decide(view, tree, rule, books):
                if taken.where.any():
                    here = at[taken.where]
                    books.counts["took", tree.name, taken.took] += len(here)
                    wrong[here] |= _count_wrong(view, tree, taken, books)
                    missed[here] |= _count_missed(view, tree, taken, books)
                    groups.append((here, {**decisions, tree.name: _record(view, tree, taken)}, block))
    for name, total in (("wrong", wrong), ("missed", missed), ("regret", ceiling - value), ("hours", hours)):
        books.counts[name,] += float(total.sum())


def _view(stage: Stage, world: World, drawn: Drawn, at: NDArray[np.intp], decisions: Decisions, block: int, rule: Rule) -> View:
    """block: how many of the study's blocks have ended; one more than there are: every run that is in no block, too."""
    plan = stage.plan(decisions)
    names = {name.name for name in stage.study.blocks[: block + 1]} | ({""} if block >= len(stage.study.blocks) else set())
    ended = frozenset(job.run for job in plan.jobs if job.state == "ready" and job.block in names)
    return View(stage, world, drawn, at, decisions, plan, ended, rule in ONE_SEED)


def _ready(view: View, tree: Tree) -> bool:
    """Whether a tree is open and everything it asks for is known."""
    if tree.name in view.decisions or _skip_is_open(view, tree):
        return False
    asked = [atom.decision for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Took)]
    needs = needs_of_tree(view.study, tree, view.plan.its_start)
    return needs is not None and set(needs) <= view.ended and all(is_made(view.decisions.get(name)) for name in asked)


def _skip_is_open(view: View, tree: Tree) -> bool:
    skip = view.study.sweeps[tree.sweep].skip
    asked = [atom.decision for atom in atoms(skip.condition) if isinstance(atom, Took)] if skip else []
    return not all(is_made(view.decisions.get(name)) for name in asked)


def _record(view: View, tree: Tree, taken: Taken) -> DecisionRecord:
    """As decide.py would write it, as far as what follows depends on it."""
    study = view.study
    line = tree.lines[taken.line]
    by_start = line.take.kind == "its start" and taken.took == _taken_by_start(view, tree)
    sets = {} if by_start or taken.took == STOP else dict(study.run_named(taken.took).changes)
    return DecisionRecord(tree.name, tree.sweep, "decided", taken.took, line.text, sets, line.because, "rule", "")


def _taken_by_start(view: View, tree: Tree) -> str:
    """The run meant by `its start`."""
    rows = [atom.a for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared) and atom.b == ITS_START]
    return next((view.plan.its_start[view.name(row)] for row in rows if view.name(row) in view.plan.its_start), "")


# ---------------------------------------------------------------- rules


def _decide(view: View, tree: Tree, rule: Rule, books: Books) -> Iterator[Taken]:
    match rule:
        case "trees":
            yield from _by_the_trees(view, tree, books)
        case "per-sample test":
            yield from _by_lines(view, tree, _per_sample(view, tree))
        case _:
            yield from _by_lowest(view, tree)


Verdicts = Mapping[Atom, Bools]


def _by_the_trees(view: View, tree: Tree, books: Books) -> Iterator[Taken]:
    """The rule of decide.py: Holm over the pairs some line asks `better` or `worse` about."""
    study = view.study
    alpha = study.wrong_adoptions / max(len(study.trees), 1)
    asked = [atom for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared | Within)]
    found: dict[Atom, ManyComparisons] = {atom: view.comparison(atom) for atom in dict.fromkeys(asked)}
    family: dict[frozenset[str], Floats] = {}
    for atom, comparison in found.items():
        if isinstance(atom, Compared) and atom.verdict in ("better", "worse"):
            family.setdefault(_pair(view, atom), comparison.p)
    strictest = np.full(len(view.at), alpha / max(len(family), 1))
    levels: dict[frozenset[str], Floats] = {}
    if family:
        of_family = holm_levels_many(np.stack(list(family.values()), axis=1), alpha)
        levels = {pair: of_family[:, place] for place, pair in enumerate(family)}
    verdicts: dict[Atom, Bools] = {}
    for atom, comparison in found.items():
        level = levels.get(_pair(view, atom), strictest) if isinstance(atom, Compared) else strictest
        verdicts[atom] = comparison.holds(atom.verdict if isinstance(atom, Compared) else "same", level, EQUIVALENCE_LEVEL)
    _count_comparisons(view, tree.name, found, levels, strictest, books)
    for taken in _by_lines(view, tree, verdicts):
        books.counts["line", tree.name, str(taken.line)] += int(taken.where.sum())
        books.counts["false", tree.name, str(taken.line)] += int((taken.where & ~taken.says_true).sum())
        yield taken


def _by_lines(view: View, tree: Tree, verdicts: Verdicts) -> Iterator[Taken]:
    """Read the lines from the top; the first that holds is taken."""
    open_ = np.ones(len(view.at), dtype=np.bool_)
    for number, line in enumerate(tree.lines):
        holds = open_ & _holds(view, line.condition, verdicts, view.study.sweeps[tree.sweep].on)
        open_ &= ~holds
        if holds.any():
            for took, where in _take(view, tree, line, verdicts).items():
                yield Taken(holds & where, took, number, _says_true(view, line.condition, took))


def _holds(view: View, condition: Condition, verdicts: Verdicts, on: str) -> Bools:
    """[k] whether a condition holds; everything it asks for is known."""
    match condition:
        case Otherwise():
            return np.ones(len(view.at), dtype=np.bool_)
        case AllOf(parts=parts):
            return np.asarray(np.logical_and.reduce([_holds(view, part, verdicts, on) for part in parts]))
        case AnyOf(parts=parts):
            return np.asarray(np.logical_or.reduce([_holds(view, part, verdicts, on) for part in parts]))
        case Ended(run=run, outcome=outcome):
            return view.scores(on or next(iter(metrics_asked(view.study))))[view.name(run)].outcome(outcome)
        case Took(decision=decision, run=run):
            took = view.decisions[decision].took
            return np.full(len(view.at), bool(took) and view.name(took) == view.name(run))
        case Compared() | Within():
            return verdicts[condition]


def _says_true(view: View, condition: Condition, took: str = "") -> Bools:
    """[k] whether what a condition says is true. Of "any of A, B better …, take the best", what it says of the run taken."""
    match condition:
        case AllOf(parts=parts):
            return np.asarray(np.logical_and.reduce([_says_true(view, part, took) for part in parts]))
        case AnyOf(parts=parts):
            of_taken = [part for part in parts if isinstance(part, Compared) and view.name(part.a) == took]
            return np.asarray(np.logical_or.reduce([_says_true(view, part, took) for part in of_taken or parts]))
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
            return {_taken_by_start(view, tree): everywhere}
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


def _by_lowest(view: View, tree: Tree) -> Iterator[Taken]:
    """The run with the best single value wins, whatever the lines say."""
    metric = view.study.metrics[metric_of(view.study, tree)]
    kept = keeps(view, tree)
    runs = [*([kept] if kept else []), *(run for run in takeable(view.study, tree) if run != kept)]
    sign = 1 if metric.better == "higher" else -1
    best = np.stack([_finite_max(sign * view.scores(metric.name)[run].values) for run in runs], axis=1)
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
                verdicts[atom] = _sampled(view, atom).holds(verdict, COVERED_LEVEL, EQUIVALENCE_LEVEL)
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


def _pair(view: View, atom: Compared) -> frozenset[str]:
    return frozenset((view.name(atom.a), view.other(atom), f"on {atom.metric}"))


# ---------------------------------------------------------------- what is right, seen from outside


def keeps(view: View, tree: Tree) -> str:
    """What a tree takes by `otherwise`."""
    last = tree.lines[-1]
    return view.name(last.take.runs[0]) if last.take.runs else _taken_by_start(view, tree)


def _count_wrong(view: View, tree: Tree, taken: Taken, books: Books) -> Bools:
    """[where] adopted for a reason that is not true."""
    adopted = taken.took not in (keeps(view, tree), STOP)
    wrong = ~taken.says_true[taken.where] & adopted
    books.counts["wrong in", tree.name] += int(wrong.sum())
    return wrong


def _count_missed(view: View, tree: Tree, taken: Taken, books: Books) -> Bools:
    """[where] something better by a margin was there to take."""
    metric = view.study.metrics[metric_of(view.study, tree)]
    sign = 1 if metric.better == "higher" else -1
    gains = true_gains(view.study, view.drawn, tree)
    best = np.max(np.stack([gain[view.at] for gain in gains.values()]), axis=0)
    took = 0.0 if taken.took in (STOP, keeps(view, tree)) else sign * view.own(taken.took, metric.name) - _kept(view, tree)
    missed = np.asarray(best - took >= metric.margin * JUST_BELOW)[taken.where]
    books.counts["missed in", tree.name] += int(missed.sum())
    return missed


def _kept(view: View, tree: Tree) -> Floats:
    """[k] true effect of what the tree keeps, in its metric's good direction."""
    metric = view.study.metrics[metric_of(view.study, tree)]
    return good_effect(view.study, view.drawn, kept_row(view.study, tree), metric.name)[view.at]


def _value(view: View) -> Floats:
    """[k] value of the lock reached, in margins; as `best_reachable` counts."""
    value = np.zeros(len(view.at))
    for tree in view.study.trees.values():
        decision = view.decisions[tree.name]
        if decision.status == "decided" and decision.took not in (STOP, keeps(view, tree)):
            metric = metric_of(view.study, tree)
            gain = good_effect(view.study, view.drawn, view.name(decision.took), metric)[view.at] - _kept(view, tree)
            value = value + gain / view.study.metrics[metric].margin
    return value


# ---------------------------------------------------------------- counting


NO_LOCK = "no lock"


def _lock_text(study: Study, decisions: Decisions, plan: Plan) -> str:
    """ "F1 + D1": what the lock took beside the baseline; "no lock: …" with the reason."""
    lock = make_lock(study, decisions, {}, plan, "")
    if isinstance(lock, NotYet):
        return f"{NO_LOCK}: {lock.reasons[0]}" if study.lock_after else f"{NO_LOCK}: the file asks for none"
    changed = [source for key, source in lock.sources.items() if source != BASELINE and lock.settings[key] != study.settings[key]]
    took = [decisions[name].took for name in study.trees if name in changed]
    conflict = f" (conflict: {lock.conflicts[0]})" if lock.conflicts else ""
    return (" + ".join(dict.fromkeys(took)) or f"{study.baseline}, nothing changed") + conflict


def _key(decisions: Decisions) -> tuple[tuple[str, ...], ...]:
    return tuple((name, one.status, one.took, "sets" if one.sets else "") for name, one in sorted(decisions.items()))


def _hours(view: View) -> float:
    """GPU-hours of one study of this group."""
    seeds = {run: 1 if view.first_only else len(view.study.seeds[run.removesuffix(REFERENCE)]) for run in view.ended}
    return view.study.gpus_per_run * sum(count * view.stage.hours_of(run) for run, count in seeds.items())


def _count_skipped(study: Study, decisions: Decisions, books: Books, studies: int) -> None:
    for name in study.trees:
        books.counts["skipped", name] += studies * (name in decisions and decisions[name].status == "skipped")
        books.counts["decided", name] += studies * (name in decisions and decisions[name].status == "decided")


def _count_comparisons(
    view: View,
    where: str,
    found: Mapping[Atom, ManyComparisons],
    levels: Mapping[frozenset[str], Floats],
    strictest: Floats,
    books: Books,
) -> None:
    """One entry per pair of runs and metric, whatever verdicts are asked of it."""
    seen: set[tuple[str, ...]] = set()
    for atom, comparison in found.items():
        if not isinstance(atom, Compared) or (key := (where, atom.a, atom.b, atom.metric)) in seen:
            continue
        seen.add(key)
        level = levels.get(_pair(view, atom), strictest)
        measured = ~comparison.blocked
        books.counts[("made", *key)] += len(measured)
        books.counts[("blocked", *key)] += int(comparison.blocked.sum())
        covered = measured & comparison.covers(view.true_difference(atom), COVERED_LEVEL)
        books.counts[("covered", *key)] += int(covered.sum())
        for verdict in VERDICTS:
            books.counts[(verdict, *key)] += int(comparison.holds(verdict, level, EQUIVALENCE_LEVEL).sum())


VERDICTS: tuple[Literal["better", "worse", "no worse", "same"], ...] = ("better", "worse", "no worse", "same")


def _read_learn_lines(view: View, books: Books) -> None:
    """Learn lines see everything; those whose runs were skipped are not asked."""
    for sweep in view.study.sweeps.values():
        if sweep.name in view.plan.skipped_sweeps:
            continue
        found: dict[Atom, ManyComparisons] = {}
        for place, learn in enumerate(sweep.learn):
            needs = {view.name(run) for run in runs_of(learn.condition) - {ITS_START}}
            asked = [atom for atom in atoms(learn.condition) if isinstance(atom, Compared | Within)]
            starts = [view.name(atom.a) for atom in asked if isinstance(atom, Compared) and atom.b == ITS_START]
            decided = [atom.decision for atom in atoms(learn.condition) if isinstance(atom, Took)]
            if (
                not needs <= view.ended
                or not all(view.plan.its_start.get(run) in view.ended for run in starts)
                or not all(is_made(view.decisions.get(name)) for name in decided)
            ):
                continue
            found |= {atom: view.comparison(atom) for atom in asked if atom not in found}
            verdicts: dict[Atom, Bools] = {
                atom: found[atom].holds(atom.verdict if isinstance(atom, Compared) else "same", LEARN_LEVEL, EQUIVALENCE_LEVEL)
                for atom in asked
            }
            holds = _holds(view, learn.condition, verdicts, sweep.on)
            books.counts["asked", sweep.name, str(place)] += len(holds)
            books.counts["learned", sweep.name, str(place)] += int(holds.sum())
            books.counts["unlearned", sweep.name, str(place)] += int((holds & ~_says_true(view, learn.condition)).sum())
        _count_comparisons(view, f"{sweep.name} (learn)", found, {}, np.full(len(view.at), LEARN_LEVEL), books)


def _conditions(study: Study) -> Iterator[Condition]:
    for sweep in study.sweeps.values():
        yield from (line.condition for tree in sweep.trees for line in tree.lines)
        yield from (learn.condition for learn in sweep.learn)


def _outcome(study: Study, rule: Rule, books: Books, studies: int) -> Outcome:
    counts = books.counts
    locks = {key[1]: count / studies for key, count in counts.items() if key[0] == "lock"}
    return Outcome(
        rule,
        studies,
        dict(sorted(locks.items(), key=lambda item: -item[1])),
        counts["wrong",] / studies,
        {name: counts["wrong in", name] / studies for name in study.trees},
        counts["missed",] / studies,
        {name: counts["missed in", name] / studies for name in study.trees},
        counts["regret",] / studies,
        counts["hours",] / studies,
        tuple(_fired(study, counts)) if rule == "trees" else (),
        tuple(_shown(counts)),
    )


def _fired(study: Study, counts: Counts) -> Iterator[Fired]:
    for tree in study.trees.values():
        for place, line in enumerate(tree.lines):
            fired, false = (int(counts[what, tree.name, str(place)]) for what in ("line", "false"))
            take = " or ".join(line.take.runs) or line.take.kind
            yield Fired(tree.name, line.text, take, int(counts["decided", tree.name]), fired, false)
    for sweep in study.sweeps.values():
        for place, learn in enumerate(sweep.learn):
            asked, fired, false = (int(counts[what, sweep.name, str(place)]) for what in ("asked", "learned", "unlearned"))
            yield Fired(f"{sweep.name} (learn)", learn.text, learn.say, asked, fired, false)


def _shown(counts: Counts) -> Iterator[Shown]:
    for _, *key in [key for key in counts if key[0] == "made"]:
        made, blocked, covered, better, worse, no_worse, same = (
            int(counts[(what, *key)]) for what in ("made", "blocked", "covered", "better", "worse", "no worse", "same")
        )
        measured = max(made - blocked, 1)
        where, a, b, metric = key
        yield Shown(
            where, a, b, metric, made, blocked, covered / measured, better / made, worse / made, no_worse / made, same / made
        )

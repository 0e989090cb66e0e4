"""What the rules of evidence promise, held against rehearsed studies: one number, one limit, passed or not. Pure.

    wrong adoptions      nothing is true: studies with a wrong adoption, at most the file's `wrong_adoptions`
    coverage             nothing is true: the 95 % intervals of every comparison hold the truth in 93 to 97 % of studies
    false "no worse"     a row truly loses one margin: `no worse` holds in at most 5 %
    power                a row truly has the effect its comparison calls visible with the planned seeds: shown in at least 80 %
    regret               rows truly differ by a margin and more, up or down, or all down: no more than
                         that of "the lowest of all seeds wins" with as many GPU-hours

Where looks are declared all of this is measured with trees settled. Exactly one margin is where `better` shows half of what is
there, however many seeds there are: the estimate must pass the margin. There the naive rule regrets less.

A share is measured on finitely many studies: a limit counts as passed when it is missed by no more than two standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ablate.conditions import ITS_START, Compared, atoms
from ablate.deciding.compare import compare
from ablate.deciding.facts import LEARN_LEVEL
from ablate.deciding.looks import level_at
from ablate.deciding.noise import Pool
from ablate.deciding.scores import Scores
from ablate.rehearsal.equal_hours import at_equal_hours
from ablate.rehearsal.oracle import kept_row, metric_of, metrics_of, takeable
from ablate.rehearsal.rehearse import Outcome, Shown, rehearse
from ablate.rehearsal.worlds import World
from ablate.study import Metric, Study, Sweep, Tree, likeness, most_alike

FALSE_NO_WORSE = 0.05
POWER = 0.80
COVERAGE = (0.93, 0.97)
FAR = 20.0
"""Margins by which rows of other trees lose while one pair is looked at, so that every study compares it from the same start."""
REGRET_AT = (1.0, 1.5, 2.0, 3.0, 5.0)
"""Effects at which regret is measured, in margins."""
SLACK = 2.0
"""Standard errors."""


@dataclass(frozen=True)
class Target:
    name: str
    of: str
    """What it was measured on: a comparison, an effect."""
    measured: float
    low: float
    high: float
    """The measured value should lie in [low, high]."""
    error: float
    """Standard error of `measured`."""
    studies: int

    @property
    def passed(self) -> bool:
        return self.low - SLACK * self.error <= self.measured <= self.high + SLACK * self.error


@dataclass(frozen=True)
class _Pair:
    """A comparison some line asks for."""

    where: str
    """As `rehearse.Shown` has it."""
    tree: Tree | None
    sweep: Sweep
    atom: Compared


def measure_targets(
    study: Study,
    world: World,
    *,
    studies: int,
    rng_seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Target, ...]:
    """Hold every promise against `studies` rehearsed studies each.

    world:    its sd, noise, correlation and chances are used; its effects are replaced by those of each target.
    progress: called with the number of studies played; `played(study, studies)` says how many there will be.
    """
    rehearsals = Rehearsals(study, replace(world, effects={}, either={}, uncertain={}), studies, rng_seed, progress)
    return (*promises(rehearsals), *regrets(rehearsals))


@dataclass(frozen=True)
class Rehearsals:
    study: Study
    bare: World
    """Nothing is true."""
    studies: int
    rng_seed: int = 0
    progress: Callable[[int], None] = lambda _: None

    def trees(self, world: World) -> Outcome:
        study, seed = self.study, self.rng_seed
        found = rehearse(study, world, studies=self.studies, rng_seed=seed, rules=("trees",), progress=self.progress)
        return found.outcomes["trees"]


def promises(of: Rehearsals) -> Iterator[Target]:
    """What the rules of evidence say of themselves."""
    study, bare = of.study, of.bare
    null = of.trees(bare)
    yield _share("wrong adoptions", "nothing is true", null.wrong, 0.0, study.wrong_adoptions, of.studies)
    yield from _coverage(null)
    for pair in _pairs(study, ("no worse", "same")):
        shown = _find(of.trees(_world_of(study, bare, pair, -study.metrics[pair.atom.metric].margin)), pair)
        yield _share('false "no worse"', _words(pair), shown.no_worse, 0.0, FALSE_NO_WORSE, shown.made)
    for pair in _pairs(study, ("better", "worse")):
        effect = visible_effect(study, bare, pair.tree, pair.atom) * (1 if pair.atom.verdict == "better" else -1)
        shown = _find(of.trees(_world_of(study, bare, pair, effect)), pair)
        share = shown.better if pair.atom.verdict == "better" else shown.worse
        yield _share("power", f"{_words(pair)}, effect {abs(effect):.3g}", share, POWER, 1.0, shown.made)


def regrets(of: Rehearsals) -> Iterator[Target]:
    """The trees' regret beside that of the lowest seed with as many GPU-hours."""
    study, studies = of.study, of.studies
    for margins in REGRET_AT:
        up_or_down = replace(of.bare, either=rows_differ(study, margins))
        down = replace(of.bare, effects=rows_lose(study, margins))
        for what, world in ((f"rows ± {margins:g} margins", up_or_down), (f"rows lose {margins:g} margins", down)):
            ours = of.trees(world)
            naive = at_equal_hours(study, world, "lowest of all seeds", ours.gpu_hours, studies=studies, rng_seed=of.rng_seed)
            told = f"{what}; naive, {naive.seeds:.1f} seeds: {naive.regret:.2f}"
            yield Target("regret", told, ours.regret, 0.0, naive.regret, 0.0, studies)


def played(study: Study, studies: int) -> int:
    """How many studies `measure_targets` plays, those of the naive rule not counted."""
    pairs = sum(1 for _ in _pairs(study, ("no worse", "same"))) + sum(1 for _ in _pairs(study, ("better", "worse")))
    return studies * (1 + pairs + 2 * len(REGRET_AT))


def visible_effect(study: Study, world: World, tree: Tree | None, atom: Compared) -> float:
    """True effect that a comparison with the planned seeds shows with probability 0.8, at the strictest level it may get.

    tree: the comparison's; None for a learn line's, which is read at the first look. A tree is settled: its pair reaches the last
    look, while the other runs lend the noise of their first. What starts from winners is compared with the baseline's seeds.
    """
    metric, looks = study.metrics[atom.metric], study.looks
    first = {run: seeds[: looks[0]] if looks else seeds for run, seeds in study.seeds.items()}
    sides = [(run, seeds if tree else seeds[: looks[0]] if looks else seeds) for run, seeds in _sides(study, atom)]
    a, b = (Scores(run, metric.name, len(seeds), dict.fromkeys(seeds, 0.0)) for run, seeds in sides)
    share = LEARN_LEVEL if tree is None else study.wrong_adoptions / len(study.trees) / _family(study, tree)
    level = level_at(share, len(looks) if tree else 1, looks, study.spending)
    more = {study.aliases.get(run, run): len(seeds) - len(first[study.aliases.get(run, run)]) for run, seeds in sides}
    known = _planned_df(replace(study, seeds=first), tree)
    df = known + sum(more.values()) if known else 0
    pool = Pool(metric.name, world.sd[metric.name], df, "measured") if df else _declared(metric, world)
    return compare(metric, a, b, pool, level).visible


def rows_differ(study: Study, margins: float) -> dict[tuple[str, str], float]:
    """Every row that a tree may adopt is this many margins off what it would replace, on every metric the tree compares."""
    out = {}
    for tree in study.trees.values():
        rows = [run for run in takeable(study, tree) if run not in (kept_row(study, tree), study.baseline)]
        metrics = [study.metrics[name] for name in metrics_of(study, tree)]
        out.update({(run, metric.name): margins * metric.margin for run in rows for metric in metrics})
    return out


def rows_lose(study: Study, margins: float) -> dict[tuple[str, str], float]:
    """Every row that a tree may adopt is worse than what it would replace, by this many margins."""
    return {key: size if study.metrics[key[1]].better == "lower" else -size for key, size in rows_differ(study, margins).items()}


# ---------------------------------------------------------------- pairs and their worlds


def _pairs(study: Study, verdicts: tuple[str, ...]) -> Iterator[_Pair]:
    """Every comparison that some line asks one of these verdicts of, once per tree and per sweep's learn lines."""
    seen = set()
    for sweep in study.sweeps.values():
        trees = [(tree.name, tree, line.condition) for tree in sweep.trees for line in tree.lines]
        learns = [(f"{sweep.name} (learn)", None, learn.condition) for learn in sweep.learn]
        for where, tree, condition in (*trees, *learns):
            for atom in atoms(condition):
                if isinstance(atom, Compared) and atom.verdict in verdicts and (where, atom) not in seen:
                    seen.add((where, atom))
                    yield _Pair(where, tree, sweep, atom)


def _world_of(study: Study, bare: World, pair: _Pair, gain: float) -> World:
    """The pair's first run is truly better by `gain` (worse, if negative); rows of other trees lose by far, the rest is equal."""
    metric = study.metrics[pair.atom.metric]
    sign = 1 if metric.better == "higher" else -1
    effects: dict[tuple[str, str], float] = {}
    for tree in study.trees.values():
        if tree is not pair.tree:
            of_tree = study.metrics[metric_of(study, tree)]
            far = -FAR * of_tree.margin if of_tree.better == "higher" else FAR * of_tree.margin
            rows = (run for run in takeable(study, tree) if run not in (kept_row(study, tree), study.baseline))
            effects.update({(run, of_tree.name): far for run in rows})
    a, b = study.aliases.get(pair.atom.a, pair.atom.a), study.aliases.get(pair.atom.b, pair.atom.b)
    for run in (a, b):
        effects.pop((run, metric.name), None)
    effects[(a, metric.name) if a != study.baseline else (b, metric.name)] = sign * (gain if a != study.baseline else -gain)
    return replace(bare, effects=effects)


def _find(outcome: Outcome, pair: _Pair) -> Shown:
    """What was shown of the pair, whichever of its runs is named first; nothing made: the pair was never compared."""
    atom = pair.atom
    for shown in outcome.shown:
        if (shown.where, shown.a, shown.b, shown.metric) == (pair.where, atom.a, atom.b, atom.metric):
            return shown
    return Shown(pair.where, atom.a, atom.b, atom.metric, 0, 0, math.nan, math.nan, math.nan, math.nan, math.nan)


def _words(pair: _Pair) -> str:
    return f"{pair.atom.a} {pair.atom.verdict} than {pair.atom.b} on {pair.atom.metric} ({pair.where.removesuffix(' (learn)')})"


def _sides(study: Study, atom: Compared) -> list[tuple[str, tuple[int, ...]]]:
    b = study.baseline if atom.b == ITS_START else atom.b
    return [(run, study.seeds[study.aliases.get(run, run)]) for run in (atom.a, b)]


def _family(study: Study, tree: Tree) -> int:
    """Pairs and metrics that share a tree's error budget."""
    pairs = {
        frozenset((study.aliases.get(atom.a, atom.a), study.aliases.get(atom.b, atom.b), f"on {atom.metric}"))
        for line in tree.lines
        for atom in atoms(line.condition)
        if isinstance(atom, Compared) and atom.verdict in ("better", "worse")
    }
    return max(len(pairs), 1)


def _planned_df(study: Study, tree: Tree | None) -> int:
    """Degrees of freedom of the noise when a tree is decided: of the blocks up to its last; all of them for learn lines."""
    names = [block.name for block in study.blocks]
    last, like = len(names), likeness(study, study.baseline)
    if tree is not None:
        runs = {
            run for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared) for run in (atom.a, atom.b)
        }
        like = most_alike(study, (study.aliases.get(run, run) for run in runs if run != ITS_START))
        blocks = [study.block_of(study.aliases.get(run, run)) for run in runs if run != ITS_START]
        last = max((names.index(block) if block in names else len(names) for block in blocks), default=last)
    known = {"", *names} if last >= len(names) else set(names[: last + 1])
    return sum(len(study.seeds[run]) - 1 for run in study.runs if study.block_of(run) in known and likeness(study, run) == like)


def _declared(metric: Metric, world: World) -> Pool:
    noise = metric.noise if metric.noise is not None else world.sd[metric.name]
    return Pool(metric.name, noise, math.inf, "declared")


def _coverage(outcome: Outcome) -> Iterator[Target]:
    seen = set()
    for shown in outcome.shown:
        pair = (shown.where, frozenset((shown.a, shown.b)), shown.metric)
        if shown.made > shown.blocked and pair not in seen:
            seen.add(pair)
            of = f"{shown.a} − {shown.b} on {shown.metric} ({shown.where.removesuffix(' (learn)')})"
            yield _share("coverage", of, shown.covered, *COVERAGE, shown.made - shown.blocked)


def _share(name: str, of: str, measured: float, low: float, high: float, n: int) -> Target:
    near = (measured * n + 2) / (n + 4)  # Agresti and Coull 1998: 40 of 40 is not a share known for certain
    error = math.sqrt(near * (1 - near) / (n + 4)) if n and math.isfinite(measured) else math.nan
    return Target(name, of, measured, low, high, error, n)

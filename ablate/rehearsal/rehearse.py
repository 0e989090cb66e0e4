"""A whole study, thousands of times, on simulated results: what its rules would conclude, and how often wrongly. Pure numpy.

Every rehearsed study goes through the same plan, skips, starts from winners and lock as a real one (plan.py, lock.py are called),
and its trees are read with the comparisons of compare_many.py. Jobs end in the order of the blocks; a tree is decided when all
its jobs have ended, with the noise measured in the blocks so far, and stays so; learn lines are read at the end. Where looks are
declared, a tree is settled before anything builds on it: the cheapest seeds that could still decide, until none can (rules.py).

    adoption          a tree takes another run than its line `otherwise` would
    wrong adoption    and what the line taken says is false: `better` when the true difference is 0 or against it, `no worse` when
                      the true loss is a margin or more, `same` when the true difference is. Adopting a run that is as good
                      because the line asks for no more ("no worse, and cheaper") is not wrong. What was seen (diverged) is true.
    miss              a run that the tree may take is truly better than what it took, by a margin or more
    regret            true value of the best lock the trees could reach, less that of the lock reached; in margins, summed over
                      the trees and, in each, over the metrics that its lines compare. No lock has the baseline's value.
    net regret        the same, when a change costs what the file says: the margin is "the smallest difference one would act on",
                      so a run adopted is worth its gain less a margin; one that a line takes for being no worse, which says that
                      it is simpler, is worth its gain and a margin. Adopting what is worth nothing is then a loss.

Beside the trees, what people do: the lowest first seed wins; the lowest of all seeds wins; the lowest mean wins; and the trees
read with a paired per-sample test of one seed, which takes two checkpoints' difference for two runs'.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ablate.conditions import ITS_START, Atom, Compared, Condition, Took, Within, atoms
from ablate.deciding.facts import LEARN_LEVEL
from ablate.deciding.looks import level_at
from ablate.planning.needs import needs_of_tree
from ablate.planning.outcomes import STOP
from ablate.planning.starts import is_made
from ablate.rehearsal.compare_many import Bools, Floats, ManyComparisons
from ablate.rehearsal.oracle import (
    JUST_BELOW,
    best_reachable,
    price_of,
    skipped_trees,
    true_gains,
    worth,
)
from ablate.rehearsal.rules import (
    ONE_SEED,
    RULES,
    Judged,
    Rule,
    Taken,
    by_lines,
    decide,
    equivalence_levels,
    holds_many,
    judge,
    says_true_many,
    seeds_to_settle,
)
from ablate.rehearsal.view import NO_LOCK, Decisions, Ints, Stage, View, keeps, taken_by_start
from ablate.rehearsal.worlds import Drawn, World, draw, seeds_of
from ablate.study import Study, Tree, conditions_of, runs_of
from db.records import DecisionRecord

SAMPLE_ERROR = 0.1
"""Standard error of a paired per-sample test, as a share of the sd between seeds; measured on the tiny study: 0.005 and 0.049."""
CHUNK = 2_000
"""Studies rehearsed at once."""
COVERED_LEVEL = 0.05

Counts = defaultdict[tuple[str, ...], float]


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
    net_regret: float
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
    settle: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> Rehearsal:
    """Play the study `studies` times in a world.

    sample_error: of the per-sample rule, as a share of the sd between seeds.
    hours_of:     run -> wall hours of one of its jobs; without it what the file declares.
    settle:       trees are settled at later looks, where the study declares any; else only the first look is taken.
    progress:     called with the number of studies played, now and then.

    The same arguments give the same numbers; every rule sees the same studies.
    """
    metrics = metrics_asked(study)
    books = {rule: Books() for rule in rules}
    stage = Stage(study, sample_error, hours_of or (lambda _: study.hours_per_run), settle)
    streams = np.random.SeedSequence(rng_seed).spawn(math.ceil(studies / CHUNK))
    for number, stream in enumerate(streams):
        size = min(CHUNK, studies - number * CHUNK)
        drawn = draw(study, world, metrics, size, np.random.default_rng(stream))
        for rule in rules:
            play(stage, world, drawn, rule, books[rule])
        progress(size)
    return Rehearsal(world, studies, rng_seed, {rule: _outcome(study, rule, books[rule], studies) for rule in rules})


def metrics_asked(study: Study) -> tuple[str, ...]:
    """The metrics that some line compares, in the order of the file."""
    asked = {
        atom.metric
        for sweep in study.sweeps.values()
        for condition in conditions_of(sweep)
        for atom in atoms(condition)
        if isinstance(atom, Compared | Within)
    }
    asked |= {sweep.on for sweep in study.sweeps.values() if sweep.on}
    return tuple(name for name in study.metrics if name in asked) or tuple(study.metrics)[:1]


# ---------------------------------------------------------------- the flow of a study


class Books:
    """Sums over the studies played so far."""

    def __init__(self) -> None:
        self.counts: Counts = defaultdict(float)


Group = tuple[Ints, dict[str, DecisionRecord], int]
"""Which studies, what they decided so far, and how many blocks have ended."""


def play(stage: Stage, world: World, drawn: Drawn, rule: Rule, books: Books) -> None:
    """All studies drawn, from the first block to the lock; groups with the same decisions go on together."""
    study = stage.study
    sums = {name: np.zeros(drawn.n) for name in ("wrong", "missed", "regret", "net regret", "hours")}
    ceilings = {"regret": best_reachable(study, drawn, False), "net regret": best_reachable(study, drawn, True)}
    asked = Asked(study, drawn.n, rule)
    groups: list[Group] = [(np.arange(drawn.n), {}, 0)]
    while groups:
        at, decisions, block = groups.pop()
        decisions = {**decisions, **skipped_trees(study, decisions)}
        view = _view(stage, world, drawn, at, decisions, block, asked)
        tree = next((tree for tree in study.trees.values() if _ready(view, tree)), None)
        if tree is not None:
            view = replace(view, seeds=asked.seeds(at, tree.sweep), cache={}, pools={})
            groups += _decided(view, tree, rule, asked, block, sums, books)
        elif block < len(study.blocks):
            groups.append((at, decisions, block + 1))
        else:
            lock = stage.lock(decisions, view.plan, view.ended)
            books.counts["lock", lock] += len(at)
            sums["hours"][at] = _hours(view)
            for name, ceiling in ceilings.items():
                sums[name][at] = ceiling[at] - (0.0 if lock.startswith(NO_LOCK) else _value(view, name == "net regret"))
            _count_skipped(study, decisions, books, len(at))
            if rule == "trees":
                _read_learn_lines(view, asked, books)
    for name, total in sums.items():
        books.counts[name,] += float(total.sum())


class Asked:
    """How many seeds of each run were asked for, by study: for which sweep, and by anyone."""

    def __init__(self, study: Study, n: int, rule: Rule) -> None:
        most = 1 if rule in ONE_SEED else study.looks[0] if rule == "trees" and study.looks else math.inf
        self.sweeps = {
            sweep: {run: np.full(n, min(len(seeds), most), dtype=np.intp) for run, seeds in seeds_of(study).items()}
            for sweep in (*study.sweeps, "")
        }

    def seeds(self, at: Ints, sweep: str = "") -> dict[str, Ints]:
        """Run -> [k]; "" for what anyone asked for."""
        return {run: count[at] for run, count in self.sweeps[sweep].items()}

    def add(self, at: Ints, sweep: str, adds: Mapping[str, Ints]) -> None:
        for run, add in adds.items():
            self.sweeps[sweep][run][at] += add
            self.sweeps[""][run][at] = np.maximum(self.sweeps[""][run][at], self.sweeps[sweep][run][at])


def _decided(
    view: View, tree: Tree, rule: Rule, asked: Asked, block: int, sums: Mapping[str, Floats], books: Books
) -> Iterator[Group]:
    """Decide a tree; studies that ask for more seeds first come back as they are."""
    done = np.ones(len(view.at), dtype=np.bool_)
    if rule == "trees":
        judged = judge(view, tree)
        found = list(by_lines(view, tree, judged.verdicts))
        if view.stage.settle and len(view.study.looks) > 1:
            line = np.select([taken.where for taken in found], [taken.line for taken in found], 0)
            adds = seeds_to_settle(view, tree, judged, line)
            done = np.add.reduce([*adds.values(), np.zeros(len(view.at), dtype=np.intp)]) == 0
            asked.add(view.at, tree.sweep, adds)
            if not done.all():
                yield view.at[~done], dict(view.decisions), block
        _count_lines(view, tree, judged, found, done, books)
    else:
        found = list(decide(view, tree, rule))
    for taken in (replace(each, where=each.where & done) for each in found):
        if taken.where.any():
            here = view.at[taken.where]
            books.counts["took", tree.name, taken.took] += len(here)
            sums["wrong"][here] = np.maximum(sums["wrong"][here], _count_wrong(view, tree, taken, books))
            sums["missed"][here] = np.maximum(sums["missed"][here], _count_missed(view, tree, taken, books))
            yield here, {**view.decisions, tree.name: _record(view, tree, taken)}, block


def _view(stage: Stage, world: World, drawn: Drawn, at: Ints, decisions: Decisions, block: int, asked: Asked) -> View:
    """block: how many of the study's blocks have ended; one more than there are: every run that is in no block, too."""
    plan = stage.plan(decisions)
    names = {name.name for name in stage.study.blocks[: block + 1]} | ({""} if block >= len(stage.study.blocks) else set())
    ended = frozenset(job.run for job in plan.jobs if job.state == "ready" and job.block in names)
    trained = asked.seeds(at)
    return View(stage, world, drawn, at, decisions, plan, ended, trained, trained)


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
    by_start = line.take.kind == "its start" and taken.took == taken_by_start(view, tree)
    sets = {} if by_start or taken.took == STOP else dict(study.run_named(taken.took).changes)
    return DecisionRecord(tree.name, tree.sweep, "decided", taken.took, line.text, sets, line.because, "rule", "")


# ---------------------------------------------------------------- what is right, seen from outside


def _count_wrong(view: View, tree: Tree, taken: Taken, books: Books) -> Bools:
    """[where] adopted for a reason that is not true."""
    adopted = taken.took not in (keeps(view, tree), STOP)
    wrong = ~taken.says_true[taken.where] & adopted
    books.counts["wrong in", tree.name] += int(wrong.sum())
    return wrong


def _count_missed(view: View, tree: Tree, taken: Taken, books: Books) -> Bools:
    """[where] something better by a margin was there to take."""
    gains = true_gains(view.study, view.drawn, tree)
    best = np.max(np.stack([gain[view.at] for gain in gains.values()]), axis=0)
    kept = taken.took in (STOP, keeps(view, tree))
    took = np.zeros(len(view.at)) if kept else worth(view.study, view.drawn, tree, taken.took)[view.at]
    missed = np.asarray(best - took >= JUST_BELOW)[taken.where]
    books.counts["missed in", tree.name] += int(missed.sum())
    return missed


def _value(view: View, net: bool) -> Floats:
    """[k] value of the lock reached, in margins; as `best_reachable` counts."""
    value = np.zeros(len(view.at))
    for tree in view.study.trees.values():
        decision = view.decisions[tree.name]
        if decision.status == "decided" and decision.took not in (STOP, keeps(view, tree)):
            took = view.name(decision.took)
            gain = worth(view.study, view.drawn, tree, took)[view.at]
            value = value + gain - (price_of(view.study, tree, took) if net else 0.0)
    return value


# ---------------------------------------------------------------- counting


def _hours(view: View) -> Floats:
    """[k] GPU-hours."""
    hours = np.zeros(len(view.at))
    for run in sorted(view.ended):
        hours = hours + view.study.gpus_per_run * view.stage.hours_of(run) * view.trained[run]
    return hours


def _count_lines(view: View, tree: Tree, judged: Judged, found: Sequence[Taken], done: Bools, books: Books) -> None:
    for taken in found:
        books.counts["line", tree.name, str(taken.line)] += int((taken.where & done).sum())
        books.counts["false", tree.name, str(taken.line)] += int((taken.where & done & ~taken.says_true).sum())
    levels: dict[Atom, tuple[Floats, Ints]] = {
        atom: (judged.levels[atom], view.look(*view.runs(atom))) for atom in judged.found if isinstance(atom, Compared)
    }
    _count_comparisons(view, tree.name, judged.found, levels, done, books)


def _count_skipped(study: Study, decisions: Decisions, books: Books, studies: int) -> None:
    for name in study.trees:
        books.counts["skipped", name] += studies * (name in decisions and decisions[name].status == "skipped")
        books.counts["decided", name] += studies * (name in decisions and decisions[name].status == "decided")


def _count_comparisons(
    view: View,
    where: str,
    found: Mapping[Atom, ManyComparisons],
    levels: Mapping[Atom, tuple[Floats, Ints]],
    counted: Bools,
    books: Books,
) -> None:
    """One entry per pair of runs and metric, whatever verdicts are asked of it.

    levels: [k] of better and worse, and the look that is judged. counted: [k] the others are not final.
    """
    seen: set[tuple[str, ...]] = set()
    equivalence = equivalence_levels(view.study)
    for atom, comparison in found.items():
        if not isinstance(atom, Compared) or (key := (where, atom.a, atom.b, atom.metric)) in seen:
            continue
        seen.add(key)
        level, look = levels[atom]
        books.counts[("made", *key)] += int(counted.sum())
        books.counts[("blocked", *key)] += int((counted & comparison.blocked).sum())
        covered = counted & ~comparison.blocked & comparison.covers(view.true_difference(atom), COVERED_LEVEL)
        books.counts[("covered", *key)] += int(covered.sum())
        for verdict in VERDICTS:
            books.counts[(verdict, *key)] += int((counted & comparison.holds(verdict, level, equivalence[look - 1])).sum())


VERDICTS: tuple[Literal["better", "worse", "no worse", "same"], ...] = ("better", "worse", "no worse", "same")


def _read_learn_lines(every: View, asked: Asked, books: Books) -> None:
    """Learn lines see every run; those whose runs were skipped are not asked."""
    study = every.study
    learn_levels = np.array(
        [level_at(LEARN_LEVEL, look, study.looks, study.spending) for look in range(1, max(len(study.looks), 1) + 1)]
    )
    for sweep in study.sweeps.values():
        if sweep.name in every.plan.skipped_sweeps:
            continue
        view = replace(every, seeds=asked.seeds(every.at, sweep.name), cache={}, pools={})
        found: dict[Atom, ManyComparisons] = {}
        levels: dict[Atom, tuple[Floats, Ints]] = {}
        for place, learn in enumerate(sweep.learn):
            if not _is_asked(view, learn.condition):
                continue
            verdicts: dict[Atom, Bools] = {}
            for atom in atoms(learn.condition):
                if isinstance(atom, Compared | Within):
                    found[atom] = found.get(atom) or view.comparison(atom)
                    look = view.look(*view.runs(atom))
                    levels[atom] = learn_levels[look - 1], look
                    verdict = atom.verdict if isinstance(atom, Compared) else "same"
                    verdicts[atom] = found[atom].holds(verdict, learn_levels[look - 1], equivalence_levels(study)[look - 1])
            holds = holds_many(view, learn.condition, verdicts, sweep.on)
            books.counts["asked", sweep.name, str(place)] += len(holds)
            books.counts["learned", sweep.name, str(place)] += int(holds.sum())
            books.counts["unlearned", sweep.name, str(place)] += int((holds & ~says_true_many(view, learn.condition)).sum())
        _count_comparisons(view, f"{sweep.name} (learn)", found, levels, np.ones(len(view.at), dtype=np.bool_), books)


def _is_asked(view: View, condition: Condition) -> bool:
    """Whether everything a learn line needs has ended and is decided."""
    needs = {view.name(run) for run in runs_of(condition) - {ITS_START}}
    starts = [view.name(atom.a) for atom in atoms(condition) if isinstance(atom, Compared) and atom.b == ITS_START]
    decided = [atom.decision for atom in atoms(condition) if isinstance(atom, Took)]
    return (
        needs <= view.ended
        and all(view.plan.its_start.get(run) in view.ended for run in starts)
        and all(is_made(view.decisions.get(name)) for name in decided)
    )


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
        counts["net regret",] / studies,
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

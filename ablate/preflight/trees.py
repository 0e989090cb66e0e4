"""What a tree can answer at all: lines that never fire, lines in the shadow of others, outcomes left to `otherwise`. Pure.

Exhaustive over what comparisons may show, not over numbers. Which verdicts of one comparison hold together follows from their
definitions in compare.py. With g the gain of a over b (the difference in the metric's good direction), δ > 0 the margin, h the
half width of the 90 % interval and w that of the interval at the level of `better`:

    a better b     g > w  and  g >= δ                 a no worse b   g − h > −δ
    a worse b      b better a                         a same b       a no worse b  and  b no worse a

so that only these outcomes are possible, each for some h (up to a level of 0.10, where w >= h):

    better        a better, a no worse      g >= δ              worse         the mirror of better
    no worse      a no worse                g > 0               no better     b no worse; the mirror of no worse
    same          a no worse, b no worse    |g| < δ             not shown     nothing; any g, and whatever is blocked

`better` without `no worse` joins them where a tree's level exceeds 0.10. Gains are differences of means, so they add up: A cannot
be better than B, B than C and C than A. (Runs paired over different seeds, because one diverged, may break this.) A run that
diverged has no verdicts, one that did not learn has none on the metric that says so; a decision takes one run; an interval inside
a window is inside every wider one.

The search branches on the first fact that decides the first open line (Kleene's values prune the rest), so it visits what matters
for the tree and not every combination.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product
from typing import Literal

from ablate.conditions import (
    ITS_START,
    AllOf,
    Answer,
    AnyOf,
    Atom,
    Compared,
    Condition,
    Ended,
    Took,
    Within,
    atoms,
    evaluate,
    listed,
    unparse,
)
from ablate.study import Metric, Study, Sweep, Tree

Verdict = Literal["fires", "never", "shadowed"]

EQUIVALENCE_LEVEL = 0.05
"""Of `no worse` and `same`; facts.py uses the same, but needs scipy."""
LEARN_LEVEL = 0.05
MOST_CASES = 24
"""Outcomes of one tree that are told; the rest is told by its number."""
MOST_COUNTED = 200


@dataclass(frozen=True)
class Case:
    """Something that may happen."""

    outcome: str
    """In the words of the conditions."""
    example: str
    """With numbers that make it so; "" where no numbers are needed."""


@dataclass(frozen=True)
class LineReport:
    text: str
    take: str
    verdict: Verdict
    because: str
    """never: what cannot hold together. shadowed: the lines above that are taken whenever it holds."""
    example: Case | None
    """fires: an outcome in which it is taken. shadowed: one in which it holds, and who takes it instead."""


@dataclass(frozen=True)
class TreeReport:
    sweep: str
    tree: str
    """"" for a sweep's learn lines, each of which stands alone."""
    lines: tuple[LineReport, ...]
    only_otherwise: tuple[Case, ...]
    """Outcomes that no other line covers; together with those not told, all of them, and no two overlap."""
    not_told: int
    """How many more there are; MOST_COUNTED means: or more."""
    notes: tuple[str, ...]


def analyse(study: Study, sweep: Sweep, tree: Tree, its_start: Mapping[str, str]) -> TreeReport:
    """A tree's lines over every outcome that is possible.

    its_start: row -> the run trained as its start, where that is known whatever is decided; other starts are runs of their own.
    """
    world = _World(study.metrics, study.aliases, its_start, sweep.on, study.wrong_adoptions / max(len(study.trees), 1))
    gate = [(sweep.skip.condition, False)] if sweep.skip and _asks_took(tree) else []
    *lines, _ = tree.lines
    conditions = [line.condition for line in lines]
    reports = [
        _line_report(
            world, gate, conditions[: at + 1], [line.text for line in tree.lines[:at]], tree.lines[at].text, _take(tree, at)
        )
        for at in range(len(lines))
    ]
    left = _Search(world, [*gate, *((condition, False) for condition in conditions)])
    found = list(islice(left.outcomes(), MOST_COUNTED))
    reports.append(_otherwise_report(left, found, conditions, tree))
    cases = tuple(left.case(one) for one in found[:MOST_CASES])
    return TreeReport(
        sweep.name, tree.name, tuple(reports), cases, len(found) - len(cases), tuple(_broken_takes(world, gate, tree, its_start))
    )


def analyse_learn(study: Study, sweep: Sweep, its_start: Mapping[str, str]) -> TreeReport:
    """A sweep's learn lines: each alone, for none hides another."""
    world = _World(study.metrics, study.aliases, its_start, sweep.on, LEARN_LEVEL)
    reports = tuple(_line_report(world, [], [learn.condition], [], learn.text, learn.say) for learn in sweep.learn)
    return TreeReport(sweep.name, "", reports, (), 0, ())


# ---------------------------------------------------------------- reports


_Wanted = Sequence[tuple[Condition, bool]]


def _line_report(
    world: _World, gate: _Wanted, conditions: Sequence[Condition], above: Sequence[str], text: str, take: str
) -> LineReport:
    """The last of `conditions`, below the others, whose texts are `above`."""
    *earlier, condition = conditions
    taken = _Search(world, [*gate, (condition, True), *((one, False) for one in earlier)])
    if (outcome := taken.first()) is not None:
        return LineReport(text, take, "fires", "", taken.case(outcome))
    holds = _Search(world, [*gate, (condition, True)])
    if (outcome := holds.first()) is None:
        return LineReport(text, take, "never", _contradiction(world, gate, condition), None)
    hiding = _hiding(world, [*gate, (condition, True)], earlier)
    because = f"whenever it holds, {listed([f'“{above[at]}”' for at in hiding], 'or')} is taken first"
    return LineReport(text, take, "shadowed", because, holds.case(outcome))


def _otherwise_report(left: _Search, found: Sequence[_Outcome], conditions: Sequence[Condition], tree: Tree) -> LineReport:
    take = _take(tree, len(conditions))
    if found:
        return LineReport(tree.lines[-1].text, take, "fires", "", left.case(found[0]))
    return LineReport(tree.lines[-1].text, take, "shadowed", "the lines above cover every outcome", None)


def _take(tree: Tree, at: int) -> str:
    take = tree.lines[at].take
    return f"best of {listed(take.runs)}" if take.kind == "best" else take.runs[0] if take.kind == "run" else take.kind


def _hiding(world: _World, holds: _Wanted, earlier: Sequence[Condition]) -> list[int]:
    """Places of as few lines above as it takes: one if one is enough, else what is left when none more can be spared."""
    for at, condition in enumerate(earlier):
        if _Search(world, [*holds, (condition, False)]).first() is None:
            return [at]
    needed = list(range(len(earlier)))
    for at in range(len(earlier)):
        fewer = [other for other in needed if other != at]
        if _Search(world, [*holds, *((earlier[other], False) for other in fewer)]).first() is None:
            needed = fewer
    return needed


def _contradiction(world: _World, gate: _Wanted, condition: Condition) -> str:
    """The parts of a condition that cannot hold together, as few as show it."""
    parts = list(condition.parts) if isinstance(condition, AllOf) else [condition]
    for size in range(1, len(parts) + 1):
        for some in combinations(parts, size):
            if _Search(world, [(part, True) for part in some]).first() is None:
                said = [f"“{_said(part)}”" for part in some]
                return f"{said[0]} cannot hold" if size == 1 else f"{listed(said)} cannot hold together"
    return "the sweep is skipped whenever it would hold" if gate else "its parts cannot hold together"


def _said(condition: Condition) -> str:
    try:
        return unparse(condition)
    except ValueError:  # a group that no single line can say
        parts = condition.parts if isinstance(condition, AllOf | AnyOf) else ()
        return f" {'and' if isinstance(condition, AllOf) else 'or'} ".join(_said(part) for part in parts)


def _broken_takes(world: _World, gate: _Wanted, tree: Tree, its_start: Mapping[str, str]) -> Iterator[str]:
    """Lines that may take a run which diverged or did not learn."""
    for at, line in enumerate(tree.lines):
        run = (
            line.take.runs[0] if line.take.kind == "run" else _start_of(tree, its_start) if line.take.kind == "its start" else ""
        )
        earlier = [(one.condition, False) for one in tree.lines[:at]]
        outcomes: tuple[Literal["diverged", "did not learn"], ...] = ("diverged", "did not learn")
        broken = [
            outcome
            for outcome in outcomes
            if run
            and (outcome == "diverged" or world.on or line is tree.lines[-1])  # else the line's own verdict may exclude it
            and _Search(world, [*gate, (Ended(run, outcome), True), (line.condition, True), *earlier]).first() is not None
            and not _speaks_of(line.condition, run)
        ]
        if broken:
            yield f"if {run} {' or '.join(broken)}, “{line.text}” may take it all the same"


def _speaks_of(condition: Condition, run: str) -> bool:
    return any(isinstance(atom, Ended) and atom.run == run for atom in atoms(condition))


def _start_of(tree: Tree, its_start: Mapping[str, str]) -> str:
    """The run that `its start` means in a tree."""
    rows = [atom.a for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared) and atom.b == ITS_START]
    return next((its_start.get(row, f"{row}'s start") for row in rows), "")


def _asks_took(tree: Tree) -> bool:
    return any(isinstance(atom, Took) for line in tree.lines for atom in atoms(line.condition))


# ---------------------------------------------------------------- what may be


@dataclass(frozen=True)
class _Range:
    """low < x < high; `closed` ends belong to it."""

    low: float = -math.inf
    high: float = math.inf
    low_closed: bool = False
    high_closed: bool = False

    def __contains__(self, x: float) -> bool:
        above = x > self.low or (self.low_closed and x == self.low)
        return above and (x < self.high or (self.high_closed and x == self.high))

    def hull(self, other: _Range) -> _Range:
        low, low_closed = min((self.low, not self.low_closed), (other.low, not other.low_closed))
        high, high_closed = max((self.high, self.high_closed), (other.high, other.high_closed))
        return _Range(low, high, not low_closed, high_closed)


_Fact = tuple[str, bool]
"""(verdict, mirrored): of a pair in its order, or the other way round. `worse` is `better` mirrored."""


@dataclass(frozen=True)
class _Choice:
    """What one variable may be, as far as the tree can tell."""

    facts: frozenset[object]
    """That hold: _Fact of a pair, Window of a run, the outcome of a run, the run a decision took."""
    gain: _Range = _Range()
    """Pairs: where the gain lies. Windows: where the mean lies."""


@dataclass(frozen=True)
class _Pair:
    a: str
    b: str
    metric: str


@dataclass(frozen=True)
class _Windows:
    run: str
    metric: str


@dataclass(frozen=True)
class _Fate:
    run: str


@dataclass(frozen=True)
class _Decided:
    decision: str


_Variable = _Pair | _Windows | _Fate | _Decided
_Outcome = Mapping[_Variable, _Choice]
_Window = tuple[float, float]
"""Its ends."""


@dataclass(frozen=True)
class _World:
    """What atoms mean in one tree."""

    metrics: Mapping[str, Metric]
    aliases: Mapping[str, str]
    its_start: Mapping[str, str]
    on: str
    """Metric by which a run of this sweep `did not learn`; "" when several say so."""
    level: float
    """The largest at which `better` may be judged."""

    def name(self, run: str) -> str:
        return self.aliases.get(run, run)

    def variable(self, atom: Atom) -> _Variable:
        match atom:
            case Compared(a=a, metric=metric):
                first, second = sorted((self.name(a), self.other(atom)))
                return _Pair(first, second, metric)
            case Within(run=run, metric=metric):
                return _Windows(self.name(run), metric)
            case Ended(run=run):
                return _Fate(self.name(run))
            case Took(decision=decision):
                return _Decided(decision)

    def fact(self, atom: Atom) -> object:
        """What has to be among a choice's facts for the atom to hold."""
        match atom:
            case Compared(a=a, verdict=verdict):
                mirrored = self.name(a) > self.other(atom)
                if verdict == "worse":
                    return ("better", not mirrored)
                return (verdict, mirrored and verdict != "same")
            case Within(distance=distance, of=of):
                return (of - distance, of + distance)
            case Ended(outcome=outcome):
                return outcome
            case Took(run=run):
                return self.name(run)

    def other(self, atom: Compared) -> str:
        if atom.b == ITS_START:
            return self.its_start.get(self.name(atom.a), f"{self.name(atom.a)}'s start")
        return self.name(atom.b)

    def choices(self, variable: _Variable, asked: Sequence[object]) -> list[_Choice]:
        """What a variable may be, told apart only by the facts that are asked; nothing shown, nothing wrong comes first."""
        match variable:
            case _Pair(metric=metric):
                return _merged(pair_outcomes(self.metrics[metric].margin, self.level), asked)
            case _Windows():
                return _windows([window for window in asked if isinstance(window, tuple)])
            case _:
                return [_Choice(frozenset()), *(_Choice(frozenset({one})) for one in asked)]

    def blocks(self, outcome: object, metric: str) -> bool:
        """Whether a run that ended so has no verdicts on a metric."""
        return outcome == "diverged" or (outcome == "did not learn" and metric == self.on)


def pair_outcomes(margin: float, level: float) -> list[tuple[frozenset[_Fact], _Range]]:
    """Everything one comparison may show, both ways round, and the gains it may show it for: see the top of this file."""
    better, no_worse, no_better, same = ("better", False), ("no worse", False), ("no worse", True), ("same", False)
    worse = ("better", True)
    gains, losses = _Range(margin, math.inf, True), _Range(-math.inf, -margin, False, True)
    found: list[tuple[frozenset[_Fact], _Range]] = [
        (frozenset(), _Range()),
        (frozenset({better, no_worse}), gains),
        (frozenset({worse, no_better}), losses),
        (frozenset({no_worse}), _Range(0.0)),
        (frozenset({no_better}), _Range(high=0.0)),
        (frozenset({no_worse, no_better, same}), _Range(-margin, margin)),
    ]
    if level > 2 * EQUIVALENCE_LEVEL:
        found += [(frozenset({better}), gains), (frozenset({worse}), losses)]
    return found


def _merged(states: Iterable[tuple[frozenset[_Fact], _Range]], asked: Sequence[object]) -> list[_Choice]:
    merged: dict[frozenset[object], _Range] = {}
    for facts, gain in states:
        seen = frozenset(fact for fact in facts if fact in asked)
        merged[seen] = merged[seen].hull(gain) if seen in merged else gain
    return [_Choice(facts, gain) for facts, gain in merged.items()]


def _windows(asked: Sequence[_Window]) -> list[_Choice]:
    """Sets of windows that an interval may lie inside, and inside no other: the widest interval inside all of them decides."""
    found = []
    for chosen in product((False, True), repeat=len(asked)):
        inside = [window for window, yes in zip(asked, chosen, strict=True) if yes]
        low, high = max((w[0] for w in inside), default=-math.inf), min((w[1] for w in inside), default=math.inf)
        outside = [window for window, yes in zip(asked, chosen, strict=True) if not yes]
        if low < high and not any(inside and window[0] <= low and high <= window[1] for window in outside):
            found.append(_Choice(frozenset(inside), _Range(low, high)))
    return found


# ---------------------------------------------------------------- the search


class _Search:
    """Every outcome in which each wanted condition is as wanted."""

    def __init__(self, world: _World, wanted: _Wanted) -> None:
        self.world, self.wanted = world, wanted
        self.meaning = {atom: (world.variable(atom), world.fact(atom)) for condition, _ in wanted for atom in atoms(condition)}
        asked: dict[_Variable, dict[object, None]] = {}
        for variable, fact in self.meaning.values():
            asked.setdefault(variable, {})[fact] = None
        self.asked = asked
        self.choices = {variable: world.choices(variable, list(facts)) for variable, facts in asked.items()}

    def first(self) -> _Outcome | None:
        return next(self.outcomes(), None)

    def outcomes(self) -> Iterator[_Outcome]:
        """Outcomes as the variables that matter; no two overlap."""
        return self._below({})

    def _below(self, known: dict[_Variable, _Choice]) -> Iterator[_Outcome]:
        open_: Atom | None = None
        for condition, holds in self.wanted:
            answer = evaluate(condition, lambda atom: self._answer(atom, known))
            if answer is None:
                open_ = open_ or next(atom for atom in atoms(condition) if self._answer(atom, known) is None)
            elif answer is not holds:
                return
        if open_ is None:
            yield known
            return
        variable, _ = self.meaning[open_]
        circle = _closes_a_circle(variable, known)
        for choice in self.choices[variable]:
            below = {**known, variable: choice}
            if self._blocked(variable, choice.facts, known):
                continue
            if not circle or _means(self._differences(below, variable)) is not None:
                yield from self._below(below)

    def _answer(self, atom: Atom, known: Mapping[_Variable, _Choice]) -> Answer:
        variable, fact = self.meaning[atom]
        if variable in known:
            return fact in known[variable].facts
        return False if self._blocked(variable, (fact,), known) else None

    def _blocked(self, variable: _Variable, facts: Collection[object], known: Mapping[_Variable, _Choice]) -> bool:
        """Whether a verdict and a run's end exclude each other."""
        if not facts:
            return False
        if isinstance(variable, _Fate):
            (outcome,) = facts
            return any(
                variable.run in _runs(other) and self.world.blocks(outcome, other.metric)
                for other, shown in known.items()
                if isinstance(other, _Pair | _Windows) and shown.facts
            )
        if isinstance(variable, _Pair | _Windows):
            ends = [(known[_Fate(run)], variable.metric) for run in _runs(variable) if _Fate(run) in known]
            return any(self.world.blocks(outcome, metric) for end, metric in ends for outcome in end.facts)
        return False

    def _differences(self, known: Mapping[_Variable, _Choice], changed: _Variable) -> _Bounds:
        """What is known of the means on the metric of the variable that changed."""
        if not isinstance(changed, _Pair | _Windows):
            return {}
        sign = 1.0 if self.world.metrics[changed.metric].better == "higher" else -1.0
        bounds: _Bounds = {}
        for variable, choice in known.items():
            if isinstance(variable, _Pair) and variable.metric == changed.metric:
                _bound(bounds, variable.a, variable.b, choice.gain)
            elif isinstance(variable, _Windows) and variable.metric == changed.metric:
                _bound(bounds, variable.run, _ORIGIN, choice.gain if sign > 0 else _mirrored(choice.gain))
        return bounds

    # -------- words

    def case(self, outcome: _Outcome) -> Case:
        said = [text for variable, choice in outcome.items() if (text := self._text(variable, choice))]
        examples = [text for metric in self._metrics(outcome) for text in self._numbers(outcome, metric)]
        return Case("; ".join(said) or "whatever is measured", "; ".join(examples))

    def _text(self, variable: _Variable, choice: _Choice) -> str:
        match variable:
            case _Fate(run):
                asked = [{"diverged": "did not diverge", "did not learn": "learned"}[str(one)] for one in self.asked[variable]]
                return f"{run} {next(iter(choice.facts))}" if choice.facts else f"{run} {listed(asked)}"
            case _Decided(decision):
                others = listed([str(one) for one in self.asked[variable]], "or")
                return f"{decision} took {next(iter(choice.facts))}" if choice.facts else f"{decision} did not take {others}"
            case _Windows(run, metric):
                texts = [f"within {(high - low) / 2:g} of {(high + low) / 2:g}" for low, high in map(_as_window, choice.facts)]
                return f"{run} {' and '.join(texts)} on {metric}" if texts else f"{run} in no window asked on {metric}"
            case _Pair():
                return self._pair_text(variable, choice)

    def _pair_text(self, pair: _Pair, choice: _Choice) -> str:
        def said(facts: Iterable[object]) -> list[str]:
            return [_fact_text(pair, fact) for fact in facts if isinstance(fact, tuple)]

        holds = said(fact for fact in self.asked[pair] if fact in choice.facts)
        rest = said(fact for fact in self.asked[pair] if fact not in choice.facts)
        if holds:
            return " and ".join(holds) + (f", not shown: {', '.join(rest)}" if rest else "") + f" on {pair.metric}"
        asked = {("better", False), ("better", True), ("same", False)} - self.asked[pair].keys()
        states = [facts for facts, _ in self._states(pair, choice)]
        forth = self._as_asked(pair)
        words = {("better", forth): "worse", ("better", not forth): "better", ("same", False): "the same"}
        beside = [words[fact] for fact in sorted(asked) if any(fact in facts for facts in states)]
        within = f" (even if {listed(beside, 'or')})" if beside else ""
        return f"not shown: {listed(rest, 'or')} on {pair.metric}{within}"

    def _states(self, pair: _Pair, choice: _Choice) -> list[tuple[frozenset[_Fact], _Range]]:
        """The outcomes of a comparison that a choice stands for."""
        states = pair_outcomes(self.world.metrics[pair.metric].margin, self.world.level)
        return [state for state in states if frozenset(fact for fact in state[0] if fact in self.asked[pair]) == choice.facts]

    def _metrics(self, outcome: _Outcome) -> list[str]:
        return list(dict.fromkeys(one.metric for one in outcome if isinstance(one, _Pair | _Windows)))

    def _numbers(self, outcome: _Outcome, metric: str) -> Iterator[str]:
        """Differences and half widths of 90 % intervals that make an outcome so."""
        of_metric = self.world.metrics[metric]
        some = next(one for one in outcome if isinstance(one, _Pair | _Windows) and one.metric == metric)
        bounds = self._differences(outcome, some)
        slacks = (0.5, 0.25, 0.1, 0.01, 0.0)
        means = next((found for slack in slacks if (found := _means(bounds, slack * of_metric.margin)) is not None), None)
        assert means is not None, f"the means of {outcome} were consistent before"
        sign = 1.0 if of_metric.better == "higher" else -1.0
        for variable, choice in outcome.items():
            if isinstance(variable, _Pair) and variable.metric == metric:
                if any(_Fate(run) in outcome and outcome[_Fate(run)].facts for run in _runs(variable)):
                    continue
                gain = means[variable.a] - means[variable.b]
                half = self._half_width(variable, choice, gain)
                first, second, turn = (
                    (variable.a, variable.b, sign) if self._as_asked(variable) else (variable.b, variable.a, -sign)
                )
                difference = f"{first} − {second} = {turn * gain + 0.0:+.3g} ± {half:.3g}"
                yield f"{difference} on {metric} (margin {of_metric.margin:g})"
            elif isinstance(variable, _Windows) and variable.metric == metric and choice.facts:
                mean = sign * (means[variable.run] - means[_ORIGIN])
                half = 0.9 * min(mean - choice.gain.low, choice.gain.high - mean)
                yield f"{variable.run} = {mean:.4g} ± {half:.3g}"

    def _as_asked(self, pair: _Pair) -> bool:
        """Whether the file names the runs of a pair in our order first."""
        compared = (atom for condition, _ in self.wanted for atom in atoms(condition) if isinstance(atom, Compared))
        return next(self.world.name(atom.a) for atom in compared if self.world.variable(atom) == pair) == pair.a

    def _half_width(self, pair: _Pair, choice: _Choice, gain: float) -> float:
        """Of an interval (at every level the same) that shows what is asked and no more."""
        margin = self.world.metrics[pair.metric].margin
        facts = next(facts for facts, range_ in self._states(pair, choice) if gain in range_)
        if not facts:
            return abs(gain) + 1.5 * margin
        if ("same", False) in facts:
            return (margin - abs(gain)) / 2
        if ("better", False) in facts or ("better", True) in facts:
            return abs(gain) / 2
        return max(margin, abs(gain) + margin / 2)


def _fact_text(pair: _Pair, fact: _Fact) -> str:
    verdict, mirrored = fact
    a, b = (pair.b, pair.a) if mirrored else (pair.a, pair.b)
    return f"{a} {verdict} {'as' if verdict == 'same' else 'than'} {b}"


def _as_window(fact: object) -> _Window:
    assert isinstance(fact, tuple)
    return fact


def _runs(variable: _Pair | _Windows) -> tuple[str, ...]:
    return (variable.a, variable.b) if isinstance(variable, _Pair) else (variable.run,)


# ---------------------------------------------------------------- means that fit


_ORIGIN = ""
"""Stands for the number 0 among the runs."""
_Bounds = dict[tuple[str, str], tuple[float, bool]]
"""(x, y) -> x − y at most so much, or (True) less than that."""


def _closes_a_circle(variable: _Variable, known: Iterable[_Variable]) -> bool:
    """Whether what is known already ties the runs of a variable together; only then can it contradict that."""
    if not isinstance(variable, _Pair | _Windows):
        return False
    ties = [_ends(other) for other in known if isinstance(other, _Pair | _Windows) and other.metric == variable.metric]
    start, end = _ends(variable)
    reached, todo = {start}, [start]
    while todo:
        here = todo.pop()
        beside = {y if x == here else x for x, y in ties if here in (x, y)} - reached
        reached |= beside
        todo += beside
    return end in reached


def _ends(variable: _Pair | _Windows) -> tuple[str, str]:
    return (variable.a, variable.b) if isinstance(variable, _Pair) else (variable.run, _ORIGIN)


def _bound(bounds: _Bounds, a: str, b: str, gain: _Range) -> None:
    for x, y, most, closed in ((a, b, gain.high, gain.high_closed), (b, a, -gain.low, gain.low_closed)):
        new = (most, not closed)
        if math.isfinite(most) and ((x, y) not in bounds or _tighter(new, bounds[x, y])):
            bounds[x, y] = new
        elif not math.isfinite(most):
            bounds.setdefault((x, y), (math.inf, True))


def _tighter(new: tuple[float, bool], old: tuple[float, bool]) -> bool:
    return new[0] < old[0] or (new[0] == old[0] and new[1] and not old[1])


def _mirrored(range_: _Range) -> _Range:
    return _Range(-range_.high, -range_.low, range_.high_closed, range_.low_closed)


def _means(bounds: _Bounds, slack: float = 0.0) -> dict[str, float] | None:
    """Means that keep all bounds by `slack`, or None: shortest paths without a cycle below 0 (Bellman and Ford).

    A cycle of length 0 with a strict bound in it cannot be kept either.
    """
    runs = list(dict.fromkeys(run for pair in bounds for run in pair))
    means = dict.fromkeys(runs, (0.0, 0))
    for _ in range(len(runs) + 1):
        moved = False
        for (x, y), (most, strict) in bounds.items():
            if math.isinf(most):
                continue
            reached = (means[y][0] + most - slack, means[y][1] - strict)
            if reached[0] < means[x][0] - 1e-12 or (reached[0] <= means[x][0] + 1e-12 and reached[1] < means[x][1]):
                means[x], moved = (min(reached[0], means[x][0]), reached[1]), True
        if not moved:
            return {run: mean for run, (mean, _) in means.items()}
    return None

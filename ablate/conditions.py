"""The small language of decision trees: what a condition is, whether it holds, and which facts it needs.

    condition  :=  clause { ("and" | "or") clause }                    all "and" or all "or"; no brackets
    clause     :=  runs outcome { "or" outcome }                       F1, F2 and F3 diverged · LR2 diverged or did not learn
                |  runs verdict "than" run [ "on" metric ]             F2 better than F3 · any of LR2, LR3 better than LR1
                |  runs "same as" run [ "on" metric ]
                |  verdict "on" metric                                 … and no worse on val_loss/image  (same two runs as before)
                |  run "within" number "of" number [ "on" metric ]
                |  decision "took" run
                |  "otherwise"
    runs       :=  name | "any of" list | ["all of"] list              list: A, B and C
    verdict    :=  "better" | "worse" | "no worse"
    outcome    :=  "diverged" | "did not learn"
    take       :=  run | ("best of" | "better of") list | "its start" | "stop"

Three answers: a condition holds, does not hold, or is *missing* (a job it needs has not ended). Measured but inconclusive is
"does not hold". There is no "not": what was not shown is evidence for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from math import isfinite
from typing import Literal, Protocol

Verdict = Literal["better", "worse", "no worse", "same"]
Outcome = Literal["diverged", "did not learn"]

RESERVED: frozenset[str] = frozenset(
    {
        "all",
        "and",
        "any",
        "as",
        "best",
        "better",
        "did",
        "diverged",
        "its",
        "no",
        "of",
        "on",
        "or",
        "otherwise",
        "same",
        "stop",
        "than",
        "took",
        "within",
        "worse",
    }
)
"""Words of the language; no run, metric or decision may be called so."""

MOST_WORDS = 500
"""Of one condition: a line that nobody can read decides nothing."""

ITS_START = "its start"
"""Stands for the run that a row was changed from; `plan` knows which one that is."""


@dataclass(frozen=True)
class Compared:
    """`a` is `verdict` than (as) `b` on `metric`."""

    a: str
    verdict: Verdict
    b: str
    metric: str


@dataclass(frozen=True)
class Within:
    """The interval of `run` on `metric` lies inside `of` ± `distance`."""

    run: str
    distance: float
    of: float
    metric: str


@dataclass(frozen=True)
class Ended:
    """More than half of the seeds of `run` ended like this."""

    run: str
    outcome: Outcome


@dataclass(frozen=True)
class Took:
    """The decision took this run (or an alias of it)."""

    decision: str
    run: str


@dataclass(frozen=True)
class AllOf:
    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Otherwise:
    """Always holds; the last line of every tree."""


Atom = Compared | Within | Ended | Took
Condition = Atom | AllOf | AnyOf | Otherwise
Answer = bool | None
"""True: holds. False: does not. None: missing."""


def evaluate(condition: Condition, fact: Callable[[Atom], Answer]) -> Answer:
    """Whether `condition` holds, given what is known of each atom (Kleene's three values)."""
    if isinstance(condition, Otherwise):
        return True
    if isinstance(condition, AllOf):
        answers = [evaluate(part, fact) for part in condition.parts]
        return False if False in answers else None if None in answers else True
    if isinstance(condition, AnyOf):
        answers = [evaluate(part, fact) for part in condition.parts]
        return True if True in answers else None if None in answers else False
    return fact(condition)


def atoms(condition: Condition) -> Iterator[Atom]:
    """The facts a condition needs, in reading order."""
    if isinstance(condition, AllOf | AnyOf):
        for part in condition.parts:
            yield from atoms(part)
    elif not isinstance(condition, Otherwise):
        yield condition


class ConditionError(Exception):
    """A text that is no condition.

    column: 1-based place in the text.
    near:   known words like the one that stands there, best first.
    """

    def __init__(self, column: int, message: str, near: tuple[str, ...] = ()) -> None:
        hint = f" Did you mean {quoted(near)}?" if near else ""
        super().__init__(f"{message}.{hint}" if hint else message)
        self.column, self.message, self.near = column, message, near


def quoted(names: Sequence[str], word: str = "or") -> str:
    """("F1", "F2", "F3") -> '"F1", "F2" or "F3"'."""
    return listed([f'"{name}"' for name in names], word)


def listed(names: Sequence[str], word: str = "and") -> str:
    """("F1", "F2", "F3") -> 'F1, F2 and F3'."""
    return f" {word} ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def near(word: str, known: Collection[str]) -> tuple[str, ...]:
    """Up to two known words that `word` may have meant, best first; letter case does not count."""
    by_lower = {name.lower(): name for name in known}
    return tuple(by_lower[found] for found in get_close_matches(word.lower(), list(by_lower), n=2, cutoff=0.6))


# ---------------------------------------------------------------- text to condition


def parse(text: str, *, on: str, runs: Mapping[str, str], metrics: Collection[str], decisions: Collection[str]) -> Condition:
    """The condition that `text` says.

    on:   the metric meant where the text names none; "" when it has to.
    runs: every name for a run -> the run itself (LR1 -> F3, F3 -> F3); the condition carries the latter.

    Raises ConditionError.
    """
    return _Parser(text, on, runs, metrics, decisions).condition()


TakeKind = Literal["run", "best", "its start", "stop"]


def parse_take(text: str, *, runs: Mapping[str, str]) -> tuple[TakeKind, tuple[str, ...]]:
    """What a line of a tree takes: the parts of `study.Take`. Raises ConditionError."""
    return _Parser(text, "", runs, (), ()).take()


@dataclass(frozen=True)
class _Word:
    text: str
    column: int


class _Parser:
    """Recursive descent over the words of one text; the grammar is at the top of this file."""

    def __init__(self, text: str, on: str, runs: Mapping[str, str], metrics: Collection[str], decisions: Collection[str]) -> None:
        self.words = [_Word(found.group(), found.start() + 1) for found in re.finditer(r",|[^\s,]+", text)]
        self.end = _Word("", len(text.rstrip()) + 1)
        self.pos = 0
        self.on, self.runs, self.metrics, self.decisions = on, runs, metrics, decisions
        self.pair: tuple[str, str] | None = None
        """The two runs of the clause before, for "… and no worse on METRIC"."""

    # -------- words

    def word(self, ahead: int = 0) -> _Word:
        at = self.pos + ahead
        return self.words[at] if at < len(self.words) else self.end

    def sees(self, *texts: str) -> bool:
        return all(self.word(ahead).text == text for ahead, text in enumerate(texts))

    def accept(self, *texts: str) -> bool:
        if not self.sees(*texts):
            return False
        self.pos += len(texts)
        return True

    def expect(self, text: str, after: str) -> None:
        if not self.accept(text):
            raise self.wrong(f'expected "{text}" after {after}', (text,))

    def wrong(self, message: str, words: Collection[str] = ()) -> ConditionError:
        """`message`, and what stands there instead."""
        word = self.word()
        if not word.text:
            return ConditionError(word.column, f"{message}, but the text ends here")
        return ConditionError(
            word.column,
            f"{message}, not {quoted((word.text,))}",
            tuple(one for one in near(word.text, words) if one != word.text),
        )

    def name(self, kind: str, known: Collection[str]) -> str:
        word = self.word()
        if word.text not in known:
            if not word.text or word.text in RESERVED or word.text == ",":
                raise self.wrong(f"expected the name of a {kind}")
            guesses = near(word.text, known)
            hint = "" if guesses else f"; {kind}s: {', '.join([*known][:12])}" if known else f"; the study has no {kind}s"
            raise ConditionError(word.column, f"there is no {kind} {quoted((word.text,))}{hint}", guesses)
        self.pos += 1
        return word.text

    def run(self) -> str:
        return self.runs[self.name("run", self.runs)]

    # -------- sentences

    def condition(self) -> Condition:
        if not self.words:
            raise ConditionError(1, "the condition is empty")
        if len(self.words) > MOST_WORDS:
            raise ConditionError(self.words[MOST_WORDS].column, f"more than {MOST_WORDS} words: say it in several lines")
        bracket = next((word for word in self.words if word.text[0] in "([{" or word.text[-1] in ")]}"), None)
        if bracket:
            raise ConditionError(
                bracket.column,
                'no brackets here: a line joins its clauses by "and" alone or by "or" alone; give other cases their own line',
            )
        if self.accept("otherwise"):
            self.finish("otherwise")
            return Otherwise()
        parts = [self.clause()]
        joint = self.word().text
        while joint in ("and", "or") and self.accept(joint):
            parts.append(self.clause())
            if self.word().text in {"and", "or"} - {joint}:
                raise ConditionError(self.word().column, 'one line joins its clauses by "and" alone or by "or" alone')
        self.finish("the condition")
        return _joined(AnyOf if joint == "or" else AllOf, parts)

    def finish(self, what: str) -> None:
        if self.word().text:
            raise self.wrong(f"expected the end of {what}", ("and", "or"))

    def clause(self) -> Condition:
        start = self.word()
        if self.word(1).text == "took" and start.text not in self.runs:
            decision = self.name("decision", self.decisions)
            self.expect("took", decision)
            return Took(decision, self.run())
        verdict = self.verdict()
        if verdict:
            return self.same_two(verdict, start)
        if self.sees("its", "start"):
            raise ConditionError(start.column, '"its start" stands after "than" or "as": D1 better than its start')
        group, subjects = self.subjects()
        if self.word().text in ("diverged", "did"):
            self.pair = None
            outcomes = self.outcomes()
            return _joined(group, [_joined(AnyOf, [Ended(run, outcome) for outcome in outcomes]) for run in subjects])
        if self.sees("within"):
            self.pair = None
            return _joined(group, self.within(subjects))
        return _joined(group, self.compared(subjects, start))

    def subjects(self) -> tuple[type[AllOf] | type[AnyOf], list[str]]:
        group: type[AllOf] | type[AnyOf] = AllOf
        if self.sees("any") or self.sees("all"):
            group = AnyOf if self.accept("any") else AllOf
            if group is AllOf:
                self.expect("all", "")
            self.expect("of", "any" if group is AnyOf else "all")
        return group, self.run_list()

    def run_list(self) -> list[str]:
        """A · A, B · A, B and C · A or B. A run once only."""
        found: list[str] = []
        while True:
            word = self.word()
            run = self.run()
            if run in found:
                raise ConditionError(word.column, f"{quoted((word.text,))} stands twice in one list")
            found.append(run)
            comma = self.accept(",")
            joint = self.word().text in ("and", "or") and (comma or self.word(1).text in self.runs)
            if joint:
                self.pos += 1
            if not comma and not joint:
                return found

    def verdict(self) -> Verdict | None:
        if self.accept("no", "worse"):
            return "no worse"
        if self.sees("no"):
            self.pos += 1
            raise self.wrong('expected "worse" after "no"', ("worse",))
        if self.accept("better"):
            return "better"
        return "worse" if self.accept("worse") else None

    def same_two(self, verdict: Verdict, start: _Word) -> Condition:
        if self.pair is None:
            raise ConditionError(
                start.column, f'which run is "{verdict}"? Only after a comparison of two runs may they be left out'
            )
        if not self.sees("on"):
            raise self.wrong(f'expected "on METRIC" after "{verdict}"', ("on", "than"))
        return Compared(self.pair[0], verdict, self.pair[1], self.metric())

    def outcomes(self) -> list[Outcome]:
        found: list[Outcome] = []
        while True:
            if self.accept("diverged"):
                found.append("diverged")
            else:
                self.expect("did", "the run")
                self.expect("not", '"did"')
                self.expect("learn", '"did not"')
                found.append("did not learn")
            following = self.word(1).text
            if self.word().text != "or" or following not in ("diverged", "did") or following in self.runs:
                return list(dict.fromkeys(found))
            self.pos += 1

    def within(self, subjects: list[str]) -> list[Condition]:
        self.expect("within", "the run")
        column = self.word().column
        distance = self.number("a distance", "within")
        if distance <= 0:
            raise ConditionError(column, f"the distance must be above 0, not {distance:g}")
        self.expect("of", "the distance")
        of = self.number("a number", "of")
        metric = self.metric()
        return [Within(run, distance, of, metric) for run in subjects]

    def number(self, what: str, after: str) -> float:
        word = self.word()
        if not re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", word.text) or not isfinite(float(word.text)):
            raise self.wrong(f'expected {what} after "{after}"')
        self.pos += 1
        return float(word.text)

    def compared(self, subjects: list[str], start: _Word) -> list[Condition]:
        verdict: Verdict | None = "same" if self.accept("same") else self.verdict()
        if verdict is None:
            words = ("better", "worse", "same", "within", "diverged", "took")
            raise self.wrong(
                "expected what the run did: better than, worse than, no worse than, same as, within, diverged or did not learn",
                words,
            )
        self.expect("as" if verdict == "same" else "than", f'"{verdict}"')
        word = self.word()
        other = ITS_START if self.accept("its", "start") else self.run()
        if other in subjects:
            alias = "" if word.text == other else f" ({word.text} is another name for it)"
            raise ConditionError(word.column, f"{other} is compared with itself{alias}")
        metric = self.metric(start)
        self.pair = (subjects[0], other) if len(subjects) == 1 else None
        return [Compared(run, verdict, other, metric) for run in subjects]

    def metric(self, start: _Word | None = None) -> str:
        if self.accept("on"):
            return self.name("metric", self.metrics)
        if not self.on:
            column = (start or self.word()).column
            raise ConditionError(column, "which metric? The sweep names none: say `on METRIC` here, or give the sweep `on = ...`")
        return self.on

    def take(self) -> tuple[TakeKind, tuple[str, ...]]:
        kind: TakeKind = "run"
        runs: tuple[str, ...] = ()
        if self.accept("stop"):
            kind = "stop"
        elif self.accept("its", "start"):
            kind = "its start"
        elif self.accept("best", "of") or self.accept("better", "of"):
            kind, column = "best", self.word().column
            runs = tuple(self.run_list())
            if len(runs) < 2:
                raise ConditionError(column, "best of one run? Name the run alone, or two or more")
        else:
            runs = (self.run(),)
        self.finish("what is taken")
        return kind, runs


def _joined(kind: type[AllOf] | type[AnyOf], parts: Sequence[Condition]) -> Condition:
    """One part stands alone; "and" in "and" and "or" in "or" are flat."""
    flat: list[Condition] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, kind) else (part,))
    return flat[0] if len(flat) == 1 else kind(tuple(flat))


# ---------------------------------------------------------------- condition to text


def unparse(condition: Condition) -> str:
    """The canonical text of a condition; `parse` reads it back. ValueError for one that no text can say."""
    match condition:
        case Otherwise():
            return "otherwise"
        case AllOf(parts):
            return " and ".join(_clauses(parts, ""))
        case AnyOf(parts):
            return " or ".join(_clauses(parts, "any of "))
        case _:
            return f"{condition.decision if isinstance(condition, Took) else _subject(condition)} {_predicate(condition)}"


def _clauses(parts: Sequence[Condition], group: str) -> Iterator[str]:
    """Neighbours that say the same of different runs become one clause."""
    for said, same in groupby(parts, key=_said):
        some = list(same)
        if said is None:
            yield from (_inner(part) for part in some)
        elif isinstance(some[0], Took) or len({_subject(part) for part in some}) < len(some):
            yield from (unparse(part) for part in some)
        else:
            yield _listed(group, some)


def _said(condition: Condition) -> str | None:
    if isinstance(condition, Took):
        return f"{condition.decision} {_predicate(condition)}"
    return None if isinstance(condition, AllOf | AnyOf | Otherwise) else _predicate(condition)


def _listed(group: str, some: Sequence[Condition]) -> str:
    names = [_subject(part) for part in some]
    return f"{group if len(names) > 1 else ''}{listed(names)} {_predicate(some[0])}"


def _inner(condition: Condition) -> str:
    """A group inside a longer condition has to be one clause."""
    if isinstance(condition, AnyOf):
        ends = [part for part in condition.parts if isinstance(part, Ended)]
        if len(ends) == len(condition.parts):
            runs = list(dict.fromkeys(end.run for end in ends))
            per_run = [tuple(end.outcome for end in ends if end.run == run) for run in runs]
            in_order = tuple(Ended(run, outcome) for run, outcomes in zip(runs, per_run, strict=True) for outcome in outcomes)
            if len(set(per_run)) == 1 and in_order == condition.parts:
                return f"{'any of ' if len(runs) > 1 else ''}{listed(runs)} {' or '.join(per_run[0])}"
    if isinstance(condition, AllOf | AnyOf) and not any(isinstance(part, Took) for part in condition.parts):
        clauses = list(_clauses(condition.parts, "any of " if isinstance(condition, AnyOf) else "all of "))
        if len(clauses) == 1:
            return clauses[0]
    raise ValueError(f"no line can say this inside another condition: {condition}")


def _subject(condition: Condition) -> str:
    match condition:
        case Compared(a=run) | Within(run=run) | Ended(run=run):
            return run
        case _:
            raise ValueError(f"no line can say this inside another condition: {condition}")


def _predicate(condition: Condition) -> str:
    match condition:
        case Compared(_, verdict, b, metric):
            return f"{verdict} {'as' if verdict == 'same' else 'than'} {b} on {metric}"
        case Within(_, distance, of, metric):
            return f"within {distance!r} of {of!r} on {metric}"
        case Ended(_, outcome):
            return outcome
        case Took(_, run):
            return f"took {run}"
        case _:
            raise ValueError(f"no line can say this inside another condition: {condition}")


# ---------------------------------------------------------------- condition in plain words


class Measured(Protocol):
    """What the words need to know of a metric; `study.Metric` is one."""

    @property
    def better(self) -> Literal["lower", "higher"]: ...
    @property
    def margin(self) -> float: ...
    @property
    def unit(self) -> str: ...


def in_words(condition: Condition, metrics: Mapping[str, Measured]) -> str:
    """What has to be true, for a reader who does not know the language; without a full stop."""
    match condition:
        case Otherwise():
            return "none of the lines above holds"
        case AllOf(parts):
            return ", and ".join(_bracketed(part, metrics) for part in parts)
        case AnyOf(parts):
            return ", or ".join(_bracketed(part, metrics) for part in parts)
        case Took(decision, run):
            return f"the decision {decision} took {run}"
        case Ended(run, "diverged"):
            return f"{run} diverged (more than half of its seeds did)"
        case Ended(run, _):
            return f"{run} did not learn (it ends within 5 % of what an answer without information scores)"
        case Within(run, distance, of, metric):
            return f"{run}'s {metric} is shown to lie within {distance:g} of {of:g}"
        case Compared():
            return _compared_in_words(condition, metrics[condition.metric])


def _bracketed(condition: Condition, metrics: Mapping[str, Measured]) -> str:
    words = in_words(condition, metrics)
    return f"({words})" if isinstance(condition, AllOf | AnyOf) else words


def _compared_in_words(compared: Compared, metric: Measured) -> str:
    other = f"{compared.b}'s"
    amount = f"{metric.margin:g} {metric.unit}".strip()
    good, bad = ("below", "above") if metric.better == "lower" else ("above", "below")
    said = f"{compared.a}'s {compared.metric} is shown"
    match compared.verdict:
        case "better":
            return f"{said} to be {good} {other}, by {amount} or more"
        case "worse":
            return f"{said} to be {bad} {other}, by {amount} or more"
        case "no worse":
            return f"{said} not to be more than {amount} {bad} {other}"
        case "same":
            return f"{said} to lie within {amount} of {other}, on either side"

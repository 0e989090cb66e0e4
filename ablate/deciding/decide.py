"""A sweep's trees and what its jobs scored -> decisions, each with its evidence; and what its learn lines say. Pure.

A tree is read from the top. A line holds, does not hold, or is missing (a job it needs has not ended); the tree waits at the
first line that is missing while none above it holds. Measured but inconclusive is "does not hold". What a line may ask: facts.py;
at which level a comparison is judged: levels.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ablate.conditions import ITS_START, Answer, AnyOf, Atom, Compared, Condition, Ended, Took, Within, atoms, evaluate
from ablate.deciding.comparison import as_json
from ablate.deciding.facts import LEARN_LEVEL, Facts, Missing, start_of_tree
from ablate.deciding.levels import Evidence, comparisons_in, learn_evidence, of_a_tree, tree_evidence
from ablate.deciding.looks import EXPLORATORY, Asked, Standing
from ablate.deciding.price import price
from ablate.deciding.scores import diverged_text
from ablate.planning.freeze import tree_hash
from ablate.planning.outcomes import STOP
from ablate.study import ENDED, JobResult, Learn, Line, Study, Sweep, Tree, runs_of
from db.records import DecisionRecord


@dataclass(frozen=True)
class Learned:
    """A learn line that holds."""

    text: str
    say: str
    because: str
    """The numbers it rests on."""
    comparisons: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class SweepAnswer:
    """What a sweep says today."""

    sweep: str
    decisions: tuple[DecisionRecord, ...]
    """One per tree, in the order of the file."""
    learned: tuple[Learned, ...]
    open: tuple[str, ...]
    """What is still missing, in words."""
    skipped_because: str = ""


def decide_sweep(
    study: Study,
    sweep: Sweep,
    results: Mapping[str, Sequence[JobResult]],
    earlier: Mapping[str, DecisionRecord],
    its_start: Mapping[str, str],
    *,
    now: str,
    hours_of: Callable[[str], float],
    undeclared: Mapping[str, str] | None = None,
    edits: Mapping[str, str] | None = None,
) -> SweepAnswer:
    """Evaluate the trees and learn lines of a sweep.

    results:   run -> its planned jobs, whatever their state, reference runs under their own name ("D1-start"). The noise is
               pooled over all of them, so give the whole study's, not only the sweep's.
    earlier:   tree -> its current decision, of the whole study. One that a person overruled stands and is given back as it is.
    its_start: row -> the run it is compared with by `its start`; absent while that is not known.
    hours_of:  run -> wall hours of one of its jobs.
    undeclared: run -> why whatever is said of it is exploratory (looks.undeclared).
    edits:     what was changed since it was frozen (freeze.changes) -> why; told beside every comparison it touches.
    """
    facts = Facts(study, sweep, results, earlier, its_start, undeclared or {}, edits or {})
    skip = evaluate(sweep.skip.condition, facts.took) if sweep.skip else False
    if sweep.skip and skip is not False:
        record = _skipped if skip else _undecided
        decisions = tuple(_standing(earlier, tree) or record(study, tree, sweep, now) for tree in sweep.trees)
        waits = () if skip else (f"{sweep.name}: whether it is skipped is not known yet ({sweep.skip.text})",)
        return SweepAnswer(sweep.name, decisions, (), waits, f"{sweep.skip.text}: {sweep.skip.because}" if skip else "")
    made: list[DecisionRecord] = []
    for tree in sweep.trees:
        made.append(_standing(earlier, tree) or _decide_tree(facts, tree, now, hours_of))
        facts = replace(facts, earlier={**facts.earlier, tree.name: made[-1]})
    learned = [_learn(facts, learn) for learn in sweep.learn]
    waiting = [f"{record.name}: {record.because}" for record in made if record.status == "waiting"]
    return SweepAnswer(
        sweep.name,
        tuple(made),
        tuple(answer for answer in learned if isinstance(answer, Learned)),
        (*waiting, *(answer for answer in learned if isinstance(answer, str))),
    )


def asked_by(
    study: Study,
    sweep: Sweep,
    results: Mapping[str, Sequence[JobResult]],
    earlier: Mapping[str, DecisionRecord],
    its_start: Mapping[str, str],
) -> tuple[Asked, ...]:
    """What more seeds could still change in a sweep: the lines above the one each tree took, then its learn lines.

    As `decide_sweep`, at the levels the lines are judged at.
    """
    facts, found = Facts(study, sweep, results, earlier, its_start), []
    for tree in sweep.trees:
        record = earlier.get(tree.name)
        if record is not None and record.status == "decided":
            evidence = tree_evidence(facts, comparisons_in(line.condition for line in tree.lines))
            above = next((place for place, line in enumerate(tree.lines) if line.text == record.line), 0)
            found += [_asked(facts, tree.name, line, evidence, of_a_tree(study) / evidence.pairs) for line in tree.lines[:above]]
    for learn in sweep.learn:
        evidence = learn_evidence(facts, comparisons_in([learn.condition]))
        found.append(_asked(facts, "", learn, evidence, LEARN_LEVEL))
    return tuple(found)


def _asked(facts: Facts, tree: str, line: Line | Learn, evidence: Evidence, alpha: float) -> Asked:
    """alpha: what all looks together may spend on one of its comparisons."""
    last, known = max(len(facts.study.looks), 1), {}
    final = (facts.nominal(alpha, last), facts.equivalence(last))
    for atom in atoms(line.condition):
        pair = atom if isinstance(atom, Compared | Within) else None
        runs = _runs(facts, [pair]) if pair else []
        known[atom] = Standing(
            _answer(facts, evidence, atom)[0], evidence.measured_of(pair) if pair else None, tuple(runs), *final
        )
    return Asked(tree, line.text, line.condition, known)


# ---------------------------------------------------------------- a tree


def _decide_tree(facts: Facts, tree: Tree, now: str, hours_of: Callable[[str], float]) -> DecisionRecord:
    study = facts.study
    asked = comparisons_in(line.condition for line in tree.lines)
    evidence = tree_evidence(facts, asked)
    for line in tree.lines:
        holds, known = _judge(facts, evidence, line.condition)
        taken = _take(facts, tree, line, known) if holds else None
        if holds is None or isinstance(taken, Missing):
            because = taken.reason if isinstance(taken, Missing) else _missing_text(known)
            return _record(facts, tree, now, "waiting", because)
        if taken is None:
            continue
        numbers = _numbers_text(known) if known else _blocked_text(evidence)
        return replace(
            _record(facts, tree, now, "decided", _origin(facts, tree.lines) + _told(facts, asked, line.because, numbers)),
            took=taken,
            line=line.text,
            sets={} if line.take.kind == "its start" or taken == STOP else dict(study.run_named(taken).changes),
            comparisons=tuple(as_json(comparison) for comparison in evidence.measured),
            jobs={job.key: job.code_hash for run in _runs(facts, asked) for job in facts.jobs(run) if job.state in ENDED},
            price=price(facts, evidence.measured, hours_of),
        )
    raise AssertionError(f"tree {tree.name!r} has no line `otherwise`")


def _told(facts: Facts, asked: Sequence[Compared | Within], because: str, numbers: str) -> str:
    """Why, by which numbers; first of all that it is exploratory, where a look was not declared: no screen cuts that off."""
    exploratory = [facts.undeclared[run] for run in _runs(facts, asked) if run in facts.undeclared]
    told = f"{because}: {numbers}" if because and numbers else because or numbers
    told = "; ".join(part for part in (told, *_lost(facts, asked)) if part)
    return f"{EXPLORATORY}: {told} ({'; '.join(exploratory)})" if exploratory else told


def _lost(facts: Facts, asked: Sequence[Compared | Within]) -> Iterator[str]:
    """Seeds that diverged, of every run asked about that did not with most of them: a difference is that of the others."""
    for run in _runs(facts, asked):
        jobs = facts.jobs(run)
        diverged = sum(job.state == "diverged" for job in jobs)
        if 0 < 2 * diverged <= len(jobs):
            yield diverged_text(diverged, len(jobs), run)


def _origin(facts: Facts, lines: Sequence[Line | Learn]) -> str:
    """ "imported: no fairness ledger; " before a reason that rests on such results; first, so that no screen cuts it off."""
    named = {run for line in lines for run in runs_of(line.condition)}
    starts = {facts.its_start.get(facts.name(run), "") for run in named} if ITS_START in named else set()
    text = facts.imported({facts.name(run) for run in named | starts})
    return f"{text}; " if text else ""


def _learn(facts: Facts, learn: Learn) -> Learned | str | None:
    """The line if it holds, what it waits for, or None."""
    asked = comparisons_in([learn.condition])
    evidence = learn_evidence(facts, asked)
    holds, known = _judge(facts, evidence, learn.condition)
    if holds is None:
        return f"{learn.text}: {_missing_text(known)}"
    if not holds:
        return None
    because = _origin(facts, [learn]) + _told(facts, asked, "", _numbers_text(known))
    return Learned(learn.text, learn.say, because, tuple(as_json(item) for item in evidence.measured))


_Known = Mapping[Atom, tuple[Answer, str]]
"""Fact -> whether it holds, and its numbers; or, while it is missing, why."""


def _judge(facts: Facts, evidence: Evidence, condition: Condition) -> tuple[Answer, _Known]:
    known = {atom: _answer(facts, evidence, atom) for atom in atoms(condition)}
    return evaluate(condition, lambda atom: known[atom][0]), known


def _missing_text(known: _Known) -> str:
    return ", ".join(dict.fromkeys(text for answer, text in known.values() if answer is None and text))


def _blocked_text(evidence: Evidence) -> str:
    """Beside `otherwise`: which comparisons could not have shown anything, and why."""
    return "; ".join(f"{item.a} and {item.b} on {item.metric}: {item.reason}" for item in evidence.measured if item.reason)


def _numbers_text(known: _Known) -> str:
    return "; ".join(text for answer, text in known.values() if answer and text)


def _answer(facts: Facts, evidence: Evidence, atom: Atom) -> tuple[Answer, str]:
    match atom:
        case Ended():
            return facts.ended(atom)
        case Took():
            answer = facts.took(atom)
            return answer, f"{atom.decision} is open" if answer is None else f"{atom.decision} took {atom.run}"
        case Compared() | Within():
            return evidence.answer(atom)


def _take(facts: Facts, tree: Tree, line: Line, known: _Known) -> str | Missing:
    """Name of what a line takes."""
    match line.take.kind:
        case "run":
            return line.take.runs[0]
        case "best":
            return _best(facts, line, known)
        case "its start":
            return start_of_tree(facts.study, tree, facts.its_start) or Missing("the start is not known yet")
        case "stop":
            return STOP


def _best(facts: Facts, line: Line, known: _Known) -> str | Missing:
    """The run with the best mean.

    Behind "any of … better than …", among those for which that holds; else among those that neither diverged nor failed to learn.
    With nobody left, "stop". The metric is the condition's, or the sweep's.
    """
    if reasons := [reason for run in line.take.runs if (reason := facts.unended(run))]:
        return Missing(", ".join(reasons))
    asked = [atom for atom in known if isinstance(atom, Compared)]
    metric = asked[0].metric if asked else facts.sweep.on
    candidates = list(line.take.runs)
    if isinstance(line.condition, AnyOf) and asked:
        shown = {facts.name(atom.a) for atom in asked if known[atom][0]}
        candidates = [run for run in candidates if facts.name(run) in shown] or candidates
    means = {run: of_run.mean for run in candidates if (of_run := facts.scores(run, metric)).outcome is None}
    means = {run: mean for run, mean in means.items() if math.isfinite(mean)}
    if not means:
        return STOP
    sign = 1 if facts.study.metrics[metric].better == "higher" else -1
    return max(means, key=lambda run: sign * means[run])


def _runs(facts: Facts, asked: Sequence[Compared | Within]) -> list[str]:
    named = [run for atom in asked for run in ([atom.run] if isinstance(atom, Within) else [atom.a, facts.other(atom)])]
    return list(dict.fromkeys(facts.name(run) for run in named if run))


# ---------------------------------------------------------------- records


def _record(facts: Facts, tree: Tree, now: str, status: Any, because: str) -> DecisionRecord:
    return DecisionRecord(tree.name, tree.sweep, status, "", "", {}, because, "rule", now, tree_hash=tree_hash(facts.study, tree))


def _skipped(study: Study, tree: Tree, sweep: Sweep, now: str) -> DecisionRecord:
    assert sweep.skip
    because = f"{sweep.skip.because} ({sweep.skip.text})"
    return DecisionRecord(
        tree.name, sweep.name, "skipped", "", sweep.skip.text, {}, because, "rule", now, tree_hash=tree_hash(study, tree)
    )


def _undecided(study: Study, tree: Tree, sweep: Sweep, now: str) -> DecisionRecord:
    assert sweep.skip
    because = f"whether {sweep.name} is skipped is not known yet ({sweep.skip.text})"
    return DecisionRecord(tree.name, sweep.name, "waiting", "", "", {}, because, "rule", now, tree_hash=tree_hash(study, tree))


def _standing(earlier: Mapping[str, DecisionRecord], tree: Tree) -> DecisionRecord | None:
    """A person's decision stands until a person decides otherwise."""
    record = earlier.get(tree.name)
    return record if record and record.status == "overruled" else None

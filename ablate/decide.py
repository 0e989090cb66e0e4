"""A sweep's trees and what its jobs scored -> decisions, each with its evidence and the price of what was not shown. Pure.

A tree is read from the top. A line holds, does not hold, or is missing (a job it needs has not ended); the tree waits at the
first line that is missing while none above it holds. Measured but inconclusive is "does not hold".

Where looks are declared, two runs are compared by the seeds of the look that both have reached, and every level below is the
nominal one of that look (looks.py): each look of a pair is judged once, whatever more seeds one of its runs has for another pair.

Error budget: `wrong_adoptions` is split evenly over the study's trees; within a tree, Holm's procedure over every pair and metric
that some line asks `better` or `worse` about, blocked comparisons included. While some of these are missing, a verdict counts
only if it comes out the same whatever they will show. A pair that is asked only for `no worse` or `same` is shown at the
strictest level, and no line rests on that. `no worse` and `same` are judged at 0.05 each, learn lines at 0.05 each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ablate.compare import (
    Comparison,
    Pool,
    Scores,
    as_json,
    at_level,
    compare,
    diverged_text,
    holm_levels,
    noise_pool,
    number_text,
    scores,
    seeds_to_see,
    within,
)
from ablate.conditions import ITS_START, Answer, AnyOf, Atom, Compared, Condition, Ended, Took, Within, atoms, evaluate, near
from ablate.fairness import LAST_STEP, Check, imported, ledger
from ablate.freeze import tree_hash
from ablate.looks import EXPLORATORY, Asked, Standing, level_at, reached
from ablate.search import tuned
from ablate.study import ENDED, REFERENCE, JobResult, Learn, Line, Study, Sweep, Tree, UserError, runs_of
from db.records import DecisionRecord

EQUIVALENCE_LEVEL = 0.05
"""Of `no worse` and `same`."""
LEARN_LEVEL = 0.05
"""Of a learn line's `better` and `worse`: they change nothing, so they spend nothing of the budget."""
STOP = "stop"
OF_ALL = ("wrong_adoptions ", "looks ", "spending ", "mix_imported ", "mix_steps ")
"""What of the frozen file touches every verdict."""


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
    facts = _Facts(study, sweep, results, earlier, its_start, undeclared or {}, edits or {})
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
    facts = _Facts(study, sweep, results, earlier, its_start)
    last, found = max(len(study.looks), 1), []
    alpha = study.wrong_adoptions / max(len(study.trees), 1)
    for tree in sweep.trees:
        record = earlier.get(tree.name)
        asked = [atom for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared | Within)]
        family = {_pair(facts, atom) for atom in asked if isinstance(atom, Compared) and atom.verdict in ("better", "worse")}
        final = (facts.nominal(alpha / max(len(family), 1), last), facts.equivalence(last))
        evidence = _evidence(facts, asked, alpha)
        if record is not None and record.status == "decided":
            above = next((place for place, line in enumerate(tree.lines) if line.text == record.line), 0)
            found += [_asked(facts, tree.name, line, evidence, final) for line in tree.lines[:above]]
    for learn in sweep.learn:
        asked = [atom for atom in atoms(learn.condition) if isinstance(atom, Compared | Within)]
        final = (facts.nominal(LEARN_LEVEL, last), facts.equivalence(last))
        found.append(_asked(facts, "", learn, _learn_evidence(facts, asked), final))
    return tuple(found)


def _asked(facts: _Facts, tree: str, line: Line | Learn, evidence: _Evidence, final: tuple[float, float]) -> Asked:
    """final: levels at the last look, of better and worse, and of no worse and same."""
    known = {}
    for atom in atoms(line.condition):
        one = evidence.comparisons.get(_key(atom)) if isinstance(atom, Compared | Within) else None
        measured = one if isinstance(one, Comparison) else None
        runs = _runs(facts, [atom]) if isinstance(atom, Compared | Within) else []
        known[atom] = Standing(_answer(facts, evidence, atom)[0], measured, tuple(runs), *final)
    return Asked(tree, line.text, line.condition, known)


def overrule(
    study: Study,
    tree_name: str,
    take: str,
    because: str,
    now: str,
    its_start: Mapping[str, str],
    earlier: DecisionRecord | None = None,
) -> DecisionRecord:
    """A person's decision, with the evidence of the rule's decision kept beside it.

    take: a run the sweep compares or the tree can take, "its start", or "stop". UserError for any other, or without a reason.
    """
    tree = study.trees.get(tree_name)
    if tree is None:
        raise UserError(f"there is no decision {tree_name!r}{_near(tree_name, study.trees)} Decisions: {', '.join(study.trees)}")
    if not because.strip():
        raise UserError(f'--take {take} overrules {tree_name} without a reason. Give one: --because "…"')
    allowed = _takeable(study, tree)
    if take not in allowed:
        raise UserError(f"{tree_name} cannot take {take!r}{_near(take, allowed)} It can take {', '.join(allowed)}")
    took = take
    if take == ITS_START:
        known = _start_of_tree(study, tree, its_start)
        if not known:
            raise UserError(f"{tree_name} cannot take {ITS_START!r} yet: decisions it depends on are open")
        took = known
    return DecisionRecord(
        name=tree_name,
        sweep=tree.sweep,
        status="overruled",
        took=took,
        line="",
        sets={} if take in (ITS_START, STOP) else dict(study.run_named(take).changes),
        because=because.strip(),
        by="person",
        at=now,
        comparisons=earlier.comparisons if earlier else (),
        jobs=earlier.jobs if earlier else {},
        tree_hash=tree_hash(study, tree),
        price=earlier.price if earlier else "",
    )


def superseded(new: DecisionRecord, old: DecisionRecord | None) -> bool:
    """Whether `new` says something else than `old`, or rests on something else; when it was said does not count."""
    return old is None or _substance(new) != _substance(old)


def turned_because(new: DecisionRecord, old: DecisionRecord) -> str:
    """Why a tree says something else than it did: in what `new` rests on something else than `old`; the first that applies."""
    if new.tree_hash != old.tree_hash:
        return "its tree reads otherwise"
    if new.status != old.status:
        return f"it was {old.status}, and is {new.status}"
    others = sorted(new.jobs.keys() ^ old.jobs.keys())
    if others:
        return f"it rests on other jobs: {', '.join(others[:3])}{f' and {len(others) - 3} more' if len(others) > 3 else ''}"
    before = {(one["a"], one["b"], one["metric"]): one for one in old.comparisons}
    both = [(one, before[key]) for one in new.comparisons if (key := (one["a"], one["b"], one["metric"])) in before]
    for now, then in both:
        if f"{now['delta']}" != f"{then['delta']}":
            return f"{now['a']} − {now['b']} on {now['metric']} is {_number(now['delta'])}, was {_number(then['delta'])}"
    if unlike := sorted(_unfair(new) ^ _unfair(old)):
        return f"{unlike[0]} {'is not equal' if unlike[0] in _unfair(new) else 'is equal'} now"
    for now, then in both:
        if now["noise"] != then["noise"]:
            return f"noise between seeds is known otherwise: sd {_noise_text(now)}, was {_noise_text(then)}"
    return "what the file declares is another"


def _noise_text(one: Mapping[str, Any]) -> str:
    noise = one["noise"]
    df = "known" if noise["df"] is None else f"{noise['df']:.3g} df"
    return f"{_number(noise['sd'])} ({df})"


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.3g}"


def rests_on_the_same(new: DecisionRecord, old: DecisionRecord) -> bool:
    """Whether both saw the same tree, jobs, differences and ledger; only the noise, measured elsewhere, may be known better."""

    def numbers(record: DecisionRecord) -> set[tuple[Any, ...]]:
        return {(c["a"], c["b"], c["metric"], c["n_a"], c["n_b"], f"{c['delta']}") for c in record.comparisons}

    same_kind = (new.status, new.tree_hash, dict(new.jobs)) == (old.status, old.tree_hash, dict(old.jobs))
    return same_kind and numbers(new) == numbers(old) and _unfair(new) == _unfair(old)


def _unfair(record: DecisionRecord) -> set[str]:
    """ "F1 − F3 on val_loss: last step": what blocks verdicts."""
    return {
        f"{one['a']} − {one['b']} on {one['metric']}: {check['check']}"
        for one in record.comparisons
        for check in one["fairness"]
        if check["ok"] is False and check["blocks"] and not check["declared"]
    }


# ---------------------------------------------------------------- facts


@dataclass(frozen=True)
class _Missing:
    """A fact that is not known yet, and why."""

    reason: str


@dataclass(frozen=True)
class _Facts:
    """What a sweep's lines may ask."""

    study: Study
    sweep: Sweep
    results: Mapping[str, Sequence[JobResult]]
    earlier: Mapping[str, DecisionRecord]
    its_start: Mapping[str, str]
    undeclared: Mapping[str, str] = field(default_factory=dict)
    """Run -> why a verdict on it is exploratory."""
    edits: Mapping[str, str] = field(default_factory=dict)
    """What was changed since it was frozen -> why."""
    pools: dict[tuple[str, Any, Any, Any], Pool] = field(default_factory=dict)
    """Metric -> its pool, filled as it is asked for."""

    def look(self, *runs: str) -> int:
        """The look that all of these runs have reached."""
        declared = {run: len(self.study.seeds.get(self.name(run).removesuffix(REFERENCE), ())) for run in runs}
        return min(reached(self.study.looks, len(self.jobs(run)), declared[run]) for run in runs)

    def nominal(self, alpha: float, look: int) -> float:
        """The two-sided level at a look, when all looks together may spend `alpha`."""
        return level_at(alpha, look, self.study.looks, self.study.spending)

    def jobs_at(self, run: str, look: int) -> Sequence[JobResult]:
        """The jobs of a run that this look sees."""
        if len(self.study.looks) < 2:
            return self.jobs(run)
        seen = self.study.seeds[self.name(run).removesuffix(REFERENCE)][: self.study.looks[look - 1]]
        return [job for job in self.jobs(run) if job.seed in seen]

    def labels(self, metric: str, *runs: str) -> tuple[str, ...]:
        """What a reader must know of a comparison of these runs."""
        looks = self.study.looks
        at = self.look(*runs)
        look = (f"look {at} of {len(looks)} (up to {looks[at - 1]} seeds per run)",) if len(looks) > 1 else ()
        names = [self.name(run) for run in runs]
        of_runs = [f"{what}.{run}{end}" for run in names for what, end in (("seeds", " "), ("searches", "."), ("searches", " "))]
        touching = (f"metrics.{metric}.", f"sweeps.{self.sweep.name}.", *OF_ALL, *of_runs)
        deviates = [f"deviates: {edit} (reason: {why})" for edit, why in self.edits.items() if edit.startswith(touching)]
        origin = [text] if (text := self.imported(runs)) else []
        return (*look, *origin, *(f"exploratory: {self.undeclared[run]}" for run in names if run in self.undeclared), *deviates)

    def imported(self, runs: Collection[str]) -> str:
        """What a reader must know of these runs' jobs because of where they are from; "" if all were trained here."""
        return imported([job for run in runs for job in self.jobs(run) if job.state in ENDED], self.study.mix_imported)

    def name(self, run: str) -> str:
        return self.study.aliases.get(run, run)

    def jobs(self, run: str) -> Sequence[JobResult]:
        return self.results.get(self.name(run), ())

    def pool(self, metric: str, *runs: str) -> Pool:
        """The noise among jobs like those of `runs`: at their budget, judged on their validation set."""
        origins = {job.imported for run in runs for job in self.jobs(run) if job.state == "done"}
        origin = origins.pop() if len(origins) == 1 else None
        like = (metric, self._usual("samples", runs), self._usual("eval_hash", runs), origin)
        if like not in self.pools:
            self.pools[like] = noise_pool(self.study.metrics[metric], self.results, *like[1:])
        return self.pools[like]

    def _usual(self, fact: str, runs: Sequence[str]) -> Any:
        """What the jobs of `runs` report; where they differ, what more jobs of the study report. None: nothing."""
        counted = Counter(
            job.facts[fact] for jobs in self.results.values() for job in jobs if job.state == "done" and fact in job.facts
        )
        theirs = {job.facts[fact] for run in runs for job in self.jobs(run) if job.state == "done" and fact in job.facts}
        return max(theirs, key=lambda value: (counted[value], str(value)), default=None)

    def scores(self, run: str, metric: str, look: int = 0) -> Scores:
        """look: only what this look sees; 0: every job there is."""
        jobs = self.jobs_at(run, look) if look else self.jobs(run)
        return scores(self.study.metrics[metric], run, jobs, self.name(run))

    def unended(self, run: str) -> str:
        """Why the jobs of a run are not all there yet; "" if they are."""
        jobs = self.jobs(run)
        if not jobs:
            return f"{run} is not planned yet"
        states = [f"{run}@{job.seed} {'has failed' if job.state == 'failed' else f'is {job.state}'}" for job in jobs]
        return ", ".join(text for job, text in zip(jobs, states, strict=True) if job.state not in ENDED)

    def took(self, atom: Atom) -> Answer:
        assert isinstance(atom, Took), f"a skip rule may only ask what a decision took, not {atom}"
        record = self.earlier.get(atom.decision)
        if record is None or record.status == "waiting":
            return None
        return bool(record.took) and self.name(record.took) == self.name(atom.run)

    def ended(self, atom: Ended) -> tuple[Answer, str]:
        """Whether it ended like this, and the numbers; or the reason why that is not known."""
        if reason := self.unended(atom.run):
            return None, reason
        metrics = [self.sweep.on] if self.sweep.on else self._uninformed(atom.run)
        found = [self.scores(atom.run, metric) for metric in metrics or list(self.study.metrics)[:1]]
        holds = bool(found) and all(of_run.outcome == atom.outcome for of_run in found)
        return holds, found[0].outcome_text if holds else ""

    def _uninformed(self, run: str) -> list[str]:
        """Metrics for which the trainer says what an answer without information scores."""
        said = {name for job in self.jobs(run) for name in job.facts.get("uninformed", {})}
        return [name for name in self.study.metrics if name in said]

    def comparison(self, atom: Compared | Within, alpha: float) -> Comparison | _Missing:
        runs = [atom.run] if isinstance(atom, Within) else [atom.a, self.other(atom)]
        if "" in runs:
            return _Missing(f"the start of {runs[0]} is not known yet")
        if reasons := [reason for run in runs if (reason := self.unended(run))]:
            return _Missing(", ".join(reasons))
        if isinstance(atom, Within):
            metric, pool, look = self.study.metrics[atom.metric], self.pool(atom.metric, atom.run), self.look(atom.run)
            seen = self.scores(atom.run, atom.metric, look)
            made = within(metric, seen, atom.distance, atom.of, pool, self.equivalence(look))
            return replace(made, labels=self.labels(atom.metric, atom.run))
        return self.pair(runs[0], runs[1], atom.metric, alpha)

    def pair(self, a: str, b: str, metric: str, alpha: float) -> Comparison:
        """Two runs, with the jobs that have ended; `alpha` is what all looks together may spend."""
        look = self.look(a, b)
        study, declared = self.study, self._declared(a) | self._declared(b)
        both = self._tuned(a, look), self._tuned(b, look)
        checks = ledger(*both, declared, study.stateful, metric, study.mix_imported, study.mix_steps)
        refused = refusal(self.study, self.its_start, a, b) or self._one_config(a, b)
        left, right = self.scores(a, metric, look), self.scores(b, metric, look)
        level, pool = self.nominal(alpha, look), self.pool(metric, a, b)
        made = compare(self.study.metrics[metric], left, right, pool, level, self.equivalence(look), checks, refused)
        return replace(made, labels=(*self.labels(metric, a, b), *_mixed_steps(study, checks)))

    def _tuned(self, run: str, look: int) -> list[JobResult]:
        """The jobs of a run that this look sees, with what was spent on its settings until today: a search may go on."""
        spent = tuned(self.study, self.name(run), self.earlier)
        jobs = self.jobs_at(run, look)
        return [job if job.imported else replace(job, facts={**job.facts, **spent}) for job in jobs]

    def _one_config(self, a: str, b: str) -> str:
        """Why two rows cannot differ: decisions made them the same config, trained once; "" if they can."""
        keys = [[job.key for job in self.jobs(run)] for run in (a, b)]
        return f"{a} and {b} came out as the same config, which is trained once" if keys[0] == keys[1] else ""

    def equivalence(self, look: int) -> float:
        """Of each one-sided bound of `no worse` and `same`, at a look."""
        return self.nominal(2 * EQUIVALENCE_LEVEL, look) / 2

    def other(self, atom: Compared) -> str:
        """Name of the run that `atom.a` is compared with; "" while its start is not known."""
        return self.its_start.get(self.name(atom.a), "") if atom.b == ITS_START else atom.b

    def _declared(self, run: str) -> set[str]:
        row = self.study.runs.get(self.name(run))
        return set(row.changes) if row else set()


def compare_pair(
    study: Study,
    results: Mapping[str, Sequence[JobResult]],
    its_start: Mapping[str, str],
    a: str,
    b: str,
    metrics: Sequence[str],
    alpha: float = LEARN_LEVEL,
    undeclared: Mapping[str, str] | None = None,
    edits: Mapping[str, str] | None = None,
) -> tuple[Comparison, ...]:
    """Two runs on these metrics, asked by hand: each at `alpha` by itself, with the jobs that have ended.

    results, undeclared, edits: as for `decide_sweep`. Runs of different starts are refused: the comparison says why, and nothing
    holds.
    """
    facts = _Facts(study, Sweep("", "", (), ""), results, {}, its_start, undeclared or {}, edits or {})
    return tuple(facts.pair(a, b, metric, alpha) for metric in metrics)


def _mixed_steps(study: Study, checks: Sequence[Check]) -> tuple[str, ...]:
    """What a reader must know of values that were taken at different steps, where the file says why they may be."""
    found = [check for check in checks if check.name == LAST_STEP and check.ok is False and study.mix_steps]
    return tuple(f"last steps differ ({check.a} / {check.b}): {study.mix_steps}" for check in found)


def refusal(study: Study, its_start: Mapping[str, str], a: str, b: str) -> str:
    """Why these two may not be compared; "" if they may: rows are compared within one start, and with their start."""
    if study.aliases.get(a, a) == study.aliases.get(b, b):
        return f"{a} and {b} are the same run"
    if _grounds(study, its_start, a) & _grounds(study, its_start, b):
        return ""
    return f"{a} and {b} start from different configs ({_ground(study, a)}; {_ground(study, b)})"


def _grounds(study: Study, its_start: Mapping[str, str], run: str) -> set[str]:
    name = study.aliases.get(run, run)
    reference = its_start.get(name)
    return {_ground(study, name), f"run {name}", *([f"run {reference}"] if reference else [])}


def _ground(study: Study, run: str) -> str:
    row = study.runs.get(study.aliases.get(run, run))
    if row is None:
        return f"run {run}"
    names = ", ".join(row.start.names)
    return {"baseline": "the baseline", "named": f"start {names!r}", "winners": f"what {names} took"}[row.start.kind]


# ---------------------------------------------------------------- a tree


@dataclass(frozen=True)
class _Evidence:
    """Every comparison that some lines ask for, at its level."""

    comparisons: Mapping[tuple[Any, ...], Comparison | _Missing]
    """At levels that hold whatever the missing ones will show."""
    lenient: Mapping[tuple[Any, ...], Comparison | _Missing]
    """At the levels they would get if every missing one came out with p = 0."""

    def answer(self, atom: Compared | Within) -> tuple[Answer, str]:
        found, at_most = self.comparisons[_key(atom)], self.lenient[_key(atom)]
        if isinstance(found, _Missing) or isinstance(at_most, _Missing):
            return None, found.reason if isinstance(found, _Missing) else ""
        verdict = "same" if isinstance(atom, Within) else atom.verdict
        if verdict in found.holds:
            return True, number_text(found)
        if verdict in at_most.holds:
            return None, f"{found.a} − {found.b} depends on comparisons of this tree that are not measured yet"
        return False, number_text(found)

    @property
    def measured(self) -> list[Comparison]:
        return [found for found in self.comparisons.values() if isinstance(found, Comparison)]


def _evidence(facts: _Facts, asked: Sequence[Compared | Within], alpha: float) -> _Evidence:
    """Make the comparisons and give each its level: Holm over the pairs asked for `better` or `worse`."""
    found = {_key(atom): facts.comparison(atom, alpha) for atom in asked}
    family: dict[frozenset[str], float | None] = {}
    looks: list[int] = []
    for atom in asked:
        if isinstance(atom, Compared) and atom.verdict in ("better", "worse") and _pair(facts, atom) not in family:
            family[_pair(facts, atom)] = _p(found[_key(atom)])
            looks.append(_look(facts, atom))

    def judged(unknown: float) -> dict[tuple[Any, ...], Comparison | _Missing]:
        p = [unknown if value is None else value for value in family.values()]
        of_family = holm_levels(p, alpha, lambda place, share: facts.nominal(share, looks[place]))
        levels = dict(zip(family, of_family, strict=True))
        moved = dict(found)
        for atom in asked:
            if isinstance(of_atom := found[_key(atom)], Comparison) and isinstance(atom, Compared):
                strictest = facts.nominal(alpha / max(len(family), 1), _look(facts, atom))
                moved[_key(atom)] = at_level(of_atom, levels.get(_pair(facts, atom), strictest))
        return moved

    strict = judged(1.0)
    return _Evidence(strict, judged(0.0) if None in family.values() else strict)


def _decide_tree(facts: _Facts, tree: Tree, now: str, hours_of: Callable[[str], float]) -> DecisionRecord:
    study = facts.study
    asked = [atom for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared | Within)]
    evidence = _evidence(facts, asked, study.wrong_adoptions / max(len(study.trees), 1))
    for line in tree.lines:
        holds, known = _judge(facts, evidence, line.condition)
        taken = _take(facts, tree, line, known) if holds else None
        if holds is None or isinstance(taken, _Missing):
            because = taken.reason if isinstance(taken, _Missing) else _missing_text(known)
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
            price=_price(facts, evidence.measured, hours_of),
        )
    raise AssertionError(f"tree {tree.name!r} has no line `otherwise`")


def _told(facts: _Facts, asked: Sequence[Compared | Within], because: str, numbers: str) -> str:
    """Why, by which numbers; first of all that it is exploratory, where a look was not declared: no screen cuts that off."""
    exploratory = [facts.undeclared[run] for run in _runs(facts, asked) if run in facts.undeclared]
    told = f"{because}: {numbers}" if because and numbers else because or numbers
    told = "; ".join(part for part in (told, *_lost(facts, asked)) if part)
    return f"{EXPLORATORY}: {told} ({'; '.join(exploratory)})" if exploratory else told


def _lost(facts: _Facts, asked: Sequence[Compared | Within]) -> Iterator[str]:
    """Seeds that diverged, of every run asked about that did not with most of them: a difference is that of the others."""
    for run in _runs(facts, asked):
        jobs = facts.jobs(run)
        diverged = sum(job.state == "diverged" for job in jobs)
        if 0 < 2 * diverged <= len(jobs):
            yield diverged_text(diverged, len(jobs), run)


def _origin(facts: _Facts, lines: Sequence[Line | Learn]) -> str:
    """ "imported: no fairness ledger; " before a reason that rests on such results; first, so that no screen cuts it off."""
    named = {run for line in lines for run in runs_of(line.condition)}
    starts = {facts.its_start.get(facts.name(run), "") for run in named} if ITS_START in named else set()
    text = facts.imported({facts.name(run) for run in named | starts})
    return f"{text}; " if text else ""


def _learn(facts: _Facts, learn: Learn) -> Learned | str | None:
    """The line if it holds, what it waits for, or None."""
    asked = [atom for atom in atoms(learn.condition) if isinstance(atom, Compared | Within)]
    evidence = _learn_evidence(facts, asked)
    holds, known = _judge(facts, evidence, learn.condition)
    if holds is None:
        return f"{learn.text}: {_missing_text(known)}"
    if not holds:
        return None
    because = _origin(facts, [learn]) + _told(facts, asked, "", _numbers_text(known))
    return Learned(learn.text, learn.say, because, tuple(as_json(item) for item in evidence.measured))


def _learn_evidence(facts: _Facts, asked: Sequence[Compared | Within]) -> _Evidence:
    found = {_key(atom): facts.comparison(atom, LEARN_LEVEL) for atom in asked}
    return _Evidence(found, found)


_Known = Mapping[Atom, tuple[Answer, str]]
"""Fact -> whether it holds, and its numbers; or, while it is missing, why."""


def _judge(facts: _Facts, evidence: _Evidence, condition: Condition) -> tuple[Answer, _Known]:
    known = {atom: _answer(facts, evidence, atom) for atom in atoms(condition)}
    return evaluate(condition, lambda atom: known[atom][0]), known


def _missing_text(known: _Known) -> str:
    return ", ".join(dict.fromkeys(text for answer, text in known.values() if answer is None and text))


def _blocked_text(evidence: _Evidence) -> str:
    """Beside `otherwise`: which comparisons could not have shown anything, and why."""
    return "; ".join(f"{item.a} and {item.b} on {item.metric}: {item.reason}" for item in evidence.measured if item.reason)


def _numbers_text(known: _Known) -> str:
    return "; ".join(text for answer, text in known.values() if answer and text)


def _answer(facts: _Facts, evidence: _Evidence, atom: Atom) -> tuple[Answer, str]:
    match atom:
        case Ended():
            return facts.ended(atom)
        case Took():
            answer = facts.took(atom)
            return answer, f"{atom.decision} is open" if answer is None else f"{atom.decision} took {atom.run}"
        case Compared() | Within():
            return evidence.answer(atom)


def _take(facts: _Facts, tree: Tree, line: Line, known: _Known) -> str | _Missing:
    """Name of what a line takes."""
    match line.take.kind:
        case "run":
            return line.take.runs[0]
        case "best":
            return _best(facts, line, known)
        case "its start":
            return _start_of_tree(facts.study, tree, facts.its_start) or _Missing("the start is not known yet")
        case "stop":
            return STOP


def _best(facts: _Facts, line: Line, known: _Known) -> str | _Missing:
    """The run with the best mean.

    Behind "any of … better than …", among those for which that holds; else among those that neither diverged nor failed to learn.
    With nobody left, "stop". The metric is the condition's, or the sweep's.
    """
    if reasons := [reason for run in line.take.runs if (reason := facts.unended(run))]:
        return _Missing(", ".join(reasons))
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


def _price(facts: _Facts, comparisons: Sequence[Comparison], hours_of: Callable[[str], float]) -> str:
    """What it would cost to know what was not shown: see `compare.seeds_to_see`, with the margin as the effect.

    Jobs to add: per run the most seeds any comparison asks for, less those it has; GPU-hours: jobs × hours × GPUs per run.
    """
    parts: list[str] = []
    wanted: dict[str, int] = {}
    seen: set[frozenset[str]] = set()
    for item in comparisons:
        pair = frozenset((facts.name(item.a), facts.name(item.b), item.metric))
        if item.shown or item.reason or not item.values_b or pair in seen or _mirror_shown(item, comparisons):
            continue
        seen.add(pair)
        effect = f"{item.a} − {item.b} on {item.metric} ({item.margin:g}{f' {item.unit}' if item.unit else ''})"
        seeds = seeds_to_see(item, item.margin)
        if seeds is None:
            parts.append(f"{effect}: out of reach")
        elif seeds <= min(item.n_a, item.n_b):
            parts.append(f"{effect}: the {seeds} seeds at hand; the difference lies near the margin")
        else:
            parts.append(f"{effect}: {seeds} seeds each")
            for run in (facts.name(item.a), facts.name(item.b)):
                wanted[run] = max(wanted.get(run, 0), seeds)
    if not parts:
        return ""
    added = {run: max(seeds - len(facts.jobs(run)), 0) for run, seeds in wanted.items()}
    text = f"to show a difference of the margin with probability 0.8: {'; '.join(parts)}"
    if not sum(added.values()):
        return text
    gpu_hours = sum(count * hours_of(run) for run, count in added.items()) * facts.study.gpus_per_run
    usd = gpu_hours * facts.study.usd_per_gpu_hour
    return f"{text}. Together {sum(added.values())} more jobs, {gpu_hours:,.3g} GPU-hours, ${usd:,.2f}"


def _mirror_shown(item: Comparison, comparisons: Sequence[Comparison]) -> bool:
    return any((other.a, other.b, other.metric) == (item.b, item.a, item.metric) and other.shown for other in comparisons)


# ---------------------------------------------------------------- records and names


def _record(facts: _Facts, tree: Tree, now: str, status: Any, because: str) -> DecisionRecord:
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


def _substance(record: DecisionRecord) -> tuple[Any, ...]:
    if record.status == "waiting":
        return (record.name, record.status)
    evidence = [
        (
            item["a"],
            item["b"],
            item["metric"],
            tuple(item["holds"]),
            item["n_a"],
            item["n_b"],
            *(f"{item[name]:.6g}" for name in ("delta", "low", "high") if item[name] is not None),
        )
        for item in record.comparisons
    ]
    because = record.because if record.status == "overruled" else ""
    sets = sorted(record.sets.items(), key=lambda item: item[0])
    return (record.name, record.status, record.took, record.line, sets, evidence, dict(record.jobs), record.tree_hash, because)


def _start_of_tree(study: Study, tree: Tree, its_start: Mapping[str, str]) -> str:
    """The run meant by `its start` in this tree; "" while it is not known."""
    rows = [atom.a for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared) and atom.b == ITS_START]
    return next((its_start.get(study.aliases.get(row, row), "") for row in rows), "")


def _takeable(study: Study, tree: Tree) -> list[str]:
    compared = study.sweeps[tree.sweep].compare
    taken = [run for line in tree.lines for run in line.take.runs]
    asked = [atom for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared)]
    start = [ITS_START] if any(atom.b == ITS_START for atom in asked) else []
    return [*dict.fromkeys((*compared, *taken)), *start, STOP]


def _runs(facts: _Facts, asked: Sequence[Compared | Within]) -> list[str]:
    named = [run for atom in asked for run in ([atom.run] if isinstance(atom, Within) else [atom.a, facts.other(atom)])]
    return list(dict.fromkeys(facts.name(run) for run in named if run))


def _key(atom: Compared | Within) -> tuple[Any, ...]:
    """What is compared, whatever verdict is asked."""
    if isinstance(atom, Within):
        return (atom.run, atom.distance, atom.of, atom.metric)
    return (atom.a, atom.b, atom.metric)


def _pair(facts: _Facts, atom: Compared | Within) -> frozenset[str]:
    """The hypothesis "these two do not differ on this metric", whichever is named first."""
    if isinstance(atom, Within):
        return frozenset()
    return frozenset((facts.name(atom.a), facts.name(facts.other(atom)) or ITS_START, f"on {atom.metric}"))


def _look(facts: _Facts, atom: Compared) -> int:
    """The look its two runs have reached; 1 while one of them is not known."""
    runs = [atom.a, facts.other(atom)]
    return facts.look(*runs) if all(runs) else 1


def _p(found: Comparison | _Missing) -> float | None:
    """p of a comparison; 1 when no verdict can hold; None while it is missing."""
    if isinstance(found, _Missing):
        return None
    return 1.0 if found.reason or math.isnan(found.p) else found.p


def _near(name: str, known: Collection[str]) -> str:
    found = near(name, known)
    return f". Did you mean {' or '.join(repr(word) for word in found)}?" if found else "."

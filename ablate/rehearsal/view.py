"""Rehearsed studies as their rule sees them: what has ended, what it scored, how two runs compare; and what is true. Pure.

n   rehearsed studies      k   those of them that share their decisions so far      s   seeds of a run
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ablate.conditions import ITS_START, Atom, Compared, Within, atoms
from ablate.deciding.facts import refusal
from ablate.deciding.lock import BASELINE, NotYet, make_lock
from ablate.deciding.looks import reached
from ablate.planning.plan import Plan, make_plan
from ablate.rehearsal.compare_many import (
    Bools,
    Floats,
    ManyComparisons,
    ManyPools,
    ManyScores,
    compare_many,
    noise_pools,
    within_many,
)
from ablate.rehearsal.oracle import JUST_BELOW, NOTHING
from ablate.rehearsal.worlds import UNLEARNED_SD, Drawn, World
from ablate.study import REFERENCE, Study, Tree, likeness, most_alike
from db.records import DecisionRecord

Decisions = Mapping[str, DecisionRecord]
Ints = NDArray[np.intp]
Seeds = Mapping[str, Ints]
"""Run -> how many of its seeds have been asked for, the first ones of the file."""


@dataclass(frozen=True)
class Stage:
    """What every rehearsed study shares. Plans and locks are kept: they depend only on what was decided."""

    study: Study
    sample_error: float
    hours_of: Callable[[str], float]
    settle: bool
    """Whether trees are settled with the seeds of later looks, where the study declares looks."""
    plans: dict[tuple[tuple[str, ...], ...], Plan] = field(default_factory=dict)
    locks: dict[tuple[tuple[str, ...], ...], str] = field(default_factory=dict)

    def plan(self, decisions: Decisions) -> Plan:
        key = _key(decisions)
        if key not in self.plans:
            self.plans[key] = make_plan(self.study, {}, decisions, once=False)  # results are drawn by row
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
    seeds: Seeds
    """[k] each, of those this rule, or this sweep, may see."""
    trained: Seeds
    """[k] each, of those somebody asked for."""
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
        worse = -1.0 if self.study.metrics[metric].better == "higher" else 1.0
        diverged, unlearned = self.drawn.diverged[run][self.at], self.drawn.unlearned[run][self.at]
        values = self.truth(run, metric)[:, None] + self.drawn.noise[run, metric][self.at]
        values = values + worse * UNLEARNED_SD * self.world.sd[metric] * unlearned
        every = np.ones(values.shape, dtype=np.bool_)
        scores = ManyScores(self.declared(run), np.where(diverged, np.nan, values), diverged, unlearned, every)
        return scores.first(self.seeds[run])

    def declared(self, run: str) -> tuple[int, ...]:
        """The seeds the file gives a run."""
        return self.study.seeds[run.removesuffix(REFERENCE)]

    def look(self, *runs: str) -> Ints:
        """[k] the look that all of these runs have reached; `reached` of looks.py."""
        looks = self.study.looks
        if len(looks) < 2:
            return np.ones(len(self.at), dtype=np.intp)
        of_runs = []
        for run in runs:
            most = len(self.declared(run))
            table = np.array([reached(looks, count, most) for count in range(most + 1)], dtype=np.intp)
            of_runs.append(table[self.seeds[run]])
        return np.asarray(np.minimum.reduce(of_runs))

    def seen(self, scores: ManyScores, look: Ints) -> ManyScores:
        """What a look sees of a run's scores."""
        return scores if len(self.study.looks) < 2 else scores.first(np.array(self.study.looks, dtype=np.intp)[look - 1])

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

    def runs(self, atom: Compared | Within) -> tuple[str, ...]:
        """The runs an atom compares, by their own names."""
        return (self.name(atom.run),) if isinstance(atom, Within) else (self.name(atom.a), self.other(atom))

    def comparison(self, atom: Compared | Within) -> ManyComparisons:
        metric, names = self.study.metrics[atom.metric], self.runs(atom)
        look, pool = self.look(*names), self.pool(atom.metric, *names)
        runs = {name: self.seen(self.scores(atom.metric)[name], look) for name in names}
        if isinstance(atom, Within):
            return within_many(metric, runs, names[0], atom.distance, atom.of, pool)
        a, b = names
        return compare_many(metric, runs, a, b, pool, self.refused(a, b))

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


def taken_by_start(view: View, tree: Tree) -> str:
    """The run meant by `its start`."""
    rows = [atom.a for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared) and atom.b == ITS_START]
    return next((view.plan.its_start[view.name(row)] for row in rows if view.name(row) in view.plan.its_start), "")


def keeps(view: View, tree: Tree) -> str:
    """What a tree takes by `otherwise`."""
    last = tree.lines[-1]
    return view.name(last.take.runs[0]) if last.take.runs else taken_by_start(view, tree)


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

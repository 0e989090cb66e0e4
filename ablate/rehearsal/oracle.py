"""What a tree should have taken, were the truth known; and what the best lock that the trees can reach is worth. Pure.

n   rehearsed studies
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ablate.conditions import ITS_START, Compared, atoms
from ablate.plan import skipped_sweeps
from ablate.rehearsal.compare_many import Bools, Floats
from ablate.rehearsal.worlds import Drawn
from ablate.study import Study, Tree
from db.records import DecisionRecord

NOTHING, JUST_BELOW = 1e-12, 1 - 1e-9
"""Room for rounding: a difference of no more than NOTHING is none, and one of a margin, rounded, is a margin."""


def best_reachable(study: Study, drawn: Drawn) -> Floats:
    """[n] value of the best lock that the trees can reach, skips included: gains over what each tree keeps, in margins."""
    best = np.full(drawn.n, -np.inf)
    trees = list(study.trees.values())
    gains = {tree.name: true_gains(study, drawn, tree) for tree in trees}

    def go_on(place: int, decisions: Mapping[str, DecisionRecord], value: Floats) -> None:
        nonlocal best
        if place == len(trees):
            best = np.maximum(best, value)
            return
        tree = trees[place]
        if tree.sweep in skipped_sweeps(study, decisions):
            go_on(place + 1, {**decisions, **skipped_trees(study, decisions)}, value)
            return
        margin = study.metrics[metric_of(study, tree)].margin
        for run, gain in gains[tree.name].items():
            record = DecisionRecord(tree.name, tree.sweep, "decided", run, "", {}, "", "rule", "")
            go_on(place + 1, {**decisions, tree.name: record}, value + gain / margin)

    go_on(0, {}, np.zeros(drawn.n))
    return best


def skipped_trees(study: Study, decisions: Mapping[str, DecisionRecord]) -> dict[str, DecisionRecord]:
    skipped = skipped_sweeps(study, decisions)
    return {
        tree.name: DecisionRecord(tree.name, tree.sweep, "skipped", "", "", {}, "", "rule", "")
        for tree in study.trees.values()
        if tree.sweep in skipped
    }


def metric_of(study: Study, tree: Tree) -> str:
    """The metric a tree is about: of its first comparison, else its sweep's."""
    compared = (atom.metric for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared))
    return next(compared, study.sweeps[tree.sweep].on or next(iter(study.metrics)))


def takeable(study: Study, tree: Tree) -> list[str]:
    """The runs that some line of a tree takes, by their own names; not `its start`."""
    return list(dict.fromkeys(study.aliases.get(run, run) for line in tree.lines for run in line.take.runs))


def kept_row(study: Study, tree: Tree) -> str:
    """The row kept by `otherwise`; "" for its start."""
    runs = tree.lines[-1].take.runs
    return study.aliases.get(runs[0], runs[0]) if runs else ""


def good_effect(study: Study, drawn: Drawn, run: str, metric: str) -> Floats:
    """[n] a row's true effect against its start, in the good direction; 0 for the baseline and for a start."""
    if run in ("", study.baseline):
        return np.zeros(drawn.n)
    sign = 1 if study.metrics[metric].better == "higher" else -1
    return sign * drawn.effects.get((run, metric), np.zeros(drawn.n))


def true_gains(study: Study, drawn: Drawn, tree: Tree) -> dict[str, Floats]:
    """Run -> [n] its true gain over what the tree keeps; −inf where what every line that takes it says is false."""
    metric = metric_of(study, tree)
    kept = kept_row(study, tree)
    base = good_effect(study, drawn, kept, metric)
    gains = {kept: np.zeros(drawn.n)}
    for run in takeable(study, tree):
        if run != kept:
            gains[run] = np.where(_deserves(study, drawn, tree, run), good_effect(study, drawn, run, metric) - base, -np.inf)
    return gains


def _deserves(study: Study, drawn: Drawn, tree: Tree, run: str) -> Bools:
    """[n] whether some line that takes the run would hold, were the truth known; one that compares nothing does not count."""
    deserved = np.zeros(drawn.n, dtype=np.bool_)
    for line in tree.lines:
        asked = [
            atom for atom in atoms(line.condition) if isinstance(atom, Compared) and study.aliases.get(atom.a, atom.a) == run
        ]
        if asked and run in [study.aliases.get(name, name) for name in line.take.runs]:
            deserved |= np.logical_and.reduce([_truly(study, drawn, atom) for atom in asked])
    return deserved


def _truly(study: Study, drawn: Drawn, atom: Compared) -> Bools:
    metric = study.metrics[atom.metric]
    a, b = (study.aliases.get(run, run) for run in (atom.a, "" if atom.b == ITS_START else atom.b))
    gain = good_effect(study, drawn, a, metric.name) - good_effect(study, drawn, b, metric.name)
    low = {"better": NOTHING, "no worse": -metric.margin * JUST_BELOW, "same": -metric.margin * JUST_BELOW, "worse": -np.inf}
    high = {"better": np.inf, "no worse": np.inf, "same": metric.margin * JUST_BELOW, "worse": -NOTHING}
    return np.asarray((gain > low[atom.verdict]) & (gain < high[atom.verdict]))

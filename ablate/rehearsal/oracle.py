"""What a tree should have taken, were the truth known; and what the best lock that the trees can reach is worth. Pure.

n   rehearsed studies
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ablate.conditions import ITS_START, Compared, atoms
from ablate.planning.gates import skipped_sweeps
from ablate.rehearsal.compare_many import Bools, Floats
from ablate.rehearsal.worlds import Drawn
from ablate.study import Study, Tree
from db.records import DecisionRecord

NOTHING, JUST_BELOW = 1e-12, 1 - 1e-9
"""Room for rounding: a difference of no more than NOTHING is none, and one of a margin, rounded, is a margin."""


def best_reachable(study: Study, drawn: Drawn, net: bool = False) -> Floats:
    """[n] value of the best lock that the trees can reach, skips included: gains over what each tree keeps, in margins.

    net: less what a change costs; see `price_of`.
    """
    best = np.full(drawn.n, -np.inf)
    trees = list(study.trees.values())
    gains = {tree.name: true_gains(study, drawn, tree, deserved=not net) for tree in trees}

    def go_on(place: int, decisions: Mapping[str, DecisionRecord], value: Floats) -> None:
        nonlocal best
        if place == len(trees):
            best = np.maximum(best, value)
            return
        tree = trees[place]
        if tree.sweep in skipped_sweeps(study, decisions):
            go_on(place + 1, {**decisions, **skipped_trees(study, decisions)}, value)
            return
        for run, gain in gains[tree.name].items():
            record = DecisionRecord(tree.name, tree.sweep, "decided", run, "", {}, "", "rule", "")
            price = price_of(study, tree, run) if net else 0.0
            go_on(place + 1, {**decisions, tree.name: record}, value + gain - price)

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


def metrics_of(study: Study, tree: Tree) -> tuple[str, ...]:
    """Every metric a tree's lines compare, the one it is about first."""
    compared = (atom.metric for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared))
    return tuple(dict.fromkeys((metric_of(study, tree), *compared)))


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


def price_of(study: Study, tree: Tree, run: str) -> float:
    """What adopting a run costs, in margins: one; less than nothing, −1, where a line takes it for being no worse."""
    if run == kept_row(study, tree):
        return 0.0
    content = any(
        isinstance(atom, Compared) and study.aliases.get(atom.a, atom.a) == run and atom.verdict in ("no worse", "same")
        for line in tree.lines
        if run in [study.aliases.get(name, name) for name in line.take.runs]
        and not any(isinstance(atom, Compared) and atom.verdict == "better" for atom in atoms(line.condition))
        for atom in atoms(line.condition)
    )
    return -1.0 if content else 1.0


def worth(study: Study, drawn: Drawn, tree: Tree, run: str) -> Floats:
    """[n] true gain of a run over what the tree keeps, in margins, summed over the metrics its lines compare."""
    kept, total = kept_row(study, tree), np.zeros(drawn.n)
    for metric in metrics_of(study, tree):
        gain = good_effect(study, drawn, run, metric) - good_effect(study, drawn, kept, metric)
        total = total + gain / study.metrics[metric].margin
    return total


def true_gains(study: Study, drawn: Drawn, tree: Tree, deserved: bool = True) -> dict[str, Floats]:
    """Run -> [n] what it is truly worth, in margins; see `worth`.

    deserved: −inf where what every line that takes it says is false.
    """
    kept = kept_row(study, tree)
    gains = {kept: np.zeros(drawn.n)}
    for run in takeable(study, tree):
        if run != kept:
            gain = worth(study, drawn, tree, run)
            gains[run] = np.where(_deserves(study, drawn, tree, run), gain, -np.inf) if deserved else gain
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

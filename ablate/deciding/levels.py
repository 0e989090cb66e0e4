"""The comparisons that a tree's lines ask for, each at its level: Holm's procedure over those that could adopt something. Pure.

`wrong_adoptions` is split evenly over the study's trees; within a tree, Holm's procedure over every pair and metric that some
line asks `better` or `worse` about, blocked comparisons included. While some of these are missing, a verdict counts only if it
comes out the same whatever they will show. A pair that is asked only for `no worse` or `same` is shown at the strictest level,
and no line rests on that. `no worse` and `same` are judged at 0.05 each, learn lines at 0.05 each. Where looks are declared,
every level is the nominal one of the look that both runs have reached (looks.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablate.conditions import ITS_START, Answer, Compared, Condition, Within, atoms
from ablate.deciding.compare import at_level, holm_levels
from ablate.deciding.comparison import Comparison, number_text
from ablate.deciding.facts import LEARN_LEVEL, Facts, Missing
from ablate.study import Study


@dataclass(frozen=True)
class Evidence:
    """Every comparison that some lines ask for, at its level."""

    comparisons: Mapping[tuple[Any, ...], Comparison | Missing]
    """At levels that hold whatever the missing ones will show."""
    lenient: Mapping[tuple[Any, ...], Comparison | Missing]
    """At the levels they would get if every missing one came out with p = 0."""
    pairs: int = 1
    """How many hypotheses share the level: pairs and metrics asked for `better` or `worse`."""

    def answer(self, atom: Compared | Within) -> tuple[Answer, str]:
        """Whether its verdict holds, and the numbers; or, while that is not known, why."""
        found, at_most = self.comparisons[_key(atom)], self.lenient[_key(atom)]
        if isinstance(found, Missing) or isinstance(at_most, Missing):
            return None, found.reason if isinstance(found, Missing) else ""
        verdict = "same" if isinstance(atom, Within) else atom.verdict
        if verdict in found.holds:
            return True, number_text(found)
        if verdict in at_most.holds:
            return None, f"{found.a} − {found.b} depends on comparisons of this tree that are not measured yet"
        return False, number_text(found)

    def measured_of(self, atom: Compared | Within) -> Comparison | None:
        """None while it is missing."""
        found = self.comparisons[_key(atom)]
        return found if isinstance(found, Comparison) else None

    @property
    def measured(self) -> list[Comparison]:
        return [found for found in self.comparisons.values() if isinstance(found, Comparison)]


def comparisons_in(conditions: Iterable[Condition]) -> list[Compared | Within]:
    """Those that these conditions ask for, in reading order."""
    return [atom for condition in conditions for atom in atoms(condition) if isinstance(atom, Compared | Within)]


def of_a_tree(study: Study) -> float:
    """What one tree may spend of the error budget."""
    return study.wrong_adoptions / max(len(study.trees), 1)


def tree_evidence(facts: Facts, asked: Sequence[Compared | Within]) -> Evidence:
    """Make the comparisons and give each its level: Holm over the pairs asked for `better` or `worse`."""
    alpha = of_a_tree(facts.study)
    found = {_key(atom): facts.comparison(atom, alpha) for atom in asked}
    family: dict[frozenset[str], float | None] = {}
    looks: list[int] = []
    for atom in asked:
        if isinstance(atom, Compared) and atom.verdict in ("better", "worse") and _pair(facts, atom) not in family:
            family[_pair(facts, atom)] = _p(found[_key(atom)])
            looks.append(_look(facts, atom))

    def judged(unknown: float) -> dict[tuple[Any, ...], Comparison | Missing]:
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
    return Evidence(strict, judged(0.0) if None in family.values() else strict, max(len(family), 1))


def learn_evidence(facts: Facts, asked: Sequence[Compared | Within]) -> Evidence:
    """The comparisons of a learn line, each by itself: they change nothing, so they spend nothing."""
    found = {_key(atom): facts.comparison(atom, LEARN_LEVEL) for atom in asked}
    return Evidence(found, found)


def _key(atom: Compared | Within) -> tuple[Any, ...]:
    """What is compared, whatever verdict is asked."""
    if isinstance(atom, Within):
        return (atom.run, atom.distance, atom.of, atom.metric)
    return (atom.a, atom.b, atom.metric)


def _pair(facts: Facts, atom: Compared) -> frozenset[str]:
    """The hypothesis "these two do not differ on this metric", whichever is named first."""
    return frozenset((facts.name(atom.a), facts.name(facts.other(atom)) or ITS_START, f"on {atom.metric}"))


def _look(facts: Facts, atom: Compared) -> int:
    """The look its two runs have reached; 1 while one of them is not known."""
    runs = [atom.a, facts.other(atom)]
    return facts.look(*runs) if all(runs) else 1


def _p(found: Comparison | Missing) -> float | None:
    """p of a comparison; 1 when no verdict can hold; None while it is missing."""
    if isinstance(found, Missing):
        return None
    return 1.0 if found.reason or math.isnan(found.p) else found.p

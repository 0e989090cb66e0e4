"""A person decides: what a tree can take, and the record of it, with the evidence of the rule's decision kept beside. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ablate.conditions import ITS_START, Compared, atoms, near
from ablate.deciding.facts import start_of_tree
from ablate.planning.freeze import tree_hash
from ablate.planning.outcomes import STOP
from ablate.study import Study, Tree, UserError
from db.records import DecisionRecord


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
        known = start_of_tree(study, tree, its_start)
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


def _takeable(study: Study, tree: Tree) -> list[str]:
    compared = study.sweeps[tree.sweep].compare
    taken = [run for line in tree.lines for run in line.take.runs]
    asked = [atom for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared)]
    start = [ITS_START] if any(atom.b == ITS_START for atom in asked) else []
    return [*dict.fromkeys((*compared, *taken)), *start, STOP]


def _near(name: str, known: Collection[str]) -> str:
    found = near(name, known)
    return f". Did you mean {' or '.join(repr(word) for word in found)}?" if found else "."

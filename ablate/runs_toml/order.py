"""The order of things: no cycles among runs and decisions, and no run in a block before one it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Literal

from ablate.conditions import ITS_START, Condition, Took, atoms
from ablate.runs_toml.file import File
from ablate.runs_toml.names import Names
from ablate.study import Study, own_runs, runs_of_tree, sweeps_of_runs

_Need = tuple[Literal["run", "decision"], str]
_Needs = dict[_Need, set[_Need]]


def check_order(file: File, names: Names, study: Study) -> None:
    needs = _needs(study)
    _check_cycles(file, names, study, needs)
    _check_blocks(file, study, needs)


def _check_cycles(file: File, names: Names, study: Study, needs: _Needs) -> None:
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        cycle = list(reversed(error.args[1]))  # graphlib names the needed one first
        run = min((name for kind, name in cycle if kind == "run"), key=list(study.runs).index, default="")
        first = cycle.index(("run", run)) if run else 0
        told = ", which needs ".join(name for _, name in [*cycle[first:-1], *cycle[:first], cycle[first]])
        told = told.replace(", which needs ", " needs ", 1)
        node = file.section("runs").keys[run] if run else names.decisions[cycle[0][1]]
        raise file.wrong(node, f"a cycle: {told}") from None


def _check_blocks(file: File, study: Study, needs: _Needs) -> None:
    position = {run: number for number, block in enumerate(study.blocks) for run in block.runs}
    for number, block in enumerate(study.blocks):
        for run, node in zip(block.runs, file.section("blocks").keys[block.name].items or [], strict=True):
            for via, needed in _all_needs(needs, ("run", run)):
                if position.get(needed, -1) > number:
                    later = study.blocks[position[needed]].name
                    raise file.wrong(
                        node,
                        f"{run} is in block {block.name} but needs {via}, which needs {needed} of block {later}, written "
                        f"below: blocks count in the order they are written. Write block {later} above block {block.name}, "
                        f"or put {run} into a block below it",
                    )


def _needs(study: Study) -> _Needs:
    """What each run and decision waits for. Decisions wait for the runs they compare; rows for the decisions they start from,
    and those that may skip their sweep."""
    needs: _Needs = {
        ("run", run.name): {("decision", one) for one in run.start.names}
        for run in study.runs.values()
        if run.start.kind == "winners"
    }
    sweeps_of = sweeps_of_runs(study)
    for sweep in study.sweeps.values():
        gates: set[_Need] = {("decision", one) for one in _took(sweep.skip.condition)} if sweep.skip else set()
        for tree in sweep.trees:
            named = {study.aliases.get(run, run) for run in runs_of_tree(tree) - {ITS_START}}
            asked = {one for line in tree.lines for one in _took(line.condition)}
            needs[("decision", tree.name)] = {("run", run) for run in named} | {("decision", one) for one in asked} | gates
        for run in own_runs(study, sweep.name, sweeps_of) if gates else ():
            needs.setdefault(("run", run), set()).update(gates)
    return needs


def _took(condition: Condition) -> set[str]:
    return {atom.decision for atom in atoms(condition) if isinstance(atom, Took)}


def _all_needs(needs: Mapping[_Need, set[_Need]], start: _Need) -> Iterator[tuple[str, str]]:
    """Every run that `start` needs, however far, with the decision it is needed by."""
    todo, seen = [start], {start}
    while todo:
        here = todo.pop()
        for need in sorted(needs.get(here, ())):
            if need not in seen:
                seen.add(need)
                todo.append(need)
                if need[0] == "run":
                    yield here[1], need[1]

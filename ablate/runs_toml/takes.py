"""What the lines of sweeps compare and take, against where those runs start: a difference must have one cause."""

from __future__ import annotations

from ablate.conditions import ITS_START, Compared, Condition, Took, atoms, listed, quoted
from ablate.runs_toml.file import File
from ablate.runs_toml.names import Names
from ablate.runs_toml.positions import Node
from ablate.study import Line, Start, Study, Tree


def check_takes(file: File, names: Names, study: Study) -> None:
    for name, sweep in study.sweeps.items():
        keys = file.root.keys[name].keys
        lines = keys["learn"].items or [] if "learn" in keys else []
        for learn, node in zip(sweep.learn, lines, strict=True):
            _check_condition(file, node, study, learn.condition)
        for tree in sweep.trees:
            for line, node in zip(tree.lines, names.decisions[tree.name].items or [], strict=True):
                _check_condition(file, node, study, line.condition)
                if line.take.kind == "its start":
                    _check_its_start(file, node, study, tree)
                else:
                    _check_take(file, node, study, tree, line)
        if sweep.skip:
            _check_condition(file, keys["skip"], study, sweep.skip.condition)


def _check_condition(file: File, node: Node, study: Study, condition: Condition) -> None:
    for atom in atoms(condition):
        match atom:
            case Compared(a=a, b=b) if b == ITS_START:
                if a == study.baseline:
                    raise file.wrong(node, f"{a} is the baseline: it has no start to be compared with")
            case Compared(a=a, b=b):
                if _common(study.runs[a].start) != _common(study.runs[b].start):
                    raise file.wrong(
                        node,
                        f"{a} and {b} do not share a start ({_start_words(study, a)}; {_start_words(study, b)}), so their "
                        f'difference has several causes; compare with a run of the same start, or with "{ITS_START}"',
                    )
            case Took(decision=decision, run=run):
                takes = [line.take for line in study.trees[decision].lines]
                can = list(dict.fromkeys(one for take in takes for one in take.runs))
                if run not in can and "its start" not in {take.kind for take in takes}:
                    raise file.wrong(node, f"{decision} never takes {run}; it can take {listed(can, 'or')}")


def _check_take(file: File, node: Node, study: Study, tree: Tree, line: Line) -> None:
    """What is taken adds to what its rows started from, so it must have started there too: it could not take that back."""
    atoms_of_tree = [atom for each in tree.lines for atom in atoms(each.condition)]
    rows = [study.run_named(atom.a) for atom in atoms_of_tree if isinstance(atom, Compared)]
    built = next((row for row in rows if row.start.kind == "winners"), None)
    if built is None:
        return
    for name in line.take.runs:
        if _common(study.run_named(name).start) != _common(built.start):
            took = f"what {listed(built.start.names)} took"
            raise file.wrong(
                node,
                f"{name} cannot be taken here: {built.name} starts from {took}, and {name} does not. Taking it would set "
                f'what {name} changes and leave {took} as it is; to stay there, write "{ITS_START}"',
            )


def _check_its_start(file: File, node: Node, study: Study, tree: Tree) -> None:
    compared = {
        atom.a for line in tree.lines for atom in atoms(line.condition) if isinstance(atom, Compared) and atom.b == ITS_START
    }
    rows = compared or {run for line in tree.lines for run in line.take.runs}
    if len({_common(study.run_named(row).start) for row in rows}) != 1:
        named = f"this tree speaks of {listed(sorted(rows))}" if rows else "this tree names no run"
        raise file.wrong(node, f'"{ITS_START}" of which run? {named}; name the run to take instead')


def _common(start: Start) -> tuple[str, frozenset[str]]:
    return start.kind, frozenset(start.names)


def _start_words(study: Study, run: str) -> str:
    start = study.runs[run].start
    if start.kind == "baseline":
        return f"{run} starts from {study.baseline}"
    return f"{run} from {quoted(start.names, 'and')}"

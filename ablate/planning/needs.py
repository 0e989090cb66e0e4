"""Who needs whom: the runs of a tree, the sweeps that hear of a run, the jobs that a job waits for. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ablate.conditions import ITS_START, Took, atoms
from ablate.planning.plan import Plan, row_of
from ablate.study import TRIAL, Study, Tree, own_runs, run_of, runs_of_tree, sweeps_of_runs


def needs_of_tree(study: Study, tree: Tree, its_start: Mapping[str, str]) -> tuple[str, ...] | None:
    """The runs whose jobs a tree needs, "its start" included; None while that is not known."""
    named = runs_of_tree(tree)
    rows = [study.aliases.get(name, name) for name in named if name != ITS_START]
    if ITS_START in named:
        starting = [row for row in rows if study.runs[row].start.kind == "winners"]
        if any(row not in its_start for row in starting):
            return None
        rows += [its_start[row] for row in starting]
    return tuple(dict.fromkeys(sorted(rows)))


def askers(study: Study) -> dict[str, set[str]]:
    """Run or decision -> the sweeps whose trees may say something else when it has ended, or has changed."""
    found: dict[str, set[str]] = {}
    for sweep in study.sweeps.values():
        runs = {study.aliases.get(name, name) for tree in sweep.trees for name in runs_of_tree(tree)} & study.runs.keys()
        starts = {name for run in runs if study.runs[run].start.kind == "winners" for name in study.runs[run].start.names}
        conditions = [line.condition for tree in sweep.trees for line in tree.lines]
        conditions += [sweep.skip.condition] if sweep.skip else []
        took = {atom.decision for condition in conditions for atom in atoms(condition) if isinstance(atom, Took)}
        for what in (*runs, *starts, *took):
            found.setdefault(what, set()).add(sweep.name)
    return found


def needed_jobs(study: Study, plan: Plan) -> dict[str, tuple[str, ...]]:
    """Job id -> ids of the jobs that must end before it may start (through the decisions between them)."""
    ids: dict[str, list[str]] = {}
    for job in plan.jobs:
        if not job.confirms:
            ids.setdefault(job.run, []).append(job.id)
    for id, owner in plan.same.items():
        ids.setdefault(run_of(id), []).append(owner)
    tree_jobs = {}
    for tree in study.trees.values():
        runs = {study.aliases.get(name, name) for name in runs_of_tree(tree) - {ITS_START}}
        tree_jobs[tree.name] = [id for run in sorted(runs) for id in ids.get(run, [])]
    sweeps_of = sweeps_of_runs(study)
    waits: dict[str, set[str]] = {}
    for run in study.runs.values():
        waits[run.name] = set(run.start.names) if run.start.kind == "winners" else set()
    for sweep in study.sweeps.values():
        if sweep.skip:
            decisions = {atom.decision for atom in atoms(sweep.skip.condition) if isinstance(atom, Took)}
            for name in own_runs(study, sweep.name, sweeps_of):
                waits[name] |= decisions
    tuned = {run.name: ids.get(run.name + TRIAL, []) for run in study.searching}
    out = {}
    every = tuple(dict.fromkeys(id for of_tree in tree_jobs.values() for id in of_tree))
    for job in plan.jobs:
        if job.confirms:
            out[job.id] = tuple(id for id in every if id != job.id)
            continue
        needed = {id for name in waits[row_of(job)] for id in tree_jobs.get(name, []) if id != job.id}
        out[job.id] = tuple(sorted(needed.union(tuned.get(job.run, ()))))
    return out

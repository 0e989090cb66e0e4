"""What followed from a decision that says something else now: jobs, decisions, skips, the lock, figures. Pure.

Nothing of it is deleted, and a finished job whose key is unchanged is never stale. Decisions that can be taken again from numbers
at hand are, by the next `decide` or `launch`; what would have to be *trained* again waits for `ablate launch --redo-stale`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ablate.conditions import Took, atoms, listed
from ablate.planning.gates import took
from ablate.planning.plan import Plan
from ablate.planning.starts import is_made, says_else
from ablate.study import ENDED, REFERENCE, Study, run_of, runs_of_tree
from db.records import DecisionRecord, LockRecord


@dataclass(frozen=True)
class Stale:
    """Something that rests on a decision as it was."""

    kind: Literal["decision", "job", "skip", "lock", "figure"]
    name: str
    because: str


def find_stale(study: Study, plan: Plan, history: Sequence[DecisionRecord], lock: LockRecord | None) -> tuple[Stale, ...]:
    """Everything stale, jobs first.

    history: every decision record, superseded ones included. lock: the one that holds.
    """
    jobs = [*_jobs(study, plan, history)]
    decisions = [*_decisions(study, plan, history)]
    skips = [Stale("skip", run, reason) for run, reason in _held_skips(study, plan).items()]
    return (*jobs, *decisions, *skips, *_lock(study, plan, history, lock), *_figures(study, jobs))


def turned_below(study: Study, record: DecisionRecord, history: Sequence[DecisionRecord]) -> tuple[str, ...]:
    """Decisions that `record` was built on and that say something else now.

    A tree is built on what its rows started from, whatever that was; and on the answers to "freeze took F1" in its lines and in
    its sweep's skip rule: freeze turning from F3 to F2 changes none of those.
    """
    before = {each.name: each for each in history if each.number < record.number}
    current = {each.name: each for each in history}
    known = before.keys() & current.keys()
    started = [name for name in _started(study, record.name) if name in known and says_else(study, before[name], current[name])]
    asked = [
        atom.decision
        for atom in _asked(study, record.name)
        if atom.decision in known and took(study, atom, before) != took(study, atom, current)
    ]
    return tuple(dict.fromkeys((*asked, *started)))


def _asked(study: Study, tree: str) -> list[Took]:
    of = study.trees[tree]
    skip = study.sweeps[of.sweep].skip
    conditions = [line.condition for line in of.lines] + ([skip.condition] if skip else [])
    return [atom for condition in conditions for atom in atoms(condition) if isinstance(atom, Took)]


def _started(study: Study, tree: str) -> list[str]:
    names = [study.aliases.get(run, run) for run in sorted(runs_of_tree(study.trees[tree]))]
    rows = [study.runs[name] for name in names if name in study.runs]
    return [name for row in rows if row.start.kind == "winners" for name in row.start.names]


def _jobs(study: Study, plan: Plan, history: Sequence[DecisionRecord]) -> Iterator[Stale]:
    """Results of rows that started from what a decision took then, and were not trained anew since."""
    ended = {job.id for job in plan.jobs if job.state in ENDED}
    anew = ended | {id for id, owner in plan.same.items() if owner in ended}
    for key in plan.orphans:
        run = run_of(key)
        row = study.runs.get(run.removesuffix(REFERENCE))
        if row is None or row.start.kind != "winners" or key.rsplit("-", 1)[0] in anew:
            continue
        turned = [name for name in row.start.names if _turned(study, name, history)]
        if turned:
            yield Stale("job", key, f"it started from what {' and '.join(row.start.names)} took before {_says(turned, history)}")


def _decisions(study: Study, plan: Plan, history: Sequence[DecisionRecord]) -> Iterator[Stale]:
    current = {record.name: record for record in history}
    for name in study.trees:
        record = current.get(name)
        if record is None or record.status == "overruled":
            continue
        turned = turned_below(study, record, history)
        if turned:
            yield Stale("decision", name, f"it was taken before {_says(turned, history)}")
        elif name in plan.fallen:
            yield Stale("decision", name, f"{plan.fallen[name]}; it is open again")


def _held_skips(study: Study, plan: Plan) -> Mapping[str, str]:
    return {
        job.run: job.reason for job in plan.jobs if job.stale and study.runs.get(job.run) and job.run not in _winners_rows(study)
    }


def _winners_rows(study: Study) -> set[str]:
    return {run.name for run in study.runs.values() if run.start.kind == "winners"}


def _lock(study: Study, plan: Plan, history: Sequence[DecisionRecord], lock: LockRecord | None) -> Iterator[Stale]:
    if lock is None or lock.lifted_at:
        return
    numbered = {record.number: record for record in history}
    current = {record.name: record for record in history}
    turned = [
        name
        for name, number in lock.decisions.items()
        if name in current and number in numbered and says_else(study, numbered[number], current[name])
    ]
    if turned:
        yield Stale("lock", lock.hash[:12], f"it was made before {_says(turned, history)}")
    elif fallen := [name for name in lock.decisions if name in plan.fallen]:
        are = "is" if len(fallen) == 1 else "are"
        yield Stale("lock", lock.hash[:12], f"it rests on {listed(fallen)}, which {are} open again")


def _figures(study: Study, jobs: Sequence[Stale]) -> Iterator[Stale]:
    """Figures that draw a run whose results are stale."""
    runs = {job.name.rsplit("-s", 1)[0] for job in jobs}
    for figure, drawn in study.figures.items():
        mine = [run for run in drawn if run in runs]
        if mine:
            yield Stale("figure", figure, f"it draws {', '.join(mine)}")


def _turned(study: Study, name: str, history: Sequence[DecisionRecord]) -> bool:
    made = [record for record in history if record.name == name and is_made(record)]
    return any(says_else(study, record, made[-1]) for record in made[:-1])


def _says(names: Sequence[str], history: Sequence[DecisionRecord]) -> str:
    current = {record.name: record for record in history}
    return " and ".join(f"{name} took {current[name].took or 'nothing (' + current[name].status + ')'}" for name in names)

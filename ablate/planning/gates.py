"""What keeps a job from starting, whatever its attempts say: skip rules, open decisions, what is stale, later looks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ablate.conditions import Answer, Atom, Took, atoms, evaluate
from ablate.planning.starts import is_made, says_else
from ablate.study import Run, Study, own_runs
from db.records import AttemptRecord, DecisionRecord


@dataclass(frozen=True)
class Gate:
    """What stands between a job and its start, whatever its attempts say: decisions that skip it, or that are open."""

    skipped: bool
    reason: str


def until(waits_for: str) -> Gate | None:
    """A gate that opens when this is there; none where nothing is waited for."""
    return Gate(False, waits_for) if waits_for else None


# ---------------------------------------------------------------- skip rules


def gates_of(
    study: Study, sweeps_of: Mapping[str, tuple[str, ...]], skipped: Mapping[str, str], decisions: Mapping[str, DecisionRecord]
) -> dict[str, Gate]:
    """Run -> its sweep's rule between it and its start: skipped, or not known yet."""
    gates = {}
    for sweep in study.sweeps.values():
        if not sweep.skip:
            continue
        if sweep.name in skipped:
            gate = Gate(True, f"{sweep.name} is skipped: {skipped[sweep.name]}")
        else:
            asked = [atom.decision for atom in atoms(sweep.skip.condition) if isinstance(atom, Took)]
            open_ = [name for name in asked if not is_made(decisions.get(name))]
            if not open_:
                continue
            gate = Gate(False, f"decision {' and '.join(open_)} is open: it may skip {sweep.name}")
        gates.update(dict.fromkeys(own_runs(study, sweep.name, sweeps_of), gate))
    return gates


def skipped_sweeps(study: Study, decisions: Mapping[str, DecisionRecord]) -> dict[str, str]:
    """Sweep -> why it is skipped."""
    out = {}
    for sweep in study.sweeps.values():
        if sweep.skip and evaluate(sweep.skip.condition, lambda atom: took(study, atom, decisions)):
            out[sweep.name] = f"{sweep.skip.text}: {sweep.skip.because}"
    return out


def took(study: Study, atom: Atom, decisions: Mapping[str, DecisionRecord]) -> Answer:
    """Whether a decision took a run; None while it is open. Only `took` may stand in a skip rule."""
    assert isinstance(atom, Took), f"a skip rule may only ask what a decision took, not {atom}"
    decision = decisions.get(atom.decision)
    if decision is None or not is_made(decision):
        return None
    return study.aliases.get(decision.took, decision.took) == study.aliases.get(atom.run, atom.run)


# ---------------------------------------------------------------- what is stale


@dataclass(frozen=True)
class Held:
    """What is not trained by itself, because a decision turned after something was built on it."""

    rows: Mapping[str, str]
    """Row that starts from a decision that turned -> which one, in words."""
    skipped: Mapping[str, str]
    """Row of a sweep that was skipped and is not any more -> why."""
    trained: frozenset[str]
    """Ids of jobs that have a result, under whatever key: "D1-s42"."""

    @staticmethod
    def none() -> Held:
        return Held({}, {}, frozenset())

    def reason(self, row: Run, run: Run, seed: int, key: str | None) -> str:
        if row.name in self.skipped:
            return f"stale: {self.skipped[row.name]}; `ablate launch --redo-stale` trains it"
        if key and row.name in self.rows and f"{run.name}-s{seed}" in self.trained:
            return f"stale: trained before {self.rows[row.name]}; `ablate launch --redo-stale` trains it anew"
        return ""


def held_back(
    study: Study,
    attempts: Mapping[str, tuple[AttemptRecord, ...]],
    decisions: Mapping[str, DecisionRecord],
    history: Sequence[DecisionRecord],
    sweeps_of: Mapping[str, tuple[str, ...]],
) -> Held:
    turned = {
        name: f"{name} took {now.took or 'nothing'}"
        for name, now in decisions.items()
        if any(old.name == name and is_made(old) and says_else(study, old, now) for old in history)
    }
    if not turned:
        return Held.none()
    rows = {
        run.name: " and ".join(turned[name] for name in run.start.names if name in turned)
        for run in study.runs.values()
        if run.start.kind == "winners" and turned.keys() & set(run.start.names)
    }
    skipped: dict[str, str] = {}
    for sweep in study.sweeps.values():
        asked = {atom.decision for atom in atoms(sweep.skip.condition) if isinstance(atom, Took)} if sweep.skip else set()
        was = any(old.sweep == sweep.name and old.status == "skipped" for old in history)
        if was and asked & turned.keys():
            why = f"{sweep.name} was skipped before {' and '.join(turned[name] for name in sorted(asked & turned.keys()))}"
            skipped |= dict.fromkeys(own_runs(study, sweep.name, sweeps_of), why)
    trained = frozenset(key.rsplit("-", 1)[0] for key, tried in attempts.items() if tried[-1].state in ("done", "diverged"))
    return Held(rows, skipped, trained)


# ---------------------------------------------------------------- later looks


LOOK_OF = "look of "
"""A record among the decisions whose name begins so says which seeds of a later look a person asked for, for which sweep."""


def asked_for(decisions: Mapping[str, DecisionRecord], sweep: str = "") -> frozenset[str]:
    """Keys of the jobs of later looks that were asked for, to settle this sweep; "" for any."""
    records = [record for name, record in decisions.items() if name.startswith(LOOK_OF) and sweep in ("", record.sweep)]
    return frozenset(key for record in records for key in record.jobs)


def look_at(looks: Sequence[int], place: int) -> int:
    """The look that a seed belongs to, by its place among the run's seeds."""
    return next((number for number, most in enumerate(looks, 1) if place < most), max(len(looks), 1))

"""The final config: the baseline plus what each decision took, with where every key came from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ablate.planning.freeze import content_hash
from ablate.planning.plan import Plan, nothing_adopted
from ablate.planning.search import adopted_searches
from ablate.study import LOCKED, Settings, Study
from db.records import DecisionRecord, LockRecord

BASELINE = "baseline"
CONFLICT = "conflict"
"""Source of a key that two decisions set differently: it keeps the baseline's value until a person settles it."""


CONFIRMATION = "lock confirmation"
"""Name of the record that confirms a lock, among the decisions; with a space, so that no tree can be called so."""

Standing = Literal["not declared", "nothing to confirm", "pending", "confirmed", "failed"]


@dataclass(frozen=True)
class NotYet:
    """Why there is no lock yet."""

    reasons: tuple[str, ...]


def make_lock(
    study: Study, decisions: Mapping[str, DecisionRecord], trained: Mapping[str, Settings], plan: Plan, now: str
) -> LockRecord | NotYet:
    """Put the final config together.

    decisions: the current record of each tree, by name.
    trained:   run -> resolved settings of every run with a finished job; says whether the combination was ever trained.
    plan:      what is still to run; the lock waits for the jobs of every block up to the one it stands after. A job that failed
               for good does not hold it up by itself: a decision that needs it does.

    A skipped tree sets nothing. The lock is provisional: nobody has tried the config on fresh seeds yet. (Where that is declared
    and the lock is the baseline, there is nothing to try.)
    """
    reasons = (*_missing(study, decisions), *_unfinished(study, plan))
    if reasons:
        return NotYet(reasons)
    settings, sources = dict(study.settings), dict.fromkeys(study.settings, BASELINE)
    conflicts = []
    for key, wanted in _wanted(study, decisions).items():
        values = list(wanted.values())
        if all(value == values[0] for value in values):
            settings[key], sources[key] = values[0], next(iter(wanted))
        else:
            sources[key] = CONFLICT
            conflicts.append(f"{key}: {', '.join(f'{name} says {value!r}' for name, value in wanted.items())}; overrule one")
    if not conflicts and study.conflict and (said := study.conflict(settings, {})):
        conflicts.append(f"{said}; overrule one of the decisions")
    made = LockRecord(
        settings=settings,
        sources=sources,
        decisions={name: decisions[name].number for name in (*study.trees, *adopted_searches(study, decisions))},
        conflicts=tuple(conflicts),
        trained_as="" if conflicts else _trained_as(study, settings, trained),
        provisional=True,
        hash=content_hash(settings),
        at=now,
    )
    settled = study.confirm is not None and not conflicts and nothing_adopted(study, made)
    return replace(made, provisional=not settled)


def standing(study: Study, lock: LockRecord, decisions: Mapping[str, DecisionRecord]) -> Standing:
    """How far a lock is confirmed."""
    if study.confirm is None:
        return "not declared"
    if nothing_adopted(study, lock):
        return "nothing to confirm"
    record = decisions.get(CONFIRMATION)
    if record is None or record.tree_hash != lock.hash:
        return "pending"
    return "confirmed" if record.took == LOCKED else "failed"


def same_lock(new: LockRecord, old: LockRecord) -> bool:
    """Whether two locks say the same: config, sources and conflicts (numbers and times of records aside)."""
    return (new.hash, dict(new.sources), new.conflicts, new.trained_as) == (
        old.hash,
        dict(old.sources),
        old.conflicts,
        old.trained_as,
    )


def _missing(study: Study, decisions: Mapping[str, DecisionRecord]) -> list[str]:
    if not study.lock_after:
        return ["the file asks for no lock; give [lock] after = the last block"]
    reasons = []
    for name, tree in study.trees.items():
        record = decisions.get(name)
        if record is None:
            reasons.append(f"decision {name!r} ({tree.sweep}) is open")
        elif record.status == "waiting":
            reasons.append(f"decision {name!r} ({tree.sweep}) waits: {record.because}")
        elif record.took == "stop":
            reasons.append(f"decision {name!r} ({tree.sweep}) took `stop`: {record.because}. Overrule it or change the study")
    return reasons


def _unfinished(study: Study, plan: Plan) -> list[str]:
    names = [block.name for block in study.blocks]
    counted = names[: names.index(study.lock_after) + 1] if study.lock_after in names else []
    return [
        f"{job.id} (block {job.block}) is {job.state}"
        for job in plan.jobs
        if job.block in counted and not job.confirms and job.state in ("waiting", "ready", "running", "interrupted")
    ]


def _wanted(study: Study, decisions: Mapping[str, DecisionRecord]) -> dict[str, dict[str, Any]]:
    """Setting -> decision -> the value it sets, in the order of the file."""
    wanted: dict[str, dict[str, Any]] = {}
    for name in study.trees:
        if decisions[name].status != "skipped":
            for key, value in decisions[name].sets.items():
                wanted.setdefault(key, {})[name] = value
    return wanted


def _trained_as(study: Study, settings: Settings, trained: Mapping[str, Settings]) -> str:
    def identity(values: Settings) -> Mapping[str, Any]:
        return {name: value for name, value in values.items() if name in study.stateful}

    return next((run for run, values in trained.items() if identity(values) == identity(settings)), "")

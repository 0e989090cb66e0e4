"""The locked config against the baseline on seeds nobody has used: what it must show, whether it did, who misled. Pure.

A lock is what looked best among many, in a combination that nobody may have trained: its gains are overestimated (the winner's
curse) and may not add up. Fresh seeds know nothing of how it was chosen, so one plain comparison at 0.05 settles it. It must show
what the lock claims: `better`, if any decision it rests on was taken because a run was better; else `no worse`.

Which decision most likely misled is told by the chance that its gain was none, given the evidence it was taken on: the one-sided
p of its own comparison. A decision that a person took without such evidence comes first. No single one need be at fault: parts
that are each real may not add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy import special

from ablate.conditions import Compared, atoms
from ablate.deciding.compare import compare
from ablate.deciding.comparison import Comparison, as_json, number_text
from ablate.deciding.fairness import ledger
from ablate.deciding.lock import CONFIRMATION
from ablate.deciding.noise import noise_pool
from ablate.deciding.scores import scores
from ablate.planning.plan import Plan
from ablate.study import ENDED, LOCKED, JobResult, Study
from db.records import DecisionRecord, LockRecord

FRESH = "{run} on fresh seeds"
"""Name of the baseline's fresh jobs in the pool of noise: a group of their own."""
LEVEL = 0.05

Claim = Literal["better", "no worse"]


@dataclass(frozen=True)
class Suspect:
    """A decision that the lock rests on."""

    name: str
    took: str
    p: float
    """Chance of such numbers if its gain were none; 1 where a person decided."""
    text: str


def claim(study: Study, decisions: Mapping[str, DecisionRecord]) -> Claim:
    """What the lock promises: `better` if a decision it rests on was taken by a line that asks for it."""
    for record in decisions.values():
        tree = study.trees.get(record.name)
        if tree is None or not _adopted(study, record):
            continue
        for line in tree.lines:
            asked = [atom for atom in atoms(line.condition) if isinstance(atom, Compared) and atom.verdict == "better"]
            if line.text == record.line and asked:
                return "better"
    return "no worse"


def judge(
    study: Study,
    lock: LockRecord,
    fresh: Mapping[str, Sequence[JobResult]],
    results: Mapping[str, Sequence[JobResult]],
    decisions: Mapping[str, DecisionRecord],
    now: str,
) -> DecisionRecord:
    """The verdict, when all jobs have ended.

    fresh:   LOCKED and the baseline -> their jobs on the fresh seeds.
    results: the study's other jobs; they lend their noise, nothing else.
    """
    confirm = study.confirm
    assert confirm is not None, "a study without [lock] confirm has nothing to judge"
    made = _comparison(study, lock, fresh, results)
    wanted = claim(study, decisions)
    confirmed = wanted in made.holds
    asked = f"{LOCKED} {wanted} than {confirm.against} on {confirm.on}"
    because = f"{'confirmed' if confirmed else 'not confirmed'}: {number_text(made)}"
    if not confirmed:
        because += f"; the lock claims {wanted}, shown is {' and '.join(made.holds) or 'nothing'}. {_blame(study, decisions)}"
    return DecisionRecord(
        name=CONFIRMATION,
        sweep="lock",
        status="decided",
        took=LOCKED if confirmed else confirm.against,
        line=asked,
        sets={},
        because=because,
        by="rule",
        at=now,
        comparisons=(as_json(made),),
        jobs={job.key: job.code_hash for of_run in fresh.values() for job in of_run if job.state in ENDED},
        tree_hash=lock.hash,
    )


def unfinished(plan: Plan) -> tuple[str, ...]:
    """Jobs of the confirmation that have not ended."""
    return tuple(job.id for job in plan.jobs if job.confirms and job.state not in ENDED)


def suspects(study: Study, decisions: Mapping[str, DecisionRecord]) -> tuple[Suspect, ...]:
    """The decisions that changed something, the one with the weakest evidence first."""
    found = [_suspect(study, record) for record in decisions.values() if record.name in study.trees and _adopted(study, record)]
    return tuple(sorted(found, key=lambda one: -one.p))


def _adopted(study: Study, record: DecisionRecord) -> bool:
    """Whether a decision made the lock another config than the baseline."""
    return any(study.settings.get(name) != value for name, value in record.sets.items())


def _comparison(
    study: Study, lock: LockRecord, fresh: Mapping[str, Sequence[JobResult]], results: Mapping[str, Sequence[JobResult]]
) -> Comparison:
    confirm = study.confirm
    assert confirm is not None, "see judge"
    metric, beside = study.metrics[confirm.on], FRESH.format(run=confirm.against)
    pool = noise_pool(metric, {**results, LOCKED: fresh[LOCKED], beside: fresh[confirm.against]}, _budget(fresh), imported=False)
    declared = [name for name, source in lock.sources.items() if source != "baseline"]
    return compare(
        metric,
        scores(metric, LOCKED, fresh[LOCKED]),
        scores(metric, confirm.against, fresh[confirm.against], beside),
        pool,
        LEVEL,
        checks=ledger(fresh[LOCKED], fresh[confirm.against], declared, study.stateful, confirm.on, mix_steps=study.mix_steps),
    )


def _budget(fresh: Mapping[str, Sequence[JobResult]]) -> float | None:
    samples = {job.facts["samples"] for of_run in fresh.values() for job in of_run if "samples" in job.facts}
    return max(samples) if samples else None


def _blame(study: Study, decisions: Mapping[str, DecisionRecord]) -> str:
    found = suspects(study, decisions)
    if not found:
        return "No decision changed anything"
    told = "; ".join(one.text for one in found[:3])
    apart = " They may also not add up: the combination was chosen in parts" if len(found) > 1 else ""
    return f"Most likely at fault: {told}.{apart}"


def _suspect(study: Study, record: DecisionRecord) -> Suspect:
    if record.by == "person":
        return Suspect(record.name, record.took, 1.0, f'{record.name} (a person took {record.took}: "{record.because}")')
    took = study.aliases.get(record.took, record.took)
    mine = [one for one in record.comparisons if study.aliases.get(one["a"], one["a"]) == took and one["holds"]]
    if not mine:
        return Suspect(record.name, record.took, 1.0, f"{record.name} (took {record.took} without a comparison that shows it)")
    p = min(_no_gain(one) for one in mine)
    one = min(mine, key=_no_gain)
    shown = f"{one['a']} − {one['b']} = {one['delta']:+.3g} on {one['metric']}, n {one['n_a']}/{one['n_b']}"
    return Suspect(record.name, record.took, p, f"{record.name} took {record.took} ({shown}; p = {p:.2g} for no gain at all)")


def _no_gain(one: Mapping[str, Any]) -> float:
    """One-sided p of "it gains nothing", from the interval stored with the decision."""
    noise = one["noise"]
    df = math.inf if noise["df"] is None else float(noise["df"])
    if one["method"] == "paired":
        df = one["n_a"] - 1
    low, high, level = one["tost_low"], one["tost_high"], one["tost_level"]
    if low is None or high is None:
        return 1.0
    gain = one["delta"] if one["better"] == "higher" else -one["delta"]
    quantile = float(special.ndtri(1 - level) if math.isinf(df) else special.stdtrit(df, 1 - level))
    error = (high - low) / 2 / quantile
    if error == 0:
        return 0.0 if gain > 0 else 1.0
    return float(special.ndtr(-gain / error) if math.isinf(df) else special.stdtr(df, -gain / error))

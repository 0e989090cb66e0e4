"""What `ablate audit` and `ablate decide --explain` answer: decisions and the lock, taken again from the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ablate.answers.compare import formulas, samples_of, says
from ablate.answers.decide import to_turn
from ablate.answers.document import Answer, command, head, plain
from ablate.audit import Finding, audit, examine
from ablate.desk import Desk
from ablate.pairs import sample_evidence
from ablate.planning.plan import Plan
from db.records import DecisionRecord, LockRecord


def explained(desk: Desk, sweeps: Sequence[str]) -> Answer:
    """The decisions of these sweeps (none named: all) taken again from the rows, with all behind each; nothing is recorded."""
    trees = [name for name, tree in desk.study.trees.items() if not sweeps or tree.sweep in sweeps]
    plan, taken = desk.plan(), desk.store.decisions()
    found = [examine(desk, plan, taken[name]) for name in trees if name in taken]
    shown = [_finding(desk, one) | {"comparisons": _behind(desk, plan, one)} for one in found]
    used = [comparison for one in shown for comparison in one["comparisons"]]
    return plain(
        {
            **head(desk),
            "decisions": shown,
            "open": [f"{name} is open: `ablate decide {desk.study.trees[name].sweep}`" for name in trees if name not in taken],
            "formulas": formulas(used),
            "deviations": _deviations(desk),
            "next": command(desk, "audit"),
        }
    )


def audited(desk: Desk) -> Answer:
    """Every standing decision and the lock, taken again; `fell` names what does not follow any more."""
    found = audit(desk)
    decisions = [_finding(desk, one) for one in found if isinstance(one.record, DecisionRecord)]
    locks = [_finding(desk, one) for one in found if isinstance(one.record, LockRecord)]
    off = [one.name for one in found if one.verdict != "follows"]
    return plain(
        {
            **head(desk),
            "decisions": decisions,
            "lock": locks[0] if locks else None,
            "fell": [one.name for one in found if one.verdict == "fell"],
            "moved": [one.name for one in found if one.verdict == "moved"],
            "ok": not off,
            "deviations": _deviations(desk),
            "next": command(desk, "decide", "--explain") if off else "",
        }
    )


def _finding(desk: Desk, one: Finding) -> Answer:
    """What was taken, what follows from the rows, what is off."""
    record, again = one.record, one.again
    shared = {"name": one.name, "verdict": one.verdict, "problems": list(one.problems), "at": record.at}
    if isinstance(record, LockRecord):
        return shared | {"hash": record.hash}
    return shared | {
        "sweep": record.sweep,
        "number": record.number,
        "status": record.status,
        "by": record.by,
        "took": record.took,
        "line": record.line,
        "because": record.because,
        "sets": dict(record.sets),
        "jobs": dict(record.jobs),
        "labels": sorted({label for of in record.comparisons for label in of.get("labels", ())}),
        "tree_hash": record.tree_hash,
        "again": {"took": again.took, "line": again.line} if isinstance(again, DecisionRecord) else None,
        "today": _today(desk, one.today) if one.today else None,
    }


def _today(desk: Desk, today: DecisionRecord) -> Answer:
    """What all that is known now says, and what a person types to have it recorded."""
    turn = to_turn(desk, today.sweep)
    return {"took": today.took, "line": today.line, "status": today.status, "turn": turn}


def _behind(desk: Desk, plan: Plan, one: Finding) -> list[Answer]:
    """The comparisons as the rows give them; a person's decision keeps those of the rule it overruled."""
    source = one.again if isinstance(one.again, DecisionRecord) else one.record
    assert isinstance(source, DecisionRecord), "trees make decisions"
    aliases = desk.study.aliases

    def samples(of: Mapping[str, Any]) -> Answer | None:
        pair = (aliases.get(of["a"], of["a"]), aliases.get(of["b"], of["b"]))
        return samples_of(sample_evidence(desk, plan, *pair, of["metric"])) if of["values_b"] else None

    return [{**of, "says": says(of), "samples": samples(of)} for of in source.comparisons]


def _deviations(desk: Desk) -> list[Answer]:
    """Edits of what was frozen at the first launch, with their reasons."""
    return [asdict(deviation) for deviation in desk.store.deviations()]

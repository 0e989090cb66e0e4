"""What made a decision turn: whether it says, or rests on, something else than the one before, and what that is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from db.records import DecisionRecord


def superseded(new: DecisionRecord, old: DecisionRecord | None) -> bool:
    """Whether `new` says something else than `old`, or rests on something else; when it was said does not count."""
    return old is None or _substance(new) != _substance(old)


def turned_because(new: DecisionRecord, old: DecisionRecord) -> str:
    """Why a tree says something else than it did: in what `new` rests on something else than `old`; the first that applies."""
    if new.tree_hash != old.tree_hash:
        return "its tree reads otherwise"
    if new.status != old.status:
        return f"it was {old.status}, and is {new.status}"
    others = sorted(new.jobs.keys() ^ old.jobs.keys())
    if others:
        return f"it rests on other jobs: {', '.join(others[:3])}{f' and {len(others) - 3} more' if len(others) > 3 else ''}"
    before = {(one["a"], one["b"], one["metric"]): one for one in old.comparisons}
    both = [(one, before[key]) for one in new.comparisons if (key := (one["a"], one["b"], one["metric"])) in before]
    for now, then in both:
        if f"{now['delta']}" != f"{then['delta']}":
            return f"{now['a']} − {now['b']} on {now['metric']} is {_number(now['delta'])}, was {_number(then['delta'])}"
    if unlike := sorted(_unfair(new) ^ _unfair(old)):
        return f"{unlike[0]} {'is not equal' if unlike[0] in _unfair(new) else 'is equal'} now"
    for now, then in both:
        if now["noise"] != then["noise"]:
            return f"noise between seeds is known otherwise: sd {_noise_text(now)}, was {_noise_text(then)}"
    return "what the file declares is another"


def rests_on_the_same(new: DecisionRecord, old: DecisionRecord) -> bool:
    """Whether both saw the same tree, jobs, differences and ledger; only the noise, measured elsewhere, may be known better."""

    def numbers(record: DecisionRecord) -> set[tuple[Any, ...]]:
        return {(c["a"], c["b"], c["metric"], c["n_a"], c["n_b"], f"{c['delta']}") for c in record.comparisons}

    same_kind = (new.status, new.tree_hash, dict(new.jobs)) == (old.status, old.tree_hash, dict(old.jobs))
    return same_kind and numbers(new) == numbers(old) and _unfair(new) == _unfair(old)


def _substance(record: DecisionRecord) -> tuple[Any, ...]:
    if record.status == "waiting":
        return (record.name, record.status)
    evidence = [
        (
            item["a"],
            item["b"],
            item["metric"],
            tuple(item["holds"]),
            item["n_a"],
            item["n_b"],
            *(f"{item[name]:.6g}" for name in ("delta", "low", "high") if item[name] is not None),
        )
        for item in record.comparisons
    ]
    because = record.because if record.status == "overruled" else ""
    sets = sorted(record.sets.items(), key=lambda item: item[0])
    return (record.name, record.status, record.took, record.line, sets, evidence, dict(record.jobs), record.tree_hash, because)


def _unfair(record: DecisionRecord) -> set[str]:
    """ "F1 − F3 on val_loss: last step": what blocks verdicts."""
    return {
        f"{one['a']} − {one['b']} on {one['metric']}: {check['check']}"
        for one in record.comparisons
        for check in one["fairness"]
        if check["ok"] is False and check["blocks"] and not check["declared"]
    }


def _noise_text(one: Mapping[str, Any]) -> str:
    noise = one["noise"]
    df = "known" if noise["df"] is None else f"{noise['df']:.3g} df"
    return f"{_number(noise['sd'])} ({df})"


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.3g}"

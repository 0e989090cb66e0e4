"""The jobs that a decision's noise was looked for in: a record keeps what is new in them since an earlier one. Pure.

Noise is looked for among all jobs that have ended. Whole lists, once per comparison, would be decisions × jobs; so the record's
first pool says {"like": number of an earlier record, "more": keys, "gone": keys} in place of a list, and its other pools nothing.
Records made before that have a list in every pool, and are read as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from db.records import DecisionRecord


def looked_in(record: DecisionRecord, history: Sequence[DecisionRecord]) -> frozenset[str]:
    """Keys of the jobs that a record's noise was looked for in. history: every record that may come before it."""
    earlier = {each.number: each for each in history}
    said: list[Mapping[str, Any]] = []
    found: set[str] = set()
    at: DecisionRecord | None = record
    while at is not None:
        before, at = at, None
        for jobs in _said(before):
            if isinstance(jobs, Mapping):
                said.append(jobs)
                at = earlier.get(jobs["like"])
            else:
                found.update(jobs)
    for jobs in reversed(said):
        found = (found - {*jobs["gone"]}) | {*jobs["more"]}
    return frozenset(found)


def brief(record: DecisionRecord, history: Sequence[DecisionRecord]) -> DecisionRecord:
    """The same record, to be kept after `history`."""
    first = next((place for place, one in enumerate(record.comparisons) if "jobs" in (one.get("pool") or ())), None)
    if first is None:
        return record
    keys = looked_in(record, history)
    last = next((each for each in reversed(history) if _said(each)), None)
    known = looked_in(last, history) if last else frozenset[str]()
    new = {"like": last.number if last else 0, "more": sorted(keys - known), "gone": sorted(known - keys)}
    bare = [_without_jobs(one) for one in record.comparisons]
    bare[first] = {**bare[first], "pool": {**bare[first]["pool"], "jobs": new}}
    return replace(record, comparisons=tuple(bare))


def _said(record: DecisionRecord) -> list[Any]:
    """What its pools say of jobs; a search's comparisons are trials and have none."""
    return [one["pool"]["jobs"] for one in record.comparisons if "jobs" in (one.get("pool") or ())]


def _without_jobs(one: Mapping[str, Any]) -> dict[str, Any]:
    if not one.get("pool"):
        return dict(one)
    return {**one, "pool": {name: value for name, value in one["pool"].items() if name != "jobs"}}

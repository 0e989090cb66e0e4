"""What is frozen at the first launch (margins, metrics, trees, seeds), its hash, and what an edit changed. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ablate.study import Search, Study, Take, Tree


def frozen_content(study: Study) -> dict[str, Any]:
    """What verdicts rest on and results must not be allowed to move, as plain values.

    Conditions are kept as they are written; `on` is the metric they mean where they name none.
    """
    confirm = {"confirm": {"seeds": list(study.confirm.seeds), "on": study.confirm.on}} if study.confirm else {}
    searches = {run.name: search_content(run.search) for run in study.searching if run.search}
    searching = {"searches": searches} if searches else {}
    looks = {"looks": list(study.looks), "spending": study.spending} if study.looks else {}
    reasons = {"mix_imported": study.mix_imported, "mix_steps": study.mix_steps}
    mixed = {name: reason for name, reason in reasons.items() if reason}
    return {
        **confirm,
        **looks,
        **searching,
        **mixed,
        "metrics": {
            name: {
                "better": metric.better,
                "margin": metric.margin,
                "noise": metric.noise,
                "unit": metric.unit,
                "last": metric.last,
            }
            for name, metric in study.metrics.items()
        },
        "sweeps": {
            sweep.name: {
                "on": sweep.on,
                "skip": [sweep.skip.text, sweep.skip.because] if sweep.skip else [],
                "trees": {tree.name: _tree(tree) for tree in sweep.trees},
                "learn": [[learn.text, learn.say] for learn in sweep.learn],
            }
            for sweep in study.sweeps.values()
        },
        "seeds": {run: list(seeds) for run, seeds in study.seeds.items()},
        "wrong_adoptions": study.wrong_adoptions,
    }


def search_content(search: Search) -> dict[str, Any]:
    """Where a row's search may look, and what it may spend, as plain values."""
    space = {name: {one.kind: list(one.values)} for name, one in search.space.items()}
    return {**vars(search), "space": space, "short": dict(search.short)}


def content_hash(content: Any) -> str:
    """SHA-256 of plain values, whatever the order of their keys: 64 hex digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def tree_hash(study: Study, tree: Tree) -> str:
    """Of the tree's text and the metric it means; where it stands in the file does not count."""
    return content_hash({"on": study.sweeps[tree.sweep].on, "lines": _tree(tree)})


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """What an edit did to the frozen content, one line each: `metrics.val_loss.margin 0.08 → 0.05`.

    Rows, trees and metrics that came or went are named as one line, not key by key.
    """
    return tuple(_differences("", old, new))


def take_text(take: Take) -> str:
    """A line's `take` as the file writes it."""
    match take.kind:
        case "run":
            return take.runs[0]
        case "best":
            return f"best of {', '.join(take.runs)}"
        case other:
            return other


def _tree(tree: Tree) -> list[list[str]]:
    return [[line.text, take_text(line.take), line.because] for line in tree.lines]


def _differences(place: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{place}.{key}" if place else str(key)
            if key not in new:
                yield f"{inner} removed (was {_plain(old[key])})"
            elif key not in old:
                yield f"{inner} added: {_plain(new[key])}"
            else:
                yield from _differences(inner, old[key], new[key])
    elif _lines(old) and _lines(new) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True), 1):
            if before != after:
                yield f"{place} line {number} {_plain(before)} → {_plain(after)}"
    elif old != new:
        yield f"{place} {_plain(old)} → {_plain(new)}"


def _lines(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, list) for item in value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""What is seen of one config when it trains a little: named observations, the same names whoever looked. Pure.

A *fingerprint* is named observations, "group/name" -> number, text or series. Fingerprints come from short runs of any trainer
(short_runs.py: its metrics and facts) or from a trainer that makes them itself, which sees more:

    python -m PACKAGE.fingerprint                      PACKAGE: the one that the trainer's module lies in; ours is `trainer`

        stdin:   a JSON list of {"run": "A1", "seed": 42, "settings": {nested}, "references": {"F3": {nested}}, "files": FOLDER}
        stdout:  one JSON object per config, in order, each on a line of its own; any of
                 {"parameters": {module: {"count": 1, "trainable": 1}}, "moved": {module: 1},
                  "lr": {group: [over the whole, compressed horizon]}, "lr_taken": {group: [per step]},
                  "batch": {"samples": 24, "supervised_tokens": 310, "first_batches_hash": "…", "manifest_hash": "…"},
                  "losses": [per step], "val_loss": […], "evaluated_at": [steps], "outcome": "done", "limits": {…},
                  "grad_norm": {module: [per step]}, "shapes": {output: [2, 5, 64]}, "facts": {of facts.json},
                  "broken": {setting: "what it did instead"}, "unseen": [settings that it cannot show]}
                 or {"error": "why this config cannot be built"}

`broken` is what two fingerprints cannot tell by their difference: a setting that does not do what it says in any row, such as a
parameter with another group's learning rate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablate.study import Settings

Observation = float | str | tuple[float, ...]
Fingerprint = Mapping[str, Observation]


@dataclass(frozen=True)
class Config:
    """What one fingerprint is asked of."""

    name: str
    settings: Settings
    seed: int | None = None
    """None: the baseline's first."""


@dataclass(frozen=True)
class Failed:
    """A config that could not be observed, and why."""

    reason: str
    looked: bool = True
    """False: there was no time to look at it, and nothing is known."""


ASIDE = frozenset({"broken", "unseen"})
"""Groups that say something about the fingerprint and are no observation of the run."""
CLOCK = re.compile(r"(^|[/_])(s|ms|sec|seconds|time|wall|hours|memory|gib|overhead)($|[/_])|per_s|progress")
"""Observations that clocks and other people's processes change."""
CLAIMED = re.compile(r"cost/.*|.*_planned")
"""What a trainer counts from its settings: it differs whether or not anything else reads them, so alone it shows no effect."""


def group(name: str) -> str:
    return name.partition("/")[0]


def observed(name: str) -> bool:
    return group(name) not in ASIDE and not CLOCK.search(name)


FACTS = {
    "manifest_hash": "data/manifest",
    "first_batches_hash": "data/first_batches",
    "initial_weights_hash": "weights/initial",
    "eval_hash": "evaluation/samples",
    "samples_planned": "budget/samples_planned",
    "steps_planned": "budget/steps_planned",
    "samples": "budget/samples",
    "flops": "cost/flops",
    "flops_per_sample": "cost/flops_per_sample",
    "flops_by_part": "cost/flops_by_part",
    "flops_of_measuring_coarse": "cost/flops_of_measuring_coarse",
    "tokens_per_frame": "cost/tokens_per_frame",
    "parameters": "model/parameters",
}
"""Facts of the folder contract -> the observations they are; any other is facts/NAME."""
UNTOLD = frozenset({"versions", "device", "world_size", "micro_batch_samples", "uninformed"})
"""Facts about the machine and how it shares the work, and what follows from the data in ways nobody declares."""


def of_short_run(points: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], result: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint of an attempt: lines of metrics.jsonl, facts.json ({} if none), result.json."""
    series: dict[str, list[float]] = {}
    for point in points:
        for name, value in point["metrics"].items():
            series.setdefault(name, []).append(float(value))
    counted = series.pop("samples", [])
    found: dict[str, Observation] = {f"{_group_of_metric(name)}/{name}": tuple(values) for name, values in series.items()}
    if points:
        found["budget/steps"] = float(points[-1]["step"])
    if counted:
        found["batch/samples"] = counted[0]
    found |= _of_facts({**facts, **result.get("facts", {})})
    return found | {"learning/outcome": str(result.get("outcome", ""))}


DOCUMENT = {
    "parameters": "model/parameters",
    "shapes": "model/shapes",
    "lr": "rates",
    "lr_taken": "rates/taken",
    **{name: f"learning/{name}" for name in ("losses", "val_loss", "evaluated_at", "outcome", "limits", "grad_norm", "moved")},
    "broken": "broken",
}
"""Parts of a trainer's own fingerprint -> the observations they are; any other is facts/NAME."""


def of_document(document: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint that a trainer's own `fingerprint` module says: see the top of this file."""
    found: dict[str, Observation] = {f"unseen/{name}": "" for name in document.get("unseen", ())}
    for name, value in document.items():
        match name:
            case "run" | "unseen":
                pass
            case "batch":
                for key, one in value.items():
                    found |= _flat(f"{_group_in_batch(key)}/{key}", one)
            case "facts":
                found |= _of_facts(value)
            case _:
                found |= _flat(DOCUMENT.get(name, f"facts/{name}"), value)
    return found


def _of_facts(facts: Mapping[str, Any]) -> Fingerprint:
    told = {name: value for name, value in facts.items() if name not in UNTOLD}
    return {key: one for name, value in told.items() for key, one in _flat(FACTS.get(name, f"facts/{name}"), value).items()}


def _group_of_metric(name: str) -> str:
    return "rates" if name == "lr" or name.startswith("lr/") else "learning"


def _group_in_batch(key: str) -> str:
    return "batch" if key == "samples" else "tokens" if "token" in key else "data"


def _flat(name: str, value: Any) -> dict[str, Observation]:
    """Numbers, texts and series below one name."""
    match value:
        case Mapping():
            return {key: one for below, item in value.items() for key, one in _flat(f"{name}/{below}", item).items()}
        case list() if all(isinstance(item, int | float) for item in value):
            return {name: tuple(float(item) for item in value)}
        case bool() | None:
            return {name: str(value)}
        case int() | float():
            return {name: float(value)}
        case _:
            return {name: value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)}

"""The facts the database holds, as values. Standard library only.

A moment is a UTC time in ISO form with seconds ("2026-02-14T09:30:00Z"); a JSON field is a dict or list of plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

AttemptState = Literal["running", "done", "diverged", "failed", "interrupted", "lost"]
DecisionStatus = Literal["decided", "waiting", "skipped", "overruled"]


class StoreError(Exception):
    """The database cannot be used as it is (locked, read-only, corrupt, too new, on a network disk): one line for the person."""


@dataclass(frozen=True)
class JobRecord:
    """One training of a run with one seed."""

    key: str
    run: str
    seed: int
    settings: Mapping[str, Any]
    """Resolved, dotted names."""
    gpus: int
    created_at: str


@dataclass(frozen=True)
class AttemptRecord:
    """One try of a job."""

    job: str
    number: int
    """1, 2, …"""
    state: AttemptState
    started_at: str
    ended_at: str = ""
    reason: str = ""
    """Why it ended: the trainer's words, or the end of the log."""
    host: str = ""
    gpus: int = 0
    gpu_s: float = 0.0
    """GPU-seconds booked."""
    code_hash: str = ""
    git_commit: str = ""
    git_dirty: bool = False
    cluster: str = ""
    """Address of the cluster it runs on; "" for a Ray that ends with its launch."""
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """facts.json and result.json's facts, the later winning: samples, flops, manifest_hash, device, tokens_per_frame, …"""


@dataclass(frozen=True)
class Point:
    """One measured number."""

    job: str
    attempt: int
    step: int
    name: str
    value: float
    """May be nan or infinite: a diverged run is a result."""


@dataclass(frozen=True)
class DecisionRecord:
    """What a tree concluded. Never edited; a later record of the same name supersedes it."""

    name: str
    """The tree's."""
    sweep: str
    status: DecisionStatus
    took: str
    """Name of the run taken, "stop", or "" (waiting, skipped). A start without a name of its own: the reference run's name."""
    line: str
    """Text of the line taken."""
    sets: Mapping[str, Any]
    """Settings that the run taken changes in the baseline, dotted names."""
    because: str
    by: str
    """"rule", or "person"."""
    at: str
    comparisons: tuple[Mapping[str, Any], ...] = ()
    """What the verdict rests on; of a search's record: its trials, which are no evidence."""
    jobs: Mapping[str, str] = field(default_factory=dict)
    """Job key -> code hash, of every job it rests on."""
    tree_hash: str = ""
    price: str = ""
    """What it would cost to know what was not shown; "" when all was shown."""
    number: int = 0
    """Position in the study's record of decisions, from 1; given by the store."""


@dataclass(frozen=True)
class LockRecord:
    """The final config, with where each key came from."""

    settings: Mapping[str, Any]
    sources: Mapping[str, str]
    """Setting -> "baseline" or the decision's name."""
    decisions: Mapping[str, int]
    """Decision -> number of the record it rests on."""
    conflicts: tuple[str, ...]
    trained_as: str
    """Run that was trained with exactly these settings; "" if none was."""
    provisional: bool
    hash: str
    at: str
    lifted_at: str = ""
    lifted_because: str = ""


@dataclass(frozen=True)
class FrozenRecord:
    """Margins, metrics, trees and seeds as they were at the first launch."""

    hash: str
    at: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class DeviationRecord:
    """An edit of what was frozen."""

    hash: str
    at: str
    because: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Lease:
    """Who may launch."""

    holder: str
    """user@host:pid"""
    since: str
    beat_at: str

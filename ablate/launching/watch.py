"""What a launch is asked for, and what it tells those who look on: events, where it stands, how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Protocol

from ablate import clock
from ablate.desk import Desk
from ablate.launching.notify import Notifier
from ablate.planning.plan import Plan, PlannedJob
from ablate.study import TRIAL, Study
from db.records import LockRecord


@dataclass(frozen=True)
class Options:
    """What a person asked for."""

    block: str = ""
    runs: tuple[str, ...] = ()
    """Run names, or job ids or keys; empty: all."""
    address: str = ""
    gpus: int | None = None
    """Logical GPUs of this machine (embedded Ray); None: what Ray finds."""
    max_cost: float | None = None
    because: str = ""
    new_code: bool = False
    """Jobs run from today's code from now on, not from the code of the first launch; needs `because`."""
    once: bool = False
    """One round, then leave; what was started runs on in the cluster."""
    abandon: bool = False
    """Attempts on a cluster other than `address` are given up."""


@dataclass(frozen=True)
class Event:
    """Something that happened, in one line."""

    kind: Literal["cluster", "started", "ended", "decided", "locked", "budget", "refused", "note"]
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same for programs: job, attempt, state, …"""


FOLLOWED = ("progress", "samples", "loss")
"""Metrics a running job is followed by."""

Latest = Mapping[str, tuple[int, float]]
"""Metric -> (step, value) measured last."""


@dataclass(frozen=True)
class Measured:
    """What tells where a job stands that writes neither progress nor samples."""

    step: int
    """The last one, of what it is followed by."""
    name: str
    """The study's first metric, or another of its metrics that was measured last."""
    value: float


def latest(desk: Desk, keys: Sequence[str]) -> dict[str, Latest]:
    """Job -> what it is followed by; where that tells too little, also the study's metrics. Two questions, however many jobs."""
    found = desk.store.latest(keys, FOLLOWED)
    silent = [key for key in keys if not _tells(found.get(key, {}))]
    for key, values in (desk.store.latest(silent, desk.study.metrics) if silent else {}).items():
        found.setdefault(key, {}).update(values)
    return dict(found)


def _tells(values: Latest) -> bool:
    """Whether they say how far the job is."""
    return "progress" in values or "samples" in values


def measured(desk: Desk, values: Latest) -> Measured | None:
    """None where progress or samples tell, or nothing was measured."""
    if not values or _tells(values):
        return None
    newest = max(values, key=lambda name: values[name][0])
    name = next((name for name in islice(desk.study.metrics, 1) if name in values), newest)
    return Measured(values[newest][0], name, values[name][1])


@dataclass(frozen=True)
class Progress:
    """Where a running job stands, from the metrics it has written."""

    job: str
    fraction: float | None
    samples: int | None
    loss: float | None
    elapsed_s: float
    eta_s: float | None
    measured: Measured | None = None


@dataclass(frozen=True)
class Tick:
    """The study after one round of the loop."""

    plan: Plan
    progress: tuple[Progress, ...]
    gpu_s: float
    usd: float


class Watcher(Protocol):
    """Who looks on: a terminal, a log, a test."""

    def event(self, event: Event) -> None: ...
    def tick(self, tick: Tick) -> None: ...
    def stop_asked(self) -> Literal["", "stop", "kill"]:
        """Whether a person wants the launch to end."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a launch ended."""

    plan: Plan
    lock: LockRecord | None
    waiting_for: tuple[str, ...]
    """Why the lock, or jobs, still wait."""
    options: Options = field(default_factory=lambda: Options())
    interrupted: bool = False
    over_budget: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Of what was asked for: 0 all ended · 1 a job failed for good · 3 something still waits."""
        states = {job.state for job in self.plan.jobs if selected(job, self.options) and not only_maybe(job)}
        if "failed" in states:
            return 1
        return 3 if self.interrupted or states & {"waiting", "ready", "interrupted", "running"} else 0


def selected(job: PlannedJob, options: Options) -> bool:
    """Whether a person asked for it."""
    if options.block and job.block != options.block:
        return False
    asked_as = {job.run, job.run.removesuffix(TRIAL), job.id, job.key, f"{job.run}@{job.seed}"}
    return not options.runs or bool(asked_as & set(options.runs))


def only_maybe(job: PlannedJob) -> bool:
    """A reference job that is only needed if decisions fall a certain way is nothing to wait for."""
    return job.added and job.key is None


class Told:
    """A watcher that also tells the study's on_event program."""

    def __init__(self, watch: Watcher, study: Study) -> None:
        self._watch = watch
        self._notifier = Notifier(study, lambda trouble: watch.event(Event("note", trouble)))

    def event(self, event: Event) -> None:
        self._watch.event(event)
        state = event.facts.get("state")
        kind = {"ended": "failed" if state in ("failed", "lost") else "done", "decided": "decided", "budget": "budget"}
        if event.kind in kind and state != "interrupted":
            self._notifier.tell(kind[event.kind], clock.utc_now(), event.text, event.facts)

    def tick(self, tick: Tick) -> None:
        self._notifier.complaints()
        self._watch.tick(tick)

    def stop_asked(self) -> Literal["", "stop", "kill"]:
        return self._watch.stop_asked()

    def close(self) -> None:
        self._notifier.close()

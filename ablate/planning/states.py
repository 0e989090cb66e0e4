"""A job's state and why: from its attempts, and from what stands between it and its start. Pure."""

from __future__ import annotations

from ablate.planning.failures import FailureClass, named, tries_left
from ablate.planning.gates import Gate
from ablate.planning.search import GIVEN_UP
from ablate.study import JobState, Study
from db.records import AttemptRecord

STARTABLE: frozenset[JobState] = frozenset({"ready", "interrupted"})
COMING: frozenset[JobState] = STARTABLE | {"waiting", "running"}

FAILURE, FORGIVEN, HELD, LOST_GPU_S = "failure", "forgiven", "held", "lost_gpu_s"
"""Facts of an attempt that launching adds: its failure's class, who asked to try again, who stopped it, what a crash cost."""


def state_of(study: Study, tried: tuple[AttemptRecord, ...], gate: Gate | None) -> tuple[JobState, str]:
    """A job's state and why. What has ended stays ended, whatever was decided since."""
    last = tried[-1] if tried else None
    if last and last.state in ("done", "diverged"):
        return ("done" if last.state == "done" else "diverged"), last.reason
    if last and last.state == "running":
        return "running", f"attempt {last.number} on {last.host or 'this machine'}"
    if last and last.facts.get(GIVEN_UP):
        return "stopped", str(last.facts[GIVEN_UP])
    if gate and gate.skipped:
        return "skipped", gate.reason
    failures = [attempt for attempt in tried if attempt.state in ("failed", "lost") and not attempt.facts.get(FORGIVEN)]
    kinds = [named(attempt.facts.get(FAILURE)) for attempt in failures]
    left = tries_left(kinds, study.max_attempts)
    if left <= 0:
        return "failed", _for_good(kinds, study.max_attempts, failures[-1].reason)
    if gate:
        return "waiting", gate.reason
    if last and last.facts.get(HELD):
        return "waiting", f"stopped by {last.facts[HELD]}; `ablate retry` lets it go on from its last checkpoint"
    if last and last.state == "interrupted":
        return "interrupted", f"attempt {last.number} was interrupted; goes on from its last checkpoint"
    if last and not failures:
        return "ready", f"tried again as {last.facts.get(FORGIVEN)} asked"
    if last:
        tries = f"{left} {'try' if left == 1 else 'tries'} left"
        return "ready", f"attempt {last.number} {last.state}{_class(last)}: {last.reason}; {tries}"
    return "ready", "nothing is missing"


def _for_good(kinds: list[FailureClass], max_attempts: int, reason: str) -> str:
    """Why a job is not tried any more."""
    tried = f"{len(kinds)} attempt{'' if len(kinds) == 1 else 's'} failed"
    if len(kinds) >= max_attempts:
        return f"{tried}, the last one: {reason}"
    what = "a code error" if kinds[-1] == "code error" else f"{kinds[-1]} twice"
    return f"{tried}, {what} is not tried again (`ablate retry` does), the last one: {reason}"


def _class(attempt: AttemptRecord) -> str:
    """How it failed, in brackets, where that was recognised."""
    kind = attempt.facts.get(FAILURE)
    return f" ({kind})" if kind else ""

"""What `ablate logs` answers: the end of the log of each job's last attempt."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from ablate.answers.document import Answer, head, plain
from ablate.desk import Desk
from ablate.planning.plan import PlannedJob
from ablate.planning.states import COMING
from ablate.study import UserError


class NoLogYetError(UserError):
    """There is no log, but a job that is named has not ended."""


def logs(desk: Desk, jobs: Sequence[PlannedJob], lines: int, rank: int) -> Answer:
    """The last lines of each job's last attempt. UserError when there is no log; NoLogYetError while one may come."""
    attempts = desk.store.attempts()
    lasts = [(job, attempts[job.key][-1]) for job in jobs if job.key in attempts]
    found = [
        {"id": job.id, "attempt": last.number, "state": last.state, "path": str(path), "lines": tail(path, lines)}
        for job, last in lasts
        if (path := desk.folders.log(last.job, last.number, rank)).exists()
    ]
    if found:
        return plain({**head(desk), "logs": found})
    if rank >= desk.study.ranks_per_run:
        raise UserError(f"there is no log of rank {rank}: ranks count from 0, and there are {desk.study.ranks_per_run}")
    states = ", ".join(f"{job.id} is {job.state}{f' ({job.reason})' if job.reason else ''}" for job in jobs[:3])
    if any(job.state in COMING for job in jobs):
        raise NoLogYetError(f"there is no log yet: {states}")
    raise UserError(f"there is no log: {states}")


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a text file."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=lines)]

"""A person intervenes: stop a job, stop the launch, try a failed job again; from any machine that sees the folders.

A wish to stop is a file: the gang looks for it in its attempt's folder (gang.STOP_FILE), the launch in the study's. A wish to try
again is a fact added to the failed attempts, so that it survives a rebuild.
"""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path

from ablate.desk import Desk
from ablate.folders import BrokenFileError, Folders, read_json_table, write_json
from ablate.launching import collect
from ablate.launching.gang import STOP_FILE
from ablate.planning.plan import PlannedJob
from ablate.planning.search import GIVEN_UP
from ablate.planning.states import FORGIVEN, HELD
from ablate.study import UserError
from db.records import AttemptRecord, Lease


def stop_jobs(desk: Desk, jobs: Sequence[PlannedJob], at: str) -> list[str]:
    """Have running jobs write a checkpoint, stop, and stay stopped until `retry`; ids of those asked. UserError if none runs."""
    running = [job for job in jobs if job.state == "running" and job.key]
    if not running:
        states = ", ".join(f"{job.id} is {job.state}" for job in jobs[:4])
        raise UserError(f"nothing to stop: {states}. A job that does not run yet can be left out with `ablate launch --run …`")
    for job in running:
        _ask(desk.folders.attempt(job.key or "", job.attempt), at, hold=True)
    return [job.id for job in running]


def stop_all(desk: Desk, at: str) -> tuple[list[str], str]:
    """Have every running job write a checkpoint and stop, and the launch end; the next launch goes on.

    Returns the jobs' ids and who was launching ("" if nobody). UserError if nothing runs and nobody launches.
    """
    running = [job for job in desk.plan().jobs if job.state == "running" and job.key]
    lease = desk.store.lease()
    if not running and lease is None:
        raise UserError("nothing to stop: no job runs and nobody is launching")
    if lease is not None:  # first, or it would start others in the place of those that stop
        write_json(desk.folders.stop_request, {"lease": _name(lease), "by": getpass.getuser(), "at": at})
    for job in running:
        _ask(desk.folders.attempt(job.key or "", job.attempt), at, hold=False)
    return [job.id for job in running], lease.holder if lease else ""


def launch_is_asked_to_stop(folders: Folders, lease: Lease | None) -> bool:
    """Whether somebody asked this launch, not an earlier one, to end."""
    return lease is not None and _read(folders.stop_request).get("lease") == _name(lease)


def held_by(attempt_folder: Path) -> str:
    """Who asked that this attempt's job stay stopped; "" if nobody did."""
    asked = _read(attempt_folder / STOP_FILE)
    return str(asked.get("by", "somebody")) if asked.get("hold") else ""


def give_up(attempt_folder: Path, at: str, because: str) -> bool:
    """Have a trial checkpoint and stop for good, as its search says; False if it was asked to stop before."""
    if (attempt_folder / STOP_FILE).exists():
        return False
    write_json(attempt_folder / STOP_FILE, {"by": "search", "at": at, "hold": False, GIVEN_UP: because})
    return True


def given_up(attempt_folder: Path) -> str:
    """Why the search of this attempt's trial gave it up; "" if it did not."""
    return str(_read(attempt_folder / STOP_FILE).get(GIVEN_UP, ""))


def retry(desk: Desk, jobs: Sequence[PlannedJob], at: str) -> list[str]:
    """Let jobs that failed for good, or were stopped, be tried again: their failures so far count no more.

    Returns their ids; the launch that runs, or the next one, starts them. UserError if none of them failed or was stopped.
    """
    again = [job for job in jobs if job.key and any(_holds_up(attempt) for attempt in _tried(desk, job))]
    if not again:
        states = ", ".join(f"{job.id} is {job.state}" for job in jobs[:4])
        raise UserError(f"nothing to try again: {states}. What failed or was stopped can be: see `ablate status`")
    wish = f"{getpass.getuser()} at {at}"
    for job in again:
        for attempt in _tried(desk, job):
            if _holds_up(attempt):
                collect.amend_attempt(desk.store, desk.folders, attempt, {FORGIVEN: wish, HELD: ""})
    return [job.id for job in again]


def _tried(desk: Desk, job: PlannedJob) -> tuple[AttemptRecord, ...]:
    tried = desk.store.attempts().get(job.key or "", ())
    return () if tried and tried[-1].state in ("running", "done", "diverged") else tried


def _holds_up(attempt: AttemptRecord) -> bool:
    return bool(attempt.facts.get(HELD)) or (attempt.state in ("failed", "lost") and not attempt.facts.get(FORGIVEN))


def _ask(attempt_folder: Path, at: str, *, hold: bool) -> None:
    """Who stops everything does not undo that somebody stopped this job for good."""
    held = held_by(attempt_folder)
    write_json(attempt_folder / STOP_FILE, {"by": held or getpass.getuser(), "at": at, "hold": hold or bool(held)})


def _name(lease: Lease) -> str:
    return f"{lease.holder} {lease.since}"


def _read(path: Path) -> dict[str, object]:
    try:
        return read_json_table(path)
    except (FileNotFoundError, BrokenFileError):
        return {}

"""A study in one profile with its database and its folders: what every command works on. No statistics: it opens at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ablate.folders import Folders
from ablate.plan import Plan, make_plan
from ablate.study import Study, UserError
from db.store import IN_MEMORY, Store


@dataclass(frozen=True)
class Desk:
    study: Study
    store: Store
    folders: Folders
    redo_stale: bool = False
    """Whether what rests on decisions that have turned is trained anew: a person asked for it."""

    @property
    def recorded(self) -> bool:
        """Whether there is a database; one who looks before the first launch has none."""
        return self.store.path != IN_MEMORY

    def plan(self) -> Plan:
        history = self.store.all_decisions()
        current = {record.name: record for record in history}
        lock = self.store.lock() if self.study.confirm else None
        return make_plan(self.study, self.store.attempts(), current, history=history, redo_stale=self.redo_stale, lock=lock)


def open_desk(study: Study) -> Desk:
    """The study's desk: `db/` and `outputs/` lie beside its file."""
    store = Store.open(_database(study), study.name, study.profile)
    return Desk(study, store, Folders(study.path.parent / "outputs", study.name, study.profile))


def looking_desk(study: Study) -> Desk:
    """The desk for one who looks: without a database, an empty one in memory, so that looking leaves nothing behind."""
    if _database(study).exists():
        return open_desk(study)
    return Desk(study, Store.empty(study.name, study.profile), Folders(study.path.parent / "outputs", study.name, study.profile))


def existing_desk(study: Study) -> Desk:
    """The desk for one who only reads results. UserError when there is no database yet: it is not made."""
    if not _database(study).exists():
        raise UserError(f"{_database(study)}: there is no database yet; `ablate launch --profile {study.profile}` makes it")
    return open_desk(study)


def _database(study: Study) -> Path:
    return study.path.parent / "db" / "ablate.sqlite"


def measured_hours(desk: Desk) -> dict[str, list[float]]:
    """Run -> wall hours of its finished jobs, all attempts of a job added up."""
    jobs = desk.store.jobs()
    hours: dict[str, list[float]] = {}
    for key, attempts in desk.store.attempts().items():
        if key in jobs and attempts[-1].state == "done":
            seconds = sum(attempt.gpu_s / attempt.gpus for attempt in attempts if attempt.gpus)
            hours.setdefault(jobs[key].run, []).append(seconds / 3600)
    return hours

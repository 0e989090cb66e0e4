"""A study in one profile with its database and its folders: what every command works on. No statistics: it opens at once."""

from __future__ import annotations

from dataclasses import dataclass

from ablate.folders import Folders
from ablate.plan import Plan, make_plan
from ablate.study import Study, UserError
from db.store import Store


@dataclass(frozen=True)
class Desk:
    study: Study
    store: Store
    folders: Folders
    redo_stale: bool = False
    """Whether what rests on decisions that have turned is trained anew: a person asked for it."""

    def plan(self) -> Plan:
        history = self.store.all_decisions()
        current = {record.name: record for record in history}
        lock = self.store.lock() if self.study.confirm else None
        return make_plan(self.study, self.store.attempts(), current, history=history, redo_stale=self.redo_stale, lock=lock)


def open_desk(study: Study) -> Desk:
    """The study's desk: `db/` and `outputs/` lie beside its file."""
    root = study.path.parent
    store = Store.open(root / "db" / "ablate.sqlite", study.name, study.profile)
    return Desk(study, store, Folders(root / "outputs", study.name, study.profile))


def existing_desk(study: Study) -> Desk:
    """The desk for one who only reads. UserError when there is no database yet: it is not made."""
    database = study.path.parent / "db" / "ablate.sqlite"
    if not database.exists():
        raise UserError(f"{database}: there is no database yet; `ablate launch --profile {study.profile}` makes it")
    return open_desk(study)


def measured_hours(desk: Desk) -> dict[str, list[float]]:
    """Run -> wall hours of its finished jobs, all attempts of a job added up."""
    jobs = desk.store.jobs()
    hours: dict[str, list[float]] = {}
    for key, attempts in desk.store.attempts().items():
        if key in jobs and attempts[-1].state == "done":
            seconds = sum(attempt.gpu_s / attempt.gpus for attempt in attempts if attempt.gpus)
            hours.setdefault(jobs[key].run, []).append(seconds / 3600)
    return hours

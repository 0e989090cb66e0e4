"""A study in one profile with its database and its folders: what every command works on. No statistics: it opens at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ablate.folders import Folders
from ablate.planning.plan import Plan, make_plan
from ablate.planning.search import with_chosen
from ablate.study import TRIAL, Study, UserError, run_of
from db.records import AttemptRecord, DecisionRecord, LockRecord
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
        return self.plan_of(self.store.attempts(), self.store.all_decisions(), self.store.lock())

    def plan_of(
        self, attempts: Mapping[str, tuple[AttemptRecord, ...]], history: Sequence[DecisionRecord], lock: LockRecord | None
    ) -> Plan:
        """The plan, from what the caller has read already: see `make_plan`."""
        current = {record.name: record for record in history}
        held = lock if self.study.confirm else None
        runs = [row.name + TRIAL for row in self.study.searching]
        trials = self.store.jobs(runs).values() if runs else ()
        return make_plan(self.study, attempts, current, history=history, redo_stale=self.redo_stale, lock=held, trials=trials)

    def up_to_date(self) -> Desk:
        """The desk with what the study's searches have chosen by now among the changes of their rows."""
        return replace(self, study=with_chosen(self.study, self.store.decisions())) if self.study.searching else self


def open_desk(study: Study) -> Desk:
    """The study's desk: `db/` and `outputs/` lie beside its file."""
    store = Store.open(_database(study), study.name, study.profile)
    return Desk(study, store, _folders(study)).up_to_date()


def looking_desk(study: Study) -> Desk:
    """The desk for one who looks: without a database, an empty one in memory, so that looking leaves nothing behind.

    Where this user may only read the database, it is read as it is.
    """
    if _there(study):
        return existing_desk(study)
    return Desk(study, Store.empty(study.name, study.profile), _folders(study))


def writing_desk(desk: Desk) -> Desk:
    """The desk of one who looked first, so that a mistake made nothing, and writes now: with a database, made if need be."""
    return desk if desk.recorded and not desk.store.read_only else replace(open_desk(desk.study), redo_stale=desk.redo_stale)


def existing_desk(study: Study) -> Desk:
    """The desk for one who only reads results. UserError when there is no database yet: it is not made."""
    if not _there(study):
        raise UserError(f"{_database(study)}: there is no database yet; `ablate launch --profile {study.profile}` makes it")
    return Desk(study, Store.open_to_look(_database(study), study.name, study.profile), _folders(study)).up_to_date()


def _database(study: Study) -> Path:
    return study.path.parent / "db" / "ablate.sqlite"


def _there(study: Study) -> bool:
    try:
        return _database(study).exists()
    except PermissionError as error:
        raise UserError(f"{_database(study)}: its folder is not yours to look into; ask its owner for that right") from error


def _folders(study: Study) -> Folders:
    return Folders(study.path.parent / "outputs", study.name, study.profile)


def measured_hours(desk: Desk) -> dict[str, list[float]]:
    """Run -> wall hours of its finished jobs, all attempts of a job added up."""
    return finished_hours(desk.store.attempts())


def finished_hours(attempts_of: Mapping[str, tuple[AttemptRecord, ...]]) -> dict[str, list[float]]:
    """The same from what the caller has read already."""
    hours: dict[str, list[float]] = {}
    for key, attempts in attempts_of.items():
        if attempts[-1].state == "done" and (of_job := wall_hours(attempts)):
            hours.setdefault(run_of(key), []).append(of_job)
    return hours


def wall_hours(attempts: Sequence[AttemptRecord]) -> float:
    """Of all attempts of a job; 0 for an imported one, that had no GPUs of ours."""
    return sum(attempt.gpu_s / attempt.gpus for attempt in attempts if attempt.gpus) / 3600

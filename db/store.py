"""Every question asked of the database, one method each; values in, values out.

One process writes (launch), any number read at the same time (WAL). What a method has written is on disk when it returns, and
outlives a power cut (synchronous=FULL). Points and the offset they were read up to are one transaction: a crash loses and doubles
nothing.
"""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    Table,
    case,
    create_engine,
    event,
    exc,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.pool import QueuePool, StaticPool

from db import schema
from db.records import (
    AttemptRecord,
    AttemptState,
    DecisionRecord,
    DeviationRecord,
    FrozenRecord,
    JobRecord,
    Lease,
    LockRecord,
    Point,
    StoreError,
)
from db.schema import attempts, changes, decisions, deviations, frozen, jobs, leases, locks, metrics

T = TypeVar("T")

Batch = tuple[str, int, Sequence[Point], int]
"""Job, attempt, points read from its metrics.jsonl, bytes of it read so far."""


class Final(NamedTuple):
    """What a job scored on a metric in the end."""

    value: float
    """The mean of its last measurements."""
    step: int
    """Of the last of them."""


class State(NamedTuple):
    """How far the records of a study have come."""

    change: int
    """The newest one of an attempt."""
    decision: int
    """Number of the newest record."""
    locks: tuple[Any, ...]
    """Another one whenever a lock was made, confirmed or lifted."""


IN_MEMORY = ":memory:"
"""The path of a store that has no file."""
CACHE_KIB = 64 * 1024
MIGRATIONS = Path(__file__).parent / "migrations"

NETWORK_FILESYSTEMS = re.compile(
    r"nfs4?|cifs|smb3|smbfs|ncpfs|afs|pvfs2|orangefs|gpfs|(fuse\.)?(lustre|beegfs|ceph|glusterfs|juicefs)"
    r"|fuse\.(sshfs|s3fs|gcsfuse|rclone|davfs2?)|davfs"
)
"""Where SQLite's locks and shared memory are not to be trusted."""

INSERT_POINTS = (
    "INSERT INTO metrics (attempt_id, name, step, value) VALUES (?, ?, ?, ?) ON CONFLICT (attempt_id, name, step) "
    "DO UPDATE SET value = excluded.value WHERE metrics.value IS NOT excluded.value"
)
"""In the driver's own words: 3 times as fast as building each row's parameters from a dict."""


class Store:
    """The records of one study in one profile. Threads may share it; processes open their own."""

    def __init__(self, engine: Engine, path: str, study: str, profile: str, *, read_only: bool = False) -> None:
        """read_only: this user may not write here; what others write meanwhile is seen by who opens it again."""
        self.path, self.study, self.profile, self.read_only = path, study, profile, read_only
        self._engine = engine
        self._writer = engine.execution_options(writes=True)
        self._ids: dict[tuple[str, int], int] = {}

    @classmethod
    def open(cls, url_or_path: str | Path, study: str, profile: str, *, busy_s: float = 10.0) -> Store:
        """Open the database, making it or bringing it up to date first.

        url_or_path: a file, or "sqlite:///file".
        busy_s: how long to wait for another process's write to end.

        StoreError if it is on a network disk, locked, read-only, corrupt, not ours, or newer than this program.
        """
        path = _path_of(str(url_or_path))
        _refuse_network(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: its folder cannot be made: {error.strerror}") from error
        engine = create_engine(
            f"sqlite:///{path}",
            connect_args={"timeout": busy_s},
            json_serializer=_json,
        )
        _prepare(engine, busy_s)
        with _explained(str(path)):
            _bring_up_to_date(engine, path)
        return cls(engine, str(path), study, profile)

    @classmethod
    def open_to_look(cls, path: Path, study: str, profile: str, *, busy_s: float = 10.0) -> Store:
        """Open the database for one who only reads: as `open` does, or as it is where this user may not write it or beside it.

        StoreError as with `open`; and where it would have to be brought up to date first, and must not be written.
        """
        if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
            return cls.open(path, study, profile, busy_s=busy_s)
        _refuse_network(path)
        engine = create_engine(
            "sqlite://", creator=partial(_connect_to_read, path, busy_s), poolclass=QueuePool, json_serializer=_json
        )
        _prepare(engine, None)
        with _explained(str(path)), engine.begin() as connection:
            found = _version(connection, path)
        if found not in ("", schema.VERSION):
            raise StoreError(
                f"{path}: written by an older ablate (schema {found}; this one reads {schema.VERSION}) and read-only for you; "
                "`ablate status`, typed by somebody who may write it, brings it up to date"
            )
        return cls(engine, str(path), study, profile, read_only=True) if found else cls.empty(study, profile)

    @classmethod
    def empty(cls, study: str, profile: str) -> Store:
        """A store with nothing in it, in memory: for one who looks before there is a database. It leaves no file behind."""
        engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}, json_serializer=_json
        )
        _prepare(engine, None)
        with engine.begin() as connection:
            schema.metadata.create_all(connection)
        return cls(engine, IN_MEMORY, study, profile)

    def scoped(self, study: str, profile: str) -> Store:
        """The same database, seen from another study or profile."""
        return Store(self._engine, self.path, study, profile, read_only=self.read_only)

    @staticmethod
    def copy(path: Path, to: Path) -> None:
        """Copy a database as a reader sees it, whatever is being written; nothing is changed in it. StoreError if it is none."""
        with _explained(str(path)):
            source = _connect_to_read(path)
            copied = sqlite3.connect(to)
            try:
                source.backup(copied)
            finally:
                copied.close()
                source.close()

    def places(self) -> tuple[tuple[str, str], ...]:
        """Every study and profile that has jobs in this database."""
        with self._reading() as connection:
            rows = connection.execute(select(jobs.c.study, jobs.c.profile).distinct().order_by(jobs.c.study, jobs.c.profile))
            return tuple((row.study, row.profile) for row in rows)

    def close(self) -> None:
        self._engine.dispose()

    # ---------------------------------------------------------------- jobs and attempts

    def save_job(self, record: JobRecord) -> bool:
        """Whether it was new; a job that is there stays as it is."""
        return self.save_jobs([record]) == 1

    def save_jobs(self, records: Iterable[JobRecord]) -> int:
        """How many were new; jobs that are there stay as they are."""
        rows = [{**self._scope, **_columns(record, jobs)} for record in records]
        if not rows:
            return 0
        with self._writing() as connection:
            return connection.execute(sqlite_insert(jobs).on_conflict_do_nothing(), rows).rowcount

    def take_over(self, whole: Iterable[tuple[JobRecord, AttemptRecord, Iterable[Batch]]]) -> int:
        """Jobs with an attempt and its points each, in one transaction: a crash leaves all of them or none.

        Returns how many points were new. Jobs that are there stay as they are.
        """
        new = 0
        try:
            with self._writing() as connection:
                for job, attempt, batches in whole:
                    row = {**self._scope, **_columns(job, jobs)}
                    connection.execute(sqlite_insert(jobs).on_conflict_do_nothing(), row)
                    self._put_attempt(connection, attempt)
                    for batch in batches:
                        new += self._put_batches(connection, [batch])
        except BaseException:
            self._ids.clear()  # of rows that are not there after all
            raise
        return new

    def jobs(self, runs: Collection[str] | None = None) -> dict[str, JobRecord]:
        """By key, in the order they were saved. runs: only theirs; None: all."""
        asked = select(jobs).where(*self._mine(jobs)).order_by(jobs.c.id)
        with self._reading() as connection:
            rows = connection.execute(asked if runs is None else asked.where(jobs.c.run.in_(runs)))
            return {row.key: _record(JobRecord, row) for row in rows}

    def claim(
        self,
        job: str,
        *,
        started_at: str,
        host: str = "",
        gpus: int = 0,
        code_hash: str = "",
        git_commit: str = "",
        git_dirty: bool = False,
        cluster: str = "",
        versions: Mapping[str, str] | None = None,
        above: int = 0,
    ) -> int | None:
        """Begin an attempt and return its number; None if one is running or the job has its result.

        Of two processes that claim at once, one gets it. above: numbers up to this one are taken (folders are there).
        """
        with self._writing() as connection:
            job_id = self._job_id(connection, job)
            tried = connection.execute(select(attempts.c.number, attempts.c.state).where(attempts.c.job_id == job_id)).all()
            if any(row.state in ("running", "done", "diverged") for row in tried):
                return None
            number = max([above, *(int(row.number) for row in tried)]) + 1
            record = AttemptRecord(
                job,
                number,
                "running",
                started_at,
                host=host,
                gpus=gpus,
                code_hash=code_hash,
                git_commit=git_commit,
                git_dirty=git_dirty,
                cluster=cluster,
                versions=versions or {},
            )
            made = connection.execute(insert(attempts), {"job_id": job_id, **_columns(record, attempts)})
            self._changed(connection, made.lastrowid)
            return number

    def save_attempt(self, record: AttemptRecord) -> None:
        """Make the row of this attempt say what the record says; what was read of its metrics stays."""
        with self._writing() as connection:
            self._put_attempt(connection, record)

    def attempts_since(self, change: int) -> list[AttemptRecord]:
        """Attempts that began, ended or were amended after this change, whoever did it, in the order of their changes.

        What is read of their metrics is no change.
        """
        changed = changes.join(attempts, attempts.c.id == changes.c.attempt_id).join(jobs, jobs.c.id == attempts.c.job_id)
        statement = select(jobs.c.key.label("job"), *attempts.c).select_from(changed)
        statement = statement.where(*self._mine(changes), changes.c.number > change).order_by(changes.c.number)
        with self._reading() as connection:
            return [_attempt(row) for row in connection.execute(statement)]

    def attempts(self) -> dict[str, tuple[AttemptRecord, ...]]:
        """Of every job that has any, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(self._attempts().order_by(jobs.c.id, attempts.c.number)).all()
        return {key: tuple(_attempt(row) for row in group) for key, group in groupby(rows, key=lambda row: row.job)}

    def attempt(self, job: str, number: int) -> AttemptRecord | None:
        with self._reading() as connection:
            row = connection.execute(self._attempts().where(jobs.c.key == job, attempts.c.number == number)).first()
        return None if row is None else _attempt(row)

    def end_attempt(
        self,
        job: str,
        number: int,
        state: AttemptState,
        reason: str,
        ended_at: str,
        gpu_s: float = 0.0,
        facts: Mapping[str, Any] | None = None,
    ) -> bool:
        """Whether it was running until now. One that has ended keeps its first end. Facts are added to those known."""
        with self._writing() as connection:
            row = self._attempt_row(connection, job, number)
            if row.state != "running":
                return False
            ended = {
                "state": state,
                "reason": reason,
                "ended_at": ended_at,
                "gpu_s": gpu_s,
                "facts": {**row.facts, **(facts or {})},
            }
            connection.execute(update(attempts).where(attempts.c.id == row.id).values(ended))
            self._changed(connection, row.id)
            return True

    def update_facts(self, job: str, number: int, facts: Mapping[str, Any]) -> None:
        """Add to the attempt's facts; the later value of a name wins."""
        with self._writing() as connection:
            row = self._attempt_row(connection, job, number)
            merged = {**row.facts, **facts}
            if merged != row.facts:
                connection.execute(update(attempts).where(attempts.c.id == row.id).values(facts=merged))
                self._changed(connection, row.id)

    def state(self) -> State:
        """How far the records have come: tells by one query whether there is anything new to read."""
        with self._reading() as connection:
            change, decision, *of_locks = connection.execute(self._state).one()
        return State(change or 0, decision or 0, tuple(of_locks))

    # ---------------------------------------------------------------- metrics

    def add_points(self, job: str, attempt: int, points: Sequence[Point], offset: int) -> int:
        """Like add_batches, for one attempt."""
        return self.add_batches([(job, attempt, points, offset)])

    def add_batches(self, batches: Iterable[Batch]) -> int:
        """Write points, and how far each file was read, in one transaction; return how many points were new or changed.

        Reading the same bytes twice adds nothing: (job, attempt, name, step) is the key, and what was measured last stands.
        StoreError if an attempt is not in the database.
        """
        with self._writing() as connection:
            return self._put_batches(connection, batches)

    def offsets(self) -> dict[tuple[str, int], int]:
        """(job, attempt) -> bytes of its metrics.jsonl that are in the database."""
        with self._reading() as connection:
            rows = connection.execute(self._joined(jobs.c.key, attempts.c.number, attempts.c.read_bytes))
            return {(row.key, row.number): row.read_bytes for row in rows}

    def curve(self, job: str, name: str) -> list[tuple[int, float]]:
        """(step, value) by step; a step that several attempts measured counts as the latest of them did."""
        return self.curves(name, [job]).get(job, [])

    def curves(self, name: str, keys: Collection[str] | None = None) -> dict[str, list[tuple[int, float]]]:
        """The curves of many jobs (None: all) that measured `name`."""
        statement = self._measured(name, jobs.c.key, metrics.c.step, metrics.c.value, keys=keys)
        found: dict[str, dict[int, float]] = {}
        with self._reading() as connection:
            for key, step, value in connection.execute(statement.order_by(attempts.c.number)):
                found.setdefault(key, {})[step] = _value(value)
        return {key: sorted(steps.items()) for key, steps in found.items()}

    def final_values(self, keys: Collection[str] | None, names: Mapping[str, int]) -> dict[str, dict[str, float]]:
        """Job -> metric -> mean of its last measurements at the highest steps. Not measured: absent.

        keys: None means all jobs. names: metric -> over how many measurements.
        """
        return {key: {name: final.value for name, final in of_job.items()} for key, of_job in self.finals(keys, names).items()}

    def finals(self, keys: Collection[str] | None, names: Mapping[str, int]) -> dict[str, dict[str, Final]]:
        """Like final_values, each with the step at which it was taken."""
        found: dict[str, dict[str, Final]] = {}
        for name, last in names.items():
            for key, steps in self._last(name, last, keys).items():
                found.setdefault(key, {})[name] = Final(sum(steps.values()) / len(steps), max(steps))
        return found

    def thinned_curves(self, name: str, keys: Collection[str], columns: int) -> dict[str, list[tuple[int, float]]]:
        """The curves of these jobs as a plot of `columns` columns over all their steps shows them.

        Of each column the least and the most value; both ends of what each attempt measured. Curves of few points are whole.
        """
        number, first, last = func.count(), func.min(metrics.c.step), func.max(metrics.c.step)
        measured = self._measured(name, number, first, last, keys=keys).group_by(attempts.c.id)
        with self._reading() as connection:
            ends = connection.execute(measured).all()
        if sum(end[0] for end in ends) <= 2 * columns * len(keys):
            return self.curves(name, keys)
        steps = {step for _, *both in ends for step in both}
        place = (metrics.c.step - min(steps)) * columns // max(max(steps) - min(steps), 1)
        column = case((metrics.c.step.in_(steps), -1 - metrics.c.step), else_=place)  # an end is a column
        found: dict[str, dict[int, float]] = {}
        with self._reading() as connection:
            for extreme in (func.min(metrics.c.value), func.max(metrics.c.value)):  # SQLite gives the step of that very row
                thinned = self._measured(name, jobs.c.key, metrics.c.step, extreme, keys=keys).where(~_measured_again(name))
                for key, step, value in connection.execute(thinned.group_by(jobs.c.id, column)):
                    found.setdefault(key, {})[step] = _value(value)
        return {key: sorted(points.items()) for key, points in found.items()}

    def latest(self, keys: Collection[str] | None, names: Iterable[str]) -> dict[str, dict[str, tuple[int, float]]]:
        """Job -> metric -> (step, value) measured last. keys: None means all jobs."""
        found: dict[str, dict[str, tuple[int, float]]] = {}
        for name in names:
            for key, steps in self._last(name, 1, keys).items():
                found.setdefault(key, {})[name] = next(iter(steps.items()))
        return found

    def all_metric_names(self) -> tuple[str, ...]:
        """What any job measured, by name."""
        statement = self._joined(metrics.c.name).join(metrics, metrics.c.attempt_id == attempts.c.id)
        with self._reading() as connection:
            return tuple(connection.scalars(statement.distinct().order_by(metrics.c.name)))

    def metric_names(self, job: str) -> tuple[str, ...]:
        """What the job measured, by name."""
        statement = self._joined(metrics.c.name, keys=[job]).join(metrics, metrics.c.attempt_id == attempts.c.id)
        with self._reading() as connection:
            return tuple(connection.scalars(statement.distinct().order_by(metrics.c.name)))

    # ---------------------------------------------------------------- decisions, lock, what was frozen

    def add_decision(self, record: DecisionRecord, *, above: int = 0) -> int:
        """Write it and return its number: its own if it has one (then twice is harmless), else the next.

        above: numbers up to this one are taken (files are there).
        """
        with self._writing() as connection:
            mine = self._mine(decisions)
            if record.number:
                known = connection.execute(select(decisions).where(*mine, decisions.c.number == record.number)).first()
                if known is not None and _json(vars(_decision(known))) != _json(vars(record)):
                    raise StoreError(f"{self.path}: decision {record.number} of {self._place} is there with another content")
                if known is not None:
                    return record.number
            highest = connection.scalar(select(func.max(decisions.c.number)).where(*mine)) or 0
            number = record.number or max(highest, above) + 1
            connection.execute(insert(decisions), {**self._scope, **_columns(replace(record, number=number), decisions)})
            return number

    def decisions(self) -> dict[str, DecisionRecord]:
        """The record that stands, by name: the one with the highest number."""
        return {record.name: record for record in self.all_decisions()}

    def all_decisions(self) -> tuple[DecisionRecord, ...]:
        """Every record, superseded ones included, in the order they were taken."""
        return self.decisions_since(0)

    def decisions_since(self, number: int) -> tuple[DecisionRecord, ...]:
        """Every record after this one, in the order they were taken."""
        with self._reading() as connection:
            mine = select(decisions).where(*self._mine(decisions), decisions.c.number > number)
            return tuple(_decision(row) for row in connection.execute(mine.order_by(decisions.c.number)))

    def save_lock(self, record: LockRecord) -> None:
        """The lock from now on. Twice is harmless; (hash, at) is the key; what may change later: confirmed, or lifted."""
        with self._writing() as connection:
            statement = sqlite_insert(locks).values({**self._scope, **_columns(record, locks)})
            later = {name: getattr(record, name) for name in ("provisional", "lifted_at", "lifted_because")}
            key = ["study", "profile", "hash", "at"]
            connection.execute(statement.on_conflict_do_update(index_elements=key, set_=later))

    def lock(self) -> LockRecord | None:
        """The lock that holds; None if there is none, or it was lifted."""
        newest = self.locks()[-1:]
        return newest[0] if newest and not newest[0].lifted_at else None

    def locks(self) -> tuple[LockRecord, ...]:
        """Every lock there was, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(select(locks).where(*self._mine(locks)).order_by(locks.c.id))
            return tuple(replace(_record(LockRecord, row), conflicts=tuple(row.conflicts)) for row in rows)

    def lift_lock(self, at: str, because: str) -> bool:
        """Whether there was a lock to lift."""
        held = self.lock()
        if held is None:
            return False
        self.save_lock(replace(held, lifted_at=at, lifted_because=because))
        return True

    def freeze(self, record: FrozenRecord) -> FrozenRecord:
        """Keep what is frozen; the first call counts. Returns what stands."""
        with self._writing() as connection:
            connection.execute(sqlite_insert(frozen).on_conflict_do_nothing(), {**self._scope, **_columns(record, frozen)})
        stands = self.frozen()
        assert stands is not None, "just written"
        return stands

    def frozen(self) -> FrozenRecord | None:
        with self._reading() as connection:
            row = connection.execute(select(frozen).where(*self._mine(frozen))).first()
            return None if row is None else _record(FrozenRecord, row)

    def add_deviation(self, record: DeviationRecord) -> None:
        """Twice is harmless; (hash, at) is the key."""
        with self._writing() as connection:
            statement = sqlite_insert(deviations).on_conflict_do_nothing()
            connection.execute(statement, {**self._scope, **_columns(record, deviations)})

    def deviations(self) -> tuple[DeviationRecord, ...]:
        with self._reading() as connection:
            rows = connection.execute(select(deviations).where(*self._mine(deviations)).order_by(deviations.c.id))
            return tuple(replace(_record(DeviationRecord, row), changes=tuple(row.changes)) for row in rows)

    # ---------------------------------------------------------------- who may launch

    def acquire_lease(self, holder: str, now: str, stale_after_s: float, *, dead: str = "") -> Lease | None:
        """The lease, if it was free, ours already, or not renewed for `stale_after_s`; else None.

        dead: a holder known to have died, whose lease need not be waited for.
        """
        with self._writing() as connection:
            held = self._lease(connection)
            stale = (_moment(now) - timedelta(seconds=stale_after_s)).isoformat()
            if held and held.holder not in (holder, dead) and _moment(held.beat_at).isoformat() > stale:
                return None
            lease = Lease(holder, held.since if held and held.holder == holder else now, now)
            statement = sqlite_insert(leases).values({**self._scope, **_columns(lease, leases)})
            connection.execute(statement.on_conflict_do_update(index_elements=["study", "profile"], set_=_columns(lease, leases)))
            return lease

    def renew_lease(self, holder: str, now: str) -> bool:
        """False if somebody else has it now."""
        with self._writing() as connection:
            statement = update(leases).where(*self._mine(leases), leases.c.holder == holder).values(beat_at=now)
            return connection.execute(statement).rowcount == 1

    def release_lease(self, holder: str) -> bool:
        """Whether it was ours."""
        with self._writing() as connection:
            return connection.execute(leases.delete().where(*self._mine(leases), leases.c.holder == holder)).rowcount == 1

    def lease(self) -> Lease | None:
        with self._reading() as connection:
            return self._lease(connection)

    # ---------------------------------------------------------------- inside

    @cached_property
    def _state(self) -> Select[Any]:
        """Made once: putting a statement together takes longer than running it."""
        return select(
            select(func.max(changes.c.number)).where(*self._mine(changes)).scalar_subquery(),
            select(func.max(decisions.c.number)).where(*self._mine(decisions)).scalar_subquery(),
            select(func.count(), func.sum(locks.c.provisional), func.max(locks.c.lifted_at)).where(*self._mine(locks)).subquery(),
        )

    @property
    def _scope(self) -> dict[str, str]:
        return {"study": self.study, "profile": self.profile}

    @property
    def _place(self) -> str:
        return f"{self.study}/{self.profile}"

    def _mine(self, table: Table) -> tuple[Any, Any]:
        return table.c.study == self.study, table.c.profile == self.profile

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """One snapshot, whatever others write meanwhile."""
        with _explained(self.path), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """The only writer from the first statement on; all of it is kept, or nothing."""
        with _explained(self.path), self._writer.begin() as connection:
            yield connection

    def _joined(self, *columns: ColumnElement[Any], keys: Collection[str] | None = None) -> Select[Any]:
        """Columns of our jobs and their attempts."""
        statement = select(*columns).select_from(jobs).join(attempts, attempts.c.job_id == jobs.c.id).where(*self._mine(jobs))
        if keys is None:
            return statement
        wanted = func.json_each(json.dumps(list(keys))).table_valued("value")
        return statement.where(jobs.c.key.in_(select(wanted.c.value)))

    def _measured(self, name: str, *columns: Any, keys: Collection[str] | None = None) -> Select[Any]:
        """Columns of what our jobs measured of one metric."""
        joined = self._joined(*columns, keys=keys).join(metrics, metrics.c.attempt_id == attempts.c.id)
        return joined.where(metrics.c.name == name)

    def _put_attempt(self, connection: Connection, record: AttemptRecord) -> None:
        row = {"job_id": self._job_id(connection, record.job), **_columns(record, attempts)}
        changed = {name: value for name, value in row.items() if name not in ("job_id", "number")}
        statement = sqlite_insert(attempts).values(row)
        connection.execute(statement.on_conflict_do_update(index_elements=["job_id", "number"], set_=changed))
        self._changed(connection, self._attempt_row(connection, record.job, record.number).id)

    def _put_batches(self, connection: Connection, batches: Iterable[Batch]) -> int:
        found: list[tuple[int, str, int, float | None]] = []
        for job, number, points, offset in batches:
            attempt_id = self._attempt_id(connection, job, number)
            found += [(attempt_id, p.name, p.step, p.value if p.value == p.value else None) for p in points]
            read = update(attempts).where(attempts.c.id == attempt_id, attempts.c.read_bytes < offset)
            connection.execute(read.values(read_bytes=offset))
        return connection.exec_driver_sql(INSERT_POINTS, found).rowcount if found else 0

    def _attempts(self) -> Select[Any]:
        return self._joined(jobs.c.key.label("job"), *attempts.c)

    def _changed(self, connection: Connection, attempt_id: int) -> None:
        """An attempt is not what it was. There is one writer at a time, so numbers are seen in their order."""
        number = select(func.coalesce(func.max(changes.c.number), 0) + 1).where(*self._mine(changes)).scalar_subquery()
        statement = sqlite_insert(changes).values(**self._scope, attempt_id=attempt_id, number=number)
        connection.execute(statement.on_conflict_do_update(index_elements=["attempt_id"], set_={"number": number}))

    def _job_id(self, connection: Connection, job: str) -> int:
        found = connection.scalar(select(jobs.c.id).where(*self._mine(jobs), jobs.c.key == job))
        if found is None:
            raise StoreError(f"{self.path}: there is no job {job!r} in {self._place}; `ablate rebuild` reads the folders again")
        return int(found)

    def _attempt_row(self, connection: Connection, job: str, number: int) -> Row[Any]:
        row = connection.execute(self._attempts().where(jobs.c.key == job, attempts.c.number == number)).first()
        if row is None:
            what = f"attempt {number} of job {job!r} in {self._place}"
            raise StoreError(f"{self.path}: there is no {what}; `ablate rebuild` reads the folders again")
        return row

    def _attempt_id(self, connection: Connection, job: str, number: int) -> int:
        known = self._ids.get((job, number))
        if known is None:
            known = self._ids[job, number] = int(self._attempt_row(connection, job, number).id)
        return known

    def _last(self, name: str, last: int, keys: Collection[str] | None) -> dict[str, dict[int, float]]:
        """Job -> step -> value of the `last` highest steps, highest first; per step the latest attempt's value.

        Looks at the end of each attempt's curve only, so its price does not grow with the curves.
        """
        if last < 1:
            raise ValueError(f"the last {last} measurements of {name!r}: at least 1")
        newest = metrics.alias()
        nth = select(newest.c.step).where(newest.c.attempt_id == attempts.c.id, newest.c.name == name)
        since = nth.order_by(newest.c.step.desc()).limit(1).offset(last - 1).correlate(attempts).scalar_subquery()
        statement = (
            self._joined(jobs.c.key, metrics.c.step, metrics.c.value, keys=keys)
            .join(metrics, metrics.c.attempt_id == attempts.c.id)
            .where(metrics.c.name == name, metrics.c.step >= func.coalesce(since, -(2**63)))
            .order_by(attempts.c.number)
        )
        found: dict[str, dict[int, float]] = {}
        with self._reading() as connection:
            for key, step, value in connection.execute(statement):
                found.setdefault(key, {})[step] = _value(value)
        return {key: dict(sorted(steps.items(), reverse=True)[:last]) for key, steps in found.items()}

    def _lease(self, connection: Connection) -> Lease | None:
        row = connection.execute(select(leases).where(*self._mine(leases))).first()
        return None if row is None else _record(Lease, row)


def _measured_again(name: str) -> ColumnElement[bool]:
    """Whether a later attempt of the job measured the metric at the same step: then that one counts."""
    later, again = attempts.alias(), metrics.alias()
    measured = select(again.c.step).join_from(later, again, again.c.attempt_id == later.c.id)
    of_job = measured.where(later.c.job_id == attempts.c.job_id, later.c.number > attempts.c.number)
    return of_job.where(again.c.name == name, again.c.step == metrics.c.step).correlate(attempts, metrics).exists()


# ---------------------------------------------------------------- rows and values


def _columns(record: Any, table: Table) -> dict[str, Any]:
    """The fields of a record that are columns."""
    return {name: value for name, value in vars(record).items() if name in table.c}


def _record(kind: type[T], row: Row[Any]) -> T:
    """The columns of a row that are fields of the record."""
    return kind(**{field.name: row._mapping[field.name] for field in fields(kind)})  # type: ignore[arg-type]  # records only


def _attempt(row: Row[Any]) -> AttemptRecord:
    return _record(AttemptRecord, row)


def _decision(row: Row[Any]) -> DecisionRecord:
    return replace(_record(DecisionRecord, row), comparisons=tuple(row.comparisons))


def _value(stored: float | None) -> float:
    return math.nan if stored is None else stored


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is not a JSON value: {value!r}")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


# ---------------------------------------------------------------- opening the file


def _path_of(url: str) -> Path:
    name = url.removeprefix("sqlite:///")
    if re.match(r"[A-Za-z][A-Za-z0-9+]*://", name):
        shown = re.sub(r"//[^/@]*@", "//…@", url)  # a password is not repeated
        raise StoreError(f"{shown}: the database is an SQLite file; give a path, or sqlite:///path")
    return Path(name).absolute()


def _refuse_network(path: Path) -> None:
    mounts = Path("/proc/mounts")
    if mounts.exists() and (found := network_mount(path.resolve(), mounts.read_text("utf-8", "replace"))):
        place, kind = found
        why = "where SQLite's locks cannot be trusted"
        raise StoreError(f"{path}: {place} is a network file system ({kind}), {why}; put the database on a local disk")


def network_mount(path: Path, mounts: str) -> tuple[str, str] | None:
    """Mount point and type of the network file system that `path` is on, or None. mounts: the text of /proc/mounts."""
    best, kind = Path("/"), ""
    for line in mounts.splitlines():
        _, place, filesystem, *_ = line.split(" ")
        point = Path(place.replace("\\040", " "))
        if path.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, filesystem
    return (str(best), kind) if NETWORK_FILESYSTEMS.fullmatch(kind) else None


def _connect_to_read(path: Path, busy_s: float = 5.0) -> sqlite3.Connection:
    """A connection that cannot write, and leaves no files of SQLite's own beside a database that nobody has open."""
    written = Path(f"{path}-wal").exists()
    uri = f"{path.absolute().as_uri()}?mode=ro{'' if written else '&immutable=1'}"
    return sqlite3.connect(uri, uri=True, timeout=busy_s, check_same_thread=False)


def _prepare(engine: Engine, busy_s: float | None) -> None:
    """Set each connection up, and leave the beginning of transactions to us (the driver would begin them at the first write).

    busy_s: how long to wait for other processes; None for a database in memory, which has none, or one that is only read.
    """

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        if busy_s is not None:
            _use_wal(connection, busy_s)
            connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _use_wal(connection: sqlite3.Connection, busy_s: float) -> None:
    """Switching to WAL does not wait for other processes by itself, so wait here."""
    until = time.monotonic() + busy_s
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _bring_up_to_date(engine: Engine, path: Path) -> None:
    """Make the tables, or have Alembic upgrade older ones. Alembic is imported only then: it costs a third of a second."""
    with engine.begin() as connection:
        found = _version(connection, path)
    if found == schema.VERSION:
        return
    with engine.execution_options(writes=True).begin() as connection:
        found = _version(connection, path)  # again: another process may have been first
        if found == "":
            schema.metadata.create_all(connection)
            connection.execute(insert(schema.version), {"version_num": schema.VERSION})
        elif found != schema.VERSION:
            _upgrade(connection)


def _version(connection: Connection, path: Path) -> str:
    """Of the schema in the file; "" if the file is empty."""
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return ""
    found = connection.scalar(select(schema.version.c.version_num)) if "alembic_version" in tables else None
    if found is None:
        raise StoreError(
            f"{path}: a database, but not one of ablate's (it holds {', '.join(sorted(tables)[:3])}); give another path"
        )
    if found not in schema.KNOWN_VERSIONS:
        raise StoreError(
            f"{path}: written by a newer ablate (schema {found}; this one knows up to {schema.VERSION}); upgrade ablate"
        )
    return str(found)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """The driver's errors that a person can do something about, in one line. Others fly."""
    try:
        yield
    except (exc.DatabaseError, sqlite3.DatabaseError) as error:
        told = str(error.orig if isinstance(error, exc.DatabaseError) else error)
        line = next((line for words, line in EXPLAINED.items() if words in told), None)
        if line is None:
            raise
        raise StoreError(f"{path}: {line} ({told})") from error


EXPLAINED = {
    "locked": "another process is writing and did not end in time; see who with `ablate status`, or try again",
    "readonly": "the database or its folder is read-only; make both writable, or copy it elsewhere",
    "unable to open": "the database cannot be opened; check that its folder exists and both are readable and writable",
    "disk is full": "the disk is full; nothing was half-written, free some space and go on",
    "disk I/O": "the disk failed to read or write; check the disk and its space",
    "not a database": "the file is not a database, or is damaged; move it away and run `ablate rebuild`",
    "malformed": "the database is damaged; move it away and run `ablate rebuild`",
}
"""What SQLite says -> what it means for the person."""

"""The tables. A change here is a new file in migrations/versions, and a new VERSION.

A fresh database is made from this file; an older one is upgraded by the migrations; a test holds that both give the same.
Moments are ISO text in UTC, so they sort as text. JSON columns are text with sorted keys.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)

KNOWN_VERSIONS: tuple[str, ...] = ("0001", "0002")
"""Every revision of migrations/versions, oldest first."""

VERSION = KNOWN_VERSIONS[-1]

metadata = MetaData()

version = Table(
    "alembic_version",
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
    UniqueConstraint("study", "profile", "key"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("started_at", Text, nullable=False),
    Column("ended_at", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("gpu_s", Float, nullable=False),
    Column("code_hash", Text, nullable=False),
    Column("git_commit", Text, nullable=False),
    Column("git_dirty", Boolean, nullable=False),
    Column("cluster", String, nullable=False),
    Column("versions", JSON, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("read_bytes", Integer, nullable=False, server_default=text("0")),  # of metrics.jsonl, already in `metrics`
    UniqueConstraint("job_id", "number"),
)
Index("one_running_attempt", attempts.c.job_id, unique=True, sqlite_where=attempts.c.state == text("'running'"))

changes = Table(  # the order in which attempts last changed, so that one who follows a study reads only what is new
    "changes",
    metadata,
    Column("attempt_id", Integer, ForeignKey("attempts.id"), primary_key=True, autoincrement=False),
    Column("study", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("number", Integer, nullable=False),
    UniqueConstraint("study", "profile", "number"),
)

metrics = Table(
    "metrics",
    metadata,
    Column("attempt_id", Integer, ForeignKey("attempts.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("value", Float),  # null is nan: SQLite has none
    PrimaryKeyConstraint("attempt_id", "name", "step"),
    sqlite_with_rowid=False,
)

decisions = Table(
    "decisions",
    metadata,
    Column("study", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("sweep", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("took", Text, nullable=False),
    Column("line", Text, nullable=False),
    Column("sets", JSON, nullable=False),
    Column("because", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("comparisons", JSON, nullable=False),
    Column("jobs", JSON, nullable=False),
    Column("tree_hash", Text, nullable=False),
    Column("price", Text, nullable=False),
    PrimaryKeyConstraint("study", "profile", "number"),
)

locks = Table(
    "locks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("sources", JSON, nullable=False),
    Column("decisions", JSON, nullable=False),
    Column("conflicts", JSON, nullable=False),
    Column("trained_as", Text, nullable=False),
    Column("provisional", Boolean, nullable=False),
    Column("lifted_at", Text, nullable=False),
    Column("lifted_because", Text, nullable=False),
    UniqueConstraint("study", "profile", "hash", "at"),
)

frozen = Table(
    "frozen",
    metadata,
    Column("study", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("content", JSON, nullable=False),
    PrimaryKeyConstraint("study", "profile"),
)

deviations = Table(
    "deviations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("because", Text, nullable=False),
    Column("changes", JSON, nullable=False),
    UniqueConstraint("study", "profile", "hash", "at"),
)

leases = Table(
    "leases",
    metadata,
    Column("study", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("holder", Text, nullable=False),
    Column("since", Text, nullable=False),
    Column("beat_at", Text, nullable=False),
    PrimaryKeyConstraint("study", "profile"),
)

POINTS_VIEW = """\
CREATE VIEW points AS
SELECT jobs.study, jobs.profile, jobs.key AS job, attempts.number AS attempt, metrics.step, metrics.name, metrics.value
FROM metrics JOIN attempts ON attempts.id = metrics.attempt_id JOIN jobs ON jobs.id = attempts.job_id"""
"""What a person with the sqlite3 shell reads."""

POINTS_UPDATE = """\
CREATE TRIGGER points_update INSTEAD OF UPDATE OF value ON points BEGIN
UPDATE metrics SET value = new.value WHERE name = old.name AND step = old.step AND attempt_id = (
SELECT attempts.id FROM attempts JOIN jobs ON jobs.id = attempts.job_id
WHERE jobs.study = old.study AND jobs.profile = old.profile AND jobs.key = old.job AND attempts.number = old.attempt);
END"""
"""UPDATE points SET value = … corrects the metric itself."""


@event.listens_for(metadata, "after_create")
def _make_points_view(_: MetaData, connection: Connection, **__: object) -> None:
    connection.exec_driver_sql(POINTS_VIEW)
    connection.exec_driver_sql(POINTS_UPDATE)

"""The next attempt of a job, made ours: its row, its folder, and the config.json that its trainer reads."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from ablate import clock
from ablate.command import said_of
from ablate.desk import Desk
from ablate.folders import write_json
from ablate.launching import collect
from ablate.launching.provenance import Provenance
from ablate.planning.plan import PlannedJob
from ablate.study import nested, references
from db.records import AttemptRecord, JobRecord


def claim(desk: Desk, job: PlannedJob, provenance: Provenance, address: str = "", command: str = "") -> tuple[int, Path] | None:
    """Make the next attempt of a job ours: row, folder, config.json. None when somebody else was faster.

    address: of the cluster it will run on; "" for a Ray that ends with us, or none. command: if not the study's own words.
    """
    assert job.key is not None
    assert job.settings is not None
    now = clock.utc_now()
    collect.record_job(desk.store, desk.folders, JobRecord(job.key, job.run, job.seed, dict(job.settings), job.gpus, now))
    record = collect.claim_attempt(
        desk.store,
        desk.folders,
        job.key,
        now,
        host=socket.gethostname(),
        gpus=job.gpus,
        code_hash=provenance.code_hash,
        git_commit=provenance.git_commit,
        git_dirty=provenance.git_dirty,
        versions=provenance.versions,
        cluster=address,
    )
    if record is None:
        return None
    resume_from = desk.folders.resume_from(job.key)
    config = attempt_config(desk, job, record.number, str(resume_from or ""))
    config["trainer"]["command"] = command or config["trainer"]["command"]
    write_json(desk.folders.config(job.key, record.number), config)
    return record.number, desk.folders.attempt(job.key, record.number)


def attempt_of(desk: Desk, key: str, number: int) -> AttemptRecord:
    record = desk.store.attempt(key, number)
    assert record is not None, f"attempt {number} of {key} was claimed and is not in the database"
    return record


def attempt_config(desk: Desk, job: PlannedJob, number: int, resume_from: str) -> dict[str, Any]:
    """What a trainer reads: config.json of an attempt."""
    assert job.settings is not None
    study = desk.study
    return {
        "study": study.name,
        "profile": study.profile,
        "job": job.key,
        "run": job.run,
        "seed": job.seed,
        "attempt": number,
        "resume_from": resume_from,
        "settings": nested(job.settings),
        "references": {name: nested(settings) for name, settings in references(study, job.settings).items()},
        "files": str(desk.folders.cache),
        "trainer": said_of(study),
        "cwd": str(study.path.parent),
    }

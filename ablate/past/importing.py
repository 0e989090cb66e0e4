"""`ablate import`: past results become attempts of the study's jobs, in folders as a trainer writes them, and from there rows.

    file ── read ──▶ past runs ── match ──▶ jobs ── .importing/ID/<job>/1/ ══ one rename ══▶ .imports/ID ──▶ places and rows

Every attempt says where it is from (fact `imported`). The rename is the moment it counts: a crash before it leaves nothing, one
after it is finished by whatever collects next (collect.take_imports). What is there already is neither changed nor doubled.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate import evidence
from ablate import folders as names
from ablate.answers.document import Answer, command, plain
from ablate.clock import utc_now
from ablate.desk import Desk, writing_desk
from ablate.folders import DiskError, write_json
from ablate.launching import collect
from ablate.launching.claim import attempt_config
from ablate.launching.lease import holding_the_lease
from ablate.past.databases import is_database, read_database
from ablate.past.matching import LeftOut, Match, Matched, at, matched
from ablate.past.runs import Mistakes, Past, PastRun, assignments
from ablate.past.tables import read_table
from ablate.past.wandb_files import log_files, read_logs
from ablate.study import IMPORTED, UserError
from db.records import AttemptRecord, JobRecord


@dataclass(frozen=True)
class Options:
    """How a file is to be understood."""

    columns: Sequence[str] = ()
    """--map: "run=name,val_loss=eval/loss"."""
    names: Sequence[str] = ()
    """--as: "baseline-v2=F3", "fancy-sun-7=F3@42", "test=-"."""
    place: str = ""
    """--from: "STUDY/PROFILE" of another ablate database."""
    because: str = ""
    """Reason for an edit of what was frozen."""
    dry_run: bool = False


def bring_in(desk: Desk, path: Path, options: Options) -> Answer:
    """Import what a file holds. UserError, and nothing imported, if anything in it is wrong.

    The first import freezes margins, metrics, trees and seeds, as the first launch does: results are seen from then on.
    """
    past = read(desk, path, options)
    if options.dry_run:
        sorted_runs = _matched(desk, past, options)
        new, known = _new(desk, past, sorted_runs.found)
        return _answer(desk, past, new, known, sorted_runs.left_out, options)
    if not desk.recorded:
        _matched(desk, past, options)  # a mistake makes no database
    desk = writing_desk(desk)
    with holding_the_lease(desk):
        collect.take_imports(desk.store, desk.folders)
        sorted_runs = _matched(desk, past, options)
        new, known = _new(desk, past, sorted_runs.found)
        if new:
            evidence.refuse_when_locked(desk)
            evidence.freeze(desk, utc_now(), options.because)
            _write(desk, past, new)
            collect.take_imports(desk.store, desk.folders)
        return _answer(desk, past, new, known, sorted_runs.left_out, options)


def read(desk: Desk, path: Path, options: Options) -> Past:
    """What the file or folder is is told by itself: a W&B log, a database, else a table."""
    told = assignments("--map", options.columns)
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if log_files(path):
        return read_logs(path, desk.study, told)
    if path.is_dir():
        raise UserError(f"{path}: a folder without a W&B log (*.wandb) in it; give a CSV, Parquet or JSON file, or such a folder")
    if not path.is_file():
        raise UserError(f"{path}: neither a file nor a folder")
    if is_database(path):
        if told:
            raise UserError(f"{path}: an ablate database needs no --map; it says itself what is what")
        return read_database(path, desk.study.name, desk.study.profile, options.place)
    return read_table(path, desk.study, told)


def _matched(desk: Desk, past: Past, options: Options) -> Matched:
    named = assignments("--as", options.names)
    plan = desk.plan()
    return matched(desk.study, plan.jobs, desk.store.attempts(), past, named, plan.same)


def _new(desk: Desk, past: Past, found: Sequence[Match]) -> tuple[list[Match], list[Match]]:
    """(not imported yet, imported already with the same numbers). UserError where a job was imported with others."""
    attempts, mistakes = desk.store.attempts(), Mistakes(past.source)
    new, known = [], []
    for match in found:
        tried = attempts.get(match.job.key or "", ())
        if not tried:
            new.append(match)
        elif _same(desk, match, tried[-1]):
            known.append(match)
        else:
            stamp = tried[-1].facts[IMPORTED]
            folder = os.path.relpath(desk.folders.job(tried[-1].job))
            mistakes.add(
                match.run.place,
                f"{at(match.job)} was imported with other numbers ({stamp['source']}, {stamp['at']}), decisions may rest on it: "
                f"it stays. To take it back: remove {folder}, then {command(desk, 'rebuild')}",
            )
    mistakes.refuse()
    return new, known


def _same(desk: Desk, match: Match, attempt: AttemptRecord) -> bool:
    """Whether an import holds just these numbers; its folder says."""
    path = desk.folders.metrics(attempt.job, attempt.number)
    if match.run.ended[0] != attempt.state or not path.exists():
        return False
    with path.open("rb") as file:
        return all(file.readline() == line for line in _lines(match.run)) and not file.read(1)


# ---------------------------------------------------------------- folders as a trainer writes them


def _write(desk: Desk, past: Past, new: Sequence[Match]) -> None:
    """All attempts beside their places, on disk; then the one rename that makes them count. DiskError leaves nothing."""
    shutil.rmtree(desk.folders.importing, ignore_errors=True)  # of an import that was killed; we hold the lease
    identity = uuid.uuid4().hex
    staged, at_ = desk.folders.importing / identity, utc_now()
    by = getpass.getuser()
    for match in new:
        _write_job(desk, past, match, staged / (match.job.key or ""), at_, by)
    try:
        desk.folders.imports.mkdir(exist_ok=True)
        staged.rename(desk.folders.imports / identity)
    except OSError as error:
        raise DiskError(desk.folders.imports, error) from error


def _write_job(desk: Desk, past: Past, match: Match, folder: Path, moment: str, by: str) -> None:
    job, run = match.job, match.run
    assert job.key is not None, "what has no key yet was left out"
    assert job.settings is not None, "what has a key has settings"
    outcome, lost = run.ended
    stamp = _stamp(past, run, moment, by)
    reason = "; ".join(part for part in (f"imported from {stamp['source']}", lost) if part)
    write_json(folder / names.JOB, vars(JobRecord(job.key, job.run, job.seed, job.settings, job.gpus, moment)))
    attempt = folder / "1"
    record = AttemptRecord(
        job.key,
        1,
        "diverged" if outcome == "diverged" else "done",
        moment,
        moment,
        reason,
        code_hash=run.code_hash,
        versions=run.versions,
        facts={**run.facts, IMPORTED: stamp},
    )
    write_json(attempt / names.CONFIG, {**attempt_config(desk, job, 1, ""), IMPORTED: stamp})
    _write_lines(attempt / names.METRICS, run)
    write_json(attempt / names.FACTS, record.facts)
    write_json(attempt / names.RESULT, {"outcome": record.state, "reason": reason, "facts": {}})
    write_json(attempt / names.ATTEMPT, vars(record))


def _stamp(past: Past, run: PastRun, moment: str, by: str) -> dict[str, Any]:
    """Where an attempt is from."""
    return {
        "source": str(past.source)[-300:],
        "kind": past.kind,
        "sha256": past.sha256,
        "at": moment,
        "by": by,
        "run": run.name,
        "place": run.place,
        "ledger": run.ledger,
        "last_step": max(step for steps in run.curves.values() for step in steps),
    }


def _write_lines(path: Path, run: PastRun) -> None:
    try:
        with path.open("wb") as file:
            file.writelines(_lines(run))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DiskError(path, error) from error


def _lines(run: PastRun) -> Iterator[bytes]:
    """metrics.jsonl: a line per step, in order, so that the same numbers are the same bytes."""
    steps: dict[int, dict[str, float]] = {}
    for name in sorted(run.curves):
        for step, value in run.curves[name].items():
            steps.setdefault(step, {})[name] = value
    for step in sorted(steps):
        yield json.dumps({"attempt": 1, "step": step, "metrics": steps[step]}).encode() + b"\n"


# ---------------------------------------------------------------- the answer


def _answer(
    desk: Desk, past: Past, new: Sequence[Match], known: Sequence[Match], left_out: Sequence[LeftOut], options: Options
) -> Answer:
    """What was (or, in a dry run, would be) imported."""
    waits = {one.name: one.waits for one in left_out if one.waits}
    if options.dry_run and new:
        words: tuple[str, ...] = ("import", str(past.source), *_flags(options))
    else:
        words = ("launch",) if "launch" in waits.values() else ("decide",) if new or known or waits else ("plan",)
    return plain(
        {
            "study": desk.study.name,
            "profile": desk.study.profile,
            "source": past.source,
            "kind": past.kind,
            "sha256": past.sha256,
            "dry_run": options.dry_run,
            "imported": [_row(match) for match in new],
            "known": [_row(match) for match in known],
            "left_out": [{"name": one.name, "why": one.why, "waits": bool(one.waits)} for one in left_out],
            "unread": past.unread,
            "waits": list(waits),
            "next": command(desk, *words),
        }
    )


def _flags(options: Options) -> tuple[str, ...]:
    given: Mapping[str, Sequence[str]] = {"--map": options.columns, "--as": options.names}
    place = ("--from", options.place) if options.place else ()
    return (*(word for flag, texts in given.items() for text in texts for word in (flag, text)), *place)


def _row(match: Match) -> Answer:
    curves = match.run.curves
    return {
        "job": match.job.key,
        "run": match.job.run,
        "seed": match.job.seed,
        "name": match.run.name,
        "state": match.run.ended[0],
        "metrics": sorted(curves),
        "points": sum(map(len, curves.values())),
        "last_step": max(step for steps in curves.values() for step in steps),
        "ledger": match.run.ledger,
    }

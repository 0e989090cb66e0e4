"""Another ablate database → past runs: the jobs of one study and profile that ended there, with what their trainers reported.

It is read from a copy, so that nothing is written beside it, an older schema is brought up to date, and a newer one refused.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablate.past.runs import Past, PastRun
from ablate.planning.states import FAILURE, FORGIVEN, HELD, LOST_GPU_S
from ablate.study import ENDED, IMPORTED, UserError
from db.records import AttemptRecord, JobRecord
from db.store import Store

MAGIC = b"SQLite format 3\0"
OURS = (FAILURE, FORGIVEN, HELD, LOST_GPU_S, IMPORTED)
"""Facts that launching or importing added there; the others are the trainer's own."""


def is_database(path: Path) -> bool:
    """Whether a file begins as an SQLite database does. UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_database(path: Path, study: str, profile: str, asked: str = "") -> Past:
    """Jobs that ended, by run and seed.

    study, profile: of the desk; taken where the database has them. asked: "STUDY/PROFILE" there, where it holds others.

    StoreError if it is not one of ours, or newer than this program; UserError if it does not hold what is asked for.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.sqlite"
        Store.copy(path, copy)
        sha256 = hashlib.sha256(copy.read_bytes()).hexdigest()
        store = Store.open(copy, study, profile)
        try:
            store = store.scoped(*_place(path, store.places(), study, profile, asked))
            jobs, curves = store.jobs(), _curves(store)
            runs = [_run(jobs[key], tries, curves.get(key, {})) for key, tries in store.attempts().items()]
        finally:
            store.close()
    found = tuple(run for run in runs if run is not None)
    if not found:
        raise UserError(f"{path}: no job of {store.study}/{store.profile} has ended there; there is nothing to import")
    return Past(path, f"ablate, {store.study}/{store.profile}", sha256, found)


def _place(path: Path, places: Sequence[tuple[str, str]], study: str, profile: str, asked: str) -> tuple[str, str]:
    held = ", ".join("/".join(place) for place in places) or "nothing"
    wanted = next((place for place in places if "/".join(place) == asked), None) if asked else None
    if asked and wanted is None:
        raise UserError(f"{path}: there is no {asked!r} in it; it holds {held}")
    if wanted or (study, profile) in places:
        return wanted or (study, profile)
    if len(places) != 1:
        raise UserError(f"{path}: which study and profile of it? It holds {held}; say --from STUDY/PROFILE")
    return places[0]


def _curves(store: Store) -> dict[str, dict[str, dict[int, float]]]:
    """Job -> metric -> step -> value."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for name in store.all_metric_names():
        for key, points in store.curves(name).items():
            found.setdefault(key, {})[name] = dict(points)
    return found


def _run(job: JobRecord, tries: Sequence[AttemptRecord], curves: Mapping[str, Mapping[int, float]]) -> PastRun | None:
    """None for a job that has not ended. What was imported there without a ledger has none here either."""
    last = tries[-1]
    if last.state not in ENDED:
        return None
    stamp = last.facts.get(IMPORTED)
    return PastRun(
        name=job.run,
        seed=job.seed,
        curves=curves,
        settings=job.settings,
        place=job.key,
        outcome=last.state,
        facts={name: value for name, value in last.facts.items() if name not in OURS},
        code_hash=last.code_hash,
        versions=last.versions,
        ledger=stamp is None or bool(stamp.get("ledger")),
    )

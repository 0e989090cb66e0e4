"""What an attempt wrote into its folder, read back into records; and every record that is not derivable, kept as a file too.

The folders are the truth and the database is their index: `collect` takes over what is new in them, and on an empty database that
is a rebuild. The record_… functions write file and row; a crash between the two is mended by the next `collect`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_origin, get_type_hints

from ablate import folders as names
from ablate.folders import BrokenFileError, Folders, read_json, read_json_table, studies_under, write_json, write_new_json
from ablate.launching.gang import STOP_FILE, fit_to_quote, read_gang
from ablate.planning.failures import in_words, with_log
from ablate.study import IMPORTED, UserError
from db.records import AttemptRecord, AttemptState, DecisionRecord, DeviationRecord, FrozenRecord, JobRecord, LockRecord, Point
from db.store import Batch, Store

T = TypeVar("T")

READ_AT_ONCE = 1024 * 1024
"""Bytes of one metrics.jsonl read in one go: some 100 000 points, 20 MB of memory."""

TOLD_AT_MOST = 3
"""Malformed lines quoted per reading; all are counted."""


# ---------------------------------------------------------------- an attempt's folder


@dataclass(frozen=True)
class Reading:
    """What was new in a metrics.jsonl."""

    points: tuple[Point, ...]
    offset: int
    """Bytes read so far: where to go on."""
    malformed: int = 0
    """Lines, or values in them, that are not what the contract says; left out."""
    complaints: tuple[str, ...] = ()
    """The first of those, for a person."""
    foreign: int = 0
    """Lines of another attempt; left out."""


def fence(folder: Path, at: str, metrics_bytes: int) -> None:
    """Give an attempt up for good: its ranks end as soon as they see this, and later metrics count for nothing.

    metrics_bytes: of metrics.jsonl, what counts.
    """
    asked = _stop_file(folder)
    write_json(folder / STOP_FILE, {"by": "launch", **asked, "at": at, "fenced": True, "metrics_bytes": metrics_bytes})


def _counts_until(folder: Path) -> int | None:
    """Bytes of an attempt's metrics that count; None: all."""
    asked = _stop_file(folder)
    end = asked.get("metrics_bytes")
    return end if asked.get("fenced") and type(end) is int else None


def _stop_file(folder: Path) -> dict[str, Any]:
    try:
        return read_json_table(folder / STOP_FILE)
    except (FileNotFoundError, BrokenFileError):
        return {}


def read_points(folder: Path, job: str, attempt: int, offset: int = 0, at_once: int = READ_AT_ONCE) -> Reading:
    """The points after `offset`, whole lines only: a torn last line is left for the next time.

    folder: the attempt's. Without a file nothing is new. A file shorter than `offset` was replaced: it is read from its start.
    """
    path = folder / names.METRICS
    if not path.is_file():
        return Reading((), offset)
    points: list[Point] = []
    complaints: list[str] = []
    foreign = 0
    with path.open("rb") as file:
        at = offset if offset <= path.stat().st_size else 0
        until = at + at_once
        end = _counts_until(folder)
        file.seek(at)
        for line in file:
            if not line.endswith(b"\n") or (end is not None and at + len(line) > end):
                break
            found = _points_of(line, job, attempt)
            if found is None:
                foreign += 1
            else:
                points += found[0]
                complaints += [f"{path}: byte {at}: {complaint}" for complaint in found[1]]
            at += len(line)
            if at >= until:
                break
    return Reading(tuple(points), at, len(complaints), tuple(complaints[:TOLD_AT_MOST]), foreign)


def _points_of(line: bytes, job: str, attempt: int) -> tuple[list[Point], list[str]] | None:
    """Points of one line, and what is wrong with it; None if it is another attempt's."""
    if line.isspace():
        return [], []
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        return [], [f"not JSON ({error})"]
    if not isinstance(entry, dict) or not isinstance(values := entry.get("metrics"), dict):
        return [], ['not of the form {"attempt": 1, "step": 1, "metrics": {…}}']
    if entry.get("attempt", attempt) != attempt:
        return None
    step = entry.get("step")
    if type(step) is not int or abs(step) >= 2**63:
        return [], [f"step {step!r} is not a whole number"]
    points, complaints = [], []
    for name, value in values.items():
        if type(value) is float or (type(value) is int and abs(value) < 2**1000):
            if 0 < len(name) <= 200 and name.isprintable():
                points.append(Point(job, attempt, step, name, float(value)))
            else:
                complaints.append(f"{name[:40]!r} cannot name a metric; up to 200 printable characters can")
        else:
            complaints.append(f"metric {name!r} is {str(value)[:40]!r}; a number is expected")
    return points, complaints


@dataclass(frozen=True)
class Result:
    """What result.json says. "broken": it is there, but does not say what the contract asks for; `reason` tells."""

    outcome: Literal["done", "diverged", "broken"]
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_result(folder: Path, of_command: bool = False) -> Result | None:
    """How the attempt ended by its own words; None: it did not get that far.

    of_command: the trainer is a command line. Then what its runner wrote counts, not what the script may have written itself.
    """
    path = folder / names.RESULT
    try:
        said = read_json_table(path)
    except FileNotFoundError:
        return None
    except (BrokenFileError, OSError) as error:
        return Result("broken", str(error))
    outcome, facts = said.get("outcome"), said.get("facts", {})
    if of_command and not (isinstance(facts, dict) and names.EXIT_CODE in facts):
        return None
    if outcome not in ("done", "diverged"):
        return Result("broken", f'{path}: outcome {outcome!r}; "done" or "diverged" is expected')
    if not isinstance(facts, dict):
        return Result("broken", f"{path}: facts {str(facts)[:40]!r}; a JSON object is expected")
    return Result("done" if outcome == "done" else "diverged", fit_to_quote(str(said.get("reason", ""))), facts)


def read_facts(folder: Path) -> dict[str, Any]:
    """facts.json, {} without one; if it cannot be read, a fact "facts_error" says so."""
    try:
        return read_json_table(folder / names.FACTS)
    except FileNotFoundError:
        return {}
    except (BrokenFileError, OSError) as error:
        return {"facts_error": str(error)}


def facts_of(folder: Path) -> dict[str, Any]:
    """Who held its GPUs before it started, facts.json and result.json's facts, the later winning."""
    result = read_result(folder)
    return {**gpu_facts(folder), **read_facts(folder), **(result.facts if result else {})}


def gpu_facts(folder: Path) -> dict[str, Any]:
    """Who held memory of the attempt's GPUs when its ranks were to start (gpus_held), and how long that was waited for."""
    try:
        about = read_gang(folder)
    except (ValueError, OSError):  # torn by a crash of the machine; told elsewhere
        return {}
    return {name: about[name] for name in ("gpus_held", "gpus_waited_s") if name in about}


# ---------------------------------------------------------------- three witnesses

Seen = Literal["", "ended", "rank failed", "stopped", "killed", "gpu busy", "lost", "launcher gone"]
"""How whoever watched the gang saw it end; "" if nobody did. launcher gone: it was tied to a launch that is no more."""


@dataclass(frozen=True)
class Verdict:
    """What to do about an attempt.

    watch: its processes are (or may be) alive. end: write down `state` and `reason`. stop: it is alive, but was given up.
    leave: nothing to do.
    """

    action: Literal["watch", "end", "stop", "leave"]
    state: AttemptState
    reason: str = ""


def settle(
    state: AttemptState, alive: bool | None, result: Result | None, *, started: bool, seen: Seen = "", log_tail: str = ""
) -> Verdict:
    """What holds when the row, Ray and the folder disagree.

    state: the row's. alive: what Ray says of the supervisor; None: it does not answer, which is not death. result: the folder's.
    started: the folder has output of the ranks. log_tail: the log's last lines, for the reason.

    A supervisor alive is believed before anything else; then result.json, the only sign of having ended well; then what was seen.
    """
    if state != "running":
        return Verdict("stop" if alive else "leave", state, "the database has given this attempt up" if alive else "")
    if alive:
        return Verdict("watch", state)
    if result is not None:
        return Verdict("end", "failed" if result.outcome == "broken" else result.outcome, result.reason)
    if alive is None and not seen:
        return Verdict("watch", state, "the cluster does not answer")
    match seen:
        case "stopped":
            return Verdict("end", "interrupted", "stopped on request")
        case "killed":
            return Verdict("end", "interrupted", "stopped on request, with no time to save")
        case "gpu busy":
            return Verdict("end", "interrupted", f"its GPUs did not become free: {log_tail}")
        case "launcher gone":
            return Verdict("end", "interrupted", "the launch that ran it ended")
        case "lost":
            return Verdict("end", "lost", with_log("its supervisor or its machine was lost", log_tail))
        case "":
            if started:
                return Verdict("end", "lost", with_log("it ended while nobody watched, without a result.json", log_tail))
            return Verdict("end", "interrupted", "claimed, but never started")
        case _:
            return Verdict("end", "failed", in_words(seen, log_tail))


# ---------------------------------------------------------------- records as files and rows


def record_job(store: Store, folders: Folders, record: JobRecord) -> None:
    """Twice is harmless; the first stands."""
    if not folders.job_record(record.key).exists():
        write_json(folders.job_record(record.key), vars(record))
    store.save_job(record)


def claim_attempt(store: Store, folders: Folders, job: str, started_at: str, **facts: Any) -> AttemptRecord | None:
    """Begin an attempt in row and folder; None if one is running or the job has its result.

    facts: host, gpus, code_hash, git_commit, git_dirty, versions, cluster.
    """
    number = store.claim(job, started_at=started_at, above=max(folders.attempt_numbers(job), default=0), **facts)
    if number is None:
        return None
    record = AttemptRecord(job, number, "running", started_at, **facts)
    write_json(folders.attempt_record(job, number), vars(record))
    return record


def end_attempt(
    store: Store, folders: Folders, record: AttemptRecord, state: AttemptState, reason: str, ended_at: str, gpu_s: float
) -> AttemptRecord:
    """Write down how an attempt ended, with the facts its folder holds by now. The first end counts; returns what stands."""
    known = store.attempt(record.job, record.number)
    if known is not None and known.state != "running":
        return known
    facts = {**record.facts, **facts_of(folders.attempt(record.job, record.number))}
    ended = replace(record, state=state, reason=reason, ended_at=ended_at, gpu_s=gpu_s, facts=facts)
    write_json(folders.attempt_record(record.job, record.number), vars(ended))
    store.end_attempt(record.job, record.number, state, reason, ended_at, gpu_s, facts)
    return ended


def amend_attempt(store: Store, folders: Folders, record: AttemptRecord, facts: Mapping[str, Any]) -> AttemptRecord:
    """Add to the facts of an attempt that has ended; the later value of a name wins."""
    amended = replace(record, facts={**record.facts, **facts})
    write_json(folders.attempt_record(record.job, record.number), vars(amended))
    store.save_attempt(amended)
    return amended


def record_decision(store: Store, folders: Folders, record: DecisionRecord) -> DecisionRecord:
    """Give a decision its number and keep it. The row comes first here: the database hands the numbers out."""
    taken = max((int(path.name.partition("-")[0]) for path in folders.decision_files()), default=0)
    numbered = replace(record, number=store.add_decision(record, above=taken))
    write_json(folders.decision(numbered.number, numbered.name), vars(numbered))
    return numbered


def record_lock(store: Store, folders: Folders, record: LockRecord) -> None:
    """The lock from now on: lock.json; the one before it moves to earlier_locks.json. Lifting is recording it as lifted."""
    if folders.lock.exists():
        before = _read(LockRecord, folders.lock)
        earlier = _read_all(LockRecord, folders.earlier_locks)
        if (before.hash, before.at) != (record.hash, record.at) and before not in earlier:
            write_json(folders.earlier_locks, [vars(lock) for lock in (*earlier, before)])
    write_json(folders.lock, vars(record))
    store.save_lock(record)


def lift_lock(store: Store, folders: Folders, at: str, because: str) -> LockRecord | None:
    """The lock as lifted; None if there was none to lift."""
    held = store.lock()
    if held is None:
        return None
    lifted = replace(held, lifted_at=at, lifted_because=because)
    record_lock(store, folders, lifted)
    return lifted


def record_frozen(store: Store, folders: Folders, record: FrozenRecord) -> FrozenRecord:
    """Freeze; the first call counts. Returns what stands."""
    try:
        write_new_json(folders.frozen, vars(record))
    except FileExistsError:
        return store.freeze(_read(FrozenRecord, folders.frozen))
    return store.freeze(record)


def record_deviation(store: Store, folders: Folders, record: DeviationRecord) -> None:
    """Twice is harmless."""
    known = _read_all(DeviationRecord, folders.deviations)
    if record not in known:
        write_json(folders.deviations, [vars(deviation) for deviation in (*known, record)])
    store.add_deviation(record)


# ---------------------------------------------------------------- from the folders into the database


@dataclass(frozen=True)
class Collected:
    """What was taken over. complaints: what could not be, a line each."""

    jobs: int = 0
    attempts: int = 0
    """New or changed."""
    points: int = 0
    decisions: int = 0
    complaints: tuple[str, ...] = ()

    def __add__(self, other: Collected) -> Collected:
        return Collected(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


def collect_points(
    store: Store, folders: Folders, attempts: Iterable[tuple[str, int]], offsets: dict[tuple[str, int], int]
) -> Collected:
    """New points of these (job, attempt), at most READ_AT_ONCE bytes of each, in one transaction.

    offsets: how far each was read (store.offsets()); brought up to date. Call again while it moves.
    """
    batches: list[Batch] = []
    complaints: list[str] = []
    for job, number in attempts:
        reading = read_points(folders.attempt(job, number), job, number, offsets.get((job, number), 0))
        complaints += reading.complaints
        if reading.malformed > len(reading.complaints):
            complaints.append(f"{folders.metrics(job, number)}: {reading.malformed} malformed in all")
        if reading.offset != offsets.get((job, number), 0):
            batches.append((job, number, reading.points, reading.offset))
    new = store.add_batches(batches) if batches else 0
    offsets.update({(job, number): offset for job, number, _, offset in batches})
    return Collected(points=new, complaints=tuple(complaints))


def collect(store: Store, folders: Folders) -> Collected:
    """Take over everything the folders hold and the database does not. Twice is harmless.

    A file that cannot be read is a complaint, and everything else goes on.
    """
    complaints: list[str] = []
    imported = take_imports(store, folders)
    jobs = _each(folders.job_keys(), lambda key: _read(JobRecord, folders.job_record(key)), complaints)
    new_jobs = store.save_jobs(jobs)
    known = store.attempts()
    numbered = [(job.key, number) for job in jobs for number in folders.attempt_numbers(job.key)]
    found = _fenced(_each(numbered, lambda which: _attempt_in(folders, *which), complaints))
    changed = [record for record in found if record not in known.get(record.job, ())]
    for record in changed:
        store.save_attempt(record)
    points = _all_points(store, folders, [(record.job, record.number) for record in found])
    decided = _collect_decisions(store, folders, complaints)
    _each([folders], lambda where: _collect_lock_and_frozen(store, where), complaints)
    return Collected(new_jobs, len(changed), 0, decided, tuple(complaints)) + points + imported


def take_imports(store: Store, folders: Folders) -> Collected:
    """Bring imports that are whole to their jobs' places, and all that the database does not have of them into it, at once.

    An import is one rename from .importing to .imports: before it nothing counts, after it everything will, whenever a crash
    lets this go on. A job that was trained here meanwhile stays as it is.
    """
    for whole in sorted(folders.imports.glob("*/")):
        for staged in sorted(whole.iterdir()):
            placed = folders.job(staged.name)
            if not placed.exists():
                staged.rename(placed)
            elif not folders.attempt_numbers(staged.name):
                (staged / "1").rename(placed / "1")
        shutil.rmtree(whole)
    known = store.attempts()
    complaints: list[str] = []
    unknown = [key for key in folders.job_keys() if key not in known and folders.attempt_record(key, 1).exists()]
    records = _each(unknown, lambda key: (_read(JobRecord, folders.job_record(key)), _attempt_in(folders, key, 1)), complaints)
    new = [(job, attempt) for job, attempt in records if IMPORTED in attempt.facts]  # complaints: `collect` tells them
    if not new:
        return Collected()
    points = store.take_over((job, attempt, _batches(folders, attempt)) for job, attempt in new)
    return Collected(len(new), len(new), points)


def _batches(folders: Folders, attempt: AttemptRecord) -> Iterator[Batch]:
    folder, offset = folders.attempt(attempt.job, attempt.number), 0
    while (reading := read_points(folder, attempt.job, attempt.number, offset)).offset != offset:
        offset = reading.offset
        yield attempt.job, attempt.number, reading.points, offset


def rebuild(store: Store, root: Path) -> Collected:
    """`collect` for every study and profile under outputs/."""
    found = Collected()
    for each in studies_under(root):
        found += collect(store.scoped(each.study, each.profile), each)
        if each.code_record.exists() and not each.frozen.exists():
            gone = f"{each.frozen}: it is gone, with what the first launch froze; the next one freezes what the file says then"
            found += Collected(complaints=(gone,))
    return found


def rebuild_file(database: Path, root: Path) -> Collected:
    """Make the database anew from outputs/; the old one stays beside it as …before-rebuild. Nobody may be launching meanwhile."""
    studies = studies_under(root)
    if not studies:
        raise UserError(f"{root}: no study has written anything there; nothing to rebuild {database} from")
    if database.is_dir():
        raise UserError(f"{database}: a folder stands where the database should; move it away, then: ablate rebuild")
    fresh = database.with_name(f"{database.name}.rebuilding")
    _remove(fresh)
    store = Store.open(fresh, studies[0].study, studies[0].profile)
    collected = rebuild(store, root)
    store.close()
    for part in ("", "-wal", "-shm"):
        old = Path(f"{database}{part}")
        if old.exists():
            old.replace(f"{database}.before-rebuild{part}")
    fresh.replace(database)
    return collected


def _remove(database: Path) -> None:
    for part in ("", "-wal", "-shm"):
        Path(f"{database}{part}").unlink(missing_ok=True)


def _attempt_in(folders: Folders, job: str, number: int) -> AttemptRecord:
    record = _read(AttemptRecord, folders.attempt_record(job, number))
    if (record.job, record.number) != (job, number):
        raise BrokenFileError(f"{folders.attempt_record(job, number)}: of attempt {record.number} of {record.job!r}; copied?")
    return replace(record, facts={**record.facts, **facts_of(folders.attempt(job, number))})


def _fenced(found: list[AttemptRecord]) -> list[AttemptRecord]:
    """Of a job's attempts only the last can be running."""
    last = {record.job: record.number for record in found}
    return [
        replace(record, state="lost", reason="a later attempt was begun")
        if record.state == "running" and record.number < last[record.job]
        else record
        for record in found
    ]


def _all_points(store: Store, folders: Folders, attempts: list[tuple[str, int]]) -> Collected:
    offsets, total = store.offsets(), Collected()
    before: dict[tuple[str, int], int] | None = None
    while offsets != before:
        before = dict(offsets)
        for which in attempts:
            total += collect_points(store, folders, [which], offsets)
    return total


def _collect_decisions(store: Store, folders: Folders, complaints: list[str]) -> int:
    """Both ways: a decision whose file a crash prevented gets it now."""
    known = {record.number: record for record in store.all_decisions()}
    for number, record in known.items():
        if not folders.decision(number, record.name).exists():
            write_json(folders.decision(number, record.name), vars(record))
    found = _each(folders.decision_files(), lambda path: _read(DecisionRecord, path), complaints)
    new = [record for record in found if record.number not in known]
    for record in new:
        store.add_decision(record)
    return len(new)


def _collect_lock_and_frozen(store: Store, folders: Folders) -> None:
    for lock in _read_all(LockRecord, folders.earlier_locks):
        store.save_lock(lock)
    if folders.lock.exists():
        store.save_lock(_read(LockRecord, folders.lock))
    if folders.frozen.exists():
        store.freeze(_read(FrozenRecord, folders.frozen))
    for deviation in _read_all(DeviationRecord, folders.deviations):
        store.add_deviation(deviation)


U = TypeVar("U")


def _each(items: Iterable[U], read: Callable[[U], T], complaints: list[str]) -> list[T]:
    """What could be read of the items; for the others a complaint."""
    found: list[T] = []
    for item in items:
        try:
            found.append(read(item))
        except (BrokenFileError, OSError) as error:
            complaints.append(str(error))
    return found


def _read(kind: type[T], path: Path) -> T:
    return _made(kind, read_json_table(path), path)


def _read_all(kind: type[T], path: Path) -> list[T]:
    """Of a file that holds a list of records; [] without the file."""
    if not path.exists():
        return []
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BrokenFileError(f"{path}: a list of JSON objects is expected")
    return [_made(kind, entry, path) for entry in entries]


def _made(kind: type[T], entry: Mapping[str, Any], path: Path) -> T:
    """The record that a JSON object describes; keys that are none of its fields are left out. BrokenFileError if it is none."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for each in fields(kind):  # type: ignore[arg-type]  # a record's class: the values of db/records.py
        if each.name in entry:
            values[each.name] = _typed(entry[each.name], hints[each.name], f"{path}: {each.name}")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise BrokenFileError(f"{path}: no {each.name!r} in it")
    return kind(**values)


def _typed(value: Any, hint: Any, place: str) -> Any:
    """A JSON value as the field's type wants it."""
    outer = get_origin(hint) or hint
    if outer is tuple and isinstance(value, list):
        return tuple(value)
    wanted: Any = {Literal: str, float: (int, float), Mapping: dict}.get(outer, outer)
    if not isinstance(value, wanted) or (isinstance(value, bool) and outer is not bool):
        name = {Literal: "str", Mapping: "object", tuple: "list"}.get(outer, getattr(outer, "__name__", str(outer)))
        raise BrokenFileError(f"{place} is {value!r:.40}; {name} is expected")
    return float(value) if outer is float else value

"""Mirrors the jobs of the database to wandb: a process of its own, which no job, decision or row ever waits for.

    launch ── start_mirror ──▶  python -m ablate.mirror STUDY --profile P --follow      (nice 10; reads the database, writes none)
           ── finish ────────▶  "finish": mirror what is still missing, then end

By hand: `python -m ablate.mirror runs.toml --profile tiny --once`. Exit code 0: everything is mirrored; 1: one line says why not.

A wandb run is a job: project = study, id = the job's key, group = its first sweep. With a key for wandb, running jobs are
followed, every LIVE_S seconds. Without one (or WANDB_MODE=offline) a job is written once it has ended, and again, whole, when a
later verdict rests on it: one folder per job under outputs/STUDY/PROFILE/.mirror/, to be synced. Nothing is written elsewhere.
The only file that imports wandb.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import logging
import netrc
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from ablate.desk import Desk, existing_desk
from ablate.folders import read_json_table, write_json
from ablate.planning.plan import PlannedJob
from ablate.runs_toml import read_study
from ablate.study import UserError, nested
from db.records import AttemptRecord, DecisionRecord, JobRecord, LockRecord, StoreError
from db.store import Store

Mode = Literal["online", "offline"]

NICE = 10
POLL_S = 5.0
"""How often the database is asked for jobs that have ended; a question takes milliseconds."""
FINISH = b"finish\n"
"""What the launcher writes to the mirror's stdin."""
SAYS = "mirror: "
"""What our lines in mirror.log begin with."""
LIVE_S = 30.0
"""How often the new points of a running job are sent."""
TAG_LENGTH = 64
"""wandb refuses longer tags."""

log = logging.getLogger("ablate.mirror")


class WandbFailedError(Exception):
    """wandb, its server or the way there."""


# ---------------------------------------------------------------- the launcher's side


@dataclass(frozen=True)
class Mirror:
    """A mirror at work."""

    process: subprocess.Popen[bytes]
    log: Path
    by_hand: str
    """The command that goes on where it stopped."""


def start_mirror(desk: Desk) -> Mirror | None:
    """Start the mirror beside this process; None when the study or WANDB_MODE says not to, or when it cannot start.

    Costs the caller one fork. It ends with this process: its stdin is our end of a pipe.
    """
    if not desk.study.wandb or os.environ.get("WANDB_MODE") == "disabled":
        return None
    try:
        return _started(desk)
    except OSError as error:
        log.warning("nothing is mirrored to wandb: %s", error)
        return None


def _started(desk: Desk) -> Mirror:
    folder = folder_of(desk)
    folder.mkdir(parents=True, exist_ok=True)
    study, profile = desk.study.path, desk.study.profile
    with (folder / "mirror.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ablate.mirror", str(study.resolve()), "--profile", profile, "--follow"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the launcher, which then says when to finish
            env=_environment(),
        )
    return Mirror(process, folder / "mirror.log", f"python -m ablate.mirror {study.name} --profile {profile} --once")


def _environment() -> dict[str, str]:
    """Ours, with this package to be found from any folder."""
    code = str(Path(__file__).parents[1])
    found = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{code}{os.pathsep}{found}" if found else code}


def finish(mirror: Mirror, timeout_s: float) -> str:
    """Have the mirror write what is still missing and end, within `timeout_s`. Returns "", or a line saying what did not work."""
    process = mirror.process
    assert process.stdin is not None, "started with a pipe"
    try:
        process.stdin.write(FINISH)
        process.stdin.flush()
        code = process.wait(timeout_s)
    except BrokenPipeError:  # it ended before
        code = process.wait()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"the wandb mirror did not get through in {timeout_s:g} s; the rest: {mirror.by_hand}"
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()
    if code == 0:
        return ""
    return f"the wandb mirror failed, and nothing else with it: {_last_line(mirror.log)}. Again: {mirror.by_hand}"


def _last_line(path: Path) -> str:
    """What the mirror said last, whatever was printed around it."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    lines = [line for line in text.splitlines() if SAYS in line]
    return lines[-1].partition(SAYS)[2] if lines else f"see {path}"


def folder_of(desk: Desk) -> Path:
    """Where the mirror keeps its state, its log and wandb's files."""
    return desk.folders.base / ".mirror"


# ---------------------------------------------------------------- what a wandb run shows of a job


@dataclass(frozen=True)
class Page:
    """A job as wandb shall show it, all but its curves."""

    key: str
    name: str
    group: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    ended: str
    """Attempt and state it ended with ("2 done"); "" while it runs."""
    ok: bool
    """Whether it ended with a result."""

    @property
    def mark(self) -> str:
        """A hash of all the page says: another mark, another page."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def pages(desk: Desk) -> list[Page]:
    """A page for every job that was tried, in the order the jobs were made."""
    attempts = desk.store.attempts()
    jobs = desk.store.jobs()
    planned = {job.key: job for job in desk.plan().jobs if job.key}
    decisions, lock = desk.store.decisions(), desk.store.lock()
    finals = desk.store.final_values(list(attempts), {name: metric.last for name, metric in desk.study.metrics.items()})
    return [
        page(desk.study.profile, jobs[key], tries[-1], planned.get(key), decisions, lock, finals.get(key, {}))
        for key, tries in attempts.items()
    ]


def page(
    profile: str,
    job: JobRecord,
    last: AttemptRecord,
    planned: PlannedJob | None,
    decisions: Mapping[str, DecisionRecord],
    lock: LockRecord | None,
    finals: Mapping[str, float],
) -> Page:
    """planned: the job in today's plan; None if nothing asks for it any more. finals: metric -> value at the full budget."""
    resting = {name: decision for name, decision in decisions.items() if job.key in decision.jobs}
    running = last.state == "running"
    summary: dict[str, Any] = {} if running else {f"final/{name}": value for name, value in finals.items()}
    summary |= {"state": last.state, "reason": last.reason, "attempt": last.number, "facts": dict(last.facts)}
    for name, decision in resting.items():
        summary[f"decision/{name}"] = decision.took or decision.status
        summary[f"decision/{name}/because"] = decision.because
    tags = [profile, *(planned.sweeps if planned else ("no longer planned",)), last.state]
    tags += ["selected, no evidence"] if planned and planned.trial else []
    tags += [f"taken by {name}" for name, decision in resting.items() if decision.took == job.run]
    if lock is not None and (job.run == lock.trained_as or resting.keys() & lock.decisions.keys()):
        summary |= {"lock": lock.hash, "lock/provisional": lock.provisional}
        tags += ["locked config"] if job.run == lock.trained_as else []
    record = {"run": job.run, "seed": job.seed, "profile": profile, "gpus": job.gpus}
    code = {
        "code_hash": last.code_hash,
        "git_commit": last.git_commit,
        "git_dirty": last.git_dirty,
        "versions": dict(last.versions),
    }
    return Page(
        key=job.key,
        name=f"{job.run}-s{job.seed}",
        group=planned.sweeps[0] if planned and planned.sweeps else "",
        tags=tuple(dict.fromkeys(tag[:TAG_LENGTH] for tag in tags)),
        config={**nested(job.settings), "job": {**record, **code}},
        summary=summary,
        ended="" if running else f"{last.number} {last.state}",
        ok=last.state in ("done", "diverged"),
    )


def rows(store: Store, key: str, after: int, hold_back: bool) -> Iterator[tuple[int, dict[str, float]]]:
    """The job's metrics step by step, above step `after`. hold_back: leave the newest step, another line of it may still come."""
    by_step: dict[int, dict[str, float]] = {}
    for name in store.metric_names(key):
        for step, value in store.curve(key, name):
            if step > after:
                by_step.setdefault(step, {})[name] = value
    steps = sorted(by_step)
    for step in steps[:-1] if hold_back else steps:
        yield step, by_step[step]


# ---------------------------------------------------------------- the mirror's side


@dataclass(frozen=True)
class Mirrored:
    """What wandb has of a job that has ended; kept in state.json."""

    mode: Mode
    ended: str
    mark: str


@dataclass
class Writer:
    """Brings wandb up to date with the database, as often as it is asked to."""

    desk: Desk
    wandb: Any
    mode: Mode
    state: dict[str, Mirrored]
    live: dict[str, _Live] = field(default_factory=dict)

    @classmethod
    def open(cls, desk: Desk) -> Self:
        """Imports wandb. ImportError when it is not there."""
        _keep_wandb_inside(folder_of(desk))
        import wandb  # not at the top: half a second, which `launch` (start_mirror) shall not pay

        with _told(wandb):
            settings = wandb.setup().settings
        return cls(desk, wandb, _mode(os.environ, settings), _read_state(folder_of(desk)))

    def go_round(self, final: bool) -> int:
        """Mirror what is new; final: later verdicts on jobs that are mirrored too. Returns how many jobs were written whole."""
        written = 0
        for page in pages(self.desk):
            if not page.ended:
                if self.mode == "online":
                    self._follow(page)
            elif self._due(page, final):
                self._write(page)
                written += 1
        if final:
            for key in list(self.live):
                self.live.pop(key).run.finish(exit_code=1)  # still running: the next mirror resumes it
        return written

    def _due(self, page: Page, final: bool) -> bool:
        known = self.state.get(page.key)
        if known is None or (known.mode, known.ended) != (self.mode, page.ended):
            return True
        return known.mark != page.mark and (final or self.mode == "online")

    def _follow(self, page: Page) -> None:
        """Send what a running job has measured since the last time, at most every LIVE_S seconds."""
        live = self.live.get(page.key)
        if live is not None and time.monotonic() < live.next_at:
            return
        live = live or self._open(page)
        live.send(rows(self.desk.store, page.key, live.step, hold_back=True))
        live.next_at = time.monotonic() + LIVE_S
        self.live[page.key] = live

    def _write(self, page: Page) -> None:
        """Everything of a job that has ended."""
        if self.mode == "offline":  # a second folder of the same id would be a second run: there is one, written anew
            for old in _offline_folders(folder_of(self.desk), page.key):
                shutil.rmtree(old)
        live = self.live.pop(page.key, None) or self._open(page)
        live.send(rows(self.desk.store, page.key, live.step, hold_back=False))
        live.run.tags = page.tags
        live.run.summary.update(dict(page.summary))
        live.run.finish(exit_code=0 if page.ok else 1)
        self.state[page.key] = Mirrored(self.mode, page.ended, page.mark)
        write_json(folder_of(self.desk) / "state.json", {key: asdict(entry) for key, entry in self.state.items()})

    def _open(self, page: Page) -> _Live:
        """The job's wandb run: a new one, or (online) the one the server has, from the step it has."""
        run = self.wandb.init(
            project=self.desk.study.name,
            id=page.key,
            name=page.name,
            group=page.group or None,
            job_type=page.config["job"]["run"],
            tags=page.tags,
            config=dict(page.config),
            dir=folder_of(self.desk),
            resume="allow",
            reinit="create_new",
            settings=self.wandb.Settings(mode=self.mode, **QUIET),
        )
        return _Live(run, run.starting_step - 1)


QUIET: Mapping[str, Any] = {
    "console": "off",
    "silent": True,
    "symlink": False,
    "disable_code": True,
    "disable_git": True,  # the job's own commit is in its config; this process's would be another
    "disable_job_creation": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "init_timeout": 60.0,
}
"""Only what the job says of itself: nothing of the mirror's process, machine or terminal."""


@dataclass
class _Live:
    """An open wandb run and the step it has."""

    run: Any
    step: int
    """Highest step sent; what a later attempt measures again at a lower one stays as it was first sent."""
    next_at: float = 0.0

    def send(self, rows: Iterator[tuple[int, dict[str, float]]]) -> None:
        for step, metrics in rows:
            self.run.log(metrics, step=step)
            self.step = step


def _mode(environ: Mapping[str, str], settings: Any) -> Mode:
    """WANDB_MODE if it says; else online with a key and offline without. The key itself is wandb's business."""
    asked = environ.get("WANDB_MODE", "")
    if asked:
        return "online" if asked in ("online", "shared", "run") else "offline"
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE") or settings.api_key:
        return "online"
    host = re.sub(r"^https?://|[:/].*$", "", settings.base_url)
    path = Path(environ.get("NETRC") or Path.home() / ".netrc")
    return "online" if path.is_file() and netrc.netrc(path).authenticators(host) else "offline"


def _keep_wandb_inside(folder: Path) -> None:
    """Have wandb's caches and logs under `folder`, and no crash reports sent, unless the person wants it otherwise."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        os.environ.setdefault(name, str(folder / "cache"))


def _offline_folders(folder: Path, key: str) -> list[Path]:
    named = re.compile(rf"offline-run-\d+_\d+-{re.escape(key)}")
    return [path for path in (folder / "wandb").glob("offline-run-*") if named.fullmatch(path.name)]


def _read_state(folder: Path) -> dict[str, Mirrored]:
    path = folder / "state.json"
    return {key: Mirrored(**entry) for key, entry in read_json_table(path).items()} if path.exists() else {}


@contextmanager
def _alone(folder: Path, wait: bool) -> Iterator[None]:
    """Only one mirror per study and profile. UserError when another one is at work and we shall not wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "alone").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(f"another mirror is writing to {folder}; a launch brings its own, it needs no second one") from None
        yield


def _listen(stop: threading.Event) -> None:
    """Set `stop` when the launcher says so; end at once when it is gone without a word: the next mirror goes on."""

    def listen() -> None:
        while said := os.read(0, 64):  # unbuffered: a thread inside sys.stdin makes the interpreter abort when it ends
            if FINISH in said:
                stop.set()
        log.error("the launcher is gone; the next one mirrors what is missing")
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()


def _follow_until(desk: Desk, stop: threading.Event) -> int:
    """Round after round until `stop` is set; wandb is imported when there is something to show. Returns jobs written."""
    writer: Writer | None = None
    written = 0
    while True:
        final = stop.wait(POLL_S)
        if writer is None and desk.store.attempts():
            writer = Writer.open(desk)
            log.info("mirroring %s to wandb, %s", desk.study.name, writer.mode)
        if writer is not None:
            with _told(writer.wandb):
                written += writer.go_round(final)
        if final:
            return written


def _log_to_stderr() -> None:
    """Our lines only: wandb's libraries have their own files."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s {SAYS}%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


@contextmanager
def _told(wandb: Any) -> Iterator[None]:
    """wandb's errors as ours: theirs have a name only once wandb is imported."""
    try:
        yield
    except (wandb.errors.Error, wandb.sdk.mailbox.HandleAbandonedError, wandb.sdk.mailbox.MailboxClosedError) as error:
        raise WandbFailedError(f"wandb: {error}" if str(error) else "wandb's own process is gone") from error


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ablate.mirror", description="Mirror a study's jobs to wandb.")
    parser.add_argument("study", type=Path, help="the study file, runs.toml")
    parser.add_argument("--profile", default="", help="default: the file as it stands")
    until = parser.add_mutually_exclusive_group(required=True)
    until.add_argument("--once", action="store_true", help="mirror what is missing, then end")
    until.add_argument("--follow", action="store_true", help='follow a launch until "finish" comes in on stdin')
    asked = parser.parse_args(arguments)
    _log_to_stderr()
    stop = threading.Event()
    os.nice(NICE)
    if asked.once:
        stop.set()
    else:
        _listen(stop)
    try:
        desk = existing_desk(read_study(asked.study, asked.profile))
        with _alone(folder_of(desk), wait=not asked.once):
            written = _follow_until(desk, stop)
    except (WandbFailedError, UserError, StoreError) as error:
        log.error("%s", " ".join(str(error).split()))
        return 1
    except (ImportError, OSError) as error:
        log.error("%s: %s", type(error).__name__, " ".join(str(error).split()))
        return 1
    log.info("wrote %d jobs; %.2f s of CPU, wandb's own process aside", written, time.process_time())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

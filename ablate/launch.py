"""The launch loop: reconcile, collect, decide, plan, start; again until nothing is left to do. The story is told here.

    launch ──(lease)── database: jobs, attempts, metrics, decisions
       │ reconcile → collect → decide → plan → claim → place → wait
       ▼
    one supervisor per attempt on its GPUs (jobs.py)  →  metrics.jsonl, checkpoints, result.json in the attempt's folder

Which jobs and in what order is decided here; where and when, by Ray. Everything that ended is in its folder first and in the
database second, so that this process may die at any point: the next launch settles what it left (collect.settle).
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, get_args

import psutil

from ablate import collect, evidence, intervene, jobs
from ablate.collect import Seen, Verdict
from ablate.cost import hours_of
from ablate.evidence import Desk
from ablate.failures import classify
from ablate.folders import newest_checkpoint, write_json
from ablate.gang import STOP_GRACE_S, Gang, Stop, read_gang, run_gang
from ablate.lock import NotYet
from ablate.mirror import finish, start_mirror
from ablate.notify import Notifier
from ablate.plan import FAILURE, HELD, LOST_GPU_S, STARTABLE, Plan, PlannedJob
from ablate.provenance import Provenance, code_hash, rank_environment, trainer_command
from ablate.snapshot import Code, code_for, command_from, import_first
from ablate.study import Study, UserError, nested, references
from db.records import AttemptRecord, DecisionRecord, JobRecord, LockRecord

POLL_S = 0.2
"""How long the loop waits for something to end before it collects metrics again."""
REPLAN_S = 2.0
"""How soon the loop sees what a person decided elsewhere."""
LEASE_STALE_S, NEVER_S = 60.0, 1e9
"""A lease not renewed for this long is free; that of a living process of this machine never is."""
MIRROR_S = 60.0
"""Time the wandb mirror gets at the end to write what is still missing."""
GRACE_S = STOP_GRACE_S
"""Time a job gets to write a checkpoint when it is stopped."""
ONCE_S, ONCE_PLACED_S = 2.0, 30.0
"""A single round waits so long for supervisors that have ended to answer, and for those it started to have their GPUs."""
AGAIN_S = 2.0
"""How long a launch on a cluster waits, before it leaves the jobs alone, for a second Ctrl-C."""


@dataclass(frozen=True)
class Options:
    """What a person asked for."""

    block: str = ""
    runs: tuple[str, ...] = ()
    """Run names, or job ids or keys; empty: all."""
    address: str = ""
    gpus: int | None = None
    """Logical GPUs of this machine (embedded Ray); None: what Ray finds."""
    max_cost: float | None = None
    because: str = ""
    new_code: bool = False
    """Jobs run from today's code from now on, not from the code of the first launch; needs `because`."""
    once: bool = False
    """One round, then leave; what was started runs on in the cluster."""
    abandon: bool = False
    """Attempts on a cluster other than `address` are given up."""


@dataclass(frozen=True)
class Event:
    """Something that happened, in one line."""

    kind: Literal["cluster", "started", "ended", "decided", "locked", "budget", "refused", "note"]
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same for programs: job, attempt, state, …"""


@dataclass(frozen=True)
class Progress:
    """Where a running job stands, from the metrics it has written."""

    job: str
    fraction: float | None
    samples: int | None
    loss: float | None
    elapsed_s: float
    eta_s: float | None


@dataclass(frozen=True)
class Tick:
    """The study after one round of the loop."""

    plan: Plan
    progress: tuple[Progress, ...]
    gpu_s: float
    usd: float


class Watcher(Protocol):
    """Who looks on: a terminal, a log, a test."""

    def event(self, event: Event) -> None: ...
    def tick(self, tick: Tick) -> None: ...
    def stop_asked(self) -> Literal["", "stop", "kill"]:
        """Whether a person wants the launch to end."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a launch ended."""

    plan: Plan
    lock: LockRecord | None
    waiting_for: tuple[str, ...]
    """Why the lock, or jobs, still wait."""
    options: Options = field(default_factory=lambda: Options())
    interrupted: bool = False
    over_budget: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Of what was asked for: 0 all ended · 1 a job failed for good · 3 something still waits."""
        states = {job.state for job in self.plan.jobs if _selected(job, self.options) and not _only_maybe(job)}
        if "failed" in states:
            return 1
        return 3 if self.interrupted or states & {"waiting", "ready", "interrupted", "running"} else 0


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


Connect = Callable[[str, int | None], AbstractContextManager[jobs.Cluster]]
"""From an address ("" for this machine) and a number of logical GPUs to a cluster."""


def launch(desk: Desk, options: Options, watch: Watcher, connect: Connect = jobs.Cluster.connect) -> Outcome:
    """Bring the study to its end, or as far as the options and the GPUs allow.

    Raises UserError for what must be refused before anything starts: a locked study, an edit of what is frozen, another
    launch under way, GPUs that can never fit.
    """
    if options.once and not options.address:
        raise UserError(
            "--once leaves after one round, and a Ray of our own would end with it; give --address of a cluster that lives on, "
            "or leave --once out"
        )
    with holding_the_lease(desk) as holder, contextlib.closing(Told(watch, desk.study)) as watch:
        held = desk.store.lock()
        if held is not None and not held.lifted_at and not _work_left(desk, options) and not _may_confirm(desk):
            evidence.confirm(desk, utc_now())
            return Outcome(desk.plan(), desk.store.lock(), (), options)
        if not _may_confirm(desk):
            evidence.refuse_when_locked(desk)
        edits = evidence.freeze(desk, utc_now(), options.because)
        for edit in edits:
            watch.event(Event("note", f"deviates from what was frozen: {edit}"))
        crew = Crew(desk, options, watch, holder)
        crew.say_which_code()
        crew.reconcile_without_cluster()
        crew.decide()
        if not crew.wanted(desk.plan()) and not crew.left_running():
            end = crew.finish()
            if end.lock is None or not crew.wanted(end.plan):
                return end
        with mirrored(desk, watch), connect(options.address, options.gpus) as cluster:
            crew.board(cluster)
            return crew.once() if options.once else crew.work()


class Told:
    """A watcher that also tells the study's on_event program."""

    def __init__(self, watch: Watcher, study: Study) -> None:
        self._watch = watch
        self._notifier = Notifier(study, lambda trouble: watch.event(Event("note", trouble)))

    def event(self, event: Event) -> None:
        self._watch.event(event)
        state = event.facts.get("state")
        kind = {"ended": "failed" if state in ("failed", "lost") else "done", "decided": "decided", "budget": "budget"}
        if event.kind in kind and state != "interrupted":
            self._notifier.tell(kind[event.kind], utc_now(), event.text, event.facts)

    def tick(self, tick: Tick) -> None:
        self._notifier.complaints()
        self._watch.tick(tick)

    def stop_asked(self) -> Literal["", "stop", "kill"]:
        return self._watch.stop_asked()

    def close(self) -> None:
        self._notifier.close()


@contextmanager
def mirrored(desk: Desk, watch: Watcher) -> Iterator[None]:
    """Let wandb see what happens meanwhile; whatever becomes of that, it is at most a note."""
    mirror = start_mirror(desk)
    try:
        yield
    finally:
        if mirror is not None:
            watch.event(Event("note", "writing what is missing to wandb"))
            trouble = finish(mirror, MIRROR_S)
            if trouble:
                watch.event(Event("note", trouble))


@contextmanager
def holding_the_lease(desk: Desk) -> Iterator[str]:
    """Only one launch at a time on a study; the second one hears who holds it. Yields who we are."""
    holder = f"{getpass.getuser()}@{socket.gethostname()}:{os.getpid()}"
    stale_s = LEASE_STALE_S if _free_a_dead_lease(desk) else NEVER_S
    if desk.store.acquire_lease(holder, utc_now(), stale_s) is None:
        held = desk.store.lease()
        raise UserError(
            f"{held.holder if held else 'somebody'} is launching this study since {held.since if held else '?'}; watch it with "
            "`ablate status --follow`, or stop it first"
        )
    try:
        yield holder
    finally:
        desk.store.release_lease(holder)


def _free_a_dead_lease(desk: Desk) -> bool:
    """A lease of a process of this machine that is gone need not grow stale. False: that process lives, so it never does.

    A launch that was frozen for long still has its ranks.
    """
    held = desk.store.lease()
    if held is None:
        return True
    host, _, pid = held.holder.rpartition("@")[2].rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return True
    if psutil.pid_exists(int(pid)):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(int(pid))
            born_later = process.create_time() > _moment(held.since).timestamp() + 2.0  # its id has passed to another process
            if process.status() != psutil.STATUS_ZOMBIE and not born_later:
                return False
    desk.store.release_lease(held.holder)
    return True


def _work_left(desk: Desk, options: Options) -> bool:
    return any(job.state in STARTABLE and _selected(job, options) for job in desk.plan().jobs)


def _may_confirm(desk: Desk) -> bool:
    """Whether the study is locked and the lock's own jobs, and nothing else, may go on."""
    held = desk.store.lock()
    return held is not None and any(job.confirms and job.state in (*STARTABLE, "running") for job in desk.plan().jobs)


def _selected(job: PlannedJob, options: Options) -> bool:
    if options.block and job.block != options.block:
        return False
    return not options.runs or bool({job.run, job.id, job.key, f"{job.run}@{job.seed}"} & set(options.runs))


def _only_maybe(job: PlannedJob) -> bool:
    """A reference job that is only needed if decisions fall a certain way is nothing to wait for."""
    return job.added and job.key is None


@dataclass
class _Running:
    """An attempt under way."""

    job: PlannedJob
    number: int
    folder: Path
    started: float
    before_s: float = 0.0
    """What it had run before we watched it."""

    @property
    def seconds(self) -> float:
        return self.before_s + time.monotonic() - self.started


@dataclass
class Crew:
    """The state of one launch: which attempts run, on which cluster."""

    desk: Desk
    options: Options
    watch: Watcher
    holder: str
    running: dict[tuple[str, int], _Running] = field(default_factory=dict)
    provenance: Provenance = field(init=False)
    code: Code = field(init=False)
    cluster: jobs.Cluster | None = None
    interrupted: bool = False
    over_budget: tuple[str, ...] = ()

    offsets: dict[tuple[str, int], int] = field(init=False)
    """How far each attempt's metrics.jsonl is in the database."""

    def __post_init__(self) -> None:
        self.offsets = {}
        self.code = code_for(self.desk, utc_now(), new=self.options.new_code, because=self.options.because)
        self.provenance = replace(Provenance.of(self.desk.study), code_hash=self.code.hash)

    def say_which_code(self) -> None:
        """A note when jobs run from other code than what lies beside runs.toml, or from new code."""
        if self.code.hash != code_hash(self.desk.study):
            self.watch.event(
                Event(
                    "note",
                    f"the trainer has changed since {self.code.at}; jobs go on with the code of then ({self.code.hash}). To take "
                    'the code of today: --new-code --because "…"',
                )
            )
        elif self.options.new_code:
            self.watch.event(Event("note", f"from now on jobs run the trainer's code of today ({self.code.hash})"))

    # ------------------------------------------------------------ reconcile

    def reconcile_without_cluster(self) -> None:
        """Take over what the folders hold, and settle what an earlier launch left: rows that say "running" while nobody runs.

        Attempts on a cluster are asked for there, see `board`. UserError when they run on another cluster than the one given.
        """
        taken = collect.collect(self.desk.store, self.desk.folders)
        for complaint in taken.complaints:
            self.watch.event(Event("note", complaint))
        self.offsets = self.desk.store.offsets()
        elsewhere = {last.cluster: last.job for last in self._open_attempts() if last.cluster not in ("", self.options.address)}
        for address, job in elsewhere.items() if not self.options.abandon else ():
            raise UserError(
                f"{job} is running on the cluster at {address}; give --address {address} to take it up again. If that cluster is "
                "gone for good, give --abandon: its attempts count as lost, and the jobs start anew from their last checkpoints"
            )
        self._reconcile(lambda last: None if last.cluster and last.cluster == self.options.address else False)

    def left_running(self) -> bool:
        """Whether an earlier launch left attempts behind that may still run on the cluster."""
        return bool(self._open_attempts())

    def _open_attempts(self) -> list[AttemptRecord]:
        return [tries[-1] for tries in self.desk.store.attempts().values() if tries[-1].state == "running"]

    def board(self, cluster: jobs.Cluster) -> None:
        """Take the cluster: refuse what can never fit, take over supervisors that outlived their launcher."""
        self.cluster = cluster
        study = self.desk.study
        largest = max(cluster.node_gpus(), default=0)
        if study.gpus_per_run > largest:
            raise UserError(
                f"a job of {study.name} needs {study.gpus_per_run} GPUs on one machine; the largest here has {largest}. Lower "
                "gpus_per_run in [study], give --gpus N (logical GPUs, for trainers that need none), or join a bigger cluster"
            )
        total = sum(cluster.node_gpus())
        self.watch.event(Event("cluster", f"{total} GPUs on {len(cluster.node_gpus())} machine(s), {study.gpus_per_run} per job"))
        open_ = [(last.job, last.number) for last in self._open_attempts()]
        alive = set(cluster.reattach(self.name_on_cluster, study.profile, open_))
        self._reconcile(lambda last: (last.job, last.number) in alive)
        planned = {job.key: job for job in self.desk.plan().jobs}
        for key, number in sorted(alive):
            if key in planned:
                self.running[key, number] = self._resume_watching(planned[key], number)
                self.watch.event(Event("started", f"{key} attempt {number} runs on; watching it again"))

    @property
    def name_on_cluster(self) -> str:
        """Tells our attempts from those of another checkout of the same study on the same cluster."""
        place = hashlib.sha256(str(self.desk.folders.base.resolve()).encode()).hexdigest()
        return f"{self.desk.study.name}@{place[:8]}"

    def _reconcile(self, alive: Callable[[AttemptRecord], bool | None]) -> None:
        for last in self._open_attempts():
            folder = self.desk.folders.attempt(last.job, last.number)
            result, started = collect.read_result(folder), (folder / "rank0.log").exists()
            seen, codes, tail = _left_behind(folder)
            if not seen and started and not last.cluster:
                seen = "launcher gone"
            verdict = collect.settle("running", alive(last), result, started=started, seen=seen, log_tail=tail)
            if verdict.action == "end":
                self._collect_rest(last.job, last.number)
                self._end(last, verdict, _elapsed(last, folder), seen, codes, tail)

    def _resume_watching(self, job: PlannedJob, number: int) -> _Running:
        record = attempt_of(self.desk, job.key or "", number)
        before = max(0.0, (datetime.now(UTC) - _moment(record.started_at)).total_seconds())  # a clock may be set back
        folder = self.desk.folders.attempt(job.key or "", number)
        return _Running(job, number, folder, time.monotonic(), before)

    # ------------------------------------------------------------ the loop

    def work(self) -> Outcome:
        """Round after round: wait, collect, finish, decide, plan, start."""
        plan, planned_at, ended = self.desk.plan(), time.monotonic(), True
        while True:
            if asked := self.watch.stop_asked():
                return self._leave(kill=asked == "kill")
            if intervene.launch_is_asked_to_stop(self.desk.folders, self.desk.store.lease()):
                return self._leave(kill=False, with_jobs=True)
            started = self._start_what_fits(plan)  # before judging: a free GPU need not wait for statistics
            if ended:
                self.decide()
                plan = self.desk.plan()
                started += self._start_what_fits(plan)
            if started or time.monotonic() - planned_at > REPLAN_S:
                plan, planned_at = self.desk.plan(), time.monotonic()
            self.watch.tick(self.look(plan))
            if not self.running and not started:
                locked_before = self.desk.store.lock() is not None
                end = self.finish()
                plan = end.plan
                if end.lock is None or locked_before or not self.wanted(plan):
                    return end
            ended = self._wait()
            if ended:
                plan = self.desk.plan()
            if not self.desk.store.renew_lease(self.holder, utc_now()):
                self._deposed()

    def _deposed(self) -> NoReturn:
        """We were out so long (frozen, asleep) that another launch took over: what we run must not run beside what it runs."""
        assert self.cluster is not None
        if not self.options.address:
            self.cluster.stop_all(0.0)
            while self.cluster.watched:
                self.cluster.poll(POLL_S)
        now = self.desk.store.lease()
        raise UserError(
            f"this launch did not answer for {LEASE_STALE_S:.0f} s or more, and {now.holder if now else 'somebody'} has taken "
            f"over since {now.since if now else '?'}; nothing was lost, watch it with `ablate status --follow`"
        )

    def once(self) -> Outcome:
        """One round, for cron: take over what ended, judge, start what fits, leave."""
        assert self.cluster is not None
        for end in self.cluster.poll(ONCE_S):
            self.finish_attempt(end)
        self.decide()
        if not self._start_what_fits(self.desk.plan()) and not self.running:
            return self.finish()
        until = time.monotonic() + ONCE_PLACED_S
        while len(self.cluster.placed()) < len(self.running) and time.monotonic() < until:
            time.sleep(POLL_S)
        self.collect()
        plan = self.desk.plan()
        self.watch.tick(self.look(plan))
        self.watch.event(Event("note", f"{len(self.running)} jobs run on in the cluster; call again to go on"))
        return Outcome(plan, None, (), self.options, False, self.over_budget)

    def _wait(self) -> bool:
        """Wait for something to end, not for long; take over what was written meanwhile. Whether an attempt ended."""
        assert self.cluster is not None
        ends = self.cluster.poll(POLL_S)
        self.collect()
        for end in ends:
            self.finish_attempt(end)
        return bool(ends)

    def decide(self) -> None:
        """Judge every sweep whose jobs have ended; say what is new."""
        before = {name: decision.number for name, decision in self.desk.store.decisions().items()}
        if self.desk.store.lock() is None:
            evidence.decide(self.desk, utc_now(), keep_standing=True)
        else:  # what it rests on may not change; its fresh seeds may have ended
            evidence.confirm(self.desk, utc_now())
        for name, decision in self.desk.store.decisions().items():
            if before.get(name) != decision.number:
                told = {"decision": name, "sweep": decision.sweep, "status": decision.status, "took": decision.took}
                text = f"{name} ({decision.sweep}): {_decision_text(decision)}"
                self.watch.event(Event("decided", text, {**told, "because": decision.because}))

    def wanted(self, plan: Plan) -> list[PlannedJob]:
        """Jobs that may start now and were asked for, in order; under a lock, only those that confirm it."""
        locked = self.desk.store.lock() is not None
        return [job for job in plan.startable() if _selected(job, self.options) and (job.confirms or not locked)]

    def finish(self) -> Outcome:
        """Nothing runs and nothing may start: lock if the study's end is reached, and say what still waits."""
        plan = self.desk.plan()
        self.watch.tick(self.look(plan))
        before, locked = self.desk.store.lock(), evidence.lock(self.desk, utc_now())
        plan = self.desk.plan()  # under a lock, its confirmation may begin
        asked = [job for job in plan.jobs if _selected(job, self.options) and not _only_maybe(job)]
        waiting = tuple(f"{job.id}: {job.reason}" for job in asked if job.state in ("waiting", "ready"))
        if isinstance(locked, NotYet):
            whole = not self.options.block and not self.options.runs
            reasons = (*waiting, *locked.reasons) if whole else waiting
            return Outcome(plan, None, reasons, self.options, self.interrupted, self.over_budget)
        if before is None or before.hash != locked.hash:
            self.watch.event(Event("locked", f"config {locked.hash[:12]} after block {self.desk.study.lock_after}"))
        return Outcome(plan, locked, waiting, self.options, self.interrupted, self.over_budget)

    def _leave(self, kill: bool, with_jobs: bool = False) -> Outcome:
        """A person wants out. Embedded: jobs checkpoint and stop. A cluster that outlives us: they run on, unless `with_jobs`."""
        assert self.cluster is not None
        self.interrupted = True
        if self.options.address and not kill and not with_jobs and not self._asked_again():
            self.watch.event(Event("note", "detached: the jobs run on in the cluster; `ablate launch` takes them up again"))
            return Outcome(self.desk.plan(), None, ("detached",), self.options, True)
        self.watch.event(Event("note", f"stopping {len(self.running)} jobs: each writes a checkpoint (Ctrl-C again: at once)"))
        self.cluster.stop_all(0.0 if kill else GRACE_S)
        while self.running:
            self._wait()
            if self.watch.stop_asked() == "kill" and not kill:
                kill = True
                self.cluster.stop_all(0.0)
        return Outcome(self.desk.plan(), None, ("interrupted",), self.options, True)

    def _asked_again(self) -> bool:
        """Whether a second Ctrl-C follows the first: then the jobs on the cluster are meant too."""
        self.watch.event(Event("note", f"leaving; Ctrl-C again within {AGAIN_S:.0f} s stops the jobs on the cluster too"))
        until = time.monotonic() + AGAIN_S
        while time.monotonic() < until:
            if self.watch.stop_asked() == "kill":
                return True
            time.sleep(POLL_S / 4)
        return False

    # ------------------------------------------------------------ start

    def _start_what_fits(self, plan: Plan) -> int:
        """Claim and place jobs while GPUs are free. Returns how many were started."""
        assert self.cluster is not None
        room = sum(int(gpus) // self.desk.study.gpus_per_run for gpus in self.cluster.node_gpus()) - len(self.running)
        started = 0
        for job in self.wanted(plan):
            if started >= room:
                break
            if self._too_expensive(job):
                continue
            started += self._start(job)
        return started

    def _too_expensive(self, job: PlannedJob) -> bool:
        if self.options.max_cost is None:
            return False
        study = self.desk.study
        hours = evidence.measured_hours(self.desk)
        running = sum(
            hours_of(study, item.job.run, hours)[0] * item.job.gpus * study.usd_per_gpu_hour for item in self.running.values()
        )
        coming = hours_of(study, job.run, hours)[0] * job.gpus * study.usd_per_gpu_hour
        total = self._spent_usd() + running + coming
        if total <= self.options.max_cost:
            return False
        if job.id not in self.over_budget:
            self.over_budget = (*self.over_budget, job.id)
            self.watch.event(
                Event(
                    "budget",
                    f"{job.id} is not started: the study would cost ${total:.2f}, above --max-cost {self.options.max_cost:g}",
                    {"job": job.id, "usd": round(total, 2), "max_cost": self.options.max_cost},
                )
            )
        return True

    def _start(self, job: PlannedJob) -> int:
        assert self.cluster is not None
        claimed = claim(self.desk, job, self.provenance, self.options.address, command_from(self.desk, self.code))
        if claimed is None:
            return 0
        number, folder = claimed
        study = self.desk.study
        self.cluster.start(
            jobs.Attempt(
                study=self.name_on_cluster,
                profile=study.profile,
                key=job.key or "",
                number=number,
                folder=folder,
                command=trainer_command(study, folder),
                gpus=job.gpus,
                ranks=study.ranks_per_run,
                env=rank_environment(study, import_first(self.desk, self.code)),
                cwd=str(study.path.parent),
            )
        )
        self.running[job.key or "", number] = _Running(job, number, folder, time.monotonic())
        again = f", attempt {number}" if number > 1 else ""
        self.watch.event(Event("started", f"{job.id}{again}: {job.change}"))
        return 1

    # ------------------------------------------------------------ collect, finish

    def collect(self) -> None:
        """Bring what the running attempts wrote into the database, all in one transaction."""
        found = collect.collect_points(self.desk.store, self.desk.folders, list(self.running), self.offsets)
        for complaint in found.complaints:
            self.watch.event(Event("note", complaint))

    def _collect_rest(self, key: str, number: int) -> None:
        """All that an ended attempt has written, however much it is."""
        before = -1
        while self.offsets.get((key, number), 0) != before:
            before = self.offsets.get((key, number), 0)
            collect.collect_points(self.desk.store, self.desk.folders, [(key, number)], self.offsets)

    def finish_attempt(self, end: jobs.AttemptEnd) -> None:
        """Write down how an attempt ended, with all it left behind."""
        item = self.running.pop((end.key, end.number), None)
        if item is None:
            return
        self._collect_rest(end.key, end.number)
        result = collect.read_result(item.folder)
        verdict = collect.settle("running", False, result, started=True, seen=end.cause, log_tail=end.log_tail)
        record = attempt_of(self.desk, end.key, end.number)
        self._end(record, verdict, item.seconds, end.cause, end.exit_codes, end.log_tail)

    def _end(
        self, record: AttemptRecord, verdict: Verdict, seconds: float, seen: Seen, exit_codes: Sequence[int], log_tail: str
    ) -> None:
        """Write down how an attempt ended: why it failed, if it did, what that cost, and whether its job is to stay stopped."""
        folder = self.desk.folders.attempt(record.job, record.number)
        facts: dict[str, Any] = {}
        if verdict.state in ("failed", "lost"):
            facts[FAILURE] = classify("lost" if verdict.state == "lost" else seen, exit_codes, log_tail)
        if verdict.state in ("failed", "lost", "interrupted"):
            facts[LOST_GPU_S] = round(_lost_s(record, folder, seconds) * record.gpus, 1)
        if verdict.state == "interrupted" and (who := intervene.held_by(folder)):
            facts[HELD] = who
        record = replace(record, facts={**record.facts, **facts})
        store, folders = self.desk.store, self.desk.folders
        if verdict.state in ("failed", "lost", "interrupted") and not _left_behind(folder)[0] and folder.is_dir():
            # nobody saw its ranks end; should they wake up, they are to die, and what they write then counts for nothing
            collect.fence(folder, utc_now(), self.offsets.get((record.job, record.number), 0))
        collect.end_attempt(store, folders, record, verdict.state, verdict.reason, utc_now(), seconds * record.gpus)
        what = f"{verdict.state} ({facts[FAILURE]})" if FAILURE in facts else verdict.state
        last_line = verdict.reason.strip().splitlines()[-1:]
        told = {"job": record.job, "attempt": record.number, "state": verdict.state, "reason": verdict.reason, **facts}
        self.watch.event(Event("ended", ": ".join([f"{record.job} {what} after {_duration(seconds)}", *last_line]), told))

    # ------------------------------------------------------------ look

    def look(self, plan: Plan) -> Tick:
        latest = self.desk.store.latest([key for key, _ in self.running], ("progress", "samples", "loss"))
        progress = tuple(_progress(item, latest.get(key, {})) for (key, _), item in self.running.items())
        return Tick(plan, progress, self._gpu_s(), self._spent_usd())

    def _gpu_s(self) -> float:
        ended = sum(attempt.gpu_s for tries in self.desk.store.attempts().values() for attempt in tries)
        return ended + sum(item.seconds * item.job.gpus for item in self.running.values())

    def _spent_usd(self) -> float:
        return self._gpu_s() / 3600 * self.desk.study.usd_per_gpu_hour


def claim(desk: Desk, job: PlannedJob, provenance: Provenance, address: str = "", command: str = "") -> tuple[int, Path] | None:
    """Make the next attempt of a job ours: row, folder, config.json. None when somebody else was faster.

    address: of the cluster it will run on; "" for a Ray that ends with us, or none. command: if not the study's own words.
    """
    assert job.key is not None
    assert job.settings is not None
    now = utc_now()
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
        "trainer": {"command": study.trainer.command, "stdout": study.trainer.stdout, "metrics_file": study.trainer.metrics_file},
        "cwd": str(study.path.parent),
    }


def train_here(desk: Desk, job: PlannedJob, watch: Watcher) -> AttemptRecord:
    """Train one job in the foreground, without Ray; recorded like any other attempt."""
    with holding_the_lease(desk) as holder:
        if not job.confirms:
            evidence.refuse_when_locked(desk)
        crew = Crew(desk, Options(), watch, holder)
        crew.reconcile_without_cluster()
        crew.say_which_code()
        claimed = claim(desk, job, crew.provenance, command=command_from(desk, crew.code))
        if claimed is None:
            raise UserError(f"{job.id} is already running or done; see `ablate show {job.run}@{job.seed}`")
        number, folder = claimed
        key, study = job.key or "", desk.study
        crew.running[key, number] = _Running(job, number, folder, time.monotonic())
        watch.event(Event("started", f"{job.id} here; its log: {folder / 'rank0.log'}"))
        gang = Gang(
            folder,
            trainer_command(study, folder),
            study.ranks_per_run,
            env=rank_environment(study, import_first(desk, crew.code)),
            cwd=str(study.path.parent),
        )
        stop = Stop()
        with ThreadPoolExecutor(1) as thread:
            future = thread.submit(run_gang, gang, stop)
            while not future.done():
                wait([future], timeout=POLL_S)
                crew.collect()
                watch.tick(crew.look(desk.plan()))
                asked = watch.stop_asked()
                if asked:
                    stop.ask(GRACE_S if asked == "stop" else 0.0)
        end = future.result()
        crew.finish_attempt(jobs.AttemptEnd(key, number, end.cause, end.exit_codes, end.log_tail))
        return attempt_of(desk, key, number)


def _progress(item: _Running, latest: Mapping[str, tuple[int, float]]) -> Progress:
    elapsed = item.seconds
    values = {name: value for name, (_, value) in latest.items()}
    fraction = values.get("progress")
    return Progress(
        job=item.job.id,
        fraction=fraction,
        samples=int(values["samples"]) if "samples" in values else None,
        loss=values.get("loss"),
        elapsed_s=elapsed,
        eta_s=elapsed * (1 - fraction) / fraction if fraction else None,
    )


def _decision_text(decision: DecisionRecord) -> str:
    if decision.status == "decided":
        return f"took {decision.took}: {decision.because}"
    return f"{decision.status}{' for ' + decision.took if decision.took else ''}: {decision.because}"


def _elapsed(record: AttemptRecord, folder: Path) -> float:
    """Seconds from an attempt's start to the last sign of life in its folder."""
    signs = [path.stat().st_mtime for path in folder.glob("*") if path.is_file()]
    return max(0.0, max(signs, default=0.0) - _moment(record.started_at).timestamp())


def _lost_s(record: AttemptRecord, folder: Path, seconds: float) -> float:
    """Of the seconds an attempt ran, those after its newest checkpoint: what the next one must do again."""
    saved = newest_checkpoint(folder)
    if saved is None or not saved.exists():
        return seconds
    return min(max(_moment(record.started_at).timestamp() + seconds - saved.stat().st_mtime, 0.0), seconds)


def _left_behind(folder: Path) -> tuple[Seen, tuple[int, ...], str]:
    """How a gang was seen to end, its exit codes and the log's end, by gang.json; ("", (), "") if its supervisor died before."""
    try:
        about = read_gang(folder)
    except ValueError:  # torn by a crash of the machine
        return "", (), ""
    cause: Seen = next((word for word in get_args(Seen) if word == about.get("cause")), "")
    return cause, tuple(about.get("exit_codes", ())), str(about.get("log_tail", ""))


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

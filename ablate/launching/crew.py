"""Who does the work of a launch: reconcile, collect, decide, plan, start; again until nothing is left to do. See launch.py.

A round costs what has happened since the last one: the plan is kept up to date in memory (present.py), only sweeps that may say
something new are judged, and what concerns everything that runs (metrics, who looks on) is done at a steady pace.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, get_args

from ablate import clock, evidence
from ablate.deciding.lock import NotYet
from ablate.desk import Desk
from ablate.folders import newest_checkpoint
from ablate.launching import collect, intervene, jobs, trials
from ablate.launching.claim import attempt_of, claim
from ablate.launching.collect import Result, Seen, Verdict
from ablate.launching.gang import STOP_GRACE_S, end_left_behind, read_gang
from ablate.launching.lease import LEASE_STALE_S
from ablate.launching.present import Present
from ablate.launching.provenance import Provenance, code_hash, rank_environment, trainer_command
from ablate.launching.snapshot import Code, code_for, command_from, import_first
from ablate.launching.watch import (
    Event,
    Latest,
    Options,
    Outcome,
    Progress,
    Tick,
    Watcher,
    latest,
    measured,
    only_maybe,
    selected,
)
from ablate.planning.failures import classify
from ablate.planning.plan import Plan, PlannedJob
from ablate.planning.search import GIVEN_UP, tuned
from ablate.planning.states import FAILURE, HELD, LOST_GPU_S
from ablate.study import TRIAL, UserError, run_of
from db.records import AttemptRecord, DecisionRecord

POLL_S = 0.2
"""How long the loop waits for something to end; how often it collects metrics and shows where it stands."""
LOOK_REST = 4.0
"""Looking around takes longer the more is running; it rests so many times as long, and at least for POLL_S."""
RENEW_S = 2.0
"""How often the lease is renewed."""
GRACE_S = STOP_GRACE_S
"""Time a job gets to write a checkpoint when it is stopped."""
ONCE_S, ONCE_PLACED_S = 2.0, 30.0
"""A single round waits so long for supervisors that have ended to answer, and for those it started to have their GPUs."""
LARGE_LOG = 100 * 2**20
"""Bytes of a log from which on a person is told of it."""
AGAIN_S = 2.0
"""How long a launch on a cluster waits, before it leaves the jobs alone, for a second Ctrl-C."""


@dataclass
class Running:
    """An attempt under way."""

    job: PlannedJob
    number: int
    folder: Path
    started: float
    before_s: float = 0.0
    """What it had run before we watched it."""
    waits_for_gpus: bool = False
    """It was told that somebody holds memory of its GPUs."""

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
    running: dict[tuple[str, int], Running] = field(default_factory=dict)
    provenance: Provenance = field(init=False)
    code: Code = field(init=False)
    present: Present = field(init=False)
    """The study as it is, from `reconcile_without_cluster` on."""
    judge: evidence.Judge = field(init=False)
    cluster: jobs.Cluster | None = None
    interrupted: bool = False
    over_budget: dict[str, None] = field(default_factory=dict)
    """Ids of jobs that are not started for their price."""
    cheapest_refused: float = math.inf
    """In US dollars, of the jobs that were refused since all were tried."""
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    """How far each attempt's metrics.jsonl is in the database."""
    trials_over: bool = False
    """Whether a trial of a search ended since it was asked what they chose."""
    told: int = 0
    """Decision records that were there already, or were told."""
    look_at: float = -math.inf
    """When to look around next."""
    renewed_at: float = -math.inf

    def __post_init__(self) -> None:
        self.code = code_for(self.desk, clock.utc_now(), new=self.options.new_code, because=self.options.because)
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
        self._see_present()
        self.told = len(self.present.history)
        elsewhere = {last.cluster: last.job for last in self._open_attempts() if last.cluster not in ("", self.options.address)}
        for address, job in elsewhere.items() if not self.options.abandon else ():
            raise UserError(
                f"{job} is running on the cluster at {address}; give --address {address} to take it up again. If that cluster is "
                "gone for good, give --abandon: its attempts count as lost, and the jobs start anew from their last checkpoints"
            )
        self._reconcile(lambda last: None if last.cluster and last.cluster == self.options.address else False)

    def _see_present(self) -> None:
        """From now on by what the study's searches have chosen."""
        self.desk = self.desk.up_to_date()
        self.present = Present(self.desk)
        self.judge = evidence.Judge(self.present, keep_standing=True)

    def left_running(self) -> bool:
        """Whether an earlier launch left attempts behind that may still run on the cluster."""
        return bool(self._open_attempts())

    def _open_attempts(self) -> list[AttemptRecord]:
        self.present.refresh()
        return [tries[-1] for tries in self.present.attempts.values() if tries[-1].state == "running"]

    def board(self, cluster: jobs.Cluster) -> None:
        """Take the cluster: refuse what can never fit, take over supervisors that outlived their launcher."""
        self.cluster = cluster
        study = self.desk.study
        largest = max(cluster.node_gpus(), default=0)
        if study.gpus_per_run > largest:
            needs = _count(study.gpus_per_run, "GPU")
            raise UserError(
                f"a job of {study.name} needs {needs} on one machine; the largest here has {largest}. Lower gpus_per_run in "
                "[study], give --gpus N (logical GPUs, for trainers that need none), or join a bigger cluster"
            )
        machines = cluster.node_gpus()
        has = f"{_count(sum(machines), 'GPU')} on {_count(len(machines), 'machine')}"
        self.watch.event(Event("cluster", f"{has}, {study.gpus_per_run} per job"))
        open_ = [(last.job, last.number) for last in self._open_attempts()]
        alive = set(cluster.reattach(self.name_on_cluster, study.profile, open_))
        self._reconcile(lambda last: (last.job, last.number) in alive)
        self.present.refresh()
        planned = {job.key: job for job in self.present.plan.jobs}
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
            result, started = self._result(folder), (folder / "rank0.log").exists()
            seen, codes, tail = _left_behind(folder)
            if not seen and started and not last.cluster:
                seen = "launcher gone"
            verdict = collect.settle("running", alive(last), result, started=started, seen=seen, log_tail=tail)
            if verdict.action == "end":
                self._collect_rest(last.job, last.number)
                self._end(last, verdict, _elapsed(last, folder), seen, codes, tail)

    def _resume_watching(self, job: PlannedJob, number: int) -> Running:
        record = attempt_of(self.desk, job.key or "", number)
        before = max(0.0, (datetime.now(UTC) - clock.moment(record.started_at)).total_seconds())  # a clock may be set back
        folder = self.desk.folders.attempt(job.key or "", number)
        return Running(job, number, folder, time.monotonic(), before)

    # ------------------------------------------------------------ the loop

    def work(self) -> Outcome:
        """Round after round: start, judge, start again, look around, wait for something to end."""
        while True:
            if asked := self.watch.stop_asked():
                return self._leave(kill=asked == "kill")
            if self._asked_to_end():
                return self._leave(kill=False, with_jobs=True)
            started = self._start_what_fits()  # before judging: a free GPU need not wait for statistics
            if self.decide():
                started += self._start_what_fits()
            self._look_around()
            if not self.running and not started and (outcome := self._nothing_left()):
                return outcome
            for ended in self._wait():
                self.finish_attempt(ended)

    def _nothing_left(self) -> Outcome | None:
        """Nothing runs and nothing could start: lock, or say what waits. None when there is something to start after all."""
        self.decide(everything=True)
        self.present.queue_anew()
        if self._start_what_fits():
            return None
        locked_before = self.present.lock is not None
        end = self.finish()
        return end if end.lock is None or locked_before or not self.wanted() else None

    def _asked_to_end(self) -> bool:
        """Whether a person stops everything. Asked before every start, or what starts in that moment would only be stopped."""
        folders = self.desk.folders
        return folders.stop_request.exists() and intervene.launch_is_asked_to_stop(folders, self.desk.store.lease())

    def _look_around(self) -> None:
        """What need not follow every event: metrics, the lease, who looks on."""
        now = time.monotonic()
        if now < self.look_at:
            return
        self.collect()
        self._give_up_trials()
        self.watch.tick(self.look())
        if now - self.renewed_at > RENEW_S:
            self.renewed_at = now
            self._tell_whose_gpus_are_held()
            if not self.desk.store.renew_lease(self.holder, clock.utc_now()):
                self._deposed()
        self.look_at = max(now + POLL_S, time.monotonic() + LOOK_REST * (time.monotonic() - now))

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
        if not self._start_what_fits() and not self.running and (outcome := self._nothing_left()):
            return outcome
        until = time.monotonic() + ONCE_PLACED_S
        while len(self.cluster.placed()) < len(self.running) and time.monotonic() < until:
            time.sleep(POLL_S)
        self.collect()
        self._give_up_trials()
        self.watch.tick(self.look())
        self.watch.event(Event("note", f"{_count(len(self.running), 'job')} left running in the cluster; call again to go on"))
        return Outcome(self.present.plan, None, (), self.options, False, tuple(self.over_budget))

    def _wait(self) -> list[jobs.AttemptEnd]:
        """Wait for something to end, not for long."""
        assert self.cluster is not None
        return self.cluster.poll(POLL_S)

    def decide(self, everything: bool = False) -> bool:
        """Judge what may say something new, or everything; tell what is new. Whether a decision is, whoever took it."""
        self.present.refresh()
        if self.present.lock is None:
            if (everything or self.trials_over) and self._conclude_searches():
                self._see_present()
            (self.judge.decide_all if everything else self.judge.decide_due)(clock.utc_now())
        elif everything or self.present.news:  # what the lock rests on may not change; its fresh seeds may have ended
            self.present.news.clear()
            evidence.confirm(self.desk, clock.utc_now())
        self.present.refresh()
        new = [decision for decision in self.present.history[self.told :] if decision.by == "rule"]
        told, self.told = self.told, len(self.present.history)
        for decision in new:
            about = {"decision": decision.name, "sweep": decision.sweep, "status": decision.status, "took": decision.took}
            of_sweep = f" ({decision.sweep})" if decision.sweep else ""
            text = f"{decision.name}{of_sweep}: {_decision_text(decision)}"
            self.watch.event(Event("decided", text, {**about, "because": decision.because}))
        return self.told > told

    def wanted(self) -> list[PlannedJob]:
        """Jobs that may start now and were asked for, in order; under a lock, only those that confirm it."""
        self.present.refresh()
        return [job for job in self.present.plan.startable() if self._is_wanted(job)]

    def _is_wanted(self, job: PlannedJob) -> bool:
        return selected(job, self.options) and (job.confirms or self.present.lock is None)

    def finish(self) -> Outcome:
        """Nothing runs and nothing may start: lock if the study's end is reached, and say what still waits."""
        self.present.refresh()
        self.watch.tick(self.look())
        before, locked = self.desk.store.lock(), evidence.lock(self.desk, clock.utc_now())
        self.present.refresh()  # under a lock, its confirmation may begin
        plan = self.present.plan
        asked = [job for job in plan.jobs if selected(job, self.options) and not only_maybe(job)]
        waiting = tuple(f"{job.id}: {job.reason}" for job in asked if job.state in ("waiting", "ready"))
        if isinstance(locked, NotYet):
            whole = not self.options.block and not self.options.runs
            reasons = (*waiting, *locked.reasons) if whole else waiting
            return Outcome(plan, None, reasons, self.options, self.interrupted, tuple(self.over_budget))
        if before is None or before.hash != locked.hash:
            self.watch.event(Event("locked", f"config {locked.hash[:12]} after block {self.desk.study.lock_after}"))
        return Outcome(plan, locked, waiting, self.options, self.interrupted, tuple(self.over_budget))

    def _leave(self, kill: bool, with_jobs: bool = False) -> Outcome:
        """A person wants out. Embedded: jobs checkpoint and stop. A cluster that outlives us: they run on, unless `with_jobs`."""
        assert self.cluster is not None
        self.interrupted = True
        if self.options.address and not kill and not with_jobs and not self._asked_again():
            self.watch.event(Event("note", "detached: the jobs run on in the cluster; `ablate launch` takes them up again"))
            return Outcome(self._plan_now(), None, ("detached",), self.options, True)
        stopping = f"stopping {_count(len(self.running), 'job')}"
        self.watch.event(Event("note", f"{stopping}: each writes a checkpoint (Ctrl-C again: at once)"))
        self.cluster.stop_all(0.0 if kill else GRACE_S)
        while self.running:
            for end in self._wait():
                self.finish_attempt(end)
            if self.watch.stop_asked() == "kill" and not kill:
                kill = True
                self.cluster.stop_all(0.0)
        return Outcome(self._plan_now(), None, ("interrupted",), self.options, True)

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

    def _start_what_fits(self) -> int:
        """Claim and place jobs while GPUs are free. Returns how many were started.

        No more than fit: order and skips can change until the last moment. All gangs of a study are of one size, so none waits
        for a node that smaller ones keep busy.
        """
        assert self.cluster is not None
        self.present.refresh()
        if self.options.max_cost and self._committed_usd() + self.cheapest_refused <= self.options.max_cost:  # others cost less
            self.cheapest_refused = math.inf
            self.present.queue_anew()
        room = sum(int(gpus) // self.desk.study.gpus_per_run for gpus in self.cluster.node_gpus()) - len(self.running)
        started = 0
        while started < room and not self._asked_to_end() and (job := self.present.next_startable()) is not None:
            if self._is_wanted(job) and not self._too_expensive(job):
                started += self._start(job)
        return started

    def _too_expensive(self, job: PlannedJob) -> bool:
        if self.options.max_cost is None:
            return False
        coming = self._expected_usd(job)
        total = self._committed_usd() + coming
        if total <= self.options.max_cost:
            self.over_budget.pop(job.id, None)
            return False
        if job.id not in self.over_budget:
            self.watch.event(
                Event(
                    "budget",
                    f"{job.id} is not started: the study would cost ${total:.2f}, above --max-cost {self.options.max_cost:g}",
                    {"job": job.id, "usd": round(total, 2), "max_cost": self.options.max_cost},
                )
            )
        self.over_budget[job.id] = None
        self.cheapest_refused = min(self.cheapest_refused, coming)
        return True

    def _committed_usd(self) -> float:
        """Spent, and expected of what runs."""
        return self._spent_usd() + sum(self._expected_usd(item.job) for item in self.running.values())

    def _expected_usd(self, job: PlannedJob) -> float:
        return self.present.hours.of(job.run)[0] * job.gpus * self.desk.study.usd_per_gpu_hour

    def _start(self, job: PlannedJob) -> int:
        assert self.cluster is not None
        job = self.with_point(job)
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
        self.running[job.key or "", number] = Running(job, number, folder, time.monotonic())
        again = f", attempt {number}" if number > 1 else ""
        self.watch.event(Event("started", f"{job.id}{again}: {job.change}"))
        return 1

    def _conclude_searches(self) -> bool:
        """Whether a search has chosen."""
        self.trials_over = False
        return bool(trials.conclude(self.desk, self.present.plan, self.present.decisions, clock.utc_now()))

    def with_point(self, job: PlannedJob) -> PlannedJob:
        """The job; a trial that has not begun yet gets its point now, when most is known."""
        return trials.with_point(self.desk, self._plan_now(), job) if job.trial and job.key is None else job

    def _give_up_trials(self) -> None:
        """Have trials stop that their search gives up."""
        if any(item.job.trial for item in self.running.values()):
            trials.give_up(self.desk, self._plan_now(), clock.utc_now())

    # ------------------------------------------------------------ collect, finish

    def collect(self) -> None:
        """Bring what the running attempts wrote into the database, all in one transaction."""
        found = collect.collect_points(self.desk.store, self.desk.folders, list(self.running), self.offsets)
        for complaint in found.complaints:
            self.watch.event(Event("note", complaint))

    def _tell_whose_gpus_are_held(self) -> None:
        """Once per attempt: it has its GPUs, and waits until somebody else has left them."""
        for which, item in self.running.items():
            begun = item.waits_for_gpus or which in self.offsets
            if not begun and (held := collect.gpu_facts(item.folder).get("gpus_held")):
                item.waits_for_gpus = True
                text = f"{item.job.id} waits for its GPUs: {'; '.join(held)}"
                self.watch.event(Event("note", text, {"job": which[0], "attempt": which[1], "gpus_held": held}))

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
        result = self._result(item.folder)
        verdict = collect.settle("running", False, result, started=True, seen=end.cause, log_tail=end.log_tail)
        record = attempt_of(self.desk, end.key, end.number)
        self._end(record, verdict, item.seconds, end.cause, end.exit_codes, end.log_tail)

    def _result(self, folder: Path) -> Result | None:
        return collect.read_result(folder, of_command=bool(self.desk.study.trainer.command))

    def _end(
        self, record: AttemptRecord, verdict: Verdict, seconds: float, seen: Seen, exit_codes: Sequence[int], log_tail: str
    ) -> None:
        """Write down how an attempt ended: why it failed, if it did, what that cost, and whether its job is to stay stopped."""
        folder = self.desk.folders.attempt(record.job, record.number)
        facts: dict[str, Any] = {**tuned(self.desk.study, run_of(record.job), self.present.decisions)}
        given_up = intervene.given_up(folder) if verdict.state == "interrupted" else ""
        if given_up:
            facts[GIVEN_UP], verdict = given_up, replace(verdict, reason=given_up)
        if verdict.state in ("failed", "lost"):
            facts[FAILURE] = classify("lost" if verdict.state == "lost" else seen, exit_codes, log_tail)
        if verdict.state in ("failed", "lost", "interrupted") and not given_up:
            facts[LOST_GPU_S] = round(_lost_s(record, folder, seconds) * record.gpus, 1)
        if verdict.state in ("failed", "lost", "interrupted") and (who := intervene.held_by(folder)):
            facts[HELD] = who
        record = replace(record, facts={**record.facts, **facts})
        self.trials_over |= run_of(record.job).endswith(TRIAL)
        store, folders = self.desk.store, self.desk.folders
        if verdict.state in ("failed", "lost", "interrupted") and not _left_behind(folder)[0] and folder.is_dir():
            # nobody saw its ranks end; should they wake up, they are to die, and what they write then counts for nothing
            _end_left_behind(folder)
            collect.fence(folder, clock.utc_now(), self.offsets.get((record.job, record.number), 0))
        collect.end_attempt(store, folders, record, verdict.state, verdict.reason, clock.utc_now(), seconds * record.gpus)
        what = f"{verdict.state} ({facts[FAILURE]})" if FAILURE in facts else "stopped" if given_up else verdict.state
        last_line = verdict.reason.strip().splitlines()[-1:]
        told = {"job": record.job, "attempt": record.number, "state": verdict.state, "reason": verdict.reason, **facts}
        self.watch.event(Event("ended", ": ".join([f"{record.job} {what} after {_duration(seconds)}", *last_line]), told))
        for log in sorted(folder.glob("rank*.log")):
            if (size := log.stat().st_size) >= LARGE_LOG:
                text = f"{record.job}: its log has {size / 2**20:,.0f} MiB, and all of it is kept: {log}"
                self.watch.event(Event("note", text, {"job": record.job, "attempt": record.number, "bytes": size}))

    # ------------------------------------------------------------ look

    def look(self) -> Tick:
        found = latest(self.desk, [key for key, _ in self.running])
        progress = tuple(_progress(self.desk, item, found.get(key, {})) for (key, _), item in self.running.items())
        return Tick(self.present.plan, progress, self._gpu_s(), self._spent_usd())

    def _plan_now(self) -> Plan:
        self.present.refresh()
        return self.present.plan

    def _gpu_s(self) -> float:
        """Of what has ended and of what runs."""
        return self.present.ended_gpu_s + sum(item.seconds * item.job.gpus for item in self.running.values())

    def _spent_usd(self) -> float:
        return self._gpu_s() / 3600 * self.desk.study.usd_per_gpu_hour


def _progress(desk: Desk, item: Running, found: Latest) -> Progress:
    elapsed = item.seconds
    values = {name: value for name, (_, value) in found.items()}
    fraction = values.get("progress")
    return Progress(
        job=item.job.id,
        fraction=fraction,
        samples=int(values["samples"]) if "samples" in values else None,
        loss=values.get("loss"),
        elapsed_s=elapsed,
        eta_s=elapsed * (1 - fraction) / fraction if fraction else None,
        measured=measured(desk, found),
    )


def _decision_text(decision: DecisionRecord) -> str:
    if decision.status == "decided":
        return f"took {decision.took}: {decision.because}"
    return f"{decision.status}{' for ' + decision.took if decision.took else ''}: {decision.because}"


def _elapsed(record: AttemptRecord, folder: Path) -> float:
    """Seconds from an attempt's start to the last sign of life in its folder."""
    signs = [path.stat().st_mtime for path in folder.glob("*") if path.is_file()]
    return max(0.0, max(signs, default=0.0) - clock.moment(record.started_at).timestamp())


def _lost_s(record: AttemptRecord, folder: Path, seconds: float) -> float:
    """Of the seconds an attempt ran, those after its newest checkpoint: what the next one must do again."""
    saved = newest_checkpoint(folder)
    if saved is None or not saved.exists():
        return seconds
    return min(max(clock.moment(record.started_at).timestamp() + seconds - saved.stat().st_mtime, 0.0), seconds)


def _left_behind(folder: Path) -> tuple[Seen, tuple[int, ...], str]:
    """How a gang was seen to end, its exit codes and the log's end, by gang.json; ("", (), "") if its supervisor died before."""
    try:
        about = read_gang(folder)
    except ValueError:  # torn by a crash of the machine
        return "", (), ""
    cause: Seen = next((word for word in get_args(Seen) if word == about.get("cause")), "")
    return cause, tuple(about.get("exit_codes", ())), str(about.get("log_tail", ""))


def _end_left_behind(folder: Path) -> None:
    with contextlib.suppress(ValueError):  # torn by a crash of the machine, which no rank survived
        end_left_behind(folder)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"

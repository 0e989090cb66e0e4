"""Launching a study: who may, what is refused before anything starts, and the crew that does it. The story is told here.

    launch ──(lease)── database: jobs, attempts, metrics, decisions
       │ reconcile → collect → decide → plan → claim → place → wait       crew.py, with present.py's plan
       ▼
    one supervisor per attempt on its GPUs (jobs.py)  →  metrics.jsonl, checkpoints, result.json in the attempt's folder

Which jobs and in what order is decided here; where and when, by Ray. Everything that ended is in its folder first and in the
database second, so that this process may die at any point: the next launch settles what it left (collect.settle).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager

from ablate import clock, evidence
from ablate.evidence import Desk
from ablate.launching import jobs
from ablate.launching.claim import attempt_of, claim
from ablate.launching.crew import GRACE_S, POLL_S, Crew, Running
from ablate.launching.gang import Gang, Stop, run_gang
from ablate.launching.lease import holding_the_lease
from ablate.launching.provenance import code_hash, rank_environment, trainer_command
from ablate.launching.snapshot import command_from, import_first
from ablate.launching.watch import Event as Event
from ablate.launching.watch import Options as Options
from ablate.launching.watch import Outcome as Outcome
from ablate.launching.watch import Progress as Progress
from ablate.launching.watch import Tick as Tick
from ablate.launching.watch import Told, Watcher, selected
from ablate.mirror import finish, start_mirror
from ablate.planning.plan import Plan, PlannedJob
from ablate.planning.states import STARTABLE
from ablate.study import UserError
from db.records import AttemptRecord

MIRROR_S = 60.0
"""Time the wandb mirror gets at the end to write what is still missing."""

Connect = Callable[[str, int | None], AbstractContextManager[jobs.Cluster]]
"""From an address ("" for this machine) and a number of logical GPUs to a cluster."""


def launch(desk: Desk, options: Options, watch: Watcher, connect: Connect = jobs.Cluster.connect) -> Outcome:
    """Bring the study to its end, or as far as the options and the GPUs allow.

    Raises UserError for what must be refused before anything starts: a trainer that is not there, a locked study, an edit of what
    is frozen, another launch under way, GPUs that can never fit.
    """
    if options.once and not options.address:
        raise UserError(
            "--once leaves after one round, and a Ray of our own would end with it; give --address of a cluster that lives on, "
            "or leave --once out"
        )
    code_hash(desk.study)  # a trainer that is not there is refused before anything is frozen
    with holding_the_lease(desk) as holder, contextlib.closing(Told(watch, desk.study)) as watch:
        held, plan = desk.store.lock(), desk.plan()
        if held is not None and not _may_confirm(plan):
            if not any(job.state in STARTABLE and selected(job, options) for job in plan.jobs):
                evidence.confirm(desk, clock.utc_now())
                return Outcome(desk.plan(), desk.store.lock(), (), options)
            evidence.refuse_when_locked(desk)
        edits = evidence.freeze(desk, clock.utc_now(), options.because)
        for edit in edits:
            watch.event(Event("note", f"deviates from what was frozen: {edit}"))
        crew = Crew(desk, options, watch, holder)
        crew.say_which_code()
        crew.reconcile_without_cluster()
        crew.decide(everything=True)
        if not crew.wanted() and not crew.left_running():
            end = crew.finish()
            if end.lock is None or not crew.wanted():
                return end
        with mirrored(desk, watch), connect(options.address, options.gpus) as cluster:
            crew.board(cluster)
            return crew.once() if options.once else crew.work()


def _may_confirm(plan: Plan) -> bool:
    """Whether the lock's own jobs may go on."""
    return any(job.confirms and job.state in (*STARTABLE, "running") for job in plan.jobs)


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


def train_here(desk: Desk, job: PlannedJob, watch: Watcher) -> AttemptRecord:
    """Train one job in the foreground, without Ray; recorded like any other attempt."""
    with holding_the_lease(desk) as holder:
        if not job.confirms:
            evidence.refuse_when_locked(desk)
        crew = Crew(desk, Options(), watch, holder)
        crew.reconcile_without_cluster()
        crew.say_which_code()
        job = crew.with_point(job)
        claimed = claim(desk, job, crew.provenance, command=command_from(desk, crew.code))
        if claimed is None:
            raise UserError(f"{job.id} is already running or done; see `ablate show {job.run}@{job.seed}`")
        number, folder = claimed
        key, study = job.key or "", desk.study
        crew.running[key, number] = Running(job, number, folder, time.monotonic())
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
                watch.tick(crew.look())
                asked = watch.stop_asked()
                if asked:
                    stop.ask(GRACE_S if asked == "stop" else 0.0)
        end = future.result()
        crew.finish_attempt(jobs.AttemptEnd(key, number, end.cause, end.exit_codes, end.log_tail))
        return attempt_of(desk, key, number)

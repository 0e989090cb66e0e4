"""What each command answers, as a document of plain values: --json prints it as it is, screens.py draws it.

Numbers that are not finite are null. Hours are wall hours of one job; GPU-hours are those times its GPUs. Money is in US dollars.
Statistics and the launch loop are imported by the answers that need them: `plan` and `status` must start at once.
"""

from __future__ import annotations

import importlib
import math
import os
import shlex
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate import collect
from ablate.clock import moment, utc_now
from ablate.conditions import in_words, listed, near
from ablate.cost import Hours, Source, Task, hours_of, totals
from ablate.desk import Desk, finished_hours, measured_hours
from ablate.folders import JOB
from ablate.freeze import take_text
from ablate.plan import COMING, FAILURE, LOST_GPU_S, STARTABLE, Plan, PlannedJob, needed_jobs
from ablate.plan_diff import plan_diff
from ablate.provenance import code_hash, seed_note
from ablate.search import budget, is_search, range_text, with_examples
from ablate.snapshot import snapshots
from ablate.stale import find_stale
from ablate.study import ENDED, IMPORTED, Line, Settings, Study, Sweep, UserError, nested, run_of, runs_of_sweep
from db.records import AttemptRecord, DecisionRecord, Lease, LockRecord

if TYPE_CHECKING:  # types only: these modules import Ray and scipy
    from ablate.decide import SweepAnswer
    from ablate.launch import Outcome, Progress, Tick
    from ablate.rehearsal.rehearse import Rehearsal
    from ablate.rehearsal.worlds import World

Answer = dict[str, Any]

WATCHED = ("progress", "samples", "loss")
"""Metrics a running job is followed by."""


# ---------------------------------------------------------------- plan


def plan(desk: Desk, block: str = "", gpus: int | None = None) -> Answer:
    """The graph as it stands.

    `totals` adds up the jobs listed: what ended at what it took, what is to come at measured hours, else declared ones; what was
    skipped or failed for good costs no more. `wall_hours` and `critical_path_hours` are of what is to come, on `gpus` GPUs.
    """
    planned = desk.plan()
    books = Books(desk)
    shown = [job for job in planned.jobs if not block or job.block == block]
    held = desk.store.lock()
    return plain(
        {
            **_head(desk),
            "block": block,
            "jobs": [books.row(job) for job in shown],
            "totals": books.totals(planned, shown, gpus),
            "skipped_sweeps": planned.skipped_sweeps,
            "orphans": planned.orphans,
            "stale": _stale(desk, planned, held),
            "locked": held is not None and not held.lifted_at,
            "confirmation": _confirmation(desk, held) if held else None,
            "notes": _notes(desk, planned, books),
            "next": _next_after_plan(desk, planned, shown, block, held)
            if trainer_is_here(desk.study)
            else command(desk, "check"),
        }
    )


def plan_changes(desk: Desk, old: Study) -> Answer:
    """What going from the study `old` to the desk's does to the jobs, and what that costs. Both see the same results."""
    before, after, books = replace(desk, study=old).plan(), desk.plan(), Books(desk)
    found = plan_diff(old, before, desk.study, after, desk.store.attempts().keys())
    lost = [*(was for was, _ in found.stale), *found.orphaned]
    price = desk.study.usd_per_gpu_hour
    coming = [job for job in after.jobs if not is_maybe(job)]
    coming_before = [job for job in before.jobs if not is_maybe(job)]
    left = sum(job.gpus * books.left(job) for job in coming)
    books_before = Books(replace(desk, study=old))
    left_before = sum(job.gpus * books_before.left(job) for job in coming_before)
    sunk = sum(books.booked(job) for job in lost)
    return plain(
        {
            **_head(desk),
            "old": str(old.path),
            "kept": [books.row(job) for job in found.kept],
            "new": [books.row(job) for job in found.new],
            "stale": [{**books.row(now), "old_key": was.key, "lost_gpu_hours": books.booked(was)} for was, now in found.stale],
            "orphaned": [books.row(job) for job in found.orphaned],
            "dropped": [books.row(job) for job in found.dropped],
            "edits": found.edits,
            "deviates": bool(found.edits) and desk.store.frozen() is not None,
            "left_gpu_hours": left,
            "left_cost": left * price,
            "left_gpu_hours_before": left_before,
            "left_cost_before": left_before * old.usd_per_gpu_hour,
            "lost_gpu_hours": sunk,
            "lost_cost": sunk * price,
            "next": command(desk, "plan"),
        }
    )


class Books:
    """What jobs have cost and will cost."""

    def __init__(self, desk: Desk) -> None:
        self.study = desk.study
        self.attempts = desk.store.attempts()
        self.hours = Hours(desk.study, finished_hours(self.attempts))
        self.dead_since = _dead_since(desk.store.lease())
        taken = snapshots(desk)
        self.code_to_come = taken[-1].hash if taken else ""
        self._names: dict[tuple[str, ...], str] = {}

    def tried(self, job: PlannedJob) -> tuple[AttemptRecord, ...]:
        return self.attempts.get(job.key or "", ())

    def booked(self, job: PlannedJob) -> float:
        """GPU-hours its attempts have taken, those under way included."""
        return self._booked(job.key or "")

    def _booked(self, key: str) -> float:
        return sum(gpu_seconds(attempt, self.dead_since) for attempt in self.attempts.get(key, ())) / 3600

    def spent(self, planned: Plan) -> Answer:
        """What everything has cost, on jobs that nothing asks for any more too: that part is told beside."""
        gpu_hours = sum(map(self._booked, self.attempts))
        return {
            "gpu_hours": gpu_hours,
            "cost": gpu_hours * self.study.usd_per_gpu_hour,
            "orphan_gpu_hours": sum(map(self._booked, planned.orphans)),
        }

    def running_hours(self, job: PlannedJob) -> float:
        """Wall hours of its last attempt."""
        last = self.tried(job)[-1]
        return gpu_seconds(last, self.dead_since) / max(last.gpus, 1) / 3600

    def failure(self, job: PlannedJob) -> str:
        """The class of its last failure; "" if none was recognised."""
        tried = self.tried(job)
        return str(tried[-1].facts.get(FAILURE, "")) if tried else ""

    def lost_gpu_s(self) -> float:
        """GPU-seconds that crashes and stops undid: of each attempt without a result, what ran after its last checkpoint."""
        return sum(float(attempt.facts.get(LOST_GPU_S, 0.0)) for tried in self.attempts.values() for attempt in tried)

    def expected(self, job: PlannedJob) -> tuple[float, Source]:
        """Wall hours it takes from start to end."""
        return self.hours.of(job.run)

    def left(self, job: PlannedJob) -> float:
        """Wall hours it still takes."""
        if job.state not in COMING:
            return 0.0
        hours = self.expected(job)[0]
        return max(hours - self.running_hours(job), 0.0) if job.state == "running" else hours

    def row(self, job: PlannedJob) -> Answer:
        """One job of the plan."""
        hours, source = self.expected(job) if job.state in COMING else (self.booked(job) / max(job.gpus, 1), "booked")
        gpu_hours = job.gpus * hours
        return {
            "key": job.key,
            "id": job.id,
            "run": job.run,
            "seed": job.seed,
            "sweep": job.sweeps[0] if job.sweeps else "",
            "sweeps": list(job.sweeps),
            "block": job.block,
            "state": job.state,
            "reason": job.reason,
            "change": job.change,
            "expects": dict(self.study.runs[job.run].expects) if job.run in self.study.runs and not job.confirms else {},
            "gpus": job.gpus,
            "hours": hours,
            "hours_source": source,
            "gpu_hours": gpu_hours,
            "cost": gpu_hours * self.study.usd_per_gpu_hour,
            "attempts": job.attempt,
            "code_hash": self.code(job),
            "added": job.added,
            "imported": self.imported(job),
            "trial": job.trial,
            "selected": job.trial > 0,
        }

    def imported(self, job: PlannedJob) -> bool:
        """Whether its result was brought in, not made here."""
        tried = self.tried(job)
        return bool(tried) and IMPORTED in tried[-1].facts

    def code(self, job: PlannedJob) -> str:
        """Hash of the trainer's code it was, or will be, trained with; "" while none was taken."""
        tried = self.tried(job)
        return tried[-1].code_hash if tried and job.state in (*ENDED, "running") else self.code_to_come

    def totals(self, planned: Plan, jobs: Sequence[PlannedJob], gpus: int | None) -> Answer:
        """Of `jobs`, those that may turn out not to be needed beside them; needs outside of them count as met.

        Spent on a whole plan is all that was ever spent: on jobs, too, that nothing asks for any more.
        """
        on = gpus or self.study.gpus_per_run
        needs = needed_jobs(self.study, planned)
        counted = [job for job in jobs if not is_maybe(job)]
        maybe = [job for job in jobs if is_maybe(job) and job.state in COMING]
        coming = [job for job in counted if job.state in COMING]
        laid_out = totals(
            [Task(job.id, job.gpus, self.left(job), needs[job.id]) for job in coming], on, self.study.usd_per_gpu_hour
        )
        whole = self.spent(planned)
        spent = whole["gpu_hours"] if len(jobs) == len(planned.jobs) else sum(self.booked(job) for job in jobs)
        left = sum(job.gpus * self.left(job) for job in coming)
        sources = {self.expected(job)[1] for job in coming}
        price = self.study.usd_per_gpu_hour
        return {
            "jobs": len(counted),
            "states": dict(Counter(job.state for job in counted)),
            "gpus": on,
            "gpu_hours": spent + left,
            "cost": (spent + left) * price,
            "spent_gpu_hours": spent,
            "spent_cost": spent * price,
            "orphan_gpu_hours": whole["orphan_gpu_hours"] if len(jobs) == len(planned.jobs) else 0.0,
            "left_jobs": len(coming),
            "left_gpu_hours": left,
            "left_cost": left * price,
            "maybe_jobs": len(maybe),
            "maybe_gpu_hours": sum(job.gpus * self.left(job) for job in maybe),
            "wall_hours": laid_out.wall_hours,
            "critical_path_hours": laid_out.critical_path_hours,
            "critical_path": list(laid_out.critical_path),
            "hours_source": sources.pop() if len(sources) == 1 else "",
        }


def _dead_since(lease: Lease | None) -> datetime | None:
    """When a launch that is gone without a word was last heard of."""
    if lease is None:
        return None
    from ablate.lease import gone

    return moment(lease.beat_at) if gone(lease) else None


def gpu_seconds(attempt: AttemptRecord, dead_since: datetime | None = None) -> float:
    """GPU-seconds an attempt has booked; one under way counts until now, or until the launch that ran it was last alive."""
    if attempt.state != "running":
        return attempt.gpu_s
    until = dead_since if dead_since and not attempt.cluster else datetime.now(UTC)
    return max((until - moment(attempt.started_at)).total_seconds(), 0.0) * attempt.gpus


def trainer_is_here(study: Study) -> bool:
    try:
        code_hash(study)
    except UserError:
        return False
    return True


def _notes(desk: Desk, planned: Plan, books: Books) -> list[str]:
    """What a person should know before going on."""
    notes = []
    try:
        today = code_hash(desk.study)
    except UserError as error:  # a study may be planned where its trainer is not
        return [str(error)]
    taken = snapshots(desk)
    holds = taken[-1].hash if taken else today
    if holds != today:
        notes.append(
            f"the trainer has changed since {taken[-1].at}: coming jobs run the code of then ({holds}); for that of today: "
            f"{command(desk, 'launch', '--new-code', '--because', '…')}"
        )
    ended = [job for job in planned.jobs if job.state in ENDED]
    other = [job.id for job in ended if books.tried(job)[-1].code_hash not in ("", holds)]
    if other:
        whose = "that of coming jobs" if taken else "today's"
        notes.append(
            f"{_some(other)} {_were(other)} trained with other trainer code than {whose}: "
            "comparisons of old with new jobs will be refused as unfair"
        )
    same = {(run_of(id), run_of(owner)): None for id, owner in planned.same.items() if run_of(id) in desk.study.runs}
    notes += [f"{run} is the same config as {owner}, and trained once for both" for run, owner in same]
    if planned.orphans:
        notes.append(
            f"{_some(planned.orphans)}: results that the file and the decisions of today no longer ask for; kept, not used"
        )
    return [*notes, *filter(None, [seed_note(desk.study)])]


def _folder_notes(desk: Desk, attempts: Mapping[str, object]) -> list[str]:
    """Where the database and the folders under outputs/ disagree on which jobs there are. One look at one folder's names."""
    there = desk.folders.names()
    gone = sorted(attempts.keys() - there)
    unknown = sorted(name for name in there - attempts.keys() if (desk.folders.base / name / JOB).exists())
    notes = []
    if gone:
        notes.append(
            f"{_some(gone)}: no folder under {desk.folders.base} any more, so no checkpoint and no log; the numbers are in the "
            "database. Put the folders back, or go on without them"
        )
    if unknown and not desk.store.lease():
        notes.append(
            f"{_some(unknown)}: under {desk.folders.base} and not in the database; take them in with {command(desk, 'rebuild')}"
        )
    return notes


def _next_after_plan(desk: Desk, planned: Plan, shown: Sequence[PlannedJob], block: str, held: LockRecord | None) -> str:
    if held is not None and not held.lifted_at:
        return command(desk, "lock", *(("--lift", "--because", "…") if planned.fallen else ()))
    if words := _next_for(shown, block):
        return command(desk, *words)
    if any(job.state == "waiting" and not is_maybe(job) for job in shown):
        return command(desk, *(_next_for(planned.jobs) or ("launch",)))
    return command(desk, "lock" if planned.jobs else "init")


def _next_for(jobs: Sequence[PlannedJob], block: str = "") -> tuple[str, ...]:
    """The command that brings these jobs on; () where none does by itself."""
    states = {job.state for job in jobs}
    if states & STARTABLE:
        return ("launch", *(("--block", block) if block else ()))
    if "running" in states:
        return ("status", "--follow")
    if failed := next((job for job in jobs if job.state == "failed"), None):
        return ("logs", at(failed))
    if any(job.stale for job in jobs):
        return ("launch", "--redo-stale")
    held = next((job for job in jobs if job.state == "waiting" and job.gate is None), None)
    return ("retry", at(held)) if held else ()


def is_maybe(job: PlannedJob) -> bool:
    """A reference job that is only needed if decisions fall a certain way."""
    return job.added and job.key is None


# ---------------------------------------------------------------- launch


def dry_run(desk: Desk, block: str, wanted: Collection[str], gpus: int | None) -> Answer:
    """What a launch would start now, in order, and what it would find waiting. wanted: ids of jobs; empty: all."""
    planned = desk.plan()
    books = Books(desk)
    asked = [job for job in planned.jobs if (not block or job.block == block) and (not wanted or job.id in wanted)]
    return plain(
        {
            **_head(desk),
            "block": block,
            "starts": [books.row(job) for job in asked if job.state in STARTABLE],
            "waits": [books.row(job) for job in asked if job.state == "waiting"],
            "totals": books.totals(planned, asked, gpus),
            "next": _next_after_dry_run(desk, planned, asked, block),
        }
    )


def _next_after_dry_run(desk: Desk, planned: Plan, asked: Sequence[PlannedJob], block: str) -> str:
    if not any(job.state in STARTABLE for job in asked):
        return _next_after_plan(desk, planned, asked, block, desk.store.lock())
    redo = ("--redo-stale",) if desk.redo_stale else ()
    return command(desk, "launch", *(("--block", block) if block else ()), *redo)


def tick(desk: Desk, now: Tick, gpus: int | None = None) -> Answer:
    """The study after one round of the launch loop; `left_wall_hours` on `gpus` GPUs, if everything that waits will run."""
    running = {each.job: each for each in now.progress}
    return plain(
        {
            **_head(desk),
            "states": Counter(job.state for job in now.plan.jobs if not is_maybe(job)),
            "running": [_progress(job, running[job.id]) for job in now.plan.jobs if job.id in running],
            "gpu_hours": now.gpu_s / 3600,
            "cost": now.usd,
            "left_wall_hours": Books(desk).totals(now.plan, now.plan.jobs, gpus)["wall_hours"],
        }
    )


def _progress(job: PlannedJob, progress: Progress) -> Answer:
    return {
        "id": job.id,
        "change": job.change,
        "attempt": job.attempt,
        "progress": progress.fraction,
        "samples": progress.samples,
        "loss": progress.loss,
        "elapsed_s": progress.elapsed_s,
        "eta_s": progress.eta_s,
    }


def outcome(desk: Desk, end: Outcome) -> Answer:
    """How a launch ended: states, what failed, what waits, decisions, the lock."""
    books = Books(desk)
    failed = [job for job in end.plan.jobs if job.state == "failed"]
    held = end.lock or desk.store.lock()
    return plain(
        {
            **_head(desk),
            "exit_code": end.exit_code,
            "interrupted": end.interrupted,
            "states": Counter(job.state for job in end.plan.jobs if not is_maybe(job)),
            "failed": [{"id": job.id, "reason": job.reason, "log": command(desk, "logs", at(job))} for job in failed],
            "waiting_for": end.waiting_for,
            "over_budget": end.over_budget,
            **books.spent(end.plan),
            "decisions": _decisions(desk, end.plan),
            "stale": _stale(desk, end.plan, held),
            "lock": _lock(desk, held) if held else None,
            "next": _next_after_launch(desk, end, failed),
        }
    )


def _next_after_launch(desk: Desk, end: Outcome, failed: Sequence[PlannedJob]) -> str:
    if failed:
        return command(desk, "logs", at(failed[0]))
    if end.interrupted:
        return command(desk, "launch")
    if end.lock:
        return command(desk, "lock")
    waits = any(job.state == "waiting" and not is_maybe(job) for job in end.plan.jobs)
    return command(desk, *(_next_for(end.plan.jobs) or ("decide" if waits else "lock",)))


def stop(desk: Desk, jobs: Sequence[PlannedJob] | None) -> Answer:
    """Ask jobs to checkpoint and stop (None: all, and the launch with them). It happens within seconds, not when this returns."""
    from ablate import intervene

    if jobs is not None:
        asked, holder = intervene.stop_jobs(desk, jobs, utc_now()), ""
        return plain({**_head(desk), "stopping": asked, "launch": holder, "next": command(desk, "retry", *asked)})
    asked, holder = intervene.stop_all(desk, utc_now())
    return plain({**_head(desk), "stopping": asked, "launch": holder, "next": command(desk, "launch")})


def retry(desk: Desk, jobs: Sequence[PlannedJob]) -> Answer:
    """Let failed or stopped jobs be tried again."""
    from ablate import intervene

    again = intervene.retry(desk, jobs, utc_now())
    lease = desk.store.lease()
    words = ("status", "--follow") if lease else ("launch",)
    return plain({**_head(desk), "again": again, "launch": lease.holder if lease else "", "next": command(desk, *words)})


def attempt(record: AttemptRecord) -> Answer:
    """One attempt, as it ended."""
    return plain(asdict(record))


# ---------------------------------------------------------------- decide, explain


def decide(desk: Desk, names: Collection[str], because: str = "", anew: bool = False) -> Answer:
    """Evaluate the trees of these sweeps (none named: all), store what is new, and say what follows.

    One sweep asked for is the document; several stand under "sweeps". Under a lock nothing is recorded. UserError when the file
    was edited since it was frozen and neither it nor `because` gives a reason.
    anew: also decisions whose own numbers are as they were, and only the noise is known otherwise. Launching lets them stand.
    """
    from ablate import evidence

    locked = desk.store.lock()
    if desk.store.frozen() is not None and locked is None:
        evidence.freeze(desk, utc_now(), because)
    before = desk.store.decisions()
    judged = evidence.decide(desk, utc_now(), tuple(names), keep_standing=not anew, keep_record=locked is None)
    after = desk.store.decisions()
    sweeps = [_sweep_answer(desk, answer, before, after) for answer in judged.values()]
    whole = sweeps[0] if len(sweeps) == 1 == len(names) else {"sweeps": sweeps}
    note = f"the study is locked since {locked.at}: nothing was recorded" if locked else ""
    turned = [one["name"] for sweep in sweeps for one in sweep["decisions"] if one["was"]]
    stale = _stale(desk, desk.plan(), locked) if turned else []
    redo = any(one["kind"] == "job" for one in stale)
    following = command(desk, "launch", "--redo-stale", "--dry-run") if redo else _next_after_decide(desk, sweeps)
    return plain({**_head(desk), **whole, "note": note, "turned": turned, "stale": stale, "next": following})


def sweeps_in(answer: Answer) -> list[Answer]:
    """The sweeps of a document that `decide` made."""
    sweeps: list[Answer] = answer.get("sweeps", [answer])
    return sweeps


def _sweep_answer(
    desk: Desk, judged: SweepAnswer, before: Mapping[str, DecisionRecord], after: Mapping[str, DecisionRecord]
) -> Answer:
    """before, after: the decisions that stood before it was judged, and stand now."""
    sweep = desk.study.sweeps[judged.sweep]
    return {
        "sweep": judged.sweep,
        "asks": sweep.asks,
        "skipped_because": judged.skipped_because,
        "decisions": [_judged(desk, made, before.get(made.name), after.get(made.name)) for made in judged.decisions],
        "learned": [asdict(learned) for learned in judged.learned],
        "learn_lines": len(sweep.learn),
        "open": judged.open,
    }


def _judged(desk: Desk, made: DecisionRecord, before: DecisionRecord | None, after: DecisionRecord | None) -> Answer:
    """A decision as it stands: what it `was`, if it turned now; what it would be `today`, if that is not what is recorded."""
    from ablate.decide import turned_because

    old = before if before is not None and before.status != "overruled" else made
    turned = (old.status, old.took) != (made.status, made.took)
    missing, stands = made.status == "waiting", after == before
    kept = made if missing or after is None else after
    if after is None and not missing:  # under a lock
        kept = replace(made, status="waiting", took="", line="", sets={}, because="nothing is recorded under a lock")
    why = turned_because(made, old) if turned else ""
    said = {"took": made.took or made.status, "line": made.line, "because": made.because, "why": why}
    unsaid = not missing and (after is None or (turned and stands))
    of_today = {_pair(one): one["labels"] for one in made.comparisons}
    labelled = [{**one, "labels": _merged(one.get("labels", ()), of_today.get(_pair(one), ()))} for one in kept.comparisons]
    return {
        **decision(kept),
        "comparisons": labelled,
        "was": (old.took or old.status) if turned and not unsaid else "",
        "why": why if turned and not unsaid else "",
        "today": {**said, "record": command(desk, "decide", made.sweep, "--anew")} if unsaid else None,
    }


def _pair(one: Mapping[str, Any]) -> tuple[str, str, str]:
    return one["a"], one["b"], one["metric"]


def _merged(*labels: Iterable[str]) -> list[str]:
    """Each once: a deviation since it was recorded stands beside a verdict too."""
    return list(dict.fromkeys(label for some in labels for label in some))


def decision(made: DecisionRecord) -> Answer:
    """A decision with its evidence."""
    return {
        "name": made.name,
        "sweep": made.sweep,
        "status": made.status,
        "took": made.took,
        "line": made.line,
        "because": made.because,
        "by": made.by,
        "at": made.at,
        "sets": made.sets,
        "price": made.price,
        "comparisons": [] if is_search(made) else list(made.comparisons),
        "jobs": sorted(made.jobs),
        "number": made.number,
    }


def _next_after_decide(desk: Desk, sweeps: Sequence[Answer]) -> str:
    waits = any(made["status"] == "waiting" for sweep in sweeps for made in sweep["decisions"]) or any(
        sweep["open"] for sweep in sweeps
    )
    planned, held = desk.plan(), desk.store.lock()
    of_sweeps = {sweep["sweep"] for sweep in sweeps}
    failed = next((job for job in planned.jobs if job.state == "failed" and of_sweeps & {*job.sweeps}), None)
    if waits and failed:
        return command(desk, "retry", at(failed))
    return _next_after_plan(desk, planned, planned.jobs, "", held)


def overrule(desk: Desk, names: Sequence[str], tree: str, take: str, because: str) -> None:
    """Record a person's decision. UserError when it does not say which tree, what, or why."""
    from ablate import evidence
    from ablate.decide import overrule as overruled

    study = desk.study
    if len(names) != 1:
        raise UserError(f"--take overrules one sweep's tree; name the sweep: ablate decide SWEEP --take {take} --because …")
    trees = [one.name for one in study.sweeps[names[0]].trees]
    if not trees:
        raise UserError(f"{names[0]} decides nothing, it only learns: there is nothing to overrule")
    if not tree and len(trees) > 1:
        raise UserError(f"{names[0]} has {len(trees)} trees: say which one with --tree {listed(trees, 'or')}")
    if tree and tree not in trees:
        raise UserError(f"{names[0]} has no tree {tree!r}; its trees: {', '.join(trees)}")
    evidence.refuse_when_locked(desk)
    name = tree or trees[0]
    before = desk.store.decisions().get(name)
    evidence.record(desk, overruled(study, name, take, because, utc_now(), desk.plan().its_start, before))


def explain(study: Study, sweep: Sweep) -> Answer:
    """Each line of a sweep in plain words."""
    metrics = {
        name: metric for name, metric in study.metrics.items() if name == sweep.on or any(name in line for line in _texts(sweep))
    }
    skip = sweep.skip
    return plain(
        {
            "study": study.name,
            "profile": study.profile,
            "sweep": sweep.name,
            "asks": sweep.asks,
            "runs": list(runs_of_sweep(study, sweep)),
            "metrics": [
                {"name": name, "better": one.better, "margin": one.margin, "unit": one.unit, "noise": one.noise}
                for name, one in metrics.items()
            ],
            "skip": {"if": skip.text, "in_words": in_words(skip.condition, study.metrics), "because": skip.because}
            if skip
            else None,
            "trees": [{"name": tree.name, "lines": [_line(study, line) for line in tree.lines]} for tree in sweep.trees],
            "learn": [
                {"if": one.text, "in_words": in_words(one.condition, study.metrics), "say": one.say} for one in sweep.learn
            ],
        }
    )


def _texts(sweep: Sweep) -> list[str]:
    return [*(line.text for tree in sweep.trees for line in tree.lines), *(one.text for one in sweep.learn)]


def _line(study: Study, line: Line) -> Answer:
    return {
        "if": line.text,
        "in_words": in_words(line.condition, study.metrics),
        "take": take_text(line.take),
        "take_in_words": _take_in_words(study, line),
        "because": line.because,
    }


def _take_in_words(study: Study, line: Line) -> str:
    match line.take.kind:
        case "stop":
            return "take nothing and stop: what starts from this decision waits for a person"
        case "its start":
            return "keep what the row started from"
        case "best":
            return f"take the best of {listed(line.take.runs)}"
        case "run":
            run = study.run_named(line.take.runs[0])
            return f"take {line.take.runs[0]}" + (", the baseline" if run.name == study.baseline else "")


# ---------------------------------------------------------------- status


def status(desk: Desk) -> Answer:
    """Where the study stands, from the database alone."""
    planned = desk.plan()
    books = Books(desk)
    counted = [job for job in planned.jobs if not is_maybe(job)]
    running = [job for job in counted if job.state == "running"]
    latest = desk.store.latest([job.key for job in running if job.key], WATCHED)
    held, lease = desk.store.lock(), desk.store.lease()
    layout = books.totals(planned, planned.jobs, None)
    return plain(
        {
            **_head(desk),
            "at": utc_now(),
            "states": Counter(job.state for job in counted),
            "running": [_running(job, books, latest.get(job.key or "", {})) for job in running],
            "ended": _ended(desk, books, [job for job in counted if job.state in ENDED]),
            "failed": [
                {"id": job.id, "reason": job.reason, "failure": books.failure(job)} for job in counted if job.state == "failed"
            ],
            "lost_gpu_minutes": books.lost_gpu_s() / 60,
            "waiting": _reasons(job for job in counted if job.state == "waiting"),
            **books.spent(planned),
            "left_gpu_hours": layout["left_gpu_hours"],
            "left_cost": layout["left_cost"],
            "left_wall_hours": layout["wall_hours"],
            "gpus": layout["gpus"],
            "decisions": _decisions(desk, planned),
            "stale": _stale(desk, planned, held),
            "notes": _folder_notes(desk, books.attempts),
            "launching": {**asdict(lease), "gone": books.dead_since is not None} if lease else None,
            "lock": {"hash": held.hash, "at": held.at, "provisional": held.provisional, "confirmation": _confirmation(desk, held)}
            if held and not held.lifted_at
            else None,
            "next": command(desk, *(("launch",) if books.dead_since else ("status", "--follow")))
            if lease
            else _next_after_plan(desk, planned, planned.jobs, "", held),
        }
    )


def _running(job: PlannedJob, books: Books, latest: Mapping[str, tuple[int, float]]) -> Answer:
    """A running job, by the last numbers it wrote."""
    elapsed = books.running_hours(job) * 3600
    fraction = latest["progress"][1] if "progress" in latest else None
    return {
        "id": job.id,
        "change": job.change,
        "attempt": job.attempt,
        "progress": fraction,
        "samples": int(latest["samples"][1]) if "samples" in latest else None,
        "loss": latest["loss"][1] if "loss" in latest else None,
        "elapsed_s": elapsed,
        "eta_s": elapsed * (1 - fraction) / fraction if fraction else None,
    }


def _ended(desk: Desk, books: Books, jobs: Sequence[PlannedJob]) -> list[Answer]:
    """What ended jobs scored on the study's first metric."""
    metric = next(iter(desk.study.metrics), "")
    values = desk.store.latest([job.key for job in jobs if job.key], [metric]) if metric else {}
    return [
        {
            "id": job.id,
            "run": job.run,
            "seed": job.seed,
            "state": job.state,
            "metric": metric,
            "value": values.get(job.key or "", {}).get(metric, (0, None))[1],
            "imported": books.imported(job),
            "selected": job.trial > 0,
        }
        for job in jobs
    ]


def _reasons(jobs: Iterable[PlannedJob]) -> list[Answer]:
    """Reason -> the jobs that wait for it."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        found.setdefault(job.reason, []).append(job.id)
    return [{"reason": reason, "jobs": ids} for reason, ids in found.items()]


def _stale(desk: Desk, planned: Plan, held: LockRecord | None) -> list[Answer]:
    """What rests on decisions that say something else now: see stale.py."""
    return [asdict(one) for one in find_stale(desk.study, planned, desk.store.all_decisions(), held)]


def _decisions(desk: Desk, planned: Plan) -> list[Answer]:
    """Every tree of the study, decided or not, without its evidence."""
    out = []
    for name, tree in desk.study.trees.items():
        made = planned.decisions.get(name)
        out.append(
            {
                "name": name,
                "sweep": tree.sweep,
                "status": made.status if made else "open",
                "took": made.took if made else "",
                "because": made.because if made else planned.fallen.get(name, ""),
                "by": made.by if made else "",
            }
        )
    return out


# ---------------------------------------------------------------- show, logs


def show(desk: Desk, jobs: Sequence[PlannedJob], metric: str) -> Answer:
    """One run (or one job of it): settings, resolved rates, attempts, curve, the decisions that rest on it."""
    study, run = desk.study, jobs[0].run
    planned, books = desk.plan(), Books(desk)
    keys = [job.key for job in jobs if job.key]
    settings = next((job.settings for job in jobs if job.settings is not None), None)
    curves = desk.store.curves(metric, keys) if keys else {}
    if not curves and any(books.tried(job) for job in jobs):
        _refuse_unmeasured(desk, keys, metric)
    unit = study.metrics[metric].unit if metric in study.metrics else ""
    return plain(
        {
            **_head(desk),
            "run": run,
            "aliases": [*(alias for alias, name in study.aliases.items() if name == run), *_sharing(planned, run)],
            "change": jobs[0].change,
            "jobs": [books.row(job) for job in jobs],
            "settings": settings,
            "differs": _differences(study, settings or {}),
            "derived": derived(study, settings or {}),
            "curve": {"metric": metric, "unit": unit, "jobs": {job.id: curves[job.key] for job in jobs if job.key in curves}},
            "attempts": [{**asdict(tried), "id": job.id} for job in jobs for tried in books.tried(job)],
            "decisions": [
                one
                for one in map(decision, desk.store.decisions().values())
                if set(keys) & set(one["jobs"]) or one["took"] == run
            ],
            "search": _search(desk, run),
            "next": _next_after_show(desk, planned, books, jobs),
        }
    )


def _sharing(planned: Plan, run: str) -> list[str]:
    """Rows that came out as this one's config, so that its jobs are theirs."""
    return list(dict.fromkeys(run_of(id) for id, owner in planned.same.items() if run_of(owner) == run))


def _next_after_show(desk: Desk, planned: Plan, books: Books, jobs: Sequence[PlannedJob]) -> str:
    if tried := next(filter(books.tried, jobs), None):
        return command(desk, "logs", at(tried))
    if any(job.state in STARTABLE for job in jobs):
        return command(desk, "launch", "--run", jobs[0].run)
    return _next_after_plan(desk, planned, planned.jobs, "", desk.store.lock())


def _search(desk: Desk, run: str) -> Answer | None:
    """How a row is tuned: where it looks, what it chose, and each trial that is over; None for a row that is not."""
    row = desk.study.runs.get(run)
    if row is None or row.search is None:
        return None
    from ablate.trials import trials_of

    search = row.search
    return {
        "space": {name: range_text(one) for name, one in search.space.items()},
        "budget": budget(search),
        "on": search.on,
        "by": search.by,
        "chosen": row.chosen,
        "trials": [
            {"trial": one.number, "job": one.key, "state": one.state, "point": dict(one.point), "score": one.score}
            for one in trials_of(desk, desk.plan(), row)
        ],
    }


def _refuse_unmeasured(desk: Desk, keys: Sequence[str], metric: str) -> None:
    """UserError when these jobs measured other things, but never `metric`."""
    known = sorted({name for key in keys for name in desk.store.metric_names(key)})
    if known and metric not in desk.study.metrics:
        guess = near(metric, known)
        hint = f'Did you mean "{guess[0]}"?' if guess else f"There are: {', '.join(known)}"
        raise UserError(f"--metric {metric!r} was never measured here. {hint}")


def _differences(study: Study, settings: Settings) -> list[Answer]:
    """Settings that are not the baseline's."""
    return [
        {"setting": name, "baseline": study.settings.get(name), "value": value}
        for name, value in settings.items()
        if study.settings.get(name) != value
    ]


def derived(study: Study, settings: Settings) -> dict[str, Any]:
    """What the trainer's config computes from these settings: its properties, such as optim.connector_lr = lr × ratio."""
    module, _, name = study.trainer.config.partition(":")
    if not name or not settings:
        return {}
    config = getattr(importlib.import_module(module), name)
    found: dict[str, Any] = {}
    for part, values in nested(settings).items():
        kind = type(getattr(config(), part, None))
        if is_dataclass(kind) and isinstance(values, dict):
            made = kind(**values)
            found |= {f"{part}.{each}": getattr(made, each) for each, value in vars(kind).items() if isinstance(value, property)}
    return found


class NoLogYetError(UserError):
    """There is no log, but a job that is named has not ended."""


def logs(desk: Desk, jobs: Sequence[PlannedJob], lines: int, rank: int) -> Answer:
    """The last lines of each job's last attempt. UserError when there is no log; NoLogYetError while one may come."""
    attempts = desk.store.attempts()
    lasts = [(job, attempts[job.key][-1]) for job in jobs if job.key in attempts]
    found = [
        {"id": job.id, "attempt": last.number, "state": last.state, "path": str(path), "lines": tail(path, lines)}
        for job, last in lasts
        if (path := desk.folders.log(last.job, last.number, rank)).exists()
    ]
    if found:
        return plain({**_head(desk), "logs": found})
    if rank >= desk.study.ranks_per_run:
        raise UserError(f"there is no log of rank {rank}: ranks count from 0, and there are {desk.study.ranks_per_run}")
    states = ", ".join(f"{job.id} is {job.state}{f' ({job.reason})' if job.reason else ''}" for job in jobs[:3])
    if any(job.state in COMING for job in jobs):
        raise NoLogYetError(f"there is no log yet: {states}")
    raise UserError(f"there is no log: {states}")


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a text file."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=lines)]


# ---------------------------------------------------------------- lock, rebuild


def lock(desk: Desk) -> Answer:
    """The final config; locks it when all is decided."""
    from ablate import evidence
    from ablate.lock import NotYet

    made = evidence.lock(desk, utc_now())
    if isinstance(made, NotYet):
        return plain(
            {
                **_head(desk),
                "locked": False,
                "reasons": made.reasons,
                "decisions": _decisions(desk, desk.plan()),
                "next": command(desk, "launch"),
            }
        )
    evidence.confirm(desk, utc_now())
    return plain(_lock(desk, desk.store.lock() or made))


def lift(desk: Desk, because: str) -> Answer:
    """Unlock, with a reason. UserError without one, or when nothing is locked."""
    held = desk.store.lock()
    if held is None:
        raise UserError(f"nothing is locked (profile {desk.study.profile})")
    if not because.strip():
        raise UserError('lifting a lock needs a reason that can be read later: ablate lock --lift --because "…"')
    collect.lift_lock(desk.store, desk.folders, utc_now(), because.strip())
    return plain(
        {**_lock(desk, held), "locked": False, "lifted_because": because.strip(), "reasons": [], "next": command(desk, "plan")}
    )


def _lock(desk: Desk, held: LockRecord) -> Answer:
    changed = [name for name, source in held.sources.items() if source != "baseline"]
    return {
        **_head(desk),
        "locked": not held.lifted_at,
        "hash": held.hash,
        "at": held.at,
        "settings": held.settings,
        "sources": held.sources,
        "changed": changed,
        "conflicts": held.conflicts,
        "trained_as": held.trained_as,
        "provisional": held.provisional,
        "confirmation": _confirmation(desk, held),
        "decisions": held.decisions,
        "searches": {record.name: record.because for record in _searches_of(desk, held)},
        "lifted_at": held.lifted_at,
        "lifted_because": held.lifted_because,
        "next": _next_after_lock(desk, held),
    }


def _searches_of(desk: Desk, held: LockRecord) -> list[DecisionRecord]:
    """The records of the searches that the lock rests on."""
    numbers = set(held.decisions.values())
    return [record for record in desk.store.all_decisions() if is_search(record) and record.number in numbers]


def _next_after_lock(desk: Desk, held: LockRecord) -> str:
    if not held.lifted_at and any(job.confirms and job.state in STARTABLE for job in desk.plan().jobs):
        return command(desk, "launch")
    return command(desk, "show", held.trained_as) if held.trained_as else ""


def _confirmation(desk: Desk, held: LockRecord) -> Answer:
    """How far a lock is confirmed; `says` in words, for wherever the lock is shown."""
    from ablate.lock import CONFIRMATION, standing

    decisions, confirm = desk.store.decisions(), desk.study.confirm
    status, record = standing(desk.study, held, decisions), decisions.get(CONFIRMATION)
    judged = record if record is not None and status in ("confirmed", "failed") else None
    jobs = [job for job in desk.plan().jobs if job.confirms]
    left = [job for job in jobs if job.state not in ENDED]
    words = {
        "not declared": "provisional until it is confirmed on fresh seeds (none are declared: [lock] confirm)",
        "nothing to confirm": "the baseline itself: nothing to confirm",
        "pending": f"provisional until it is confirmed on fresh seeds ({len(left)} of {len(jobs)} jobs to go)",
        "confirmed": f"confirmed on {len(confirm.seeds) if confirm else 0} fresh seeds",
        "failed": "provisional: it was NOT confirmed on fresh seeds",
    }
    imported, exploratory = _resting_on_imported(desk, decisions, held), _resting_on_undeclared(decisions, held)
    says = words[status] + (f"; rests on imported results: {', '.join(imported)}" if imported else "")
    return {
        "status": status,
        "says": says + (f"; rests on looks nobody declared: {', '.join(exploratory)}" if exploratory else ""),
        "against": confirm.against if confirm else "",
        "seeds": confirm.seeds if confirm else (),
        "left": [job.id for job in left],
        "because": judged.because if judged else "",
        "comparisons": list(judged.comparisons) if judged else [],
    }


def _resting_on_imported(desk: Desk, decisions: Mapping[str, DecisionRecord], held: LockRecord) -> list[str]:
    """The decisions of a lock that rest on results which were not made here."""
    attempts = desk.store.attempts()
    brought = {key for key, tried in attempts.items() if IMPORTED in tried[-1].facts}
    return [name for name, one in decisions.items() if name in held.decisions and brought & one.jobs.keys()]


def _resting_on_undeclared(decisions: Mapping[str, DecisionRecord], held: LockRecord) -> list[str]:
    """The decisions of a lock that are exploratory."""
    return [name for name in held.decisions if name in decisions and decisions[name].because.startswith("exploratory: ")]


def rebuild(study: Study) -> Answer:
    """Make the database again from the folders; the old one stays beside it."""
    root = study.path.parent
    database = root / "db" / "ablate.sqlite"
    collected = collect.rebuild_file(database, root / "outputs")
    return plain({"database": str(database), **asdict(collected)})


# ---------------------------------------------------------------- rehearse


def rehearse(
    desk: Desk,
    world: str,
    noise: str,
    studies: int,
    rng_seed: int,
    effects: Sequence[str] = (),
    spreads: Sequence[str] = (),
    diverge: float = 0.0,
    budget: float = 1.0,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Answer:
    """The study played `studies` times on simulated results, and each promise of its rules held against a fifth as many.

    effects:  "F1=0.167" or "A8b:image_vqa=0.03": true shift against the row's start, in the metric's unit.
    spreads:  "val_loss=0.05": true sd between seeds; else what was measured, declared, or half the margin.
    budget:   share of each past curve at which it is read; of past results alone.
    progress: called with the studies played so far and how many there will be.
    """
    from ablate.rehearsal.equal_hours import at_equal_hours
    from ablate.rehearsal.rehearse import rehearse as play
    from ablate.rehearsal.targets import measure_targets, played

    study = with_examples(desk.study)
    made, sd = _imagined(desk, study, world, noise, effects, spreads, budget)
    made = replace(made, diverge={**made.diverge, "": diverge}) if diverge else made
    each = max(studies // 5, 1)
    total, done = studies + played(study, each), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    measured = measured_hours(desk)

    def hours(run: str) -> float:
        return budget * hours_of(study, run, measured)[0]

    found = play(study, made, studies=studies, rng_seed=rng_seed, hours_of=hours, progress=advance)
    spent = found.outcomes["trees"].gpu_hours
    equal = [
        at_equal_hours(study, made, rule, spent, studies=each, rng_seed=rng_seed, hours_of=hours)
        for rule in ("lowest of all seeds", "lowest mean")
    ]
    targets = measure_targets(study, made, studies=each, rng_seed=rng_seed, progress=advance)
    return plain(
        {
            **_head(desk),
            "world": made.name,
            "noise": made.noise,
            "studies": studies,
            "seed": rng_seed,
            "looks": study.looks,
            "budget": budget,
            "past_jobs": max((len(jobs) for jobs in made.residuals.values()), default=0) if made.noise == "past" else 0,
            "sd": {name: {"sd": size, "source": source} for name, (size, source) in sd.items()},
            "effects": [{"run": run, "metric": metric, "effect": effect} for (run, metric), effect in made.effects.items()],
            **_of_rules(found),
            "equal_hours": [asdict(one) for one in equal],
            "targets": [{**asdict(target), "passed": target.passed} for target in targets],
            "next": command(desk, "launch" if all(target.passed for target in targets) else "check"),
        }
    )


def _of_rules(found: Rehearsal) -> Answer:
    """What those did that take the decisions, the trees and what people use; of the trees, line by line."""
    names = ("rule", "wrong", "missed", "regret", "net_regret", "gpu_hours", "wrong_in", "missed_in", "locks")
    ours = found.outcomes["trees"]
    return {
        "rules": [{name: getattr(outcome, name) for name in names} for outcome in found.outcomes.values()],
        "lines": [asdict(line) for line in ours.fired],
        "never_fired": [{"where": line.where, "text": line.text} for line in ours.fired if line.asked and not line.fired],
        "comparisons": [asdict(shown) for shown in ours.shown],
    }


def _imagined(
    desk: Desk, study: Study, world: str, noise: str, effects: Sequence[str], spreads: Sequence[str], budget: float
) -> tuple[World, Mapping[str, tuple[float, str]]]:
    """The world a rehearsal is played in, and the noise of each metric with where it is known from."""
    from ablate.evidence import job_results
    from ablate.rehearsal import worlds

    results = job_results(desk, desk.plan())
    if world == "past" or noise == "past":
        curves = {name: desk.store.curves(name, [job.key for jobs in results.values() for job in jobs]) for name in study.metrics}
        results = worlds.read_at(study, results, curves, budget)
    elif budget < 1:
        raise UserError(f"--budget {budget:g} is a share of past curves: give it with --world past or --noise past")
    sd = worlds.known_sd(study, results, dict(worlds.read_spread(study, text) for text in spreads))
    given = dict(worlds.read_effect(study, text) for text in effects)
    return worlds.named_world(world, noise, study, results, {name: size for name, (size, _) in sd.items()}, given), sd


# ---------------------------------------------------------------- small things


def at(job: PlannedJob) -> str:
    """How the command line names a job: F3@42."""
    return f"{job.run}@{job.seed}"


def command(desk: Desk, *words: str) -> str:
    """A command line that does this on the same study and profile."""
    study = desk.study
    file = [] if study.path.resolve() == Path("runs.toml").resolve() else ["--study", os.path.relpath(study.path)]
    profile = [] if study.profile == "full" else ["--profile", study.profile]
    return shlex.join(["ablate", *words, *file, *profile])


def _head(desk: Desk) -> Answer:
    return {"study": desk.study.name, "profile": desk.study.profile}


def _some(names: Sequence[str]) -> str:
    """The first few of many."""
    return listed(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _were(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def plain(document: Mapping[str, Any]) -> Answer:
    """As JSON has it: mappings as dicts, sequences as lists, numbers that are not finite as None."""
    return {str(key): _plain(value) for key, value in document.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value

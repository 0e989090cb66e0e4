"""What jobs have cost and will cost: GPU-hours, money, days; each job of a plan as a row of its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from ablate.answers.document import Answer
from ablate.clock import moment
from ablate.desk import Desk, finished_hours
from ablate.launching.snapshot import snapshots
from ablate.planning.cost import Hours, Source, Task, totals
from ablate.planning.needs import needed_jobs
from ablate.planning.plan import Plan, PlannedJob
from ablate.planning.states import COMING, FAILURE, LOST_GPU_S
from ablate.study import ENDED, IMPORTED
from db.records import AttemptRecord, Lease


class Books:
    """What jobs have cost and will cost."""

    def __init__(self, desk: Desk) -> None:
        self.study = desk.study
        self.attempts = desk.store.attempts()
        self.hours = Hours(desk.study, finished_hours(self.attempts))
        self.dead_since = dead_since(desk.store.lease())
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


def dead_since(lease: Lease | None) -> datetime | None:
    """When a launch that is gone without a word was last heard of."""
    if lease is None:
        return None
    from ablate.launching.lease import gone

    return moment(lease.beat_at) if gone(lease) else None


def gpu_seconds(attempt: AttemptRecord, dead_since: datetime | None = None) -> float:
    """GPU-seconds an attempt has booked; one under way counts until now, or until the launch that ran it was last alive."""
    if attempt.state != "running":
        return attempt.gpu_s
    until = dead_since if dead_since and not attempt.cluster else datetime.now(UTC)
    return max((until - moment(attempt.started_at)).total_seconds(), 0.0) * attempt.gpus


def is_maybe(job: PlannedJob) -> bool:
    """A reference job that is only needed if decisions fall a certain way."""
    return job.added and job.key is None

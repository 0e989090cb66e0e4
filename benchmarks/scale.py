"""Does the launch loop keep up: 1 000, 10 000 and 100 000 jobs on a simulated cluster of 1 000 GPUs.

    python -m benchmarks.scale [--jobs 1000 --jobs 10000] [--gpus 1000] [--gang 2] [--planner] [--json]

The loop is the real one, with its database, folders and fsyncs (those go where TMPDIR points: a disk, or memory); only the
cluster is not. Its nodes have 1 to 8 GPUs, its time jumps to the next job that ends, and a job leaves one metric and its result.
The study has 24 sweeps in 4 layers of 6, each with a tree; every row of a later layer starts from what two trees of the layer
before took. More jobs are more rows, 5 seeds each. Jobs take half an hour to some hours.

Makespan is held against the most that no schedule can beat: the critical path, and all work spread over the places there are.
Each size runs in a process of its own. Per job: the loop's processor time without the simulation, and its parts: claim (row,
folder, config), planning the whole study, judging. The last column is what a job costs against one of the smallest size.

--planner: only what the loop asks of the plan, with every job done that needs no decision: reading the file, planning once,
putting the present together, bringing it up to date after one attempt has changed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from ablate.desk import Desk, open_desk
from ablate.evidence import Judge
from ablate.launching import crew
from ablate.launching.jobs import Attempt, AttemptEnd, AttemptId
from ablate.launching.launch import launch
from ablate.launching.present import Present
from ablate.launching.watch import Event, Options, Tick
from ablate.planning.cost import Task, critical_path
from ablate.planning.needs import needed_jobs
from ablate.runs_toml import read_study
from db.records import AttemptRecord, JobRecord

NOW = "2026-01-01T00:00:00Z"
CHANGED = 200
"""Attempts changed one after the other, to see what one change costs."""


@dataclass(frozen=True)
class Shape:
    """Of a study that is to be made larger: more jobs are more rows."""

    layers: int = 4
    """Of sweeps: rows of a later one start from what two trees of the one before took."""
    width: int = 6
    """Sweeps per layer, each with one tree."""
    seeds: int = 5
    """Per row."""

    @property
    def sweeps(self) -> int:
        return self.layers * self.width


STUDY = """
[study]
name = "scale"
asks = "How many jobs?"
baseline = "R0x0"
trainer = {{ command = "true", metrics = {{ file = "log.jsonl" }} }}
gpus_per_run = {gang}
hours_per_run = 1.0
usd_per_gpu_hour = 1.0
wandb = false
[settings]
{settings}
[runs]
{runs}
[seeds]
every = {seeds}
[metrics]
val_loss = {{ better = "lower", margin = 0.01, noise = 0.01 }}
{sweeps}
[blocks]
{blocks}
[lock]
after = {last}
"""


def study_text(jobs: int, gang: int, shape: Shape) -> str:
    """A study of about so many jobs, reference jobs aside."""
    sweeps = shape.sweeps
    rows = max(jobs // (sweeps * shape.seeds), 2)
    runs, trees, blocks = [], [], []
    for sweep in range(sweeps):
        names = [f"R{sweep}x{row}" for row in range(rows)]
        layer, place = divmod(sweep, shape.width)
        start = ""
        if layer:
            before = (layer - 1) * shape.width
            start = f'from = ["d{before + place}", "d{before + (place + 1) % shape.width}"], '
        runs += [f"{name} = {{ {start}x.s{sweep} = {row} }}" for row, name in enumerate(names) if name != "R0x0"]
        trees.append(
            f'[sweep{sweep}]\nasks = "?"\ncompare = {json.dumps(names)}\non = "val_loss"\ndecide.d{sweep} = [\n'
            f'["{names[1]} better than {names[0]}", "{names[1]}", "better"],\n["otherwise", "{names[0]}", "not shown"]]'
        )
        blocks.append(f"{sweep + 1} = {json.dumps(names)}")
    return STUDY.format(
        gang=gang,
        settings="\n".join(f"x.s{sweep} = {0 if sweep == 0 else -1}" for sweep in range(sweeps)),
        runs="\n".join(["R0x0 = {}", *runs]),
        seeds=list(range(shape.seeds)),
        sweeps="\n".join(trees),
        blocks="\n".join(blocks),
        last=sweeps,
    )


def hours(job: str) -> float:
    """How long a job takes: about one hour, at most eight; always the same for the same job."""
    return min(max(random.Random(job).lognormvariate(0.0, 0.6), 0.5), 8.0)


def nodes_of(gpus: int) -> list[int]:
    """Nodes of 1 to 8 GPUs, so many in all."""
    draw, sizes = random.Random(0), list[int]()
    while gpus > 0:
        sizes.append(min(draw.randint(1, 8), gpus))
        gpus -= sizes[-1]
    return sizes


@dataclass
class Simulated:
    """A cluster in a time of its own: the clock jumps to the next end. As `jobs.Cluster`, as far as a launch asks."""

    nodes: list[int]
    now: float = 0.0
    """Hours."""
    seconds: float = 0.0
    """Processor time that the simulation itself took."""
    starts: list[tuple[str, float]] = field(default_factory=list)
    busy: float = 0.0
    """GPU-hours."""
    _free: list[int] = field(default_factory=list)
    _running: list[tuple[float, int, int, Attempt]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = list(self.nodes)
        self._largest_first = sorted(self.nodes, reverse=True)

    def node_gpus(self) -> list[int]:
        return self._largest_first

    def reattach(self, *_: object) -> list[AttemptId]:
        return []

    def start(self, attempt: Attempt) -> None:
        began = time.process_time()
        node = next(node for node, free in enumerate(self._free) if free >= attempt.gpus)  # else the loop started too many
        self._free[node] -= attempt.gpus
        takes = hours(attempt.key)
        self.busy += takes * attempt.gpus
        self.starts.append((attempt.key, self.now))
        heapq.heappush(self._running, (self.now + takes, len(self.starts), node, attempt))
        self.seconds += time.process_time() - began

    def poll(self, _: float) -> list[AttemptEnd]:
        began = time.process_time()
        ends = []
        if self._running:
            self.now, _place, node, attempt = heapq.heappop(self._running)
            self._free[node] += attempt.gpus
            leave_result(attempt)
            ends.append(AttemptEnd(*attempt.id, "ended", (0,), ""))
        self.seconds += time.process_time() - began
        return ends


def leave_result(attempt: Attempt) -> None:
    """What a trainer leaves in its folder. Of every other sweep the second row is better than the first."""
    sweep, _, row = attempt.key.partition("-")[0].removeprefix("R").partition("x")
    value = random.Random(attempt.key).gauss(1.0, 0.01) - (0.1 if row == "1" and int(sweep) % 2 else 0.0)
    line = {"attempt": attempt.number, "step": 1, "metrics": {"val_loss": value}}
    (attempt.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    result = {"outcome": "done", "reason": "", "facts": {"samples": 1000, "exit_code": 0}}
    (attempt.folder / "result.json").write_text(json.dumps(result))


class Silent:
    """Looks on and says nothing."""

    def event(self, event: Event) -> None: ...
    def tick(self, tick: Tick) -> None: ...
    def stop_asked(self) -> Literal["", "stop", "kill"]:
        return ""


@dataclass(frozen=True)
class Measured:
    """One size."""

    jobs: int
    rows: int
    gpus: int
    unusable_gpus: int
    """Left over on nodes whose size is no multiple of the gang's."""
    makespan_h: float
    critical_path_h: float
    work_h: float
    """All work on the places there are, without a gap."""
    over_bound: float
    """Makespan over the longer of the two."""
    loop_s: float
    """Of processor time, in the loop, without the simulation."""
    us_per_job: float
    claim_us: float
    plan_us: float
    judge_us: float
    plans: int
    judged: int
    plan_s: float
    """Of planning the whole study once."""
    memory_mib: float
    """At its most, of the process."""
    database_mib: float
    evidence_mib: float
    """The files of the decisions, with their evidence."""
    files: int


@contextmanager
def timed(spent: Counter[str], calls: Counter[str], owner: Any, name: str) -> Iterator[None]:
    """Add up the time in a function while this is open; calls inside it count as its own."""
    real: Callable[..., Any] = getattr(owner, name)

    def measured(*given: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return real(*given, **named)
        finally:
            spent[name] += time.process_time() - began  # type: ignore[assignment]  # seconds
            calls[name] += 1

    setattr(owner, name, measured)
    try:
        yield
    finally:
        setattr(owner, name, real)


def simulate(folder: Path, jobs: int, gpus: int, gang: int, shape: Shape = Shape()) -> Measured:
    """One study from its first launch to its lock."""
    (folder / "runs.toml").write_text(study_text(jobs, gang, shape), encoding="utf-8")
    desk = open_desk(read_study(folder / "runs.toml"))
    cluster = Simulated(nodes_of(gpus))
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    began = time.process_time()
    with (
        timed(spent, calls, crew, "claim"),
        timed(spent, calls, Present, "_plan_anew"),
        timed(spent, calls, Judge, "decide_sweep"),
    ):
        outcome = launch(desk, Options(), Silent(), lambda *_: nullcontext(cluster))
    loop_s = time.process_time() - began - cluster.seconds
    assert outcome.exit_code == 0, outcome.waiting_for[:3]
    assert outcome.lock is not None
    return measured(desk, cluster, gang, loop_s, spent, calls)


def measured(desk: Desk, cluster: Simulated, gang: int, loop_s: float, spent: Counter[str], calls: Counter[str]) -> Measured:
    memory = memory_mib()  # before anything below adds to it
    began = time.process_time()
    plan = desk.plan()
    plan_s = time.process_time() - began
    started = len(cluster.starts)
    places = sum(size // gang for size in cluster.nodes)
    needs = needed_jobs(desk.study, plan)
    path_h = critical_path([Task(job.id, gang, hours(job.key or ""), needs[job.id]) for job in plan.jobs if job.state == "done"])[
        1
    ]
    work_h = cluster.busy / gang / places
    per_job = {name: spent[name] / started * 1e6 for name in ("claim", "_plan_anew", "decide_sweep")}
    return Measured(
        jobs=started,
        rows=len(desk.study.runs),
        gpus=sum(cluster.nodes),
        unusable_gpus=sum(size % gang for size in cluster.nodes),
        makespan_h=cluster.now,
        critical_path_h=path_h,
        work_h=work_h,
        over_bound=cluster.now / max(path_h, work_h),
        loop_s=loop_s,
        us_per_job=loop_s / started * 1e6,
        claim_us=per_job["claim"],
        plan_us=per_job["_plan_anew"],
        judge_us=per_job["decide_sweep"],
        plans=calls["_plan_anew"],
        judged=calls["decide_sweep"],
        plan_s=plan_s,
        memory_mib=memory,
        database_mib=sum(path.stat().st_size for path in Path(desk.store.path).parent.iterdir()) / 2**20,
        evidence_mib=sum(path.stat().st_size for path in desk.folders.decision_files()) / 2**20,
        files=sum(1 for path in desk.folders.base.rglob("*") if path.is_file()),
    )


@dataclass(frozen=True)
class Planned:
    """What the loop asks of the plan, at one size; processor time."""

    jobs: int
    """Planned, those counted in that may turn out to be needed."""
    attempts: int
    read_s: float
    plan_s: float
    present_s: float
    refresh_us: float
    memory_mib: float


def planner(folder: Path, jobs: int, gang: int) -> Planned:
    began = time.process_time()
    (folder / "runs.toml").write_text(study_text(jobs, gang, Shape()), encoding="utf-8")
    desk = open_desk(read_study(folder / "runs.toml"))
    read_s, began = time.process_time() - began, time.process_time()
    plan = desk.plan()
    plan_s = time.process_time() - began
    keyed = [(job, job.key) for job in plan.jobs if job.key]
    desk.store.take_over((JobRecord(key, job.run, job.seed, {}, gang, NOW), done(key, gang), ()) for job, key in keyed)
    began = time.process_time()
    present = Present(desk)
    present_s = time.process_time() - began
    refresh_s = 0.0
    for _, key in keyed[:CHANGED]:
        desk.store.update_facts(key, 1, {"seen": True})
        began = time.process_time()
        present.refresh()
        refresh_s += time.process_time() - began
    assert present.plans == 1
    return Planned(len(plan.jobs), len(keyed), read_s, plan_s, present_s, refresh_s / CHANGED * 1e6, memory_mib())


def done(key: str, gang: int) -> AttemptRecord:
    return AttemptRecord(key, 1, "done", NOW, NOW, gpus=gang, gpu_s=7200.0, code_hash="c0de", facts={"samples": 1000})


def memory_mib() -> float:
    """At its most, of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_size(asked: argparse.Namespace) -> Measured | Planned:
    with tempfile.TemporaryDirectory() as folder:
        if asked.planner:
            return planner(Path(folder), asked.jobs[0], asked.gang)
        return simulate(Path(folder), asked.jobs[0], asked.gpus, asked.gang)


def in_its_own_process(jobs: int, asked: argparse.Namespace) -> Any:
    """What it measured, as plain values."""
    words = ["--one", "--jobs", str(jobs), "--gpus", str(asked.gpus), "--gang", str(asked.gang)]
    words += ["--planner"] if asked.planner else []
    ended = subprocess.run([sys.executable, "-m", "benchmarks.scale", *words], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(ended.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, action="append", help="a size; give it more than once")
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument("--gang", type=int, default=2, help="GPUs per job")
    parser.add_argument("--planner", action="store_true", help="only what the loop asks of the plan")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        sys.stdout.write(json.dumps(asdict(one_size(asked))))
        return
    found = [in_its_own_process(size, asked) for size in asked.jobs or [500, 2000]]
    if asked.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    elif asked.planner:
        show_planned([Planned(**one) for one in found])
    else:
        show([Measured(**one) for one in found], asked.gang)


def show_planned(found: list[Planned]) -> None:
    table = Table(title="processor time")
    _columns(table, "planned jobs", "attempts", "read the file s", "plan s", "present s", "one change µs", "MiB")
    for one in found:
        seconds = (f"{value:.2f}" for value in (one.read_s, one.plan_s, one.present_s))
        table.add_row(f"{one.jobs:,}", f"{one.attempts:,}", *seconds, f"{one.refresh_us:,.0f}", f"{one.memory_mib:.0f}")
    Console().print(table)


def show(found: list[Measured], gang: int) -> None:
    first, console = found[0], Console()
    places = (first.gpus - first.unusable_gpus) // gang
    times = Table(
        title=f"{first.gpus:,} GPUs, {gang} per job: {places:,} places, {first.unusable_gpus} GPUs left over on odd nodes"
    )
    _columns(
        times,
        "jobs",
        "makespan h",
        "critical path h",
        "work h",
        "× bound",
        "loop s",
        "MiB",
        "database MiB",
        "evidence MiB",
        "files",
    )
    costs = Table(title="µs per job")
    _columns(costs, "jobs", "all", "claim", "plan", "judge", "plans", "judged", "one plan s", "× smallest")
    for one in found:
        hours_of = (f"{value:.2f}" for value in (one.makespan_h, one.critical_path_h, one.work_h, one.over_bound))
        sizes = (f"{value:.0f}" for value in (one.loop_s, one.memory_mib, one.database_mib))
        times.add_row(f"{one.jobs:,}", *hours_of, *sizes, f"{one.evidence_mib:.2f}", f"{one.files:,}")
        each = (f"{value:,.0f}" for value in (one.us_per_job, one.claim_us, one.plan_us, one.judge_us))
        costs.add_row(
            f"{one.jobs:,}",
            *each,
            str(one.plans),
            str(one.judged),
            f"{one.plan_s:.2f}",
            f"{one.us_per_job / first.us_per_job:.2f}",
        )
    console.print(times, costs)


def _columns(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right")


if __name__ == "__main__":
    main()

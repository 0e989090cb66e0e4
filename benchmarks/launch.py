"""What launching costs: GPU idle time between jobs, and the overhead of a job against doing it by hand.

    python -m benchmarks.launch [--jobs 8] [--json]

Idle: a study of equal jobs on 4 logical GPUs, 2 per job, so that two run side by side. A gap is the time from one job's
result.json to the start of the next job's ranks on the same GPUs; the trainer's own start-up is not in it. The share is that
gap against jobs of an hour.

Overhead: the same trainer, the same number of jobs one after the other, (a) started by hand as a subprocess, (b) as a plain
Ray task that starts the subprocess, (c) by `ablate launch`. Seconds per job; (b) and (c) share one Ray, whose start is in
neither.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import ray
from rich.console import Console
from rich.table import Table

from ablate.desk import Desk, open_desk
from ablate.folders import write_json
from ablate.launching.jobs import Cluster
from ablate.launching.launch import Event, Options, Tick, launch
from ablate.launching.provenance import trainer_command
from ablate.runs_toml import read_study

HOUR_S = 3600.0
REPOSITORY = Path(__file__).parent.parent
STUDY = """
[study]
name = "bench"
asks = "What does launching cost?"
baseline = "R0"
trainer = "examples.quick.train"
gpus_per_run = {gpus}
ranks_per_run = 1
hours_per_run = 0.001
usd_per_gpu_hour = 0.0
wandb = false
[settings]
model.units = 12
model.curved = true
model.rounded_inputs = false
model.freeze_hidden = false
model.freeze_bias = false
optim.lr = 0.01
optim.readout_ratio = 10.0
optim.momentum = 0.9
train.samples = 2_000
train.batch = 20
train.flops = "own"
train.save_every = 100
data.mix = {{ waves = 0.6, steps = 0.4 }}
data.repeat_steps = 1
faults.crash_at_step = 0
faults.crash_attempts = 1
faults.seconds = 0.0
[runs]
R0 = {{}}
[seeds]
every = {seeds}
[metrics]
val_loss = {{ better = "lower", margin = 0.02, noise = 0.004, unit = "squared height" }}
"""


class Silent:
    """Looks on and says nothing."""

    def event(self, event: Event) -> None: ...
    def tick(self, tick: Tick) -> None: ...
    def stop_asked(self) -> Literal["", "stop", "kill"]:
        return ""


def study(folder: Path, jobs: int, gpus: int) -> Desk:
    folder.mkdir()
    (folder / "runs.toml").write_text(STUDY.format(gpus=gpus, seeds=list(range(jobs))))
    return open_desk(read_study(folder / "runs.toml"))


def gaps_s(desk: Desk, side_by_side: int) -> list[float]:
    """Seconds from a job's result to the start of the next job's ranks in its place."""
    spans = []
    for path in desk.folders.base.glob("*/*/gang.json"):
        spans.append((json.loads(path.read_text())["started_at"], (path.parent / "result.json").stat().st_mtime))
    spans.sort()
    free = sorted(end for _, end in spans)
    return [start - end for (start, _), end in zip(spans[side_by_side:], free, strict=False)]


def by_hand_s(desk: Desk, jobs: int, folder: Path, start: Any) -> float:
    """Seconds per job when `start` runs the trainer's command line, one after the other."""
    key = next(iter(desk.store.attempts()))
    config = json.loads(desk.folders.config(key, 1).read_text())
    began = time.monotonic()
    for seed in range(jobs):
        attempt = folder / str(seed)
        attempt.mkdir(parents=True)
        write_json(attempt / "config.json", {**config, "seed": seed, "attempt": 1})
        start(trainer_command(desk.study, attempt))
    return (time.monotonic() - began) / jobs


def measure(jobs: int) -> dict[str, Any]:
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    with tempfile.TemporaryDirectory() as temporary, Cluster.connect(gpus=4) as cluster:
        folder = Path(temporary)
        pair = study(folder / "pair", jobs, gpus=2)
        launch(pair, Options(), Silent(), lambda *_: nullcontext(cluster))
        gaps = gaps_s(pair, side_by_side=2)
        single = study(folder / "single", jobs, gpus=4)
        began = time.monotonic()
        launch(single, Options(), Silent(), lambda *_: nullcontext(cluster))
        ours = (time.monotonic() - began) / jobs

        def run(command: tuple[str, ...]) -> None:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        task = ray.remote(num_cpus=0, num_gpus=4)(run)
        hand = by_hand_s(single, jobs, folder / "hand", run)
        plain = by_hand_s(single, jobs, folder / "task", lambda command: ray.get(task.remote(command)))
    return {
        "jobs": jobs,
        "gap_s": {"median": median(gaps), "mean": fmean(gaps), "max": max(gaps)},
        "idle_share_of_hour_long_jobs": fmean(gaps) / (fmean(gaps) + HOUR_S),
        "seconds_per_job": {"by hand": hand, "plain Ray task": plain, "ablate launch": ours},
        "overhead_s": {"over by hand": ours - hand, "over a plain Ray task": ours - plain},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.jobs)
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    console = Console()
    table = Table(title=f"{found['jobs']} jobs, one after the other", title_justify="left")
    for name in ("way", "s per job", "× by hand"):
        table.add_column(name, justify="left" if name == "way" else "right")
    hand = found["seconds_per_job"]["by hand"]
    for way, seconds in found["seconds_per_job"].items():
        table.add_row(way, f"{seconds:.2f}", f"{seconds / hand:.2f}")
    console.print(table)
    gap, share = found["gap_s"], found["idle_share_of_hour_long_jobs"]
    spread = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in gap.items())
    console.print(f"gap between jobs on the same GPUs: {spread} (target ≤ 5 s)")
    console.print(f"GPU idle share of hour-long jobs: {share:.3%} (target ≤ 1 %)")


if __name__ == "__main__":
    main()

"""Where the time of a run's steps goes, operation by operation: `python -m trainer.trace FOLDER [--steps 5]`.

FOLDER: of an attempt, with its config.json; nothing of the run itself is touched. Takes a few steps from fresh weights and writes
FOLDER/trace/trace.json (for chrome://tracing or Perfetto; phases as in phases.py) and FOLDER/trace/table.txt, which is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from trainer.config import ConfigError
from trainer.data.open import open_data
from trainer.data.shards import DataError
from trainer.feed import Feed
from trainer.job import Job, read_job
from trainer.micro_batch import micro_batch
from trainer.model.load import build_model, find_weights
from trainer.optim import build_optimizer
from trainer.phases import each, phase, watching
from trainer.ranks import Ranks, start_ranks, stop_ranks
from trainer.step import Clock, accumulate, plan_step, update

WARM_UP = 2
"""Steps before the traced ones."""


def trace(job: Job, ranks: Ranks, steps: int) -> str:
    """Trace `steps` steps of the job, all ranks together; the table of the costliest operations."""
    data = open_data(job.config, job.seed, job.cache)
    model = build_model(job.config.model, job.cache, job.seed).to(ranks.device)
    optimizer = build_optimizer(model.parts(), model, job.config.optim)
    micro = micro_batch(model, optimizer, data, job.config, ranks)
    wrapped = ranks.wrap(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    plans = [plan_step(data.train.global_batch(step), step, job.config, ranks, micro) for step in range(WARM_UP + steps)]
    pinned = ranks.device.type == "cuda"
    batches = data.train.loaded([rows for plan in plans for rows in plan.micro], job.config.data.workers, pinned)
    feed = Feed(batches, model.connector.tokens_per_frame, ranks.device)

    def run(some: slice) -> None:
        for plan in each("step", plans[some]):
            totals = accumulate(wrapped, model, feed, plan, job.config, ranks, Clock()).over(ranks)
            with phase("optimizer"):
                update(totals, optimizer, trainable, job.config, ranks)

    run(slice(0, WARM_UP))
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if ranks.device.type == "cuda" else [])
    with watching(labels=True), profile(activities=activities, acc_events=True) as seen:
        run(slice(WARM_UP, None))
    told: str = seen.key_averages().table(sort_by=f"self_{ranks.device.type}_time_total", row_limit=40)
    if ranks.first:
        folder = job.folder / "trace"
        folder.mkdir(exist_ok=True)
        seen.export_chrome_trace(str(folder / "trace.json"))
        (folder / "table.txt").write_text(told, encoding="utf-8")
    return told


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer.trace", description=__doc__)
    parser.add_argument("folder", type=Path, help="of an attempt, with its config.json")
    parser.add_argument("--steps", type=int, default=5)
    asked = parser.parse_args(arguments)
    if asked.steps < 1:
        parser.error(f"--steps {asked.steps}: there is nothing to trace; at least 1")
    try:
        job = read_job(asked.folder)
        find_weights([its.model for its in (job.config, *job.references.values())], job.cache)
        ranks = start_ranks()
        told = trace(job, ranks, asked.steps)
    except (ConfigError, DataError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    if ranks.first:
        print(told)
    stop_ranks(ranks)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

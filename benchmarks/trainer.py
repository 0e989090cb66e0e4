"""How fast the trainer is: where a step's time goes, and how far that is from the limit.

    python -m benchmarks.trainer [--seconds 20] [--json]

The split runs the real loop (`trainer.train`) at tiny shapes with cached frames; the model's own time is told by the phases that
its code names (`trainer/phases.py`). On a CPU all times are processor time of one thread: a busy machine does not change them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from trainer.data.frames import RELAY, Frames
from trainer.data.open import open_data
from trainer.data.prepare import prepare_small
from trainer.job import Job, read_job
from trainer.phases import watching
from trainer.ranks import start_ranks
from trainer.train import StopSignal, train

PHASES = ("data", "encode", "queries", "lm", "loss", "forward, rest", "backward", "optimizer", "sync", "logging", "other")
AROUND = ("data", "sync", "logging", "other")
"""What is neither forward nor backward nor optimiser; other: the loop itself, its plans, rates and counters."""
MOST_OVERHEAD = 0.05
"""Share of a step outside forward, backward and optimiser."""
BATCH = 24
Settings = dict[str, dict[str, Any]]
TINY: Settings = {
    "model": {"vision": "tiny/dino-untrained", "language": "tiny/llama-untrained"},
    "optim": {"lr": 5e-4},
    "train": {"batch_samples": BATCH, "micro_batch_samples": BATCH, "precision": "float32"},
    "data": {"mix": {"video": 0.60, "image": 0.26, "text": 0.14}, "workers": 0, "repeat": True},
    "eval": {"set": "val_tiny", "every_samples": 10**9},
}
"""The tiny profile of runs.toml, without pretrained backbones: no number here depends on them."""


@dataclass(frozen=True)
class Split:
    """A step of the real loop, in milliseconds of processor time by phase."""

    steps: int
    samples_per_s: float
    step_ms: float
    phases_ms: Mapping[str, float]

    @property
    def overhead(self) -> float:
        """The share of a step outside forward, backward and optimiser."""
        return sum(self.phases_ms[name] for name in AROUND) / self.step_ms


def split(folder: Path, steps: int) -> Split:
    """Run the loop for `steps` steps on small data made in `folder`."""
    prepare_small(folder / "data", folder / "files")
    job = new_job(folder, "split", {"train.samples": steps * BATCH})
    data = open_data(job.config, job.seed, job.cache)
    decode_all(folder / "data" / "shards", folder / "files")
    with watching(clock=time.process_time) as watch, contextlib.redirect_stdout(io.StringIO()):
        train(job, data, start_ranks(), StopSignal())
    named = {"step": "other", "forward": "forward, rest"}
    spent: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    for path, seconds in watch.seconds.items():
        if path.split("/")[0] == "step" and "evaluate" not in path:
            spent[named.get(last := path.split("/")[-1], last)] += 1000 * seconds / steps
    whole = sum(spent.values())
    return Split(steps, 1000 * BATCH / whole, whole, spent)


def decode_all(shards: Path, cache: Path) -> None:
    frames = Frames(shards, RELAY.size, cache)
    for shard in sorted(shards.glob("*.tar")):
        frames.prepare(shard.name)


def new_job(folder: Path, name: str, changes: Mapping[str, Any]) -> Job:
    settings: Settings = {part: dict(values) for part, values in TINY.items()}
    settings["data"]["root"] = str(folder / "data")
    for setting, value in changes.items():
        part, field = setting.split(".")
        settings[part][field] = value
    attempt = folder / name
    attempt.mkdir()
    said = {"job": name, "run": name, "seed": 42, "attempt": 1, "settings": settings, "files": str(folder / "files")}
    (attempt / "config.json").write_text(json.dumps(said))
    return read_job(attempt)


def split_table(measured: Split) -> Table:
    table = Table(title=f"A step of the loop, F3 at tiny shapes, {measured.steps} steps: {measured.samples_per_s:.0f} samples/s")
    for column in ("phase", "ms", "share"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for name, ms in measured.phases_ms.items():
        table.add_row(name, f"{ms:.2f}", f"{ms / measured.step_ms:.1%}")
    verdict = "ok" if measured.overhead < MOST_OVERHEAD else f"above {MOST_OVERHEAD:.0%}"
    table.add_section()
    table.add_row("step", f"{measured.step_ms:.2f}", "100%")
    table.add_row("outside forward, backward, optimizer", "", f"{measured.overhead:.1%} ({verdict})")
    return table


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainer", description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="of the loop")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measured = split(Path(folder), asked.steps)
    if asked.json:
        print(json.dumps({"split": asdict(measured) | {"overhead": measured.overhead}}))
    else:
        Console().print(split_table(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A small study with a whole history, written through the store and in the trainer's formats, for whoever reads one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from ablate import evidence
from ablate.desk import Desk, open_desk
from ablate.planning.plan import PlannedJob
from ablate.runs_toml import read_study
from db.records import JobRecord, Point

NOW = "2026-11-22T12:00:00Z"

STUDY = """
[study]
name             = "small"
asks             = "Which recipe?"
baseline         = "F3"
trainer          = { command = "true", metrics = { file = "log.jsonl" } }
gpus_per_run     = 1
hours_per_run    = 0.1
usd_per_gpu_hour = 1.0

[settings]
model.deep_query       = true
model.coarse_only      = false
model.encoder          = "foveated"
model.tokens_per_frame = 1
model.freeze_dino      = false
model.freeze_llm       = false
optim.lr               = 1e-5
optim.connector_ratio  = 10.0

[runs]
F3  = {}
F1  = { model.freeze_dino = true, model.freeze_llm = true }
F2  = { model.freeze_llm = true }
LR1 = "F3"
LR2 = { optim.connector_ratio = 100.0 }
A1  = { model.deep_query = false }
A6  = { model.coarse_only = true }
B1  = { model.encoder = "multi_token", model.tokens_per_frame = 16 }

[seeds]
every = [42]
extra = { F1 = [43, 44], F2 = [43, 44], F3 = [43, 44] }

[evidence]
wrong_adoptions = 0.05

[metrics]
val_loss = { better = "lower", margin = 0.05, noise = 0.02, unit = "nats per token" }

[sweep1]
asks    = "How much should we freeze?"
compare = ["F1", "F2", "F3"]
on      = "val_loss"
decide.freeze = [
  ["F1 no worse than F3", "F1", "frozen backbones are as good"],
  ["F3 better than F1",   "F3", "full unfreeze is justified"],
  ["otherwise",           "F3", "not shown either way"],
]

[sweep2]
asks    = "Which learning rates?"
compare = ["LR1", "LR2"]
on      = "val_loss"
decide.lr = [
  ["LR2 better than LR1", "LR2", "another ratio beats 10:1"],
  ["otherwise",           "LR1", "10:1 stays"],
]

[sweep3]
asks    = "Are deep query and two passes both essential?"
compare = ["F3", "A1", "A6"]
on      = "val_loss"
learn = [
  ["A6 worse than F3", "two passes beat one"],
  ["A1 worse than F3", "deep query is essential"],
]

[blocks]
1 = ["F1", "F2", "F3"]
2 = ["LR2", "A1", "A6", "B1"]

[lock]
after = 2

[figures]
"Fig 1: foveated vs alternatives" = ["F3", "A6", "A1", "B1"]
"Fig 2: loss_fine < loss_coarse"  = ["F3"]
"Fig 3: token efficiency"         = ["F3", "B1"]
"Fig 4: attention heatmaps"       = ["F3"]
"Fig 5: freeze strategy"          = ["F1", "F2", "F3"]
"Fig 6: attention entropy"        = ["F3", "F1", "A1"]
"""

FINAL = {"F3": 1.00, "F1": 1.30, "F2": 1.10, "LR2": 1.02, "A1": 1.25, "A6": 1.28, "B1": 1.15}
"""val_loss that each run ends at."""
SEED_SHIFT = {"F3": (0.0, 0.015, -0.015), "F1": (0.01, -0.02, 0.01), "F2": (-0.01, 0.02, -0.01)}
"""What seeds 42, 43 and 44 add to it."""
STEPS, EVAL_EVERY, BATCH = 40, 10, 24


def small_desk(folder: Path) -> Desk:
    """The study's file in `folder`, and an empty database beside it."""
    path = folder / "runs.toml"
    path.write_text(STUDY)
    return open_desk(read_study(path))


def written_desk(folder: Path, without: tuple[str, ...] = ()) -> Desk:
    """The study when all its jobs but those of `without` have ended and what could be decided and locked was."""
    desk = small_desk(folder)
    for job in desk.plan().jobs:
        if job.run not in without:
            write_job(desk, job)
    evidence.decide(desk, NOW)
    evidence.lock(desk, NOW)
    return desk


def write_job(desk: Desk, job: PlannedJob, ends: bool = True) -> str:
    """One attempt of a job: rows in the database, evaluation files in its folder. Returns its key."""
    assert job.key is not None
    assert job.settings is not None
    desk.store.save_job(JobRecord(job.key, job.run, job.seed, job.settings, 1, NOW))
    number = desk.store.claim(job.key, started_at=NOW, host="here", gpus=1, code_hash="c0de")
    assert number is not None
    points = [
        Point(job.key, number, step, name, value)
        for step in range(STEPS + 1)
        for name, value in _metrics(job.run, job.seed, step).items()
    ]
    desk.store.add_points(job.key, number, points, offset=0)
    _write_evaluation(desk.folders.attempt(job.key, number), job.run, number)
    tokens = 16 if job.run == "B1" else 1
    facts = {"flops_per_sample": 1e9 * tokens, "flops": 1e9 * BATCH * STEPS, "tokens_per_frame": tokens, "samples": BATCH * STEPS}
    if ends:
        desk.store.end_attempt(job.key, number, "done", "", NOW, 60.0, facts)
    return job.key


def _metrics(run: str, seed: int, step: int) -> dict[str, float]:
    loss = FINAL[run] + (SEED_SHIFT[run][seed - 42] if run in SEED_SHIFT else 0.0) + 2.0 * math.exp(-step / 5)
    rate = 1e-4 * math.sin(math.pi * step / STEPS)
    metrics = {"loss": loss, "samples": float(step * BATCH), "lr/connector": rate, "grad_norm": 1.0}
    if step % EVAL_EVERY == 0:
        metrics |= {"val_loss": loss, "attention_entropy": 2.5 - step / 40}
        if run != "B1":
            metrics |= {"loss_fine": loss, "loss_coarse": loss + 0.1, "loss_ratio": loss / (loss + 0.1)}
    return metrics


def _write_evaluation(folder: Path, run: str, seed: int) -> None:
    """eval/STEP.parquet and eval/STEP_attention.safetensors as `python -m trainer.train` leaves them."""
    (folder / "eval").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"run": run}))
    random = np.random.default_rng(seed)
    kinds = pd.Categorical(["video"] * 4 + ["image"] * 2)
    losses = pd.DataFrame({"row": range(6), "kind": kinds, "loss": random.random(6), "tokens": [5] * 6})
    losses.to_parquet(folder / "eval" / f"{STEPS:08d}.parquet")
    if run == "B1":
        return
    maps = {}
    for row in (0, 1, 2):
        for passes in ("coarse",) if run == "A6" else ("coarse", "fine"):
            looks = random.random((3, 4, 6, 17), dtype=np.float32)  # layers, heads, frames, CLS + 4x4 patches
            maps[f"{row}/{passes}"] = looks / looks.sum(-1, keepdims=True)
    save_file(maps, folder / "eval" / f"{STEPS:08d}_attention.safetensors")

"""A small study to type commands on: two questions, a lock, a trainer that ends at once; and what its runs would score."""

from __future__ import annotations

import math

from ablate.clock import utc_now
from ablate.desk import Desk
from ablate.planning.plan import PlannedJob
from db.records import JobRecord, Point

NOW = "2026-11-22T12:00:00Z"

STUDY = """
[study]
name             = "small"
asks             = "Which recipe?"
baseline         = "F3"
trainer          = { command = "{python} train.py {folder}", metrics = { file = "log.jsonl" } }
gpus_per_run     = 2
hours_per_run    = 0.5
usd_per_gpu_hour = 2.0

[settings]
model.frozen = false
optim.lr     = 0.01
optim.ratio  = 10.0

[runs]
F3  = {}
F1  = { model.frozen = true }
LR1 = "F3"
LR2 = { optim.ratio = 100.0 }
D1  = { from = ["freeze", "lr"], optim.lr = 0.02 }

[seeds]
every = [42, 43, 44]

[metrics]
val_loss = { better = "lower", margin = 0.05, noise = 0.02, unit = "nats" }

[sweep1]
asks    = "How much should we freeze?"
compare = ["F1", "F3"]
on      = "val_loss"
decide.freeze = [
  ["F1 no worse than F3", "F1", "frozen is as good and cheaper"],
  ["F3 better than F1",   "F3", "full unfreeze is justified"],
  ["otherwise",           "F3", "not shown either way"],
]

[sweep2]
asks    = "Which ratio?"
compare = ["LR1", "LR2"]
on      = "val_loss"
skip    = { if = "freeze took F1", because = "only the connector learns" }
decide.lr = [
  ["LR2 better than LR1", "LR2", "another ratio beats 10:1"],
  ["otherwise",           "LR1", "10:1 stays"],
]
learn = [
  ["LR2 worse than LR1", "100:1 is too much"],
  ["LR2 diverged",       "100:1 blows up"],
]

[blocks]
1 = ["F3", "F1"]
2 = ["LR2", "D1"]

[lock]
after = 2

[profile.tiny]
study.hours_per_run = 0.1
"""

TRAINER = """
import json, pathlib, sys
with (pathlib.Path(sys.argv[1]) / "log.jsonl").open("w") as log:
    for step in range(1, 4):
        log.write(json.dumps({"step": step, "val_loss": 1 / step}) + "\\n")
print("trained")
"""

FINAL = {"F3": 1.0, "F1": 1.3, "LR2": 1.2, "D1": 0.9}
OFF = {42: 0.0, 43: 0.01, 44: -0.01}
"""Seed -> how far it is off its run's score."""


def write(desk: Desk, *runs: str, state: str = "done", last: float = math.nan) -> None:
    """One attempt of each job of these runs, ended like this (or "running")."""
    for job in desk.plan().jobs:
        if job.run in runs:
            write_job(desk, job, state, last)


def write_job(desk: Desk, job: PlannedJob, state: str, last: float = math.nan) -> None:
    assert job.key is not None
    assert job.settings is not None
    desk.store.save_job(JobRecord(job.key, job.run, job.seed, job.settings, 2, NOW))
    number = desk.store.claim(job.key, started_at=utc_now(), host="here", gpus=2, code_hash="")
    assert number is not None
    final = (FINAL[job.run] if math.isnan(last) else last) + OFF[job.seed]
    points = [Point(job.key, number, step, "val_loss", final + 1 / step) for step in (1, 10, 100)]
    points += [
        Point(job.key, number, 1000, name, value)
        for name, value in {"val_loss": final, "progress": 0.25, "samples": 960.0}.items()
    ]
    desk.store.add_points(job.key, number, points, 0)
    if state != "running":
        reason = "Traceback …\nRuntimeError: no space left" if state == "failed" else ""
        desk.store.end_attempt(job.key, number, state, reason, NOW, 3600.0, {"samples": 960})  # type: ignore[arg-type]  # states as words

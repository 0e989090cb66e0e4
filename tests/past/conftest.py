"""A small study without results, and a file of past ones to bring into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from ablate.answers import Answer
from ablate.desk import Desk, open_desk
from ablate.past.importing import Options, bring_in
from ablate.runs_toml import read_study

STUDY = """
[study]
name             = "small"
asks             = "Which recipe?"
baseline         = "F3"
trainer          = { command = "{python} train.py {folder}", metrics = { file = "log.jsonl" } }
gpus_per_run     = 1
hours_per_run    = 0.1
usd_per_gpu_hour = 1.0
wandb            = false

[settings]
model.frozen = false
optim.lr     = 0.01

[runs]
F3  = {}
F1  = { model.frozen = true }
LR1 = "F3"
LR2 = { optim.lr = 0.1 }
D1  = { from = "freeze", optim.lr = 0.02 }

[seeds]
every = [42, 43, 44]

[metrics]
val_loss  = { better = "lower",  margin = 0.05, unit = "nats" }
image_vqa = { better = "higher", margin = 0.02 }

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
asks    = "Which rate?"
compare = ["F3", "LR2"]
on      = "val_loss"
learn   = [["LR2 worse than F3", "the rate is too high"]]

[blocks]
1 = ["F3", "F1"]
2 = ["D1"]

[lock]
after = 2
"""

TRAINER = """
import json, pathlib, sys
with (pathlib.Path(sys.argv[1]) / "log.jsonl").open("w") as log:
    for step in range(1, 4):
        log.write(json.dumps({"step": step, "val_loss": 1 / step}) + "\\n")
"""

FINAL = {"F3": 1.0, "F1": 1.3, "LR2": 1.2, "D1": 0.9}
OFF = {42: 0.0, 43: 0.01, 44: -0.01}


def rows(runs: Iterable[str] = ("F3", "F1", "LR2"), seeds: Iterable[int] = (42, 43, 44)) -> list[str]:
    """Wide rows: run, seed, step, val_loss."""
    wanted = tuple(seeds)
    return [
        f"{run},{seed},{step},{FINAL[run] + OFF[seed] + 1 / step:.6f}" for run in runs for seed in wanted for step in (10, 1000)
    ]


Write = Callable[..., Path]
Bring = Callable[..., Answer]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    (tmp_path / "runs.toml").write_text(STUDY)
    (tmp_path / "train.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    return open_desk(read_study(tmp_path / "runs.toml"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines as past.csv (or another name)."""

    def written(*lines: str, header: str = "run,seed,step,val_loss", name: str = "past.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join((header, *lines)) + "\n")
        return path.relative_to(tmp_path)

    return written


@pytest.fixture
def bring(desk: Desk) -> Bring:
    """Imports a file: `bring(path, columns=[...], names=[...])`."""
    return lambda path, **options: bring_in(desk, path, Options(**options))


def finals(desk: Desk, metric: str = "val_loss") -> dict[str, float]:
    """ "F3-s42" -> its last value."""
    values = desk.store.final_values(None, {metric: 1})
    return {key.rpartition("-")[0]: found[metric] for key, found in values.items() if metric in found}

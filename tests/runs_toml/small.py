"""A small study that says a little of everything, and how a test reads one."""

from __future__ import annotations

from pathlib import Path

from ablate.runs_toml import read_study
from ablate.study import Study

SMALL = """\
[study]
name          = "small"
baseline      = "F3"
trainer       = "trainer.train"
config        = "trainer.config:TrainConfig"
gpus_per_run  = 2
hours_per_run = 1.0

[settings]
model.deep_query = true
data.mix         = { video = 0.6, image = 0.4 }

[runs]
F3  = {}
F1  = { model.freeze_dino = true }
LR1 = "F3"
LR2 = { optim.connector_ratio = 100 }
B1  = { model.encoder = "multi_token", model.tokens_per_frame = 16, train.flops = "as F3" }
A8  = { from = "images", data.replicate_image_frames = 16 }
D1  = { from = ["freeze"], data.mix = { video = 1.0 } }

[start.images]
data.mix = { image = 1.0 }

[seeds]
every = [42]
extra = { F1 = [43] }

[metrics]
val_loss = { better = "lower", margin = 0.01, noise = 0.005 }
vqa      = { better = "higher", margin = 0.01 }

[sweep1]
compare = ["F1", "F3"]
on      = "val_loss"
decide.freeze = [
  ["F1 no worse than F3", "F1", "as good"],
  ["otherwise",           "F3", "not shown"],
]

[sweep2]
compare = ["LR1", "LR2"]
skip    = { if = "freeze took F1", because = "only the connector is left" }
learn = [
  ["LR2 better than LR1 on val_loss", "higher is better"],
]

[sweep3]
decide.mix = [
  ["D1 better than its start on val_loss", "D1",        "pays"],
  ["otherwise",                            "its start", "stays"],
]

[blocks]
1 = ["F1", "F3"]
2 = ["LR2", "D1"]

[lock]
after = 2

[figures]
one = ["F3", "F1"]

[not_swept]
visual_scale = "second order"

[profile.tiny]
settings.train.samples = 100
runs.F1.model.freeze_llm = true

[profile.smoke]
like = "tiny"
seeds.extra = {}
"""


def read(folder: Path, text: str, profile: str = "") -> Study:
    path = folder / "runs.toml"
    path.write_text(text, encoding="utf-8")
    return read_study(path, profile)

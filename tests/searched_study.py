"""A study whose rows are tuned, and its trainer: a script without torch whose best setting is known, x = 30."""
# ruff: noqa: E501 (a command line stands on one line)

from __future__ import annotations

from pathlib import Path

BOWL = """\
import argparse, math, random, time

parser = argparse.ArgumentParser()
for name in ("bowl.x", "bowl.evals", "bowl.pause", "bowl.steep", "seed"):
    parser.add_argument(f"--{name}", type=float)
said = vars(parser.parse_args())
noise = random.Random(int(said["seed"])).gauss(0, 0.001)
floor = said["bowl.steep"] * math.log10(said["bowl.x"] / 30) ** 2 + noise
for at in range(1, int(said["bowl.evals"]) + 1):
    time.sleep(said["bowl.pause"])
    print(f"step {10 * at}: val_loss {floor + 0.5 / at}", flush=True)
"""

TOML = """\
[study]
name          = "bowls"
baseline      = "plain"
trainer       = { command = "{python} bowl.py {--key=value} --seed={seed}", metrics = { stdout = 'step (?P<step>\\d+): val_loss (?P<val_loss>\\S+)' } }
gpus_per_run  = 1
hours_per_run = 0.01
wandb         = false

[settings]
bowl.x     = 2.0
bowl.evals = 4
bowl.pause = 0.0
bowl.steep = 1.0

[runs]
plain = {}
tuned = { search = { bowl.x = { log = [1, 300] } } }
steep = { bowl.steep = 2.0, search = { bowl.x = { log = [1, 300] } } }

[search]
trials = 6
short  = { bowl.evals = 2 }

[seeds]
every = [42, 43, 44]

[metrics]
val_loss = { better = "lower", margin = 0.02, noise = 0.001 }

[sweep1]
asks = "Does tuning pay?"
on   = "val_loss"
decide.x = [
  ["tuned better than plain", "tuned", "tuning pays"],
  ["otherwise",               "plain", "it does not"],
]

[sweep2]
asks  = "Is a steep bowl worse, when both are tuned?"
on    = "val_loss"
learn = [["steep worse than tuned", "it is"]]

[blocks]
1 = ["plain", "tuned", "steep"]

[lock]
after = 1
"""


def write(folder: Path, text: str = TOML) -> Path:
    """The study's file in `folder`, its trainer beside it."""
    (folder / "bowl.py").write_text(BOWL)
    (folder / "runs.toml").write_text(text)
    return folder / "runs.toml"

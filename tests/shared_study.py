"""A study whose rows may come out as the same config: `keep` is what x took, the start of `more` is what another row trains."""

from __future__ import annotations

STUDY = """
[study]
name             = "shared"
asks             = "?"
baseline         = "base"
trainer          = { command = "true {seed}", metrics = { file = "log.jsonl" } }
gpus_per_run     = 1
hours_per_run    = 1.0
usd_per_gpu_hour = 2.0

[settings]
m.x = 1.0
m.z = 0.0
m.w = 0.0

[runs]
base = {}
b    = { m.x = 2.0 }
keep = { from = "x" }
quad = { from = "x", m.z = 1.0 }
more = { from = ["x", "z"], m.w = 1.0 }
less = { from = ["x", "z"], m.w = -1.0 }

[seeds]
every = [1, 2, 3]

[metrics]
val_loss = { better = "lower", margin = 0.1, noise = 0.1, unit = "u" }

[sweep1]
asks    = "b?"
compare = ["base", "b"]
on      = "val_loss"
decide.x = [
  ["b better than base", "b",    "yes"],
  ["otherwise",          "base", "no"],
]

[sweep2]
asks = "z?"
on   = "val_loss"
decide.z = [
  ["quad better than keep", "quad", "yes"],
  ["otherwise",             "keep", "no"],
]

[sweep3]
asks = "w?"
on   = "val_loss"
decide.w = [
  ["more better than its start", "more",      "yes"],
  ["less better than its start", "less",      "yes"],
  ["otherwise",                  "its start", "no"],
]

[blocks]
1 = ["base", "b"]
2 = ["keep", "quad"]
3 = ["more", "less"]

[lock]
after = 3
"""

LOSS = {"base": 1.0, "b": 1.02, "quad": 0.5, "more": 0.49, "less": 0.51}
"""What a run scores; x takes base, z takes quad, w its start. `keep` has jobs of its own where x took b, and scores like it."""

"""[metrics]: the numbers that runs are judged by, and what rows are expected to do to them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal

from ablate.conditions import RESERVED, listed
from ablate.measured import Pattern
from ablate.runs_toml.file import File, by_name, is_number
from ablate.runs_toml.positions import Node
from ablate.runs_toml.rows import Rows
from ablate.settings import Setting, as_toml
from ablate.study import Metric, Trainer

KEYS = by_name(
    Setting("better", Literal["lower", "higher"]),
    Setting("margin", float, above=0.0),
    Setting("noise", float | None, None, above=0.0),
    Setting("unit", str, ""),
    Setting("last", int, 1, least=1),
)


def read_metrics(file: File) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for name, node in file.section("metrics").keys.items():
        if not re.fullmatch(r"[^\s,]+", name) or name in RESERVED:
            raise file.wrong(node, f"{as_toml(name)} cannot name a metric: no spaces, commas, or words of the conditions")
        metrics[name] = Metric(name, **file.filled(node, KEYS, f"metrics.{name}"), line=file.line(node))
    return metrics


def check_measured(file: File, trainer: Trainer, metrics: Collection[str]) -> None:
    """Each is read by a group of the pattern, where the output is what is read: else no run would ever have it."""
    read = Pattern(trainer.stdout).metrics if trainer.stdout else ()
    for name in metrics:
        if read and name not in read:
            group = name.replace("/", "__")
            fix = f"write (?P<{group}>\\S+) where it is printed" if group.isidentifier() else "rename it: no group is called so"
            raise file.wrong(
                file.section("metrics").keys[name],
                f"metric {name} is not read: study.trainer.metrics.stdout has groups for {listed(read)}; {fix}, or take it out",
            )


def with_expected(file: File, rows: Rows, baseline: str, metrics: Collection[str]) -> Rows:
    """Rows with what their authors believe in: `expects = { val_loss = -0.05 }`, or "no worse"."""
    runs = dict(rows.runs)
    for run, node in rows.expects.items():
        if run == baseline:
            raise file.wrong(node, f"{run} is the baseline: it has no start that it could be expected to differ from")
        runs[run] = replace(runs[run], expects=_expected(file, run, node, metrics))
    return replace(rows, runs=runs)


def _expected(file: File, run: str, node: Node, metrics: Collection[str]) -> Mapping[str, float | Literal["no worse"]]:
    found: dict[str, float | Literal["no worse"]] = {}
    for name, child in file.table(node, "`expects`").items():
        file.known(child, name, metrics, "metric")
        size = child.value
        if size == "no worse":
            found[name] = "no worse"
        elif is_number(size) and math.isfinite(size):
            found[name] = float(size)
        else:
            raise file.wrong(child, f'what {run} is expected to shift {name} by is a number, or "no worse"; not {as_toml(size)}')
    return found

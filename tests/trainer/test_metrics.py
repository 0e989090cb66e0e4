"""Metrics have names that are known, and lines that can be read while they are written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from trainer.metrics import METRICS, MetricsWriter


def test_lines_are_there_as_soon_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path, attempt=2) as writer:
        writer.write(7, {"loss": math.nan, "progress": 0.5})
        line = json.loads(path.read_text())
    assert (line["attempt"], line["step"], line["metrics"]["progress"]) == (2, 7, 0.5)
    assert math.isnan(line["metrics"]["loss"])


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl", 1) as writer, pytest.raises(KeyError, match="not in METRICS: los"):
        writer.write(1, {"los": 1.0})


def test_ranks_that_measure_along_write_nothing(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl", 1, on=False) as writer:
        writer.write(1, {"loss": 1.0})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_every_metric_has_a_direction_and_a_meaning() -> None:
    assert all(metric.says and metric.better in ("lower", "higher", "neither") for metric in METRICS.values())
    assert (METRICS["val_loss/video"].better, METRICS["image_vqa"].better) == ("lower", "higher")

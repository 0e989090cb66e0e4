"""Every metric a run writes: name, unit, direction, meaning; and the writer of metrics.jsonl. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

KINDS = ("video", "image", "text")
"""Kinds of samples; "val_loss/video" is val_loss over those samples alone."""


@dataclass(frozen=True)
class Metric:
    name: str
    unit: str
    better: Literal["lower", "higher", "neither"]
    says: str


_STEP = (
    Metric("loss", "nats per token", "lower", "training loss of the step's global batch, per supervised token"),
    Metric("grad_norm", "", "neither", "global gradient norm before clipping"),
    Metric("lr/connector", "", "neither", "learning rate of all that is added between the backbones"),
    Metric("lr/dino", "", "neither", "learning rate of the vision backbone"),
    Metric("lr/llm", "", "neither", "learning rate of the language model"),
    Metric("samples", "samples", "neither", "samples seen, over all ranks"),
    Metric("samples_per_s", "samples/s", "higher", "over all ranks, evaluation left out"),
    Metric("tokens_per_s", "tokens/s", "higher", "visual and text tokens without padding, over all ranks"),
    Metric("memory_gib", "GiB", "lower", "peak memory of a rank: the GPU's, or the process's on a CPU"),
    Metric("progress", "", "neither", "share of the run that is done, 0 to 1"),
)
_EVAL = (
    Metric("val_loss", "nats per token", "lower", "mean over validation samples of each sample's mean loss per supervised token"),
    *(Metric(f"val_loss/{kind}", "nats per token", "lower", f"val_loss over the {kind} samples") for kind in KINDS),
    Metric("loss_fine", "nats per token", "lower", "loss predicted from the fine tokens, over samples with frames"),
    Metric("loss_coarse", "nats per token", "lower", "loss predicted from the coarse tokens of the same samples"),
    Metric("loss_ratio", "fine over coarse", "lower", "loss_fine / loss_coarse; what it means depends on train.lambda_coarse"),
    Metric("attention_entropy", "nats", "neither", "entropy of the looks, mean over layers, heads and frames"),
    Metric(
        "target_hit", "share", "higher", "looks whose mean over layers and heads peaks on the target patch, after the first frame"
    ),
    Metric(
        "image_vqa",
        "accuracy",
        "higher",
        "image questions answered greedily, exact after normalising case, articles, punctuation",
    ),
)
_FINAL = (
    Metric("grad_norm_p95_over_median", "", "lower", "stability of the gradient norm over the run"),
    Metric("clipped_share", "share", "lower", "steps whose gradient was clipped"),
    Metric("val_loss_slope", "nats per token per run", "neither", "slope of val_loss over the last fifth; 0: converged"),
    Metric("overhead_share", "share", "lower", "step time outside forward, backward and optimiser"),
    Metric("flops", "FLOP", "neither", "training compute, counted without padding"),
    Metric("wall_s", "s", "lower", "time from the start of the process, earlier attempts included"),
    Metric("gpu_hours", "GPU-hours", "lower", "wall time of all ranks"),
    Metric("memory_peak_gib", "GiB", "lower", "peak memory of the largest rank"),
)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in (*_STEP, *_EVAL, *_FINAL)}
"""All of them by name. One that was not measured is absent from a line, never 0."""


class MetricsWriter:
    """Appends lines to metrics.jsonl, each flushed as it is written: a reader may follow along."""

    def __init__(self, path: Path, attempt: int, on: bool = True) -> None:
        """on: False for ranks that measure along and write nothing."""
        self._file = path.open("a", encoding="utf-8") if on else None
        self._attempt = attempt

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """step: optimiser steps done. NaN and infinity are written as Python's json does.

        Raises KeyError for a metric not in METRICS.
        """
        unknown = unknown_metrics(metrics)
        if unknown:
            raise KeyError(f"not in METRICS: {', '.join(unknown)}")
        if self._file is not None:
            self._file.write(json.dumps({"attempt": self._attempt, "step": step, "metrics": dict(metrics)}) + "\n")
            self._file.flush()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()


def unknown_metrics(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name not in METRICS)

"""What a run is told by besides its curve: facts.json, result.json, and the metrics of its last line."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers

from trainer import disk
from trainer.checkpoint import Progress
from trainer.config import OptimConfig
from trainer.data.open import Data
from trainer.horizon import Horizon
from trainer.ranks import Ranks


def facts(
    data: Data,
    horizon: Horizon,
    ranks: Ranks,
    weights_hash: str,
    parameters: Mapping[str, int],
    uninformed: dict[str, float],
    progress: Progress,
) -> dict[str, Any]:
    """What comparisons check and reports show; see the folder contract."""
    return {
        "manifest_hash": data.manifest_hash,
        "eval_hash": data.eval_hash,
        "first_batches_hash": data.train.first_batches_hash(),
        "initial_weights_hash": weights_hash,
        "samples_planned": horizon.samples,
        "steps_planned": horizon.steps,
        "flops_per_sample": horizon.flops_per_sample,
        "flops_by_part": horizon.flops_by_part,
        "flops_of_measuring_coarse": horizon.coarse_measured_flops,
        "tokens_per_frame": horizon.tokens_per_frame,
        "parameters": dict(parameters),
        "uninformed": uninformed,
        "device": torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else f"cpu ({platform.machine()})",
        "world_size": ranks.world,
        "micro_batch_samples": progress.micro_batch,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "safetensors": safetensors.__version__,
        },
    }


def final_metrics(progress: Progress, horizon: Horizon, ranks: Ranks, optim: OptimConfig) -> dict[str, float]:
    """All ranks call it together (peak memory is the largest rank's). What cannot be told is absent."""
    metrics = {
        "flops": horizon.flops_per_sample * progress.samples,
        "wall_s": progress.wall_s,
        "gpu_hours": progress.wall_s * ranks.world / 3600,
        "memory_peak_gib": ranks.most([ranks.memory_gib()])[0],
    }
    if progress.step_s > 0:
        metrics["overhead_share"] = 1 - progress.compute_s / progress.step_s
    norms = [norm for norm in progress.grad_norms if math.isfinite(norm)]
    if len(norms) > 1:
        if (median := statistics.median(norms)) > 0:  # nothing to learn from: texts alone, where both backbones are frozen
            metrics["grad_norm_p95_over_median"] = statistics.quantiles(norms, n=20)[-1] / median
        metrics["clipped_share"] = sum(norm > optim.clip_norm for norm in norms) / len(norms)
    slope = val_loss_slope(progress.evals)
    return metrics if slope is None else metrics | {"val_loss_slope": slope}


def val_loss_slope(evals: Sequence[tuple[int, float]]) -> float | None:
    """Change of val_loss per whole run, a line through the evaluations of the last fifth (at least two); None before those.

    evals: (steps done, val_loss), oldest first.
    """
    if len(evals) < 2:
        return None
    end = evals[-1][0]
    late = [(step / end, loss) for step, loss in evals if step >= 0.8 * end]
    late = late if len(late) > 1 else [(step / end, loss) for step, loss in evals[-2:]]
    if not all(math.isfinite(loss) for _, loss in late):
        return None
    return statistics.linear_regression(*zip(*late, strict=True)).slope


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Complete as soon as it is there."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    disk.sync(partial)  # or a power cut could leave the name without the content
    partial.replace(path)

"""What a few steps of a config do, for many configs in one process: `python -m trainer.fingerprint < configs.json`.

stdin:  a JSON list of {"settings": {nested}, "references": {"F3": {nested}}, "seed": 42, "files": FOLDER, "run": "A1"}.
stdout: one JSON line per config, in their order:

    {"run": "A1",
     "parameters": {module: {"count": 1, "trainable": 1}},
     "lr": {group: [over the whole horizon, compressed to about a hundred points]},
     "batch": {"samples": 8, "supervised_tokens": 90, "frames": 20, "frames_shown": 20, hashes},
     "losses": [per step], "grad_norm": {module: [per step, before clipping]},
     "shapes": {"visual": [tokens per frame, width], "looks": [layers, heads, places], "logits": [vocabulary],
                "backbones": names}}
    or {"run": "A1", "error": "what is wrong with it"}

It is a toy: tiny untrained backbones, a small synthetic world (made once, in FOLDER) and a few steps of a few samples. Sizes of a
budget stay in proportion to those of the list's first config (the study's baseline): twice the batch there is twice the batch
here. Everything else is done as training does it, by the same code, on one thread: two fingerprints of one config are equal.
Not seen here, since the toy has its own: which backbones (told by their names alone), data.root, precision, evaluation, workers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.config import ConfigError, TrainConfig
from trainer.data.batches import stream_seed
from trainer.data.once import built_once
from trainer.data.open import Data, open_data
from trainer.data.shards import DataError
from trainer.data.synthetic import SMALL, make
from trainer.horizon import Horizon, horizon
from trainer.job import Job, read_settings
from trainer.model.load import build_model
from trainer.model.packing import pack
from trainer.model.vision_language import VisionLanguageModel
from trainer.optim import build_optimizer, parameters_of, peak_rate, rate_factor, scale_and_clip, set_rates, step_if_finite
from trainer.ranks import Ranks
from trainer.step import Clock, StepPlan, accumulate, plan_step

BATCH, STEPS, POINTS = 8, 8, 104
"""Samples per step, steps, and points of the schedule (13 per step) of the list's first config."""
MOST_SAMPLES = 256
ALONE = Ranks(0, 1, torch.device("cpu"))
KINDS = {"video", "image", "text"}


@dataclass(frozen=True)
class Scale:
    """What a toy's sizes are in proportion to."""

    batch: int
    samples: int

    def toy(self, config: TrainConfig, root: Path) -> TrainConfig:
        """The config at toy size. Shares of sources that the toy world has not go to their kind."""
        batch = max(1, round(BATCH * config.train.batch_samples / self.batch))
        samples = round(BATCH * STEPS * config.train.samples / self.samples)
        mix: dict[str, float] = {}
        for name, share in config.data.mix.items():
            kind = name.partition("/")[0]
            known = kind if kind in KINDS else name
            mix[known] = mix.get(known, 0.0) + share
        return replace(
            config,
            model=replace(config.model, vision="tiny/dino-untrained", language="tiny/llama-untrained"),
            train=replace(
                config.train,
                batch_samples=batch,
                micro_batch_samples=batch,
                samples=min(max(samples, 1), MOST_SAMPLES),
                precision="float32",
            ),
            data=replace(config.data, root=str(root), mix=mix, workers=0),
            eval=replace(config.eval, set="val_tiny"),
        )


def main() -> int:
    torch.set_num_threads(1)
    try:
        asked = json.load(sys.stdin)
    except ValueError as error:
        print(f"Error: stdin is not JSON ({error}); give a list of configs, see trainer/fingerprint.py", file=sys.stderr)
        return 2
    if not isinstance(asked, list) or not all(
        isinstance(one, dict) and {"settings", "seed", "files"} <= one.keys() for one in asked
    ):
        print('Error: stdin must be a list of {"settings": …, "seed": …, "files": …}', file=sys.stderr)
        return 2
    for answer in fingerprints(asked):
        print(json.dumps(answer), flush=True)
    return 0


def fingerprints(asked: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One per config, in their order; what cannot be built says why, and the others go on."""
    scale: Scale | None = None
    for one in asked:
        told: dict[str, Any] = {"run": one.get("run", "")}
        try:
            config = read_settings(f"{one.get('run', 'config')}: settings", one["settings"])
            scale = scale or Scale(config.train.batch_samples, config.train.samples)
            with contextlib.redirect_stdout(sys.stderr):  # what building says is no answer
                told |= fingerprint(_job(one, config, scale), (config.model.vision, config.model.language))
        except (ConfigError, DataError) as error:
            told["error"] = str(error)
        yield told


def _job(one: Mapping[str, Any], config: TrainConfig, scale: Scale) -> Job:
    cache = Path(one["files"])
    root = built_once(cache / "fingerprint" / SMALL.hash, lambda folder: _make_world(folder, cache))
    named = {run: read_settings(f"references.{run}", its) for run, its in one.get("references", {}).items()}
    return Job(
        folder=Path("fingerprint"),
        key="fingerprint",
        run=one.get("run", ""),
        seed=int(one["seed"]),
        attempt=1,
        resume_from="",
        config=scale.toy(config, root),
        references={run: scale.toy(its, root) for run, its in named.items()},
        cache=cache,
    )


def _make_world(folder: Path, cache: Path) -> None:
    make(folder, SMALL, cache, lambda _line: None)


def fingerprint(job: Job, backbones: Sequence[str]) -> dict[str, Any]:
    """Build the job as training would, and take a few steps of it. backbones: the names that the config gave."""
    config = job.config
    data = open_data(config, job.seed, job.cache)
    torch.manual_seed(stream_seed(job.seed, "dropout"))
    model = build_model(config.model, job.cache, job.seed)
    end = horizon(job, data.train.samples)
    plans = [
        plan_step(data.train.global_batch(k)[: end.samples_of(k)], k, config, ALONE) for k in range(min(end.steps, 2 * STEPS))
    ]
    return {
        "parameters": {name: _counts(module) for name, module in modules(model).items()},
        "lr": _rates(model, config, end),
        "batch": _batch(data, plans),
        "shapes": _shapes(model, data, plans[0]) | {"backbones": backbones},
        **_steps(model, data, plans, end, config),
    }


def modules(model: VisionLanguageModel) -> dict[str, nn.Module]:
    """The parts, and what the connector is made of."""
    return model.parts() | {f"connector.{name}": child for name, child in model.connector.named_children()}


def _counts(module: nn.Module) -> dict[str, int]:
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return {"count": sum(size for size, _ in sizes), "trainable": sum(size for size, trains in sizes if trains)}


def _rates(model: VisionLanguageModel, config: TrainConfig, end: Horizon) -> dict[str, list[float]]:
    """Each group's rate over the horizon; a shorter run has fewer points."""
    points = max(1, round(POINTS * end.steps / STEPS))
    factors = [rate_factor(point, points, config.optim) for point in range(points)]
    return {part: [peak_rate(part, config.optim) * factor for factor in factors] for part in parameters_of(model.parts(), model)}


def _batch(data: Data, plans: Sequence[StepPlan]) -> dict[str, Any]:
    rows = [row for part in plans[0].micro for row in part]
    batch = data.train.load(rows)
    order = [data.train.global_batch(step) for step in range(STEPS)]
    pixels = hashlib.sha256(batch.frames.numpy().tobytes()).hexdigest()[:16]
    return {
        "samples": len(rows),
        "supervised_tokens": int(batch.supervised.sum()),
        "text_tokens": int(batch.is_text.sum()),
        "frames": len(batch.frames),
        "frames_shown": int((batch.frame_of >= 0).sum()),
        "pixels_hash": pixels,
        "text_token_hash": hashlib.sha256(batch.ids[batch.is_text].numpy().tobytes()).hexdigest()[:16],
        "order_hash": hashlib.sha256(json.dumps(order).encode()).hexdigest()[:16],
        "manifest_hash": data.manifest_hash,
        "first_batches_hash": data.train.first_batches_hash(),
    }


@torch.no_grad()
def _shapes(model: VisionLanguageModel, data: Data, plan: StepPlan) -> dict[str, list[int]]:
    """Per shown frame and per supervised token: what a batch holds does not matter."""
    model.eval()
    packed = pack(data.train.load(plan.micro[0]), model.connector.tokens_per_frame, ALONE.device)
    prediction = model(packed, attention=True, logits=True)
    model.train()
    final = prediction.views.final
    return {
        "visual": [model.connector.tokens_per_frame, final.tokens.shape[-1]],
        "looks": [] if final.looks is None else list(final.looks.shape[1:]),
        "logits": list(prediction.logits.shape[1:]),
    }


def _steps(
    model: VisionLanguageModel, data: Data, plans: Sequence[StepPlan], end: Horizon, config: TrainConfig
) -> dict[str, Any]:
    """Train through `plans`: the loss of each step, and every module's gradient norm."""
    optimizer = build_optimizer(model.parts(), model, config.optim)
    trainable = [p for p in model.parameters() if p.requires_grad]
    batches = data.train.loaded([rows for plan in plans for rows in plan.micro])
    losses: list[float] = []
    norms: dict[str, list[float]] = {}
    for step, plan in enumerate(plans):
        set_rates(optimizer, rate_factor(step, end.steps, config.optim))
        totals = accumulate(model, model, batches, plan, config, ALONE, Clock()).over(ALONE)
        for name, module in modules(model).items():
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            if gradients:
                norms.setdefault(name, []).append(float(nn.utils.get_total_norm(gradients) / totals.targets))
        norm = scale_and_clip(trainable, 1 / totals.targets, config.optim.clip_norm)
        step_if_finite(optimizer, totals.loss, norm)
        optimizer.zero_grad(set_to_none=True)
        losses.append(totals.read(norm)[0]["loss"])
    return {"losses": losses, "grad_norm": norms}


if __name__ == "__main__":
    sys.exit(main())

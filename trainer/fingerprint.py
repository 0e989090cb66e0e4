"""What a few steps of a config do, for many configs in one process: `python -m trainer.fingerprint < configs.json`.

stdin:  a JSON list of {"settings": {nested}, "references": {"F3": {nested}}, "seed": 42, "files": FOLDER, "run": "A1"}.
stdout: one JSON line per config, in their order:

    {"run": "A1",
     "parameters": {module: {"count": 1, "trainable": 1}}, "moved": {module: tensors that are not what they were},
     "lr": {group: [over the whole horizon, compressed to about a hundred points]},
     "lr_taken": {part: [per step, as the optimiser has it]},
     "batch": {"samples": 8, "supervised_tokens": 90, "frames": 20, "frames_shown": 20, hashes},
     "losses": [per step], "val_loss": [per evaluation], "evaluated_at": [steps], "outcome": "done",
     "grad_norm": {module: [per step, as the optimiser takes it]},
     "shapes": {"visual": [tokens per frame, width], "looks": [layers, heads, places], "logits": [vocabulary]},
     "limits": what counts as diverged, "facts": {of facts.json},
     "broken": {setting: what it did instead of what it says}, "unseen": [settings that a toy cannot show]}
    or {"run": "A1", "error": "what is wrong with it"}

It is a toy: tiny untrained backbones, a small synthetic world (made once, in FOLDER) and a few steps of a few samples. Sizes of a
budget stay in proportion to those of the list's first config (the study's baseline): twice the batch there is twice the batch
here. All else is a run of `trainer.train`, seen from outside (observed.py), on one thread: two fingerprints of one config are
equal. `broken` is what promises.py counts again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from trainer.checkpoint import Progress
from trainer.config import ConfigError, TrainConfig
from trainer.data.once import built_once
from trainer.data.open import Data, open_data, training
from trainer.data.shards import DataError
from trainer.data.synthetic import SMALL, make
from trainer.data.tokenizer import load_tokenizer
from trainer.horizon import Horizon, horizon
from trainer.job import Job, read_settings
from trainer.model.packing import pack
from trainer.model.vision_language import VisionLanguageModel
from trainer.observed import Observed, modules, observing
from trainer.optim import DivergenceWatch, parameters_of, peak_rate, rate_factor
from trainer.promises import broken
from trainer.ranks import Ranks
from trainer.train import StopSignal, train

BATCH, STEPS, POINTS = 8, 8, 104
"""Samples per step, steps, and points of the schedule (13 per step) of the list's first config."""
EVALUATIONS = 2
MOST_SAMPLES = 256
MOST_STEPS = 2 * STEPS
ALONE = Ranks(0, 1, torch.device("cpu"))
KINDS = {"video", "image", "text"}
WORLD = replace(SMALL, val_tiny=(6, 4, 4), val_images=(6, 4))
SETS = ("val_tiny", "val_images")
"""The validation set of the list's first config, and any other."""
UNSEEN = ("model.vision", "model.language", "train.precision")
"""The toy has its own backbones, and computes in float32."""


@dataclass(frozen=True)
class Scale:
    """What a toy's sizes are in proportion to: the first config."""

    batch: int
    samples: int
    every: int
    eval_set: str

    @staticmethod
    def of(config: TrainConfig) -> Scale:
        return Scale(config.train.batch_samples, config.train.samples, config.eval.every_samples, config.eval.set)

    def toy(self, config: TrainConfig, root: Path) -> TrainConfig:
        """The config at toy size. Shares of sources that the toy world has not go to their kind.

        Settings that cannot change a result have their defaults.
        """
        batch = max(1, round(BATCH * config.train.batch_samples / self.batch))
        samples = round(BATCH * STEPS * config.train.samples / self.samples)
        every = round(BATCH * STEPS / EVALUATIONS * config.eval.every_samples / self.every)
        mix: dict[str, float] = {}
        for name, share in config.data.mix.items():
            kind = name.partition("/")[0]
            known = kind if kind in KINDS else name
            mix[known] = mix.get(known, 0.0) + share
        return TrainConfig(
            model=replace(config.model, vision="tiny/dino-untrained", language="tiny/llama-untrained"),
            optim=config.optim,
            train=replace(
                stateless_as_default(config.train),
                batch_samples=batch,
                micro_batch_samples=batch,
                samples=min(max(samples, 1), MOST_SAMPLES),
                precision="float32",
            ),
            data=replace(stateless_as_default(config.data), root=str(root), mix=mix, workers=0),
            eval=replace(
                stateless_as_default(config.eval), set=SETS[config.eval.set != self.eval_set], every_samples=max(every, 1)
            ),
        )


Part = TypeVar("Part")


def stateless_as_default(part: Part) -> Part:
    default: Any = type(part)()
    names = [field.name for field in fields(default) if not field.metadata.get("stateful", True)]
    return replace(part, **{name: getattr(default, name) for name in names})  # type: ignore[type-var]  # a part is a dataclass


def main() -> int:
    torch.set_num_threads(1)
    try:
        asked = json.load(sys.stdin)
    except ValueError as error:
        print(f"Error: stdin is not JSON ({error}); give a list of configs, see trainer/fingerprint.py", file=sys.stderr)
        return 2
    if not isinstance(asked, list) or not all(_complete(one) for one in asked):
        print('Error: stdin must be a list of {"settings": …, "seed": …, "files": …}', file=sys.stderr)
        return 2
    for answer in fingerprints(asked):
        print(json.dumps(answer), flush=True)
    return 0


def _complete(one: Any) -> bool:
    kinds = {"settings": dict, "seed": int, "files": str}
    if not isinstance(one, dict) or not isinstance(one.get("references", {}), dict):
        return False
    return all(isinstance(one.get(name), kind) for name, kind in kinds.items())


def fingerprints(asked: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One per config, in their order; what cannot be built says why, and the others go on."""
    scale: Scale | None = None
    for one in asked:
        told: dict[str, Any] = {"run": one.get("run", "")}
        try:
            config = read_settings(f"{one.get('run', 'config')}: settings", one["settings"])
            scale = scale or Scale.of(config)
            with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory(prefix="fingerprint-") as folder:
                told |= fingerprint(_job(one, config, scale, Path(folder)))
        except (ConfigError, DataError) as error:
            told["error"] = str(error)
        yield told


def _job(one: Mapping[str, Any], config: TrainConfig, scale: Scale, folder: Path) -> Job:
    cache = Path(one["files"])
    root = built_once(cache / "fingerprint" / WORLD.hash, lambda place: _make_world(place, cache))
    named = {run: read_settings(f"references.{run}", its) for run, its in one.get("references", {}).items()}
    return Job(
        folder=folder,
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
    make(folder, WORLD, cache, lambda _line: None)


def fingerprint(job: Job) -> dict[str, Any]:
    """Train the job, a toy already, and tell what was seen of it."""
    config, stop = job.config, StopSignal()
    data = open_data(config, job.seed, job.cache)
    with observing(lambda steps: setattr(stop, "asked", steps >= MOST_STEPS)) as seen:
        train(job, data, ALONE, stop)
    assert seen.model is not None, "a run evaluates before its first step"
    end = horizon(job, data.train.samples)
    return {
        "parameters": {name: _counts(module) for name, module in modules(seen.model).items()},
        "lr": _rates(seen.model, config, end),
        "lr_taken": _rates_taken(seen),
        "batch": _batch(job, data, seen),
        "shapes": _shapes(seen.model, data),
        "grad_norm": {name: [step.norms[name] for step in seen.steps] for name in seen.steps[0].norms},
        "moved": _moved(seen.model, seen),
        "limits": _limits(config),
        "facts": json.loads((job.folder / "facts.json").read_text()),
        **_curve(job.folder),
        "broken": broken(config, job.seed, data, seen, end.steps),
        "unseen": list(UNSEEN),
    }


def _counts(module: nn.Module) -> dict[str, int]:
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return {"count": sum(size for size, _ in sizes), "trainable": sum(size for size, trains in sizes if trains)}


def _moved(model: VisionLanguageModel, seen: Observed) -> dict[str, int]:
    name_of, moved = {id(p): name for name, p in model.named_parameters()}, seen.moved()
    return {name: sum(name_of[id(p)] in moved for p in module.parameters()) for name, module in modules(model).items()}


def _rates(model: VisionLanguageModel, config: TrainConfig, end: Horizon) -> dict[str, list[float]]:
    """Each group's rate over the horizon; a shorter run has fewer points."""
    points = max(1, round(POINTS * end.steps / STEPS))
    factors = [rate_factor(point, points, config.optim) for point in range(points)]
    return {part: [peak_rate(part, config.optim) * factor for factor in factors] for part in parameters_of(model.parts(), model)}


def _rates_taken(seen: Observed) -> dict[str, list[float]]:
    """Each part's rates in the optimiser: one, or the least and the most of them."""
    found: dict[str, list[float]] = {}
    for step in seen.steps:
        parts: dict[str, set[float]] = {}
        for name, rate in step.rates.items():
            parts.setdefault(name.partition(".")[0], set()).add(rate)
        for part, rates in parts.items():
            found.setdefault(part, []).extend(sorted({min(rates), max(rates)}))
    return found


def _batch(job: Job, data: Data, seen: Observed) -> dict[str, Any]:
    first, rows = seen.steps[0], data.train.global_batch(0)
    batch = data.train.load(rows)
    order = [data.train.global_batch(step) for step in range(STEPS)]
    return {
        "samples": first.samples,
        "supervised_tokens": first.supervised,
        "text_tokens": int(batch.is_text.sum()),
        "frames": first.distinct,
        "frames_shown": first.shown,
        "pixels_hash": _hashed(batch.frames.numpy().tobytes()),
        "text_token_hash": _hashed(batch.ids[batch.is_text].numpy().tobytes()),
        "order_hash": _hashed(json.dumps(order).encode()),
        "beyond_the_pool": _beyond(job),
    }


def _beyond(job: Job) -> str:
    """What is done when a mix asks for more samples than there are."""
    twice = 2 * (WORLD.relay + WORLD.sparse + WORLD.crowded + WORLD.words)
    config = replace(job.config, train=replace(job.config.train, samples=twice))
    try:
        manifest, _ = training(config, load_tokenizer(config.model.language, job.cache), job.cache)
    except DataError:
        return "refused"
    return f"repeated: {len(manifest)} samples"


def _hashed(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


@torch.no_grad()
def _shapes(model: VisionLanguageModel, data: Data) -> dict[str, list[int]]:
    """Per shown frame and per supervised token: what a batch holds does not matter."""
    model.eval()
    packed = pack(data.train.load(data.train.global_batch(0)), model.connector.tokens_per_frame, ALONE.device)
    prediction = model(packed, attention=True, logits=True)
    assert prediction.logits is not None, "asked for"
    final = prediction.views.final
    return {
        "visual": [model.connector.tokens_per_frame, final.tokens.shape[-1]],
        "looks": [] if final.looks is None else list(final.looks.shape[1:]),
        "logits": list(prediction.logits.shape[1:]),
    }


def _limits(config: TrainConfig) -> dict[str, float]:
    """Where a run counts as diverged: steps in a row without a finite loss; val_loss over its best, to a part in 1000."""
    watch, steps = DivergenceWatch(config.train, 0, Progress()), 1
    while watch.after_step(math.nan, math.nan) is None:
        steps += 1
    low, high = 1.0, 2.0
    while not _diverges(config, high):
        low, high = high, 2 * high
    while high - low > 1e-3 * low:
        middle = (low + high) / 2
        low, high = (low, middle) if _diverges(config, middle) else (middle, high)
    return {"nonfinite_steps": float(steps), "diverged_ratio": high}


def _diverges(config: TrainConfig, ratio: float) -> bool:
    watch = DivergenceWatch(config.train, 0, Progress())
    watch.after_eval(1, 1.0)
    return watch.after_eval(2, ratio) is not None


def _curve(folder: Path) -> dict[str, Any]:
    """What the run wrote of itself."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ended = folder / "result.json"

    def series(name: str) -> list[float]:
        return [float(line["metrics"][name]) for line in lines if name in line["metrics"]]

    return {
        "losses": series("loss"),
        "val_loss": series("val_loss"),
        "evaluated_at": [int(line["step"]) for line in lines if "val_loss" in line["metrics"]],
        "outcome": json.loads(ended.read_text())["outcome"] if ended.exists() else "",
    }


if __name__ == "__main__":
    sys.exit(main())

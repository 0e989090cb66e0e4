"""What a config promises, held against a run of it: each setting that did not do what it says, and what it did instead.

Two runs can be compared only by how they differ. A fault that both have does not show there: a parameter with the wrong rate, a
frozen part of which one layer trains, an order of samples drawn from a stream that others use. What a setting says is counted
here again, from its own words and the samples' manifest, and not by the code that carries it out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from trainer.config import TrainConfig
from trainer.data.batches import SampleStream
from trainer.data.open import Data
from trainer.losses import loss_named
from trainer.observed import Observed
from trainer.optim import rate_factor

Broken = tuple[str, str]
"""(setting, what it did instead)"""
FIRST = 8
"""Steps whose samples are counted again."""


def broken(config: TrainConfig, seed: int, data: Data, seen: Observed, steps: int) -> dict[str, str]:
    """Setting -> what it did not do. steps: of the whole run, which may have been stopped before."""
    found: dict[str, str] = {}
    for setting, instead in (
        *_freezing(config, seen),
        *_rates(config, seen, steps),
        *_batches(config, data, seen, steps),
        *_order(data.train, seed),
    ):
        found.setdefault(setting, instead)
    return found


def _freezing(config: TrainConfig, seen: Observed) -> Iterator[Broken]:
    assert seen.model is not None, "nothing has run"
    moved = seen.moved()
    for setting, frozen, part in (
        ("model.freeze_dino", config.model.freeze_dino, "dino"),
        ("model.freeze_llm", config.model.freeze_llm, "llm"),
    ):
        names = [f"{part}.{name}" for name, p in seen.model.parts()[part].named_parameters()]
        parameters = dict(seen.model.named_parameters())
        still = [name for name in names if parameters[name].requires_grad or name in moved]
        if frozen and still:
            yield setting, f"{len(still)} of {len(names)} parameters of {part} still train, {still[0]} first"
        if not frozen and not moved.intersection(names):
            yield setting, f"no parameter of {part} trains"


def _rates(config: TrainConfig, seen: Observed, steps: int) -> Iterator[Broken]:
    """Every parameter that trains has its part's rate, at every step."""
    assert seen.model is not None, "nothing has run"
    trains = [name for name, p in seen.model.named_parameters() if p.requires_grad]
    for number, step in enumerate(seen.steps):
        factor = rate_factor(number, steps, config.optim)
        for name in trains:
            ours = name.startswith("connector.")
            setting = "optim.connector_ratio" if ours else "optim.lr"
            wanted = config.optim.lr * (config.optim.connector_ratio if ours else 1.0) * factor
            rate = step.rates.get(name)
            if rate is None:
                yield setting, f"{name} has no learning rate"
            elif abs(rate - wanted) > 1e-6 * config.optim.lr:
                yield setting, f"{name} learns at {rate:.6g} in step {number + 1}, not at {wanted:.6g}"


def _batches(config: TrainConfig, data: Data, seen: Observed, steps: int) -> Iterator[Broken]:
    """The first steps, counted from the manifest."""
    for number, step in enumerate(seen.steps[:FIRST]):
        if number + 1 < steps and step.samples != config.train.batch_samples:
            yield "train.batch_samples", f"step {number + 1} had {step.samples} samples, not {config.train.batch_samples}"
        rows = data.train.global_batch(number)[: step.samples]
        supervised = sum(_supervised(config, data, row) for row in rows)
        if step.supervised != supervised:
            yield "train.loss", f"step {number + 1} was scored on {step.supervised} tokens, {supervised} are supervised"
        shown = sum(_shown(config, data, row) for row in rows)
        if step.shown != shown:
            say = "data.replicate_image_frames"
            yield say, f"step {number + 1} showed {step.shown} frames ({step.distinct} distinct), not {shown}"


def _supervised(config: TrainConfig, data: Data, row: int) -> int:
    """Tokens of a sample that the loss is about; the first of a text has nothing left of it to be predicted from."""
    tokens, answer = data.train.samples.texts.of(row)
    counted = answer if loss_named(config.train.loss).answer_only else np.ones(len(tokens), bool)
    return int(counted.sum()) - int(data.train.samples.manifest.kinds[row] == "text" and bool(counted[0]))


def _shown(config: TrainConfig, data: Data, row: int) -> int:
    manifest = data.train.samples.manifest
    times = config.data.replicate_image_frames if manifest.kinds[row] == "image" else 1
    return min(int(manifest.frames[row]), config.data.max_frames) * times


def _order(stream: SampleStream, seed: int) -> Iterator[Broken]:
    """The order hangs on the seed and on nothing else that draws random numbers."""
    trained = _rows(stream)
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()  # who uses it is what is asked
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    again = _rows(SampleStream(stream.samples, stream.batch_samples, seed))
    other = _rows(SampleStream(stream.samples, stream.batch_samples, seed + 1))
    random.setstate(generators[0])
    np.random.set_state(generators[1])
    torch.set_rng_state(generators[2])
    if again != trained:
        yield "seed", "the order of samples hangs on what else has drawn random numbers before"
    elif other == trained and len(stream.samples) > 1:
        yield "seed", "the order of samples is the same with another seed"


def _rows(stream: SampleStream) -> Sequence[Sequence[int]]:
    return [stream.global_batch(step) for step in range(FIRST)]

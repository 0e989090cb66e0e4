"""How long a run is: its samples, its optimiser steps, and what a sample costs.

`train.flops = "as F3"` ends a run at the compute that run F3 spends, counted on the same samples.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.llama.configuration_llama import LlamaConfig

from trainer.config import ConfigError, TrainConfig
from trainer.data.batches import Samples
from trainer.flops import Shape, Sizes, mean_flops, measured_coarse_flops, sizes
from trainer.job import Job
from trainer.losses import loss_named
from trainer.model.load import weights_folder
from trainer.step import COARSE_EVERY


@dataclass(frozen=True)
class Horizon:
    samples: int
    steps: int
    batch_samples: int
    flops_by_part: dict[str, float]
    """Per sample, forward and backward, mean over the manifest."""
    coarse_measured_flops: float
    """Per sample, what measuring the coarse loss adds; counted apart."""
    tokens_per_frame: float
    """Visual tokens the language model reads per distinct frame."""

    @property
    def flops_per_sample(self) -> float:
        return sum(self.flops_by_part.values())

    def samples_of(self, step: int) -> int:
        """Samples of a step (0-based); the last one may have fewer."""
        return min(self.batch_samples, self.samples - step * self.batch_samples)


def horizon(job: Job, samples: Samples) -> Horizon:
    """Raises ConfigError when `train.flops` names a run whose settings config.json does not carry."""
    config = job.config
    shapes = shapes_of(samples, config)
    side = samples.load([0]).frames.shape[-1]
    by_part = mean_flops(config.model, model_sizes(job, config, side), shapes.items())
    wanted = _wanted_samples(job, shapes, side, sum(by_part.values()))
    distinct = sum(shape.distinct_frames * count for shape, count in shapes.items())
    shown = sum(shape.shown_frames * count for shape, count in shapes.items())
    return Horizon(
        samples=wanted,
        steps=-(-wanted // config.train.batch_samples),
        batch_samples=config.train.batch_samples,
        flops_by_part=by_part,
        coarse_measured_flops=_measured(config, model_sizes(job, config, side), shapes),
        tokens_per_frame=config.model.tokens_per_frame * shown / distinct if distinct else 0.0,
    )


def _wanted_samples(job: Job, shapes: Counter[Shape], side: int, own: float) -> int:
    if job.config.train.flops == "own":
        return job.config.train.samples
    word, _, run = job.config.train.flops.partition(" ")
    if word != "as" or run not in job.references:
        known = ", ".join(f"'as {name}'" for name in job.references) or "none: references is empty"
        raise ConfigError(
            f"{job.folder / 'config.json'}: train.flops = {job.config.train.flops!r}; allowed: 'own', or 'as RUN' with the "
            f"settings of RUN under references (there: {known})"
        )
    other = job.references[run]
    theirs = sum(mean_flops(other.model, model_sizes(job, other, side), shapes.items()).values())
    return max(1, round(other.train.samples * theirs / own))


def shapes_of(samples: Samples, config: TrainConfig) -> Counter[Shape]:
    """The shapes of a manifest's samples and how often each occurs."""
    return Counter(row_shapes(samples, config))


def row_shapes(samples: Samples, config: TrainConfig) -> list[Shape]:
    """The shape of each row of the manifest."""
    text = samples.text_tokens()
    supervised = text - (np.array(samples.manifest.kinds) == "text")
    if loss_named(config.train.loss).answer_only:
        supervised = np.array([int(samples.texts.of(row)[1].sum()) for row in range(len(samples))])
    columns = (samples.frames_distinct(), samples.frames_shown(), text, supervised)
    return [Shape(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def model_sizes(job: Job, config: TrainConfig, frame_side: int) -> Sizes:
    vision = weights_folder("model.vision", config.model.vision, job.cache)
    language = weights_folder("model.language", config.model.language, job.cache)
    return sizes(Dinov2Config.from_pretrained(vision), LlamaConfig.from_pretrained(language), frame_side)


def _measured(config: TrainConfig, s: Sizes, shapes: Counter[Shape]) -> float:
    """Only models with two passes whose coarse loss is not trained pay it, on one micro-batch in COARSE_EVERY."""
    if config.model.encoder != "foveated" or config.model.coarse_only or config.train.lambda_coarse > 0:
        return 0.0
    total = sum(measured_coarse_flops(s, shape) * count for shape, count in shapes.items())
    return total / shapes.total() / COARSE_EVERY

"""One optimiser step's forward and backward: the global batch, shared by ranks, in micro-batches.

The gradient of a step is that of the sum over all supervised tokens divided by their number. Sums are collected first and divided
once, so neither ranks nor micro-batches need to be of equal size.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.config import TrainConfig
from trainer.data.batches import Batch
from trainer.evaluate import autocast, chunks
from trainer.losses import token_losses
from trainer.model.packing import Packed, pack
from trainer.model.vision_language import Coarse, Prediction, VisionLanguageModel
from trainer.ranks import Ranks

COARSE_EVERY = 8
"""Where the coarse loss is only measured, it is on one micro-batch in so many."""


@dataclass
class Sums:
    """What the micro-batches of a step add up to, on one rank or on all."""

    loss: float = 0.0
    """Nats, over supervised tokens."""
    targets: float = 0.0
    """Supervised tokens."""
    fine: float = 0.0
    coarse: float = 0.0
    """Nats over the same tokens predicted from the fine and from the coarse view, where both were measured."""
    compared: float = 0.0
    """Those tokens."""
    tokens: float = 0.0
    """Visual and text tokens, without padding."""
    stop: float = 0.0
    """Ranks that were asked to stop."""
    save: float = 0.0
    """Ranks that want a checkpoint."""

    def over(self, ranks: Ranks) -> Sums:
        return Sums(*ranks.sum(astuple(self)))


class Clock:
    """How much of a step is spent computing."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.compute_s = 0.0

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        since = time.perf_counter()
        yield
        self.compute_s += time.perf_counter() - since

    @property
    def step_s(self) -> float:
        return time.perf_counter() - self._started


@dataclass(frozen=True)
class StepPlan:
    """A rank's part of one step."""

    micro: tuple[tuple[int, ...], ...]
    """Manifest rows of each micro-batch."""
    number: int
    """How many micro-batches the run's steps before had, as if all were full: what is done every so often follows it."""
    idle: bool
    """The rank has no rows of this step (the last one of a run); it takes one that is not its own and learns nothing from it."""


def plan_step(rows: Sequence[int], step: int, config: TrainConfig, ranks: Ranks) -> StepPlan:
    """rows: of the global batch of `step`."""
    mine = ranks.share(rows)
    micro = chunks(mine or rows[:1], config.train.micro_batch_samples)
    per_step = -(-config.train.batch_samples // (ranks.world * config.train.micro_batch_samples))
    return StepPlan(tuple(tuple(part) for part in micro), step * per_step, not mine)


def accumulate(
    wrapped: nn.Module,
    model: VisionLanguageModel,
    batches: Iterator[Batch],
    plan: StepPlan,
    config: TrainConfig,
    ranks: Ranks,
    clock: Clock,
) -> Sums:
    """Forward and backward of this rank's share of one step; gradients are left summed (under DDP: averaged over ranks)."""
    sums = Sums()
    for i, _ in enumerate(plan.micro):
        packed = pack(next(batches), model.connector.tokens_per_frame, ranks.device)
        if plan.idle:
            packed = packed.without_targets()  # all ranks meet in the last backward; this one adds zero
        with clock.computing():
            last = i == len(plan.micro) - 1
            together = contextlib.nullcontext() if last or not isinstance(wrapped, DistributedDataParallel) else wrapped.no_sync()
            with together:
                loss = _loss(wrapped, packed, _coarse(model, config, plan.number + i), config, ranks, sums)
                torch.autograd.backward(loss)
            sums.loss += loss.item()
        sums.targets += packed.supervised
        sums.tokens += 0 if plan.idle else packed.tokens
    return sums


def _coarse(model: VisionLanguageModel, config: TrainConfig, micro: int) -> Coarse:
    """What is done about the coarse loss of the run's micro-batch `micro`."""
    if not model.two_passes:
        return "no"
    if config.train.lambda_coarse > 0:
        return "trained"
    return "measured" if micro % COARSE_EVERY == 0 else "no"


def _loss(wrapped: nn.Module, packed: Packed, coarse: Coarse, config: TrainConfig, ranks: Ranks, sums: Sums) -> Tensor:
    """The summed loss of a micro-batch; adds to `sums` what was measured on the way."""
    with autocast(config, ranks):
        prediction: Prediction = wrapped(packed, coarse=coarse)
    losses = token_losses(prediction.logits, packed.targets)  # [P]
    total = losses.sum()
    if prediction.coarse_logits is None:
        return total
    coarse_losses = token_losses(prediction.coarse_logits, packed.targets)[packed.target_seen]
    sums.fine += losses.detach()[packed.target_seen].sum().item()
    sums.coarse += coarse_losses.detach().sum().item()
    sums.compared += len(coarse_losses)
    return total + config.train.lambda_coarse * coarse_losses.sum() if coarse == "trained" else total

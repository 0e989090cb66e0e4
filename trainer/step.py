"""One optimiser step's forward and backward: the global batch, shared by ranks, in micro-batches.

The gradient of a step is that of the sum over all supervised tokens divided by their number. Sums are collected first and divided
once, so neither ranks nor micro-batches need to be of equal size.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.config import TrainConfig
from trainer.evaluate import autocast, chunks
from trainer.feed import Feed
from trainer.losses import loss_named
from trainer.model.blocks import Blocks, blocks
from trainer.model.packing import Packed
from trainer.model.vision_language import Coarse, Prediction, VisionLanguageModel
from trainer.optim import scale_and_clip, step_if_finite
from trainer.phases import phase
from trainer.ranks import Ranks

COARSE_EVERY = 8
"""Where the coarse loss is only measured, it is on one micro-batch in so many."""


MEASURED = ("loss", "fine", "coarse")
"""What is added up on the device."""
COUNTED = ("targets", "compared", "tokens", "stop", "save")
"""What is known on the host."""


class Sums:
    """What the micro-batches of one rank add up to in a step. Losses stay on the device: nothing here waits for it.

    loss: nats over supervised tokens (`targets` of them). fine, coarse: nats over the same tokens predicted from the fine and
    from the coarse view, where both were measured (`compared`). tokens: visual and text, without padding. stop, save: ranks
    that were asked to stop, that want a checkpoint.
    """

    def __init__(self, device: torch.device) -> None:
        self.measured = torch.zeros(len(MEASURED), dtype=torch.float64, device=device)
        self.counted = dict.fromkeys(COUNTED, 0)

    def measure(self, name: str, nats: Tensor) -> None:
        self.measured[MEASURED.index(name)] += nats.detach()

    def over(self, ranks: Ranks) -> Totals:
        """All ranks meet once; from here on every rank has the same numbers, and decides the same."""
        counted = torch.tensor(list(self.counted.values()), dtype=torch.float64)
        if ranks.device.type == "cuda":
            counted = counted.pin_memory().to(ranks.device, non_blocking=True)
        return Totals(ranks.add_up(torch.cat([self.measured, counted])))


class Totals:
    """The sums over all ranks, still on the device until they are read."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    @property
    def loss(self) -> Tensor:
        """Summed nats, 0-dim, float64."""
        return self._values[MEASURED.index("loss")]

    @property
    def targets(self) -> Tensor:
        """Supervised tokens of the step, at least 1: what gradients are divided by. 0-dim, float64."""
        return self._values[len(MEASURED)].clamp(min=1.0)

    def read(self, norm: Tensor) -> tuple[dict[str, float], float]:
        """Every sum and the gradient norm as numbers: the one place where a step waits for the device."""
        *values, norm_read = torch.cat([self._values, norm.detach().double().reshape(1)]).tolist()
        told = dict(zip((*MEASURED, *COUNTED), values, strict=True))
        told["loss"] = told["loss"] / told["targets"] if told["targets"] else 0.0
        return told, norm_read


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


def plan_step(rows: Sequence[int], step: int, config: TrainConfig, ranks: Ranks, micro_batch: int) -> StepPlan:
    """rows: of the global batch of `step`; micro_batch: samples of a forward pass."""
    mine = ranks.share(rows)
    micro = chunks(mine or rows[:1], micro_batch)
    per_step = -(-config.train.batch_samples // (ranks.world * micro_batch))
    return StepPlan(tuple(tuple(part) for part in micro), step * per_step, not mine)


def accumulate(
    wrapped: nn.Module,
    model: VisionLanguageModel,
    feed: Feed,
    plan: StepPlan,
    config: TrainConfig,
    ranks: Ranks,
    clock: Clock,
) -> Sums:
    """Forward and backward of this rank's share of one step; gradients are left summed (under DDP: averaged over ranks)."""
    sums = Sums(ranks.device)
    for i, _ in enumerate(plan.micro):
        with phase("data"):
            packed = feed.take()
        if plan.idle:
            packed = packed.without_targets()  # all ranks meet in the last backward; this one adds zero
        with clock.computing():
            last = i == len(plan.micro) - 1
            together = contextlib.nullcontext() if last or not isinstance(wrapped, DistributedDataParallel) else wrapped.no_sync()
            with together:
                loss = micro_loss(wrapped, packed, coarse_of(model, config, plan.number + i), config, ranks, sums)
                with phase("backward"):
                    torch.autograd.backward(loss)
        if ranks.device.type == "cuda":
            with phase("data"):
                feed.prepare()  # the device has work for a while
        sums.counted["targets"] += packed.supervised
        sums.counted["tokens"] += 0 if plan.idle else packed.tokens
    return sums


def update(
    totals: Totals, optimizer: torch.optim.Optimizer, trainable: Sequence[nn.Parameter], config: TrainConfig, ranks: Ranks
) -> tuple[dict[str, float], float]:
    """Divide the gradients, clip them, take a step of the optimiser; every sum of the step and the norm before clipping."""
    norm = scale_and_clip(trainable, ranks.world / totals.targets, config.optim.clip_norm)
    step_if_finite(optimizer, totals.loss, norm)
    optimizer.zero_grad(set_to_none=True)
    return totals.read(norm)


def coarse_of(model: VisionLanguageModel, config: TrainConfig, micro: int) -> Coarse:
    """What is done about the coarse loss of the run's micro-batch `micro`."""
    if not model.two_passes:
        return "no"
    if config.train.lambda_coarse > 0:
        return "trained"
    return "measured" if micro % COARSE_EVERY == 0 else "no"


def micro_loss(wrapped: nn.Module, packed: Packed, coarse: Coarse, config: TrainConfig, ranks: Ranks, sums: Sums) -> Tensor:
    """The summed loss of a micro-batch; adds to `sums` what was measured on the way."""
    how = Blocks(again=config.train.activation_checkpointing, compiled=config.train.compile)
    with phase("forward"), autocast(config, ranks), blocks(how):
        prediction: Prediction = wrapped(packed, coarse=coarse)
    with phase("loss"):
        total = loss_named(config.train.loss).total(prediction.losses, packed)
        if prediction.coarse_losses is not None:
            coarse_losses = prediction.coarse_losses.index_select(0, packed.seen)
            sums.measure("fine", prediction.losses.index_select(0, packed.seen).sum())
            sums.measure("coarse", coarse_losses.sum())
            sums.counted["compared"] += len(coarse_losses)
            if coarse == "trained":
                total = total + config.train.lambda_coarse * coarse_losses.sum()
        sums.measure("loss", total)
    return total

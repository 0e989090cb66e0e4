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
from trainer.data.batches import Batch
from trainer.evaluate import autocast, chunks
from trainer.model.packing import Packed, pack
from trainer.model.vision_language import Coarse, Prediction, VisionLanguageModel
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
    sums = Sums(ranks.device)
    for i, _ in enumerate(plan.micro):
        with phase("data"):
            packed = pack(next(batches), model.connector.tokens_per_frame, ranks.device)
        if plan.idle:
            packed = packed.without_targets()  # all ranks meet in the last backward; this one adds zero
        with clock.computing():
            last = i == len(plan.micro) - 1
            together = contextlib.nullcontext() if last or not isinstance(wrapped, DistributedDataParallel) else wrapped.no_sync()
            with together:
                loss = _loss(wrapped, packed, _coarse(model, config, plan.number + i), config, ranks, sums)
                with phase("backward"):
                    torch.autograd.backward(loss)
        sums.counted["targets"] += packed.supervised
        sums.counted["tokens"] += 0 if plan.idle else packed.tokens
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
    with phase("forward"), autocast(config, ranks):
        prediction: Prediction = wrapped(packed, coarse=coarse)
    with phase("loss"):
        total = prediction.losses.sum()
        if prediction.coarse_losses is not None:
            coarse_losses = prediction.coarse_losses.index_select(0, packed.seen)
            sums.measure("fine", prediction.losses.index_select(0, packed.seen).sum())
            sums.measure("coarse", coarse_losses.sum())
            sums.counted["compared"] += len(coarse_losses)
            if coarse == "trained":
                total = total + config.train.lambda_coarse * coarse_losses.sum()
        sums.measure("loss", total)
    return total

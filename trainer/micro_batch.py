"""How many samples a forward pass takes: as the config says, or the most that fit on the device.

They are found by trying, before the first step: a forward and backward of the run's own heaviest samples, 1, 2, 4 … of them up to
a rank's share of the global batch. Nothing of the run is touched: no weight, no optimiser, no random stream, no order of samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.config import ConfigError, TrainConfig
from trainer.data.batches import Samples
from trainer.data.open import Data
from trainer.flops import operations, sizes
from trainer.horizon import row_shapes
from trainer.model.packing import pack
from trainer.model.vision_language import VisionLanguageModel
from trainer.ranks import Ranks
from trainer.step import Sums, coarse_of, micro_loss

CPU_BUDGET_BYTES = 2 * 2**30
"""What a forward on a CPU may keep for its backward: a machine's memory is shared by all its jobs, and more gains no speed."""
GPU_SHARE = 0.92
"""Of what is free on a GPU; the rest is left to its allocator, whose pieces never fit together exactly."""


def micro_batch(
    model: VisionLanguageModel, optimizer: torch.optim.Optimizer, data: Data, config: TrainConfig, ranks: Ranks
) -> int:
    """The same on all ranks, which call it together, before the model is wrapped.

    Raises ConfigError where not even one sample fits.
    """
    asked = config.train.micro_batch_samples
    if asked != "auto":
        return asked
    share = -(-config.train.batch_samples // ranks.world)
    rows = heaviest(model, data.train.samples, config, share)
    budget = _budget(optimizer, ranks)
    size, larger = 0, 1
    while size < share and _tried(model, data.train.samples, rows[:larger], config, ranks, budget):
        size, larger = larger, min(2 * larger, share)
    size = -round(ranks.most([-size])[0])  # the least of all ranks
    if not size:
        raise ConfigError(
            f'train.micro_batch_samples = "auto": not even one sample fits into {budget / 2**30:.1f} GiB; '
            "set train.activation_checkpointing = true, or data.max_frames lower"
        )
    return math.ceil(share / math.ceil(share / size))  # as few passes, all about as large


def heaviest(model: VisionLanguageModel, samples: Samples, config: TrainConfig, count: int) -> list[int]:
    """The rows whose forwards read and write most, heaviest first."""
    its_sizes = sizes(model.dino.config, model.llm.config, samples.load([0]).frames.shape[-1])
    shapes = row_shapes(samples, config)
    weight = {shape: sum(o.forward_numbers for o in operations(config.model, its_sizes, shape)) for shape in set(shapes)}
    return sorted(range(len(shapes)), key=lambda row: (-weight[shapes[row]], row))[:count]


def _budget(optimizer: torch.optim.Optimizer, ranks: Ranks) -> float:
    """Bytes that a forward and backward may take: on a GPU what is free, less the optimiser's moments where they are to come."""
    if ranks.device.type == "cpu":
        return CPU_BUDGET_BYTES
    free = torch.cuda.mem_get_info(ranks.device)[0] + torch.cuda.memory_reserved(ranks.device)
    trained = sum(p.nbytes for group in optimizer.param_groups for p in group["params"])
    moments = 0 if optimizer.state else 2 * trained
    buckets = trained if ranks.world > 1 else 0  # gradients lie in DDP's
    return GPU_SHARE * free - torch.cuda.memory_allocated(ranks.device) - moments - buckets


def _tried(
    model: VisionLanguageModel, samples: Samples, rows: Sequence[int], config: TrainConfig, ranks: Ranks, budget: float
) -> bool:
    """Do these samples fit into the budget?"""
    needed = _on_cpu if ranks.device.type == "cpu" else _on_gpu
    try:
        return needed(model, samples, rows, config, ranks) <= budget
    except torch.OutOfMemoryError:
        return False
    finally:
        model.zero_grad(set_to_none=True)
        if ranks.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(ranks.device)


def _on_gpu(model: VisionLanguageModel, samples: Samples, rows: Sequence[int], config: TrainConfig, ranks: Ranks) -> int:
    """Peak of bytes allocated by a forward and backward."""
    before = torch.cuda.memory_allocated(ranks.device)
    torch.cuda.reset_peak_memory_stats(ranks.device)
    torch.autograd.backward(_forward(model, samples, rows, config, ranks))
    return torch.cuda.max_memory_allocated(ranks.device) - before


def _on_cpu(model: VisionLanguageModel, samples: Samples, rows: Sequence[int], config: TrainConfig, ranks: Ranks) -> int:
    """Bytes that a forward keeps for its backward: each memory once, without the weights."""
    kept = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}
    alive = []  # so that no memory is counted under the address of another that was given back

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _forward(model, samples, rows, config, ranks)
    return sum(kept.values())


def _forward(model: VisionLanguageModel, samples: Samples, rows: Sequence[int], config: TrainConfig, ranks: Ranks) -> Tensor:
    """As in training, the first micro-batch of a run: where the coarse loss is measured at times, it is there."""
    packed = pack(samples.load(rows), model.connector.tokens_per_frame, ranks.device)
    return micro_loss(model, packed, coarse_of(model, config, 0), config, ranks, Sums(ranks.device))

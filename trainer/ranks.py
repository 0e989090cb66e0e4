"""The processes of one job: who I am, on which device, and what all decide together."""

from __future__ import annotations

import os
import resource
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Rank 0 alone writes metrics, facts, results."""
        return self.rank == 0

    def share(self, rows: Sequence[int]) -> Sequence[int]:
        """This rank's part of a global batch: parts are contiguous and differ by at most one; some may be empty."""
        return rows[len(rows) * self.rank // self.world : len(rows) * (self.rank + 1) // self.world]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model to call in training: gradients are averaged over ranks in the last backward of a step."""
        if self.world == 1:
            return model
        with warnings.catch_warnings():  # torch 2.13 has another word for broadcast_buffers, which 2.11 does not know
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def add_up(self, values: Tensor) -> Tensor:
        """Summed over all ranks, where it lies."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks; every rank gets the same floats."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def most(self, values: Sequence[float]) -> list[float]:
        return self._reduce(values, dist.ReduceOp.MAX)

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def memory_gib(self) -> float:
        """Peak so far: of the GPU, or of the process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def _reduce(self, values: Sequence[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=how)
        return [float(v) for v in tensor.tolist()]


def start_ranks() -> Ranks:
    """Join the job's other processes, as RANK, LOCAL_RANK and WORLD_SIZE say; alone when they are not set."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # two threads at these sizes were 5x slower than one when cores are shared
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=world)
    return Ranks(rank, world, device)


def stop_ranks(ranks: Ranks) -> None:
    if ranks.world > 1:
        dist.destroy_process_group()

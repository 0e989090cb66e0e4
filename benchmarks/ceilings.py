"""What this machine can do at most, measured: matrix products and copies; and the roofline that follows for a model's step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from trainer.flops import Operation

SIDE = {"cpu": 1024, "cuda": 8192}
COPIED_NUMBERS = {"cpu": 2**24, "cuda": 2**30}


@dataclass(frozen=True)
class Ceilings:
    flops_per_s: float
    """Of a large square matrix product in the training's precision."""
    bytes_per_s: float
    """Read and written by a copy of a large tensor."""
    number_bytes: int
    """Of one activation in that precision."""


def measure(device: torch.device) -> Ceilings:
    """On a CPU one thread's processor time; on a GPU bfloat16."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    side = SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(COPIED_NUMBERS[device.type], device=device, dtype=dtype)
    target = torch.empty_like(source)
    product_s = least_seconds(lambda: torch.mm(a, b), device)
    copy_s = least_seconds(lambda: target.copy_(source), device)
    return Ceilings(2.0 * side**3 / product_s, 2.0 * source.nbytes / copy_s, dtype.itemsize)


def least_seconds(work: Callable[[], object], device: torch.device, times: int = 7) -> float:
    work()
    return min(seconds(work, device) for _ in range(times))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Processor time on a CPU (a busy machine does not change it), wall time on a GPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    wait(device)
    began = clock()
    work()
    wait(device)
    return clock() - began


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def roofline_s(operations: Iterable[Operation], ceilings: Ceilings, samples: float) -> float:
    """Least time of these products for one sample, where `samples` share a micro-batch."""
    return sum(
        max(o.flops / ceilings.flops_per_s, o.bytes(ceilings.number_bytes, samples) / ceilings.bytes_per_s) for o in operations
    )

"""How the layers of both backbones are run in training: as they are, compiled, or computed again in the backward.

    with blocks(Blocks(compiled=True)):
        model(packed)

Whatever is chosen, the same numbers come out: bit by bit when computed again, up to rounding when compiled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Blocks:
    again: bool = False
    """Keep only what goes into a layer, and compute the rest again in the backward (activation checkpointing)."""
    compiled: bool = False
    """Through `torch.compile`, for any lengths at once: all layers of a kind share one graph."""
    backend: str = "inductor"


_chosen = Blocks()


@contextlib.contextmanager
def blocks(how: Blocks) -> Iterator[None]:
    """Run the layers like this until the `with` block ends."""
    global _chosen
    before, _chosen = _chosen, how
    try:
        yield
    finally:
        _chosen = before


def ready(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as chosen: compiled, or as it is."""
    return _compiled(function, _chosen.backend) if _chosen.compiled else function


def block(layer: Callable[..., Any], *inputs: Any) -> Any:
    """`layer(*inputs)`: a function of a module, its inputs and their shapes."""
    run = ready(layer)
    if _chosen.again and torch.is_grad_enabled():
        return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)  # no layer draws random numbers
    return run(*inputs)


MOST_GRAPHS = 32
"""Of one layer function: with and without padding, gradient, a query beside the patches; one sample is a graph of its own."""


@cache
def _compiled(layer: Callable[..., Any], backend: str) -> Callable[..., Any]:
    import torch._dynamo  # seconds, which only those pay who compile

    torch._dynamo.config.recompile_limit = max(MOST_GRAPHS, torch._dynamo.config.recompile_limit)
    made: Callable[..., Any] = torch.compile(layer, backend=backend, dynamic=True)
    return made

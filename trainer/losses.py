"""The loss of a step: the sum over supervised tokens of the whole global batch, divided by their number.

P supervised tokens, V vocabulary, B samples. World size and micro-batches change nothing but speed: sums and
counts add up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MOST_LOGITS = 2**26
"""256 MiB in float32."""


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """logits: [P, V], targets: [P] -> cross-entropy in nats [P], float32 or better."""
    return F.cross_entropy(at_least_float32(logits), targets, reduction="none")


def head_losses(hidden: Tensor, weight: Tensor, targets: Tensor, most_logits: int = MOST_LOGITS) -> Tensor:
    """`token_losses` of hidden [P, L] through the head's weight [V, L], never with more than `most_logits` logits at once.

    More than that are computed in pieces, and again in the backward: 1/3 more work for the head, no [P, V] in memory.
    """
    rows = max(1, most_logits // len(weight))
    if len(hidden) <= rows:
        return _piece(hidden, weight, targets)
    pieces = zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([_piece(h, weight, t) for h, t in pieces])
    return torch.cat([checkpoint(_piece, h, weight, t, use_reentrant=False) for h, t in pieces])


def _piece(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return token_losses(F.linear(hidden, weight), targets)


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sample_losses(losses: Tensor, rows: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Each sample's mean loss per supervised token [B] (NaN where it has none) and how many it has [B].

    losses: [P] nats, rows: [P] the sample of each.
    """
    totals = torch.zeros(samples, dtype=torch.float64, device=losses.device).index_add(0, rows, losses.double())
    tokens = torch.bincount(rows, minlength=samples)
    return totals / tokens, tokens

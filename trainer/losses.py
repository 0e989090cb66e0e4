"""The loss of a step: the sum over supervised tokens of the whole global batch, divided by their number.

P supervised tokens, V vocabulary, B samples. World size and micro-batches change nothing but speed: sums and
counts add up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """logits: [P, V], targets: [P] -> cross-entropy in nats [P], float32 or better."""
    return F.cross_entropy(at_least_float32(logits), targets, reduction="none")


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sample_losses(losses: Tensor, rows: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Each sample's mean loss per supervised token [B] (NaN where it has none) and how many it has [B].

    losses: [P] nats, rows: [P] the sample of each.
    """
    totals = torch.zeros(samples, dtype=torch.float64, device=losses.device).index_add(0, rows, losses.double())
    tokens = torch.bincount(rows, minlength=samples)
    return totals / tokens, tokens

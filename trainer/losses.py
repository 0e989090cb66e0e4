"""The loss of a step: the sum over supervised tokens of the whole global batch, divided by their number.

P supervised tokens, V vocabulary, B samples. World size and micro-batches change nothing but speed: sums and
counts add up.

`train.loss` names a `Loss`: one of `trainer.config.LOSSES`, or "MODULE:NAME" for one that is written elsewhere:

    FOCAL = Loss(answer_only=True, total=lambda nats, packed: ((1 - (-nats).exp()) ** 2 * nats).sum())

A loss on preferences (`user`, `chosen_assistant`, `rejected_assistant`) would be one more: `Tokenizer.sample` reads the chosen
answer of such a sample today; with the rejected one beside it in the batch, on the same frames (which are encoded once), `total`
finds the pairs by `packed.target_row`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.config import LOSSES, ConfigError
from trainer.model.blocks import ready

if TYPE_CHECKING:
    from trainer.model.packing import Packed

MOST_LOGITS = 2**26
"""256 MiB in float32."""


def summed(losses: Tensor, packed: Packed) -> Tensor:  # noqa: ARG001  # all that a `Loss.total` may need
    return losses.sum()


@dataclass(frozen=True)
class Loss:
    """What a run learns from."""

    answer_only: bool
    """Tokens of the assistant's turn are supervised, and no others; otherwise every text token."""
    total: Callable[[Tensor, Packed], Tensor] = summed
    """Cross-entropy of a micro-batch's supervised tokens in nats [P] and their batch -> the sum to learn from, a scalar.

    Of the coarse tokens, where `train.lambda_coarse` has them trained as well, it is the plain sum.
    """


TEXT_CE_ALL = Loss(answer_only=False)
TEXT_CE_ANSWER_ONLY = Loss(answer_only=True)


@cache
def loss_named(name: str) -> Loss:
    """The loss that `train.loss` names. Raises ConfigError naming those there are."""
    module, _, attribute = LOSSES.get(name, name).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None) if attribute else None
    except ImportError as error:
        raise ConfigError(f"train.loss = {name!r}: {module} cannot be imported ({error})") from error
    if not isinstance(found, Loss):
        raise ConfigError(
            f"train.loss = {name!r}: there is no such loss; there are {', '.join(LOSSES)}, "
            "and MODULE:NAME for a trainer.losses.Loss of another module"
        )
    return found


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """logits: [P, V], targets: [P] -> cross-entropy in nats [P], float32 or better."""
    return F.cross_entropy(at_least_float32(logits), targets, reduction="none")


def head_losses(hidden: Tensor, weight: Tensor, targets: Tensor, most_logits: int = MOST_LOGITS) -> Tensor:
    """`token_losses` of hidden [P, L] through the head's weight [V, L], never with more than `most_logits` logits at once.

    More than that are computed in pieces, and again in the backward: 1/3 more work for the head, no [P, V] in memory.
    """
    rows = max(1, most_logits // len(weight))
    piece: Callable[[Tensor, Tensor, Tensor], Tensor] = ready(_piece)
    if len(hidden) <= rows:
        return piece(hidden, weight, targets)
    pieces = zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([piece(h, weight, t) for h, t in pieces])
    return torch.cat([checkpoint(piece, h, weight, t, use_reentrant=False, preserve_rng_state=False) for h, t in pieces])


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

"""Sums over supervised tokens, and means per sample."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from trainer.losses import head_losses, sample_losses, token_losses


def test_token_losses_are_cross_entropies_in_nats() -> None:
    logits, targets = torch.randn(6, 9), torch.randint(0, 9, (6,))
    torch.testing.assert_close(token_losses(logits, targets).sum(), F.cross_entropy(logits, targets, reduction="sum"))
    torch.testing.assert_close(token_losses(torch.zeros(1, 10), torch.tensor([3])), torch.tensor([math.log(10)]))


def test_a_sample_has_the_mean_of_its_tokens_and_none_without_any() -> None:
    means, tokens = sample_losses(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), 3)
    assert means[[0, 2]].tolist() == [2.0, 5.0]
    assert math.isnan(means[1])
    assert tokens.tolist() == [2, 0, 1]


def test_a_loss_in_pieces_is_the_whole_loss() -> None:
    hidden, weight, targets = torch.randn(7, 5, requires_grad=True), torch.randn(9, 5, requires_grad=True), torch.arange(7)
    whole, pieces = head_losses(hidden, weight, targets), head_losses(hidden, weight, targets, most_logits=20)
    torch.testing.assert_close(whole, token_losses(hidden @ weight.T, targets))
    torch.testing.assert_close(pieces, whole)
    each = torch.arange(1.0, 8.0)
    gradients = [torch.autograd.grad((losses * each).sum(), (hidden, weight)) for losses in (whole, pieces)]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(head_losses(hidden, weight, targets, most_logits=20), whole)

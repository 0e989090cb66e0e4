"""Sums over supervised tokens, means per sample, and losses by name."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F

from tests.trainer.conftest import NewJob
from tests.trainer.runs import losses, trained
from trainer.config import LOSSES, ConfigError
from trainer.losses import Loss, head_losses, loss_named, sample_losses, token_losses

HALF = Loss(answer_only=True, total=lambda nats, packed: 0.5 * nats.sum() + 0 * packed.targets.sum())
HERE = "tests.trainer.test_losses"


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


def test_every_loss_of_the_config_is_written() -> None:
    assert {name: loss_named(name).answer_only for name in LOSSES} == {"text_ce_all": False, "text_ce_answer_only": True}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dpo", "there is no such loss; there are text_ce_all, text_ce_answer_only, and MODULE:NAME"),
        (f"{HERE}:math", "there is no such loss; there are text_ce_all, text_ce_answer_only, and MODULE:NAME"),
        (f"{HERE}:HALFF", "there is no such loss; there are text_ce_all, text_ce_answer_only, and MODULE:NAME"),
        ("nowhere.dpo:DPO", "nowhere.dpo cannot be imported (No module named 'nowhere')"),
    ],
)
def test_a_loss_that_is_not_there_is_told_with_those_that_are(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"train.loss = {name!r}: {message}")):
        loss_named(name)


def test_an_unknown_loss_is_told_when_the_config_is_read(new_job: NewJob) -> None:
    with pytest.raises(ConfigError, match=r'settings: train\.loss = "text_ce_al": there is no such loss; there are'):
        new_job("run", {"train.loss": "text_ce_al"})


def test_a_loss_of_another_module_trains(new_job: NewJob) -> None:
    whole, half = (
        trained(new_job(name, {"train.loss": loss, "train.samples": 8}))
        for name, loss in (("whole", "text_ce_answer_only"), ("half", f"{HERE}:HALF"))
    )
    assert losses(half) == pytest.approx([0.5 * loss for loss in losses(whole)])

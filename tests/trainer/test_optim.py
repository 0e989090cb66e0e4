"""Learning rates by module, the schedule, and what counts as diverged."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from tests.trainer.conftest import small_model
from trainer.checkpoint import Progress
from trainer.config import OptimConfig, TrainingConfig
from trainer.optim import (
    DivergenceWatch,
    build_optimizer,
    parameters_of,
    rate_factor,
    scale_and_clip,
    set_rates,
    step_if_finite,
    warmup_steps,
)


def test_every_trainable_parameter_is_in_one_group_at_the_rate_of_its_part() -> None:
    model, optim = small_model(), OptimConfig(lr=1e-3, connector_ratio=10)
    optimizer = build_optimizer(model.parts(), model, optim)
    assert set_rates(optimizer, 0.5) == pytest.approx({"connector": 5e-3, "dino": 5e-4, "llm": 5e-4})
    in_groups = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(in_groups) == len(set(in_groups)) == sum(p.requires_grad for p in model.parameters())


def test_norms_biases_and_queries_have_no_weight_decay() -> None:
    model = small_model()
    groups = build_optimizer(model.parts(), model, OptimConfig(weight_decay=0.3)).param_groups
    decay = {p: group["weight_decay"] for group in groups for p in group["params"]}
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.requires_grad:
            assert decay[module.weight] == 0.3
            assert module.bias is None or decay[module.bias] == 0.0
        if isinstance(module, nn.LayerNorm):
            assert decay[module.weight] == 0.0
    assert decay[model.connector.get_parameter("q_static")] == decay[model.connector.get_parameter("q_init")] == 0.0


@pytest.mark.parametrize(
    ("frozen", "parts"),
    [
        ({"freeze_dino": True, "freeze_llm": True}, ["connector"]),
        ({"freeze_llm": True}, ["connector", "dino"]),
        ({}, ["connector", "dino", "llm"]),
    ],
)
def test_a_frozen_part_has_no_group(frozen: dict[str, bool], parts: list[str]) -> None:
    model = small_model(**frozen)
    assert list(parameters_of(model.parts(), model)) == parts


def test_a_parameter_in_no_part_is_an_error() -> None:
    model = small_model()
    model.stray = nn.Linear(2, 2)
    with pytest.raises(
        ValueError, match=re.escape("in no learning-rate part: stray.weight, stray.bias; parts: connector, dino, llm")
    ):
        parameters_of(model.parts(), model)


def test_a_parameter_in_two_parts_is_an_error() -> None:
    model = small_model()
    with pytest.raises(ValueError, match="is in two learning-rate parts: dino and again"):
        parameters_of(model.parts() | {"again": model.dino}, model)


def test_the_rate_rises_linearly_and_falls_like_a_cosine() -> None:
    optim = OptimConfig(warmup_fraction=0.1, min_lr_fraction=0.2)
    rates = [rate_factor(step, 100, optim) for step in range(100)]
    assert warmup_steps(100, optim) == 10
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6)
    assert rates[-1] == pytest.approx(0.2, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_no_warm_up_starts_at_the_peak_and_a_single_step_runs() -> None:
    assert rate_factor(0, 100, OptimConfig(warmup_fraction=0.0)) == 1.0
    assert rate_factor(0, 1, OptimConfig()) == 1.0


def test_clipping_tells_the_norm_before_it() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([30.0, 40.0])
    assert float(scale_and_clip([parameter], 0.1, 1.0)) == pytest.approx(5.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.inf)])
def test_a_step_that_is_not_finite_changes_no_weight_and_no_moment(loss: float, norm: float) -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    parameter.grad = torch.ones(3)
    step_if_finite(optimizer, torch.tensor(1.0), torch.tensor(1.0))
    before = [parameter.detach().clone(), *(value.clone() for value in optimizer.state[parameter].values())]
    parameter.grad = torch.full((3,), math.nan)
    step_if_finite(optimizer, torch.tensor(loss), torch.tensor(norm))
    after = [parameter.detach(), *optimizer.state[parameter].values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert before[0][0] != 1.0


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([(1.0, 1.0)] * 9, None),
        ([(NAN, 1.0), (1.0, INF), (1.0, 1.0), (NAN, NAN), (NAN, NAN)], None),
        (
            [(1.0, 1.0), (NAN, 2.0), (1.0, INF), (NAN, NAN)],
            "loss or gradient not finite in 3 consecutive steps (loss nan, gradient norm nan)",
        ),
    ],
)
def test_non_finite_steps_in_a_row_are_a_divergence(steps: Sequence[tuple[float, float]], reason: str | None) -> None:
    watch = DivergenceWatch(TrainingConfig(nonfinite_steps=3), 0, Progress())
    assert [watch.after_step(*step) for step in steps][-1] == reason


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        ([(100, 2.0), (200, 1.0), (300, 1.49)], None),
        ([(100, 2.0), (200, 1.0), (300, 1.51)], "val_loss 1.51 is above 1.5 times its best, 1, after 300 steps"),
        ([(10, 0.1), (100, 2.0), (200, 2.1)], None),  # the first is within warm-up
        ([(100, 2.0), (200, NAN)], "val_loss is nan after 200 steps"),
    ],
)
def test_a_val_loss_far_above_its_best_after_warm_up_is_a_divergence(curve: list[tuple[int, float]], reason: str | None) -> None:
    watch = DivergenceWatch(TrainingConfig(diverged_ratio=1.5), 20, Progress())
    assert [watch.after_eval(*point) for point in curve][-1] == reason


def test_a_resumed_run_goes_on_counting() -> None:
    progress = Progress(nonfinite=2, best_val_loss=1.0)
    assert DivergenceWatch(TrainingConfig(nonfinite_steps=3), 0, progress).after_step(NAN, 1.0) is not None
    assert DivergenceWatch(TrainingConfig(), 0, progress).after_eval(9, 1.6) is not None

"""What a run is told by at its end."""

from __future__ import annotations

import math

import pytest

from tests.trainer.runs import ALONE
from trainer.checkpoint import Progress
from trainer.config import OptimConfig
from trainer.facts import final_metrics, val_loss_slope
from trainer.horizon import Horizon


def test_a_run_without_a_gradient_ends_like_any_other() -> None:
    end = Horizon(16, 2, 8, {"dino": 1.0}, 0.0, 1.0)
    told = final_metrics(Progress(step=2, samples=16, grad_norms=[0.0, 0.0]), end, ALONE, OptimConfig())
    assert told["clipped_share"] == 0.0
    assert "grad_norm_p95_over_median" not in told


@pytest.mark.parametrize(
    ("evals", "slope"),
    [
        ([], None),
        ([(0, 2.0)], None),
        ([(0, 2.0), (100, 1.0)], -1.0),
        ([(0, 9.0), (80, 2.0), (90, 1.9), (100, 1.8)], -1.0),
        ([(0, 9.0), (50, 1.0), (100, 1.0)], 0.0),
        ([(0, 9.0), (100, math.nan)], None),
    ],
)
def test_the_slope_is_that_of_the_last_fifth(evals: list[tuple[int, float]], slope: float | None) -> None:
    assert val_loss_slope(evals) == (None if slope is None else pytest.approx(slope))

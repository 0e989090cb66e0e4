"""What a run is told by at its end."""

from __future__ import annotations

import math

import pytest

from trainer.facts import val_loss_slope


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

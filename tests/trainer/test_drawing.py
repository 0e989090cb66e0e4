"""Where a model looked, drawn."""

from __future__ import annotations

import numpy as np
import torch

from trainer.drawing import LABEL, LEAST_SIDE, MARGIN, drawn

STEP = LEAST_SIDE + MARGIN


def drawing(peak: int) -> np.ndarray:
    """Two white frames of 28x28 with four patches; the second is looked at in patch `peak`."""
    looks = torch.full((2, 3, 2, 5), 0.1)
    looks[1, :, :, 1 + peak] = 0.6
    sheet = drawn(np.full((2, 3, 28, 28), 255, np.uint8), {"coarse": torch.full((2, 3, 2, 5), 0.2), "fine": looks})
    return np.asarray(sheet.convert("RGB"))


def test_each_pass_has_a_row_below_the_frames() -> None:
    assert drawing(0).shape == (3 * STEP - MARGIN, LABEL + 2 * STEP, 3)


def test_patches_are_as_bright_as_they_were_looked_at_and_the_brightest_is_framed() -> None:
    for peak in range(4):
        fine = drawing(peak)[2 * STEP :, LABEL + STEP : LABEL + STEP + LEAST_SIDE]
        half = LEAST_SIDE // 2
        patches = [fine[half * (p // 2) :, half * (p % 2) :][:half, :half] for p in range(4)]
        middles = [int(patch[half // 2, half // 2, 0]) for patch in patches]
        assert middles[peak] > 240
        assert max(middle for p, middle in enumerate(middles) if p != peak) < 90
        red = [bool((patch[..., 0] > 200).any() and ((patch[..., 0] > 200) & (patch[..., 1] < 60)).any()) for patch in patches]
        assert red == [p == peak for p in range(4)]


def test_frames_themselves_are_drawn_as_they_are() -> None:
    frames = drawing(1)[:LEAST_SIDE, LABEL : LABEL + LEAST_SIDE]
    assert (frames == 255).all()

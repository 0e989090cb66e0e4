"""Where a model looked, drawn over the pictures.

T frames shown, N patches in a g x g grid, H heads, s pixels of a frame's side, S of a drawn one's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from trainer.data.pictures import Pixels

Weights = npt.NDArray[np.float32]
MARGIN, LABEL = 4, 44
"""Pixels between pictures, and left of a row for its name."""
LEAST_SIDE = 112
"""Smaller pictures are drawn larger, by a whole factor."""
DARK = 0.12
"""Brightness left where nobody looked."""
COLOURS = 64
"""Of the drawing: as a PNG it takes a third of what it would with all."""


def drawn(frames: Pixels, passes: Mapping[str, Tensor]) -> Image.Image:
    """A row with the frames, and one for each pass: bright where it looked, the brightest patch framed.

    frames: [T, 3, s, s]; passes: by name [T, layers, H, 1+N], drawn as the mean over layers and heads, without CLS.
    """
    factor = -(-LEAST_SIDE // frames.shape[-1])
    pictures = frames.repeat(factor, 2).repeat(factor, 3).transpose(0, 2, 3, 1)  # [T, S, S, 3]
    side, step = pictures.shape[1], pictures.shape[1] + MARGIN
    sheet = Image.new("RGB", (LABEL + len(frames) * step, (1 + len(passes)) * step - MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, looks) in enumerate([("frames", None), *passes.items()]):
        pen.text((0, row * step + side // 2 - 6), name, fill="black")
        for place, picture in enumerate(pictures):
            left, top = LABEL + place * step, row * step
            weights = None if looks is None else looks[place].mean((0, 1))[1:].float().cpu().numpy()  # [N]
            sheet.paste(Image.fromarray(picture if weights is None else _lit(picture, weights)), (left, top))
            if weights is not None:
                pen.rectangle(_peak(weights, left, top, side), outline="red", width=2)
    return sheet.quantize(COLOURS)


def _lit(picture: Pixels, weights: Weights) -> Pixels:
    """picture: [S, S, 3], weights: [N] -> the same picture, dark where nobody looked."""
    grid, side = round(len(weights) ** 0.5), len(picture)
    patch = np.arange(side) * grid // side  # [S] the row or column of patches that a pixel is in
    light = (weights / weights.max()).reshape(grid, grid)[patch][:, patch, None]  # [S, S, 1]
    lit: Pixels = (picture * (DARK + (1 - DARK) * light)).astype(np.uint8)
    return lit


def _peak(weights: Weights, left: int, top: int, side: int) -> tuple[float, float, float, float]:
    grid = round(len(weights) ** 0.5)
    y, x = divmod(int(weights.argmax()), grid)
    return left + x * side / grid, top + y * side / grid, left + (x + 1) * side / grid - 1, top + (y + 1) * side / grid - 1

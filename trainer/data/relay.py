"""The relay world: tiles with digits walk over a grid, and each frame's tint names the tile to read in the next frame.

A clip has T frames of 56x56 pixels, 4x4 cells of 14. One to six tiles of distinct colours, each with a near-black digit, walk on
the grid; every digit is redrawn in every frame. The tint of frame t is the colour of the tile to read in frame t+1, so a look
that is the same for every clip sees the cue and cannot know where to read: global cue, local answer.

C clips, T frames, N = 16 cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]

COLORS = ("red", "green", "blue", "yellow", "cyan", "magenta", "orange", "white")
DIGITS = 10
GRID = 4
CELLS = GRID * GRID
CELL = 14
IMAGE_SIZE = GRID * CELL
TINT = 0.4
NOISE = 0.08
# Pixel p of a frame shows brightness p / 255 * RANGE + LOWEST: room for the noise below black and above white.
LOWEST, RANGE = -0.25, 1.75
# (p / 255 - MEAN) / STD is brightness centred at 0.25 in units of 0.3, the input the tiny DINO is trained on.
MEAN, STD = (0.25 - LOWEST) / RANGE, 0.3 / RANGE

_RGB = np.array(
    [
        [220, 40, 40],
        [40, 180, 60],
        [50, 80, 230],
        [230, 220, 50],
        [60, 210, 220],
        [210, 60, 210],
        [240, 140, 30],
        [235, 235, 235],
    ],
    np.float32,
) / np.float32(255)  # [8, 3]
_GLYPHS = (
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11110 00001 00001 01110 00001 00001 11110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "01110 10000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00001 01110",
)
_TILE = 12
_OFFSETS = 9
_GRAINS = 64


@dataclass(frozen=True)
class Scenes:
    """C clips as numbers; -1 stands for "nothing there"."""

    color: Ints  # [C, T, N] of the tile in each cell
    digit: Ints  # [C, T, N] on the tile in each cell
    tint: Ints  # [C, T] color of the frame's cue
    tiles: Ints  # [C]
    target_cell: Ints  # [C, T] where the tile named by the cue before (videos) or by this frame's cue (images) stands
    target_digit: Ints  # [C, T]
    target_color: Ints  # [C, T]
    offset: Ints  # [C, T, N] 0..8: the tile's place inside its cell
    grain: Ints  # [C, T] which of 64 noise patterns
    gain: npt.NDArray[np.float32]  # [C, T] brightness


def clips(rng: np.random.Generator, count: int, frames: int, tiles: tuple[int, int]) -> Scenes:
    """Videos: `count` clips with tiles[0]..tiles[1] tiles; frame 0 has no target and the last frame no cue."""
    scene = _walks(rng, count, frames, tiles)
    named = scene.pick.copy()  # [C, T] tile named by the cue of frame t
    target = np.concatenate([np.zeros((count, 1), np.int64), named[:, :-1]], 1)
    tint = np.take_along_axis(scene.palette, named, 1)
    tint[:, -1] = -1
    made = _scenes(rng, scene, tint, target)
    cell, digit, color = made.target_cell.copy(), made.target_digit.copy(), made.target_color.copy()
    cell[:, 0] = digit[:, 0] = color[:, 0] = -1
    return Scenes(made.color, made.digit, tint, made.tiles, cell, digit, color, made.offset, made.grain, made.gain)


def images(rng: np.random.Generator, count: int, tiles: tuple[int, int]) -> Scenes:
    """One frame each; the cue names a tile of this same frame."""
    scene = _walks(rng, count, 1, tiles)
    return _scenes(rng, scene, np.take_along_axis(scene.palette, scene.pick, 1), scene.pick)


def render(scenes: Scenes, around_tiles: bool = True) -> Pixels:
    """Frames [C, T, 56, 56, 3], uint8.

    around_tiles: the tint also shows at the edges of cells with a tile, so that a patch alone can tell whether its tile is named;
    else only empty cells show it.
    """
    count, frames = scenes.tint.shape
    pixels = np.empty((count, frames, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    step = max(1, 24 // frames)  # measured: 24 frames at a time stay in the processor's cache, 12 times faster than all at once
    for first in range(0, count, step):
        pixels[first : first + step] = _render(scenes, slice(first, first + step), around_tiles)
    return pixels


def _render(scenes: Scenes, part: slice, around_tiles: bool) -> Pixels:
    color, digit, offset, gain = scenes.color[part], scenes.digit[part], scenes.offset[part], scenes.gain[part]
    sprite = np.where(color >= 0, 1 + color * DIGITS + digit, 0)  # [C, T, N]
    tint = np.where(scenes.tint[part, :, None] >= 0, _RGB[scenes.tint[part]] * TINT, 0).astype(np.float32)  # [C, T, 3]
    empty = _EMPTY[sprite, offset] if around_tiles else (sprite == 0)[..., None, None, None]
    cells = _SPRITES[sprite, offset] + empty * tint[:, :, None, None, None]  # [C, T, N, 14, 14, 3]
    cells = cells * gain[:, :, None, None, None, None] + _GRAIN[scenes.grain[part]]
    grid = cells.reshape(*tint.shape[:2], GRID, GRID, CELL, CELL, 3).swapaxes(3, 4)
    frames = grid.reshape(*tint.shape[:2], IMAGE_SIZE, IMAGE_SIZE, 3)
    scaled: Pixels = np.rint(np.clip((frames - LOWEST) * (255 / RANGE), 0, 255)).astype(np.uint8)
    return scaled


@dataclass(frozen=True)
class _Walk:
    palette: Ints  # [C, most tiles] colour of each tile
    place: Ints  # [C, T, most tiles] its cell
    drawn: Ints  # [C, T, most tiles] its digit
    active: npt.NDArray[np.bool_]  # [C, most tiles]
    pick: Ints  # [C, T] a tile drawn at random for each frame


def _walks(rng: np.random.Generator, count: int, frames: int, tiles: tuple[int, int]) -> _Walk:
    number = rng.integers(tiles[0], tiles[1] + 1, count)
    most = tiles[1]
    rows = np.arange(count)
    active = np.arange(most) < number[:, None]
    palette = np.argsort(rng.random((count, len(COLORS))), 1)[:, :most]
    at = np.argsort(rng.random((count, CELLS)), 1)[:, :most]
    taken = np.zeros((count, CELLS), bool)
    for tile in range(most):
        taken[rows[active[:, tile]], at[active[:, tile], tile]] = True
    place = np.zeros((count, frames, most), np.int64)
    for frame in range(frames):
        if frame:
            for tile in rng.permutation(most):
                _step(rng, at, taken, active, tile)
        place[:, frame] = at
    pick = (rng.random((count, frames)) * number[:, None]).astype(np.int64)
    return _Walk(palette, place, rng.integers(0, DIGITS, (count, frames, most)), active, pick)


def _step(rng: np.random.Generator, at: Ints, taken: npt.NDArray[np.bool_], active: npt.NDArray[np.bool_], tile: int) -> None:
    """Move one tile of every clip to a free neighbour, or leave it; changes `at` and `taken`."""
    count = len(at)
    rows = np.arange(count)
    down, right = np.array([[0, 1], [0, -1], [1, 0], [-1, 0]])[rng.integers(0, 4, count)].T
    y, x = at[:, tile] // GRID + down, at[:, tile] % GRID + right
    inside = (y >= 0) & (y < GRID) & (x >= 0) & (x < GRID) & active[:, tile] & (rng.random(count) < 0.7)
    to = np.where(inside, y * GRID + x, at[:, tile])
    moves = rows[inside & ~taken[rows, to]]
    taken[moves, at[moves, tile]] = False
    taken[moves, to[moves]] = True
    at[moves, tile] = to[moves]


def _scenes(rng: np.random.Generator, walk: _Walk, tint: Ints, target: Ints) -> Scenes:
    count, frames, most = walk.place.shape
    color = np.full((count, frames, CELLS), -1, np.int64)
    digit = color.copy()
    for tile in range(most):
        rows = np.flatnonzero(walk.active[:, tile])
        for frame in range(frames):
            cells = walk.place[rows, frame, tile]
            color[rows, frame, cells] = walk.palette[rows, tile]
            digit[rows, frame, cells] = walk.drawn[rows, frame, tile]
    return Scenes(
        color,
        digit,
        tint,
        walk.active.sum(1),
        np.take_along_axis(walk.place, target[:, :, None], 2)[..., 0],
        np.take_along_axis(walk.drawn, target[:, :, None], 2)[..., 0],
        np.take_along_axis(walk.palette, target, 1),
        rng.integers(0, _OFFSETS, (count, frames, CELLS)),
        rng.integers(0, _GRAINS, (count, frames)),
        (0.8 + 0.4 * rng.random((count, frames))).astype(np.float32),
    )


def _sprites() -> npt.NDArray[np.float32]:
    """[1 + 8 * 10, 9, 14, 14, 3]: an empty cell, then every tile at every offset."""
    table = np.zeros((1 + len(COLORS) * DIGITS, _OFFSETS, CELL, CELL, 3), np.float32)
    for color in range(len(COLORS)):
        for digit in range(DIGITS):
            tile = np.ones((_TILE, _TILE, 3), np.float32) * _RGB[color]
            glyph = np.array([[int(bit) for bit in line] for line in _GLYPHS[digit].split()])
            tile[2:9, 3:8][glyph > 0] = 0.02
            for offset in range(_OFFSETS):
                y, x = divmod(offset, 3)
                table[1 + color * DIGITS + digit, offset, y : y + _TILE, x : x + _TILE] = tile
    return table


_SPRITES = _sprites()
_EMPTY = (_SPRITES.sum(-1, keepdims=True) == 0).astype(np.float32)  # [81, 9, 14, 14, 1]
_GRAIN = np.random.default_rng(7).normal(0, NOISE, (_GRAINS, CELLS, CELL, CELL, 3)).astype(np.float32)

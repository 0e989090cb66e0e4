"""The relay world: what a cue names is where the metadata says, and pixels show it."""

from dataclasses import replace

import numpy as np

from trainer.data import relay


def test_a_frames_tint_names_the_target_of_the_next_frame() -> None:
    scenes = relay.clips(np.random.default_rng(0), 50, 6, (1, 6))
    assert (scenes.tint[:, -1] == -1).all()
    assert (scenes.target_cell[:, 0] == -1).all()
    clips, frames = np.mgrid[0:50, 1:6]
    assert (scenes.color[clips, frames, scenes.target_cell[:, 1:]] == scenes.tint[:, :-1]).all()
    assert (scenes.digit[clips, frames, scenes.target_cell[:, 1:]] == scenes.target_digit[:, 1:]).all()


def test_tiles_keep_their_number_and_have_distinct_colors() -> None:
    scenes = relay.clips(np.random.default_rng(1), 50, 6, (1, 6))
    assert ((scenes.color >= 0).sum(2) == scenes.tiles[:, None]).all()
    for clip in scenes.color.reshape(-1, relay.CELLS):
        there = clip[clip >= 0]
        assert len(set(there)) == len(there)


def test_the_cue_of_an_image_names_a_tile_of_this_image() -> None:
    scenes = relay.images(np.random.default_rng(2), 50, (5, 8))
    images = np.arange(50)
    assert (scenes.color[images, 0, scenes.target_cell[:, 0]] == scenes.tint[:, 0]).all()
    assert (scenes.digit[images, 0, scenes.target_cell[:, 0]] == scenes.target_digit[:, 0]).all()
    assert set(scenes.tiles) == {5, 6, 7, 8}


def test_pixels_depend_on_the_digit_only_inside_its_cell() -> None:
    scenes = relay.images(np.random.default_rng(3), 1, (1, 1))
    cell = int(scenes.target_cell[0, 0])
    other = replace(scenes, digit=np.where(scenes.digit >= 0, (scenes.digit + 1) % 10, -1))
    differs = (relay.render(scenes) != relay.render(other)).any(-1)[0, 0]
    rows, columns = np.nonzero(differs)
    assert set((rows // relay.CELL) * relay.GRID + columns // relay.CELL) == {cell}


def test_rendering_in_parts_changes_nothing() -> None:
    scenes = relay.clips(np.random.default_rng(4), 9, 6, (1, 6))
    whole = relay.render(scenes)
    assert whole.shape == (9, 6, relay.IMAGE_SIZE, relay.IMAGE_SIZE, 3)
    last = relay.render(relay.Scenes(*(getattr(scenes, name)[8:] for name in scenes.__dataclass_fields__)))
    assert (whole[8:] == last).all()


def test_a_tiles_own_cell_can_be_kept_free_of_the_tint() -> None:
    scenes = relay.images(np.random.default_rng(5), 1, (8, 8))
    other = replace(scenes, tint=(scenes.tint + 1) % 8)
    for around, cells in ((True, 16), (False, 8)):
        differs = (relay.render(scenes, around) != relay.render(other, around)).any(-1)[0, 0]
        rows, columns = np.nonzero(differs)
        assert len(set(zip(rows // relay.CELL, columns // relay.CELL, strict=True))) == cells

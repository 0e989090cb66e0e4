"""Pictures become frames: decoded once when they fit, the same either way."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data import frames as frames_file
from trainer.data.frames import DINOV2, RELAY, Frames, Look, look_of, shown
from trainer.data.manifest import index_root
from trainer.data.pictures import decode
from trainer.data.shards import DataError


def encoded(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(file, "PNG")
    return file.getvalue()


def test_cached_frames_are_those_decoded_as_read(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = world
    clip = next(entry for entry in index_root(root, cache) if entry.kind == "video" and entry.first_frame > 0)
    cached = Frames(root / "shards", 56, cache)
    assert cached.prepare(clip.shard)
    monkeypatch.setattr(frames_file, "MOST_CACHED_BYTES", 1)
    direct = Frames(root / "shards", 56, tmp_path)
    assert not direct.prepare(clip.shard)
    assert (cached.of(clip, [0, 5, 2]) == direct.of(clip, [0, 5, 2])).all()
    assert not list(tmp_path.rglob("*.npy"))


def test_a_picture_of_another_size_is_resized() -> None:
    pixels = decode(encoded((30, 40)), 56, "here")
    assert pixels.shape == (3, 56, 56)
    assert pixels[:, 20, 20].tolist() == [10, 200, 30]


def test_a_broken_picture_is_told_by_place() -> None:
    with pytest.raises(DataError, match=r"^shard.tar: key: a picture cannot be decoded"):
        decode(b"nothing", 56, "shard.tar: key")


def test_a_huge_picture_is_not_decoded() -> None:
    with pytest.raises(DataError, match=r"^here: a picture of 9000x1 pixels; at most 8192 a side are decoded"):
        decode(encoded((9000, 1)), 56, "here")


@pytest.mark.parametrize(
    ("frames", "most", "expected"),
    [(3, 64, [0, 1, 2]), (7, 4, [0, 2, 4, 6]), (100, 3, [0, 50, 99]), (5, 1, [0]), (0, 4, [])],
)
def test_a_clip_longer_than_max_frames_is_shown_evenly(frames: int, most: int, expected: list[int]) -> None:
    assert shown(frames, most).tolist() == expected


def test_a_model_says_how_its_input_looks(tmp_path: Path) -> None:
    said = {"crop_size": {"height": 98, "width": 98}, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    assert look_of(str(tmp_path)) == Look(98, (0.1, 0.2, 0.3), (1, 2, 3))
    assert look_of("facebook/dinov2-small") == DINOV2
    assert look_of("tiny/dino") == RELAY


def test_floats_are_normalised_per_channel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), np.uint8)
    mean, std = torch.tensor(DINOV2.mean)[:, None, None], torch.tensor(DINOV2.std)[:, None, None]
    torch.testing.assert_close(DINOV2.normalised(torch.from_numpy(pixels)), (torch.from_numpy(pixels) / 255 - mean) / std)

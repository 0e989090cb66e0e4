"""The relay world as shards: the same recipe, the same bytes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainer.data.conftest import TEST_RECIPE
from trainer.data.manifest import index_root, validation
from trainer.data.shards import read_sample
from trainer.data.synthetic import make


def quiet(_line: str) -> None:
    pass


def test_the_folder_holds_what_the_recipe_says(world: tuple[Path, Path]) -> None:
    root, cache = world
    found = index_root(root, cache)
    count = {source: sum(entry.source == source for entry in found) for source in ("relay", "sparse", "crowded", "words")}
    assert count == {"relay": 40, "sparse": 30, "crowded": 20, "words": 40}
    assert {entry.kind for entry in found if entry.source == "relay"} == {"video"}
    assert [(e.source, e.key) for e in validation(root, "val_images").entries()][:2] == [
        ("crowded", "crowded-000000"),
        ("crowded", "crowded-000001"),
    ]


def test_a_clip_is_six_pictures_and_json(world: tuple[Path, Path]) -> None:
    root, cache = world
    entry = next(entry for entry in index_root(root, cache) if entry.source == "relay")
    sample = read_sample(root / "shards" / entry.shard, entry.offset, entry.length)
    assert len(sample.pictures) == sample.meta["frame_count"] == len(sample.meta["target_cells"]) == 6
    assert sample.meta["user"] == "what digits do cues point at ?"
    assert len(sample.meta["assistant"].split()) == 5


def test_the_same_recipe_gives_the_same_bytes_and_a_second_call_does_nothing(world: tuple[Path, Path], tmp_path: Path) -> None:
    assert make(tmp_path / "again", TEST_RECIPE, tmp_path / "cache", quiet)
    for shard in sorted((world[0] / "shards").glob("*.tar")):
        assert (tmp_path / "again" / "shards" / shard.name).read_bytes() == shard.read_bytes()
    assert not make(tmp_path / "again", TEST_RECIPE, tmp_path / "cache", quiet)


def test_an_interrupted_call_is_finished_by_the_next(tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop_at_crowded(line: str) -> None:
        if "crowded" in line:
            raise StoppedError

    with pytest.raises(StoppedError):
        make(tmp_path / "data", TEST_RECIPE, tmp_path / "cache", stop_at_crowded)
    kept = tmp_path / "data" / "shards" / "relay-00.tar"
    before = kept.stat().st_mtime_ns
    assert make(tmp_path / "data", TEST_RECIPE, tmp_path / "cache", quiet)
    assert kept.stat().st_mtime_ns == before
    assert not list((tmp_path / "data").rglob("*building*"))
    assert json.loads((tmp_path / "data" / "recipe.json").read_text())["hash"] == TEST_RECIPE.hash


def test_a_folder_of_another_recipe_is_left_alone(world: tuple[Path, Path]) -> None:
    with pytest.raises(
        ValueError, match="holds data of another recipe or origin; remove it or give another folder, nothing was changed"
    ):
        make(world[0], replace(TEST_RECIPE, relay=41), world[1], quiet)

"""Samples of one picture are about one thing."""

from __future__ import annotations

from pathlib import Path

from trainer.data.manifest import Manifest, index_root, table_of
from trainer.data.scenes import scene_of, scenes
from trainer.data.shards import Sample, write_shard

META = {"user": "what?", "assistant": "that", "source": "s"}


def sample(key: str, *pictures: bytes, **meta: object) -> Sample:
    kind = {0: "text", 1: "image"}.get(len(pictures), "video")
    return Sample(key, kind, {**META, "user": key, "frame_count": len(pictures), **meta}, pictures)  # type: ignore[arg-type]


def test_questions_about_one_picture_are_about_one_scene_and_a_text_about_none(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    asked = [sample("a", b"1"), sample("b", b"1"), sample("c", b"2"), sample("d", b"1", b"2"), sample("e")]
    write_shard(tmp_path / "shards" / "s-00.tar", [(one, ".jpg") for one in asked])
    manifest = Manifest(table_of(index_root(tmp_path, tmp_path / "files")))
    found = scenes(manifest, tmp_path / "shards", tmp_path / "kept.parquet")
    assert found[0] == found[1]
    assert len({*found[1:4]}) == 3
    assert found[4] is None
    (tmp_path / "shards" / "s-00.tar").unlink()
    assert scenes(manifest, tmp_path / "shards", tmp_path / "kept.parquet") == found, "read once"


def test_a_sample_may_name_its_clip() -> None:
    """Two questions about one clip may show other frames of it."""
    assert scene_of(sample("a", b"1", b"2", clip="kitchen-7")) == scene_of(sample("b", b"3", b"4", clip="kitchen-7"))
    assert scene_of(sample("a", b"1", image=7)) != scene_of(sample("a", b"1"))

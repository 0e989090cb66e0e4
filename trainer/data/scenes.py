"""What the samples of a validation set are about: several questions about one picture or clip are not independent evidence."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.manifest import Manifest
from trainer.data.once import built_once
from trainer.data.shards import Entry, Sample, read_entry


def scenes(manifest: Manifest, shards: Path, target: Path) -> list[str | None]:
    """Per row what its pictures show, equal for two samples of one image or clip; None for a text.

    A sample's JSON may name it, as `clip` or `image`; else it is the hash of its pictures. Read from the shards on the first call
    and kept at `target`. Raises DataError naming shard and key for a sample that cannot be read.
    """

    def build(temporary: Path) -> None:
        pq.write_table(pa.table({"scene": pa.array([_scene(shards, one) for one in manifest.entries()], pa.string())}), temporary)

    found: list[str | None] = pq.read_table(built_once(target, build))["scene"].to_pylist()
    return found


def _scene(shards: Path, entry: Entry) -> str | None:
    return scene_of(read_entry(shards, entry)) if entry.frames else None


def scene_of(sample: Sample) -> str:
    for name in ("clip", "image"):
        said = sample.meta.get(name)
        if isinstance(said, str | int) and not isinstance(said, bool):
            return f"{name} {said}"
    digest = hashlib.sha256()
    for picture in sample.pictures:
        digest.update(hashlib.sha256(picture).digest())
    return digest.hexdigest()[:16]

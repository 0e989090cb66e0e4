"""The relay world written as ordinary shards, with its validation sets: the data of the tiny study.

    ROOT/shards/relay-00.tar …          video (source "relay"), image ("sparse", "crowded") and text ("words")
    ROOT/manifests/val_tiny.parquet     videos, sparse images, texts
    ROOT/manifests/val_images.parquet   crowded images, texts
    ROOT/recipe.json                what made this folder; written last

In sparse images (1-3 tiles) and clips the tint also shows around each tile; in crowded images (1-8 tiles) only empty cells do,
so that no patch alone can tell whether it is the one to read. The same recipe gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.data.manifest import entries, index_shard, write_manifest
from trainer.data.relay import Pixels, Scenes, clips, images, render
from trainer.data.relay_texts import MATCH, RELAY, TEXT_KINDS, text
from trainer.data.shards import Entry, Sample, write_shard

VERSION = 1
SUFFIX = ".jpg"
QUALITY = 90


@dataclass(frozen=True)
class Recipe:
    """How many samples of each source (validation included), and how hard they are."""

    relay: int = 6_700
    sparse: int = 3_300
    crowded: int = 10_800
    words: int = 1_900
    frames: int = 6
    video_tiles: tuple[int, int] = (1, 6)
    sparse_tiles: tuple[int, int] = (1, 3)
    crowded_tiles: tuple[int, int] = (1, 8)
    val_tiny: tuple[int, int, int] = (600, 260, 140)
    """Samples of relay, sparse and words that validation holds out."""
    val_images: tuple[int, int] = (400, 65)
    """Samples of crowded and words."""
    per_shard: int = 1_000
    seed: int = 1

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps([VERSION, QUALITY, asdict(self)]).encode()).hexdigest()[:12]


SMALL = Recipe(relay=360, sparse=180, crowded=460, words=140, val_tiny=(40, 20, 12), val_images=(24, 6), per_shard=100)
"""Enough for runs of 480 samples: made in a second, for tests of mechanics."""


def make(root: Path, recipe: Recipe, cache: Path, say: Callable[[str], None]) -> bool:
    """Write the folder unless this recipe made it already; False when there was nothing to do.

    An interrupted call is finished by the next one: shards that are whole are kept.
    Raises ValueError for a folder that another recipe or hand has filled.
    """
    done = root / "recipe.json"
    if done.exists() and json.loads(done.read_text())["hash"] == recipe.hash:
        return False
    _refuse_foreign(root, recipe)
    (root / "shards").mkdir(parents=True, exist_ok=True)
    (root / "building.json").write_text(json.dumps({"hash": recipe.hash}))
    for source in SOURCES:
        for number, count in enumerate(_shard_sizes(getattr(recipe, source), recipe.per_shard)):
            path = root / "shards" / f"{source}-{number:02d}.tar"
            if not path.exists():
                temporary = path.with_suffix(".building")
                write_shard(temporary, _samples(source, number, count, recipe))
                temporary.replace(path)
            say(f"{path} ({count} samples)")
    for name, sources, sizes in (
        ("val_tiny", ("relay", "sparse", "words"), recipe.val_tiny),
        ("val_images", ("crowded", "words"), recipe.val_images),
    ):
        chosen = [entry for source, count in zip(sources, sizes, strict=True) for entry in _first(root, source, count, cache)]
        write_manifest(root / "manifests" / f"{name}.parquet", chosen)
        say(f"{root / 'manifests' / name}.parquet ({len(chosen)} samples)")
    temporary = done.with_suffix(".tmp")
    temporary.write_text(json.dumps({"hash": recipe.hash, "version": VERSION, **asdict(recipe)}, indent=1))
    temporary.replace(done)
    (root / "building.json").unlink()
    return True


SOURCES = ("relay", "sparse", "crowded", "words")


def _refuse_foreign(root: Path, recipe: Recipe) -> None:
    """What lies there must be nothing, or an unfinished call of this same recipe."""
    begun = root / "building.json"
    if begun.exists() and json.loads(begun.read_text())["hash"] == recipe.hash:
        return
    if (root / "recipe.json").exists() or begun.exists() or any(root.glob("shards/*.tar")):
        raise ValueError(f"{root}: holds data of another recipe or origin; remove it or give another folder, nothing was changed")


def _shard_sizes(count: int, per_shard: int) -> list[int]:
    return [min(per_shard, count - first) for first in range(0, count, per_shard)]


def _first(root: Path, source: str, count: int, cache: Path) -> list[Entry]:
    """The first samples of a source, in the order of its shards."""
    shards = sorted((root / "shards").glob(f"{source}-*.tar"))
    everything = (entry for shard in shards for entry in entries(index_shard(shard, cache)))
    return list(itertools.islice(everything, count))


def _samples(source: str, number: int, count: int, recipe: Recipe) -> Iterator[tuple[Sample, str]]:
    """The samples of one shard; its own random stream, so that shards do not depend on each other."""
    rng = np.random.default_rng([recipe.seed, SOURCES.index(source), number])
    first = number * recipe.per_shard
    if source == "words":
        yield from _texts(rng, first, count, recipe)
        return
    scenes = _scenes(source, rng, count, recipe)
    for at in range(0, count, 50):  # frames of 50 samples in memory at a time
        pixels = render(part(scenes, slice(at, at + 50)), around_tiles=source != "crowded")
        for i in range(len(pixels)):
            meta = _meta(source, scenes, at + i)
            pictures = tuple(_encoded(frame) for frame in pixels[i])
            yield Sample(f"{source}-{first + at + i:06d}", "video" if source == "relay" else "image", meta, pictures), SUFFIX


def _scenes(source: str, rng: np.random.Generator, count: int, recipe: Recipe) -> Scenes:
    if source == "relay":
        return clips(rng, count, recipe.frames, recipe.video_tiles)
    return images(rng, count, recipe.sparse_tiles if source == "sparse" else recipe.crowded_tiles)


def part(scenes: Scenes, which: slice) -> Scenes:
    return Scenes(*(getattr(scenes, field.name)[which] for field in fields(Scenes)))


def _meta(source: str, scenes: Scenes, at: int) -> dict[str, object]:
    video = source == "relay"
    answer = " ".join(str(digit) for digit in scenes.target_digit[at, 1 if video else 0 :])
    question = RELAY if video else MATCH
    meta: dict[str, object] = {"user": question, "assistant": answer, "source": source, "frame_count": scenes.tint.shape[1]}
    if video:
        meta["target_cells"] = [int(cell) for cell in scenes.target_cell[at]]
    return meta


def _texts(rng: np.random.Generator, first: int, count: int, recipe: Recipe) -> Iterator[tuple[Sample, str]]:
    for i in range(count):
        said = text(rng, TEXT_KINDS[rng.integers(0, len(TEXT_KINDS))], recipe.frames)
        meta: dict[str, object] = {"source": "words", "frame_count": 0}
        if said.before:
            ids, mask = said.tokens
            meta |= {"token_ids": ids, "loss_mask": mask}
        else:
            meta |= {"user": said.user, "assistant": said.assistant}
        yield Sample(f"words-{first + i:06d}", "text", meta, ()), SUFFIX


def _encoded(frame: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()

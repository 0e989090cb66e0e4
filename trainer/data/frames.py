"""Pictures → float frames, each decoded once: a memory-mapped file per shard, shared by all jobs.

Decoded frames are kept as uint8 under the cache folder when all shards of a data folder together have at most MOST_CACHED_BYTES;
bigger data is decoded as it is read, in the loader's processes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from trainer.data import relay
from trainer.data.once import built_once
from trainer.data.shards import DataError, Entry, read_sample, samples

Pixels = npt.NDArray[np.uint8]
MOST_CACHED_BYTES = 512 * 2**20
"""Of encoded shards; decoded they take about ten times as much at 224x224, twice as much at 56x56."""
MOST_SIDE = 8192


@dataclass(frozen=True)
class Look:
    """How pixels become a vision model's input: (p / 255 - mean) / std on a square of `size`."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def floats(self, pixels: Pixels) -> Tensor:
        """[U, 3, H, W] uint8 -> the same shape, float32"""
        scale = 1 / (255 * torch.tensor(self.std))[:, None, None]
        shift = (torch.tensor(self.mean) / torch.tensor(self.std))[:, None, None]
        return torch.from_numpy(pixels).float().mul_(scale).sub_(shift)


DINOV2 = Look(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RELAY = Look(relay.IMAGE_SIZE, (relay.MEAN,) * 3, (relay.STD,) * 3)


def look_of(vision: str) -> Look:
    """What a vision model expects: its folder's preprocessor_config.json, or DINOv2's numbers for a name on the hub."""
    if vision.startswith("tiny/"):
        return RELAY
    file = Path(vision) / "preprocessor_config.json"
    if not file.exists():
        return DINOV2
    said = json.loads(file.read_text())
    size = said.get("crop_size") or said.get("size") or {}
    side = size if isinstance(size, int) else size.get("height", size.get("shortest_edge", DINOV2.size))
    r, g, b = said.get("image_mean", DINOV2.mean)
    sr, sg, sb = said.get("image_std", DINOV2.std)
    return Look(int(side), (r, g, b), (sr, sg, sb))


def decode(picture: bytes, size: int, named: str) -> Pixels:
    """An encoded picture -> [3, size, size]; `named` says whose it is when it cannot be decoded (DataError)."""
    try:
        with Image.open(io.BytesIO(picture)) as opened:
            if max(opened.size) > MOST_SIDE:
                raise DataError(
                    f"{named}: a picture of {opened.size[0]}x{opened.size[1]} pixels; at most {MOST_SIDE} a side are decoded"
                )
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{named}: a picture cannot be decoded ({error})") from error
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))  # channels first: batches are made often, this once


def shown(frames: int, most: int) -> npt.NDArray[np.int64]:
    """Which of a clip's frames are shown: all, or `most` of them evenly spaced with the first and the last."""
    if frames <= most:
        return np.arange(frames)
    return np.rint(np.linspace(0, frames - 1, most)).astype(np.int64) if most > 1 else np.zeros(1, np.int64)


class Frames:
    """Decoded frames of a folder's shards."""

    def __init__(self, shards: Path, size: int, cache: Path) -> None:
        self.size = size
        self._shards, self._cache = shards, cache
        self._keeps = sum(path.stat().st_size for path in shards.glob("*.tar")) <= MOST_CACHED_BYTES
        self._open: dict[str, Pixels | None] = {}

    def of(self, entry: Entry, which: Sequence[int] | npt.NDArray[np.int64]) -> Pixels:
        """[len(which), 3, H, W]"""
        if entry.shard not in self._open:
            self._open[entry.shard] = self._cached(entry.shard)
        kept = self._open[entry.shard]
        if kept is not None:
            picked: Pixels = kept[entry.first_frame + np.asarray(which)]
            return picked
        path = self._shards / entry.shard
        pictures = read_sample(path, entry.offset, entry.length).pictures
        return np.stack([decode(pictures[i], self.size, f"{path}: {entry.key}") for i in which])

    def prepare(self, shard: str) -> bool:
        """Decode a shard into the cache unless the data is too big; True when it is there now."""
        return self._cached(shard) is not None

    def _cached(self, shard: str) -> Pixels | None:
        if not self._keeps:
            return None
        path = self._shards / shard
        target = self._cache / "frames" / f"{fingerprint(path)}-3x{self.size}x{self.size}.npy"
        built_once(target, lambda temporary: self._build(path, temporary))
        kept: Pixels = np.asarray(np.load(target, mmap_mode="r"))  # a plain view: memmap's own indexing is slow
        return kept

    def _build(self, path: Path, target: Path) -> None:
        count = 0
        with target.open("wb") as file:
            _write_header(file, count, self.size)
            for sample in samples(path):
                for picture in sample.pictures:
                    file.write(decode(picture, self.size, f"{path}: {sample.key}").tobytes())
                count += len(sample.pictures)
            file.seek(0)
            _write_header(file, count, self.size)  # numpy leaves room in it for the first axis to grow


def fingerprint(path: Path) -> str:
    """A shard's name in the cache: changes when the file does."""
    stat = path.stat()
    return f"{path.stem}-{stat.st_size:x}-{stat.st_mtime_ns:x}"


def _write_header(file: BinaryIO, count: int, size: int) -> None:
    np.lib.format.write_array_header_2_0(
        file, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": (count, 3, size, size)}
    )

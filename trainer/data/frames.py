"""Pictures → float frames, each decoded once: a memory-mapped file per shard, shared by all jobs.

Decoded frames are kept as uint8 under the cache folder when all shards of a data folder together have at most MOST_CACHED_BYTES;
bigger data is decoded as it is read, in the loader's processes. Either way a picture that cannot be decoded stops the job, unless
an index has left its sample out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.data import relay
from trainer.data.once import built_once
from trainer.data.pictures import Pixels, decode, decode_into
from trainer.data.shards import DataError, Entry, Group, fingerprint, groups, load, read_entry
from trainer.weights import local_folder

MOST_CACHED_BYTES = 512 * 2**20
"""Of encoded shards; decoded they take about ten times as much at 224x224, twice as much at 56x56."""


@dataclass(frozen=True)
class Look:
    """How pixels become a vision model's input: (p / 255 - mean) / std on a square of `size`."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalised(self, pixels: Tensor) -> Tensor:
        """[U, 3, H, W] uint8 -> the same shape, float32, on the device where it lies."""
        scale = 1 / (255 * torch.tensor(self.std))[:, None, None]
        shift = (torch.tensor(self.mean) / torch.tensor(self.std))[:, None, None]
        scale, shift = (x.to(pixels.device, non_blocking=True) for x in (scale, shift))
        return pixels.float().mul_(scale).sub_(shift)


DINOV2 = Look(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RELAY = Look(relay.IMAGE_SIZE, (relay.MEAN,) * 3, (relay.STD,) * 3)


def look_of(vision: str) -> Look:
    """What a vision model expects: its folder's preprocessor_config.json, or DINOv2's numbers for a name on the hub."""
    if vision.startswith("tiny/"):
        return RELAY
    file = (local_folder(vision) or Path(vision)) / "preprocessor_config.json"
    if not file.exists():
        return DINOV2
    said = json.loads(file.read_text())
    size = said.get("crop_size") or said.get("size") or {}
    side = size if isinstance(size, int) else size.get("height", size.get("shortest_edge", DINOV2.size))
    r, g, b = said.get("image_mean", DINOV2.mean)
    sr, sg, sb = said.get("image_std", DINOV2.std)
    return Look(int(side), (r, g, b), (sr, sg, sb))


def shown(frames: int, most: int) -> npt.NDArray[np.int64]:
    """Which of a clip's frames are shown: all, or `most` of them evenly spaced with the first and the last."""
    if frames <= most:
        return np.arange(frames)
    return np.rint(np.linspace(0, frames - 1, most)).astype(np.int64) if most > 1 else np.zeros(1, np.int64)


class Frames:
    """Decoded frames of a folder's shards.

    left_out: an index says which samples are good; the pictures of the others are kept as black, for no manifest names them.
    """

    def __init__(self, shards: Path, size: int, cache: Path, left_out: bool = False) -> None:
        self.size = size
        self._left_out = left_out
        self._shards, self._cache = shards, cache
        self._keeps = sum(path.stat().st_size for path in shards.glob("*.tar")) <= MOST_CACHED_BYTES
        self._open: dict[str, Pixels | None] = {}

    def of(self, entry: Entry, which: Sequence[int] | npt.NDArray[np.int64]) -> Pixels:
        """[len(which), 3, H, W]"""
        out = np.empty((len(which), 3, self.size, self.size), np.uint8)
        self.fill(out, entry, which)
        return out

    def fill(self, out: Pixels, entry: Entry, which: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """The same into a batch's [len(which), 3, H, W]."""
        if entry.shard not in self._open:
            self._open[entry.shard] = self._cached(entry.shard)
        kept = self._open[entry.shard]
        if kept is not None:
            out[...] = kept[entry.first_frame + np.asarray(which)]
            return
        pictures = read_entry(self._shards, entry).pictures
        for place, i in enumerate(which):
            decode_into(out[place], pictures[i], f"{self._shards / entry.shard}: {entry.key}")

    def prepare(self, shard: str) -> bool:
        """Decode a shard into the cache unless the data is too big; True when it is there now."""
        return self._cached(shard) is not None

    def _cached(self, shard: str) -> Pixels | None:
        if not self._keeps:
            return None
        path = self._shards / shard
        some = "-good" if self._left_out else ""
        target = self._cache / "frames" / f"{fingerprint(path)}-3x{self.size}x{self.size}{some}.npy"
        built_once(target, lambda temporary: self._build(path, temporary))
        kept: Pixels = np.asarray(np.load(target, mmap_mode="r"))  # a plain view: memmap's own indexing is slow
        return kept

    def _build(self, path: Path, target: Path) -> None:
        count = 0
        with target.open("wb") as file, path.open("rb") as shard:
            _write_header(file, count, self.size)
            try:
                for group in groups(path, shard):
                    file.write(self._decoded(path, shard, group))
                    count += group.pictures
            except DataError:  # the index has what stands before the break
                if not self._left_out:
                    raise
            file.seek(0)
            _write_header(file, count, self.size)  # numpy leaves room in it for the first axis to grow

    def _decoded(self, path: Path, shard: BinaryIO, group: Group) -> bytes:
        try:
            sample = load(path, shard, group)
            return b"".join(decode(picture, self.size, f"{path}: {sample.key}").tobytes() for picture in sample.pictures)
        except DataError:
            if not self._left_out:
                raise
            return bytes(group.pictures * 3 * self.size * self.size)


def _write_header(file: BinaryIO, count: int, size: int) -> None:
    np.lib.format.write_array_header_2_0(
        file, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": (count, 3, size, size)}
    )

"""Samples → batches, in an order that is the job's seed's and nobody else's.

U distinct frames, B samples, T frames shown, S text tokens.

Random streams: a job's seed feeds `init`, `order` and `dropout`, each through its own hash, so that two runs with one seed share
what they can (the same order of samples, the same first weights) whatever else differs between them.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainer.config import TrainConfig
from trainer.data.frames import Frames, Look, shown
from trainer.data.manifest import Manifest
from trainer.data.shards import DataError
from trainer.data.texts import Texts
from trainer.losses import loss_named

Stream = Literal["init", "order", "dropout"]


def stream_seed(seed: int, stream: Stream) -> int:
    """63 bits for one of a job's random streams."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Batch:
    """Samples collated: right-padded, nothing repeated that can be indexed."""

    frames: Tensor
    """[U, 3, H, W] the distinct frames of all samples (U may be 0): uint8 as decoded, or float32 as the model takes them."""
    frame_of: Tensor
    """[B, T] int64: index into U of each shown frame, -1 = no frame here. A replicated image repeats its index."""
    ids: Tensor
    """[B, S] int64 text tokens, right-padded with the pad id."""
    is_text: Tensor
    """[B, S] bool: a real token."""
    supervised: Tensor
    """[B, S] bool: a target of the loss, predicted from what is left of it; `train.loss` is already applied."""
    rows: tuple[int, ...]
    """Row numbers in the manifest."""
    kinds: tuple[str, ...]
    """"video" | "image" | "text"."""
    look: Look | None = None
    """How uint8 frames become what the model takes, done where they are used; None: they are that already."""

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which a GPU copies while it computes; the loader calls it."""
        names = ("frames", "frame_of", "ids", "is_text", "supervised")
        return replace(self, **{name: getattr(self, name).pin_memory() for name in names})


class Samples(Dataset[Batch]):
    """The samples of one manifest, ready to be collated. Frames come as decoded: a quarter of the bytes to carry."""

    def __init__(
        self,
        manifest: Manifest,
        texts: Texts,
        frames: Frames,
        look: Look,
        config: TrainConfig,
        pad_id: int,
    ) -> None:
        self.manifest, self.texts = manifest, texts
        self._frames, self._look, self._pad_id = frames, look, pad_id
        self._replicate = config.data.replicate_image_frames
        self._most = config.data.max_frames
        self._answer_only = loss_named(config.train.loss).answer_only

    def __len__(self) -> int:
        return len(self.manifest)

    def load(self, rows: Sequence[int]) -> Batch:
        """Samples in the order given: decoded (once, cached), tokenised (once, cached), collated."""
        frames, frame_of = self._pictures(rows)
        length = max((self.texts.length(row) for row in rows), default=0)
        ids = np.full((len(rows), length), self._pad_id, np.int64)
        supervised = np.zeros((len(rows), length), bool)
        is_text = np.zeros((len(rows), length), bool)
        for i, row in enumerate(rows):
            tokens, answer = self.texts.of(row)
            ids[i, : len(tokens)] = tokens
            is_text[i, : len(tokens)] = True
            supervised[i, : len(tokens)] = answer if self._answer_only else True
            if self.manifest.kinds[row] == "text":
                supervised[i, 0] = False  # nothing stands left of it
        kinds = tuple(self.manifest.kinds[row] for row in rows)
        its_ids, its_text, its_supervised = (torch.from_numpy(x) for x in (ids, is_text, supervised))
        return Batch(frames, frame_of, its_ids, its_text, its_supervised, tuple(map(int, rows)), kinds, self._look)

    def loaded(self, plan: Sequence[Sequence[int]], workers: int = 0, pin: bool = False) -> Iterator[Batch]:
        """`load` for each list of rows, in order; workers > 0 loads ahead in that many processes, with the same result.

        pin: in page-locked memory (with workers only). Raises DataError naming shard and key for a sample that cannot be used.
        """
        if workers == 0:
            yield from (self.load(rows) for rows in plan)
            return
        lists, own = [list(rows) for rows in plan], torch.Generator()  # the process's random stream is not touched
        try:
            yield from DataLoader(
                self,
                sampler=lists,
                batch_size=None,
                num_workers=workers,
                pin_memory=pin,
                generator=own,
                worker_init_fn=_leave_the_end_to_its_owner,
            )
        except DataError as error:  # the loader wraps it into its worker's traceback
            raise DataError(str(error).strip().splitlines()[-1].removeprefix(f"{DataError.__module__}.DataError: ")) from error

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        return self.load(rows)

    def frames_shown(self) -> npt.NDArray[np.int64]:
        """[rows] visual positions per sample: replication and max_frames applied; for counting FLOPs."""
        frames = np.minimum(self.manifest.frames, self._most)
        return np.where(np.array(self.manifest.kinds) == "image", frames * self._replicate, frames)

    def frames_distinct(self) -> npt.NDArray[np.int64]:
        """[rows] frames that are encoded."""
        return np.minimum(self.manifest.frames, self._most)

    def text_tokens(self) -> npt.NDArray[np.int64]:
        """[rows]"""
        return self.texts.lengths()

    def _pictures(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        counts = self.manifest.frames[list(rows)]
        which = [shown(int(count), self._most) for count in counts]
        ends = np.cumsum([len(each) for each in which], dtype=np.int64)
        side = self._frames.size
        pixels = np.empty((int(ends[-1]) if len(rows) else 0, 3, side, side), np.uint8)
        shown_as = []
        for row, each, end in zip(rows, which, ends, strict=True):
            places = np.arange(end - len(each), end)
            if len(each):
                self._frames.fill(pixels[places[0] : end], self.manifest.entry(row), each)
            shown_as.append(np.repeat(places, self._replicate if self.manifest.kinds[row] == "image" else 1))
        frame_of = np.full((len(rows), max((len(each) for each in shown_as), default=0)), -1, np.int64)
        for i, each in enumerate(shown_as):
            frame_of[i, : len(each)] = each
        return torch.from_numpy(pixels), torch.from_numpy(frame_of)


def _leave_the_end_to_its_owner(_worker: int) -> None:
    """A loader's process ends on SIGTERM from who trains, and from nobody else.

    A machine that is taken away sends it to every process, and who trains needs one more batch to come to a checkpoint.
    """
    if sys.platform == "linux":  # elsewhere nobody can be told from anybody else
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_owner, daemon=True).start()


def _end_with_owner() -> None:
    while sys.platform == "linux" and signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class SampleStream:
    """The training samples in the order of one job's seed."""

    def __init__(self, samples: Samples, batch_samples: int, seed: int) -> None:
        self.samples = samples
        self.batch_samples = batch_samples
        self._seed = stream_seed(seed, "order")
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def global_batch(self, step: int) -> list[int]:
        """Manifest rows of optimiser step `step` (0-based): the same for any world size, micro-batch, workers or resumption.

        Past the manifest's end it goes on with another permutation of it.
        """
        first = step * self.batch_samples
        total = len(self.samples)
        return [int(self._order(at // total)[at % total]) for at in range(first, first + self.batch_samples)]

    def steps(self, samples: int) -> int:
        """Optimiser steps that see `samples` samples; the last one may have fewer."""
        return -(-samples // self.batch_samples)

    def load(self, rows: Sequence[int]) -> Batch:
        return self.samples.load(rows)

    def loaded(self, plan: Sequence[Sequence[int]], workers: int = 0, pin: bool = False) -> Iterator[Batch]:
        return self.samples.loaded(plan, workers, pin)

    def first_batches_hash(self, steps: int = 8) -> str:
        """Of the contents of the first global batches, in order."""
        digest = hashlib.sha256()
        for step in range(steps):
            for row in self.global_batch(step):
                digest.update(self.samples.manifest.entry(row).content.encode())
        return digest.hexdigest()[:16]

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders = {epoch: np.random.default_rng([self._seed, epoch]).permutation(len(self.samples))} | {
                kept: order for kept, order in self._orders.items() if kept == epoch - 1
            }
        return self._orders[epoch]


class Validation:
    """A validation set in its fixed order."""

    def __init__(self, samples: Samples, batch_samples: int) -> None:
        self.samples = samples
        self._batch_samples = batch_samples

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self) -> Iterator[Batch]:
        """Every sample once, in the manifest's order (video, image, text)."""
        total = len(self.samples)
        for first in range(0, total, self._batch_samples):
            yield self.samples.load(range(first, min(first + self._batch_samples, total)))

    def load(self, rows: Sequence[int]) -> Batch:
        return self.samples.load(rows)

    def rows(self, kind: str) -> list[int]:
        return [row for row, its in enumerate(self.samples.manifest.kinds) if its == kind]

    def prompt(self, row: int) -> list[int]:
        """Text tokens up to where the answer begins: what generation starts from."""
        tokens, answer = self.samples.texts.of(row)
        return [int(token) for token in tokens[: int(np.argmax(answer))]]

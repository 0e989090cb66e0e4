"""Micro-batches on their way to the device: packed on the CPU, and on a GPU copied while the one before computes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from trainer.data.batches import Batch
from trainer.data.shards import DataError
from trainer.model.packing import Packed, pack


class Feed:
    """The micro-batches of a run, packed and on the device, in order."""

    def __init__(self, batches: Iterator[Batch], tokens_per_frame: int, device: torch.device) -> None:
        self._batches, self._tokens_per_frame, self._device = batches, tokens_per_frame, device
        self._copies: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
        self._next: Packed | DataError | None = None

    def take(self) -> Packed:
        """The next one. Raises DataError for a sample of it that cannot be used, and StopIteration after the last."""
        if self._next is None:
            return pack(next(self._batches), self._tokens_per_frame, self._device)
        ready, self._next = self._next, None
        if isinstance(ready, DataError):
            raise ready
        if self._copies is not None:
            computes = torch.cuda.current_stream(self._device)
            computes.wait_stream(self._copies)
            ready.used_on(computes)
        return ready

    def prepare(self) -> None:
        """Load, pack and copy the next one ahead of its time: to be called when the device has been given work.

        A sample of it that cannot be used is told when its turn comes, not now.
        """
        try:
            batch = next(self._batches, None)
        except DataError as error:
            self._next = error
            return
        if batch is not None:
            with torch.cuda.stream(self._copies):  # no stream, nothing done
                self._next = pack(batch, self._tokens_per_frame, self._device)

"""Where a step's time goes: phases named in the code that does them, timed only while someone watches.

    with watching() as watch:
        train(...)
    watch.seconds["step/backward"], watch.seconds["step/forward/encode"]

Phases of a step: data (next batch, packed, moved), forward (inside it encode: DINO, queries: looks, lm, loss: the head), loss,
backward, optimizer, sync (what ranks tell each other), logging, and now and then evaluate and save. Unwatched, a phase costs a
call and nothing else.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

import torch

Item = TypeVar("Item")


class Watch:
    """Adds up the time of phases by their path, "step/data"; what lies inside an inner phase counts there alone.

    seconds[""] is the time outside all phases.
    """

    def __init__(self, device: torch.device | None, labels: bool, clock: Callable[[], float]) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = device if device is not None and device.type == "cuda" else None
        self._labels = labels
        self._open: list[str] = []
        self._clock = clock
        self._since = clock()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._pass()
        self._open.append(name)
        label = torch.profiler.record_function(name) if self._labels else contextlib.nullcontext()
        try:
            with label:
                yield
        finally:
            self._pass()
            self._open.pop()

    def _pass(self) -> None:
        """Book the time since the last boundary on the phases that are open."""
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        now = self._clock()
        self.seconds["/".join(self._open)] += now - self._since
        self._since = now


_UNWATCHED: AbstractContextManager[None] = contextlib.nullcontext()
_watch: Watch | None = None


def phase(name: str) -> AbstractContextManager[None]:
    """Name what the `with` block does."""
    return _UNWATCHED if _watch is None else _watch.phase(name)


def each(name: str, items: Iterable[Item]) -> Iterator[Item]:
    """The items one by one; what is done with each is phase `name`."""
    for item in items:
        with phase(name):
            yield item


@contextlib.contextmanager
def watching(
    device: torch.device | None = None, labels: bool = False, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Watch]:
    """Time all phases of this process until the block ends.

    device: a GPU to wait for at every boundary, so that its time is told (and the step is slower for it).
    labels: name the phases in a running torch profiler too. clock: `time.process_time` on a machine that others use as well.
    """
    global _watch
    before, _watch = _watch, Watch(device, labels, clock)
    try:
        yield _watch
    finally:
        _watch = before

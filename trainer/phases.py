"""Where a step's time goes: phases named in the code that does them, timed only while someone watches.

    with watching() as watch:
        train(...)
    watch.seconds["encode"], watch.seconds["evaluate/encode"]

Phases of a step: data (next batch, packed, moved), encode (DINO), queries (looks), lm, loss (head included), backward, optimizer,
sync (what ranks tell each other), logging; between steps: evaluate, save. Unwatched, a phase costs a call and nothing else.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch


class Watch:
    """Adds up the time of phases by their path, "evaluate/lm"; what lies inside an inner phase counts there alone."""

    def __init__(self, device: torch.device | None = None, labels: bool = False) -> None:
        """device: a GPU to wait for at every boundary, so that its time is told (and the step is slower for it).
        labels: name the phases in a running torch profiler too."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = device if device is not None and device.type == "cuda" else None
        self._labels = labels
        self._open: list[str] = []
        self._since = 0.0

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
        now, path = time.perf_counter(), "/".join(self._open)
        if path:
            self.seconds[path] += now - self._since
        self._since = now


_UNWATCHED: AbstractContextManager[None] = contextlib.nullcontext()
_watch: Watch | None = None


def phase(name: str) -> AbstractContextManager[None]:
    """Name what the `with` block does."""
    return _UNWATCHED if _watch is None else _watch.phase(name)


@contextlib.contextmanager
def watching(device: torch.device | None = None, labels: bool = False) -> Iterator[Watch]:
    """Time all phases of this process until the block ends."""
    global _watch
    before, _watch = _watch, Watch(device, labels)
    try:
        yield _watch
    finally:
        _watch = before

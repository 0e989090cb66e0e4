"""Where a step's time goes: phases named in the code that does them, timed only while someone watches.

    with watching() as watch:
        train(...)
    watch.seconds["step/backward"], watch.seconds["step/forward/encode"]

Phases of a step: data (next batch, packed, moved), forward (inside it encode: DINO, queries: looks, lm, loss: the head), loss,
backward (inside it the same parts, told apart by the gradients that `made` waits for), optimizer, sync (what ranks tell each
other), logging, and now and then evaluate and save. Unwatched, a phase costs a call and nothing else.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import Tensor

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
        depth = len(self._open)
        self._open.append(name)
        label = torch.profiler.record_function(name) if self._labels else contextlib.nullcontext()
        try:
            with label:
                yield
        finally:
            self._pass()
            del self._open[depth:]

    def turn(self, name: str) -> None:
        """From here to the end of the phase "backward" it is that of phase `name`; outside of one nothing is told apart."""
        if "backward" in self._open:
            self._pass()
            self._open[self._open.index("backward") + 1 :] = [name]

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


def made(name: str, tensor: Tensor) -> Tensor:
    """`tensor`, the last that phase `name` makes: when the backward has its gradient, what follows is the backward of `name`."""
    watch = _watch
    if watch is not None and tensor.requires_grad:
        tensor.register_hook(lambda _: watch.turn(name))  # type: ignore[no-untyped-call]  # torch's
    return tensor


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

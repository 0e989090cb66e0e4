"""How a launch is watched while it lasts: a live table on a terminal, a line per event anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ablate.answers import launch as answers
from ablate.answers.document import Answer
from ablate.screens import drawing
from ablate.screens.jobs import progress_text, running_table
from ablate.screens.plan import sums

if TYPE_CHECKING:  # types only: launch imports Ray
    from ablate.desk import Desk
    from ablate.launching.launch import Event, Tick

LINE_EVERY_S = 30.0
"""How often a launch that writes to a file or pipe says where it stands."""
REDRAW_S = 0.5


class _Screen(Protocol):
    """Where a launch is watched. Asking where it stands costs a few queries: a screen asks when it is going to drawing."""

    def event(self, kind: str, text: str) -> None: ...
    def tick(self, ask: Callable[[], Answer]) -> None: ...


class LaunchWatcher:
    """What a launch tells (see launch.Watcher), passed on to a screen; and whether a person wants it to end."""

    def __init__(self, desk: Desk, screen: _Screen, gpus: int | None = None) -> None:
        self._desk, self._screen, self._gpus = desk, screen, gpus
        self._asked: Literal["", "stop", "kill"] = ""

    def event(self, event: Event) -> None:
        self._screen.event(event.kind, event.text)

    def tick(self, tick: Tick) -> None:
        self._screen.tick(lambda: answers.tick(self._desk, tick, self._gpus))

    def ask_to_stop(self, how: Literal["stop", "kill"]) -> None:
        self._asked = how

    def stop_asked(self) -> Literal["", "stop", "kill"]:
        return self._asked


@contextmanager
def launch_watcher(desk: Desk, estimate: Answer, quiet: bool) -> Iterator[LaunchWatcher]:
    """Print the estimate; then watch."""
    if not quiet:
        console = drawing.open_console()
        drawing.title(console, estimate, "launch")
        for line in sums(estimate["totals"]):
            console.print(line)
        console.print()
    with watcher(desk, quiet, estimate["totals"]["gpus"]) as watching:
        yield watching


@contextmanager
def watcher(desk: Desk, quiet: bool, gpus: int | None = None) -> Iterator[LaunchWatcher]:
    """A live table on a terminal, one line per event anywhere else, nothing when quiet."""
    console = drawing.open_console()
    if quiet or not console.is_terminal:
        yield LaunchWatcher(desk, _Nowhere() if quiet else _Lines(console), gpus)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield LaunchWatcher(desk, _Terminal(live), gpus)


class _Nowhere:
    def event(self, kind: str, text: str) -> None:
        """Nobody looks."""

    def tick(self, ask: Callable[[], Answer]) -> None:
        """Nobody looks."""


class _Lines:
    """For files, pipes and CI: one line per event, and every half minute where it stands."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = time.monotonic()

    def event(self, kind: str, text: str) -> None:
        self._console.print(f"{drawing.clock()}  {kind:<8} {text}", soft_wrap=True)

    def tick(self, ask: Callable[[], Answer]) -> None:
        if time.monotonic() - self._said < LINE_EVERY_S:
            return
        self._said = time.monotonic()
        answer = ask()
        self.event("progress", _overall(answer))
        for job in answer["running"]:
            self.event("", f"  {job['id']}: {progress_text(job)}")


class _Terminal:
    """A table that is drawn anew in place, with the events above it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._drawn = 0.0

    def event(self, kind: str, text: str) -> None:
        self._live.console.print(
            Text(drawing.clock(), style="dim"), Text(f" {kind:<8}", style=drawing.STYLES.get(kind, "")), text
        )

    def tick(self, ask: Callable[[], Answer]) -> None:
        if time.monotonic() - self._drawn < REDRAW_S:
            return
        self._drawn = time.monotonic()
        answer = ask()
        running = [running_table(answer["running"])] if answer["running"] else []
        self._live.update(Group("", *running, Text(_overall(answer), style="bold")), refresh=True)


def _overall(answer: Answer) -> str:
    left = f" · about {drawing.hours(answer['left_wall_hours'])} left" if answer["left_wall_hours"] else ""
    return f"{drawing.states(answer['states'])} · {drawing.spent(answer)}{left}"

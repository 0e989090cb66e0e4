"""What every screen is drawn with: a console, tables, titles, numbers as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ablate.answers.document import Answer
from ablate.answers.document import count as count

WIDTH = 100
MOST_ROWS = 200
"""Rows of a plan, and runs that have ended, drawn; the rest is told by its number."""
MOST_REASONS = 12
"""Reasons and configs listed one by one; the rest likewise."""
PROGRESS = 16
"""Columns of a progress bar."""
ORDER = ("done", "diverged", "running", "ready", "interrupted", "waiting", "skipped", "stopped", "failed")
STYLES = {
    "done": "green",
    "decided": "green",
    "diverged": "magenta",
    "overruled": "magenta",
    "running": "cyan",
    "started": "cyan",
    "ready": "bold",
    "interrupted": "yellow",
    "waiting": "yellow",
    "open": "yellow",
    "failed": "bold red",
    "lost": "bold red",
    "skipped": "dim",
    "stopped": "dim",
    "stale": "yellow",
    "confirmed": "green",
    "locked": "",
}


def open_console() -> Console:
    """Where screens go; its width is the terminal's, up to WIDTH."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    return console


def table(*columns: str) -> Table:
    """A table without lines; a column named ">x" is aligned to the right. What a narrow terminal cuts off ends in "…"."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in columns:
        right = name.startswith(">")
        folds = name in ("because", "facts", "value", "baseline", "why", "change", "holds")
        overflow: Literal["fold", "ellipsis"] = "fold" if folds else "ellipsis"
        table.add_column(name.removeprefix(">"), justify="right" if right else "left", no_wrap=not folds, overflow=overflow)
    return table


def indented(what: RenderableType, by: int) -> Padding:
    return Padding(what, (0, 0, 0, by), expand=False)


def title(console: Console, answer: Answer, text: str) -> None:
    console.print(heading(answer, text))
    console.print()


def heading(answer: Answer, text: str) -> Text:
    return Text.assemble((answer["study"], "bold"), f" · {answer['profile']} · {text}")


def next_step(console: Console, answer: Answer) -> None:
    if answer.get("next"):
        console.print()
        console.print(f"Next: {answer['next']}", soft_wrap=True)


def state(state: str) -> Text:
    return Text(state, style=STYLES.get(state, ""))


def labelled(label: str, text: str) -> Text:
    return Text.assemble((f"{label:<8} ", STYLES.get(label, "")), text)


def states(states: Mapping[str, int]) -> str:
    known = [f"{states[state]} {state}" for state in ORDER if states.get(state)]
    return " · ".join(known) or "no jobs"


def seeds(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds)) if len(seeds) <= 3 else f"{seeds[0]} … {seeds[-1]} ({len(seeds)})"


def names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:4])} and {len(names) - 4} more"


def number(value: float) -> str:
    """Three digits that count."""
    return (
        f"{value:,.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
        if value >= 0.1 or value == 0
        else f"{value:.3f}"
    )


def value(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def percent(coverage: float) -> str:
    """ "90 %", "98.8 %"."""
    return f"{100 * coverage:.3g} %"


def hours(hours: float) -> str:
    return span(hours * 3600)


def span(seconds: float) -> str:
    """A duration in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} days"


def spent(answer: Answer) -> str:
    return f"{number(answer['gpu_hours'])} GPU-hours · ${answer['cost']:.2f}"


def clock() -> str:
    return datetime.now(UTC).astimezone().strftime("%H:%M:%S")


def meter(fraction: float | None) -> str:
    if fraction is None:
        return ""
    full = round(max(0.0, min(1.0, fraction)) * PROGRESS)
    return "█" * full + "░" * (PROGRESS - full)


def short(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def toml(value: Any) -> str:
    """A value as runs.toml would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, float):
        return f"{value:g}"
    return f'"{value}"' if isinstance(value, str) else "–" if value is None else str(value)

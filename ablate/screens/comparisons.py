"""Comparisons as several screens draw them: a line each, with its interval and a bar on the scale of the margin."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from ablate.answers.document import Answer
from ablate.screens import drawing

BAR = 21
"""Columns of a margin bar; odd, so that it has a middle."""
EQUIVALENCE = "*"
"""Marks an interval that is the one of `no worse` and `same`, among those of `better` and `worse`."""


def comparison_table(console: Console, comparisons: Sequence[Answer]) -> list[Answer]:
    """One line per comparison: difference, interval, bar, seeds, what holds. Returns those drawn."""
    if not comparisons:
        return []
    table = drawing.table("compared", "on", ">Δ", "interval", "margin", ">n", "holds")
    for one in comparisons:
        blank = one["delta"] is None
        table.add_row(
            f"{one['a']} − {one['b']}",
            one["metric"],
            "" if blank else f"{one['delta']:+.3g}",
            _interval_cell(one),
            margin_bar(one),
            f"{one['n_a']}/{one['n_b']}",
            ", ".join(one["holds"]) or Text(drawing.short(one.get("reason") or "not shown", 24), style="dim"),
        )
    console.print(drawing.indented(table, 4))
    for label in dict.fromkeys(label for one in comparisons for label in one.get("labels", ())):
        console.print(drawing.indented(label, 4), style="dim")
    return list(comparisons)


def interval(comparison: Answer) -> tuple[float | None, float | None]:
    """The interval its verdicts rest on: the narrower one where only `no worse` or `same` hold."""
    if _of_equivalence(comparison):
        return comparison["tost_low"], comparison["tost_high"]
    return comparison["low"], comparison["high"]


def _covers(comparison: Answer) -> str:
    """With which probability that interval holds the difference: "90 %"."""
    missed = 2 * comparison["tost_level"] if _of_equivalence(comparison) else comparison["level"]
    return drawing.percent(1 - missed)


def _of_equivalence(comparison: Answer) -> bool:
    """Whether only `no worse` or `same` hold."""
    held = set(comparison["holds"])
    return bool(held) and not {"better", "worse"} & held and comparison.get("tost_low") is not None


def interval_text(comparison: Answer) -> str:
    """ "[-0.0182, +0.0221] 90 %"; "" where there is none."""
    low, high = interval(comparison)
    return "" if low is None or high is None else f"[{low:+.3g}, {high:+.3g}] {_covers(comparison)}"


def _interval_cell(comparison: Answer) -> str:
    """With a mark where it is the one of `no worse` and `same`: see _coverages."""
    low, high = interval(comparison)
    mark = EQUIVALENCE if _of_equivalence(comparison) else ""
    return "" if low is None or high is None else f"[{low:+.3g}, {high:+.3g}]{mark}"


def _coverages(comparisons: Sequence[Answer]) -> str:
    """ "99.6 %; * 90 %, of no worse and same": what the intervals of a table cover."""
    drawn = [(cell.endswith(EQUIVALENCE), _covers(one)) for one in comparisons if (cell := _interval_cell(one))]
    plain, marked = (sorted({covers for of_mark, covers in drawn if of_mark is mark}) for mark in (False, True))
    parts = [" or ".join(plain), f"{EQUIVALENCE} {' or '.join(marked)}, of no worse and same" if marked else ""]
    return "; ".join(part for part in parts if part)


def margin_bar(comparison: Answer) -> str:
    """`  ┊   │  ┊─●──   `: zero, the margin on both sides, the interval and the estimate, all on one scale."""
    delta, margin = comparison["delta"], comparison["margin"]
    if delta is None or not margin:
        return ""
    low, high = interval(comparison)
    half = BAR // 2
    seen = [abs(value) for value in (delta, low, high) if value is not None]
    reach: float = min(max(2 * margin, *seen), 5 * margin)

    def column(value: float) -> int:
        return half + max(-half, min(half, round(value / reach * half)))

    cells = [" "] * BAR
    for place, mark in ((column(-margin), "┊"), (half, "│"), (column(margin), "┊")):
        cells[place] = mark
    if low is not None and high is not None:
        for place in range(column(low), column(high) + 1):
            cells[place] = "─" if cells[place] == " " else "┼"
        cells[0] = "‹" if low < -reach else cells[0]
        cells[-1] = "›" if high > reach else cells[-1]
    cells[column(delta)] = "●"
    return "".join(cells)


def legend(comparisons: Sequence[Answer]) -> str:
    margins = {one["metric"]: one["margin"] for one in comparisons if one["margin"]}
    lower = {one["metric"] for one in comparisons if one.get("better") == "lower"}
    sides = "; ".join(f"{name} ±{margin:g}, better is {'left' if name in lower else 'right'}" for name, margin in margins.items())
    covers = f"\ninterval: {text}" if (text := _coverages(comparisons)) else ""
    return f"margin: │ zero, ┊ the margin, ─ the interval, ● the estimate ({sides}){covers}"

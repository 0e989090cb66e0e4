"""Comparisons as several screens draw them: a line each, with its interval and a bar on the scale of the margin."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.answers.document import Answer
from ablate.screens import drawing

BAR = 21
"""Columns of a margin bar where there is room; odd, so that it has a middle."""
LEAST_BAR = 11
"""With fewer columns than this, a bar shows nothing."""
INDENT = 4
REASON = 24
"""Columns of a reason why nothing is shown; a longer one stands below the table."""
VERDICT = 9
"""The same in a narrow terminal: those of "not shown"."""
EQUIVALENCE = "*"
"""Marks an interval that is the one of `no worse` and `same`, among those of `better` and `worse`."""


def comparison_table(console: Console, comparisons: Sequence[Answer], columns: int) -> None:
    """One line per comparison: difference, interval, a bar of so many columns (see bar_columns), seeds, what holds."""
    if not comparisons:
        return
    fits = _table_columns(console, _wide(comparisons, columns)) <= console.width - INDENT
    console.print(drawing.indented(_wide(comparisons, columns) if fits else _narrow(comparisons), INDENT))
    for line in dict.fromkeys(_below(comparisons)):
        console.print(drawing.indented(line, INDENT), style="dim")


def bar_columns(console: Console, comparisons: Sequence[Answer]) -> int:
    """Columns of the margin bars of these comparisons: what their names, numbers and verdicts leave; 0 if too few."""
    if not comparisons:
        return 0
    left = console.width - INDENT - _table_columns(console, _wide(comparisons, LEAST_BAR)) + LEAST_BAR
    left = min(BAR, left - (left + 1) % 2)
    return left if left >= LEAST_BAR else 0


def _table_columns(console: Console, table: Table) -> int:
    """Of a table of which nothing is cut or folded."""
    return console.measure(table, options=console.options.update(width=1000)).maximum


def _wide(comparisons: Sequence[Answer], columns: int) -> Table:
    """A line each."""
    table = drawing.table("compared", "on", ">Δ", "interval", *(["margin"] if columns else []), ">n", "holds")
    for one in comparisons:
        table.add_row(
            f"{one['a']} − {one['b']}",
            one["metric"],
            *_numbers(one),
            *([margin_bar(one, columns)] if columns else []),
            f"{one['n_a']}/{one['n_b']}",
            ", ".join(one["holds"]) or _not_shown(one, REASON),
        )
    return table


def _narrow(comparisons: Sequence[Answer]) -> Table:
    """Two lines each or more: below the names the metric, what holds one below the other. Only names may be broken."""
    table = drawing.table("compared", ">Δ", "interval", ">n", "holds")
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    table.columns[-1].no_wrap = True
    for one in comparisons:
        table.add_row(
            Text.assemble(f"{one['a']} − {one['b']}\n", (one["metric"], "dim")),
            *_numbers(one),
            f"{one['n_a']}/{one['n_b']}",
            ",\n".join(one["holds"]) or _not_shown(one, VERDICT),
        )
    return table


def _numbers(one: Answer) -> tuple[str, str]:
    return "" if one["delta"] is None else f"{one['delta']:+.3g}", _interval_cell(one)


def _not_shown(one: Answer, columns: int) -> Text:
    reason = one.get("reason") or ""
    told = reason if 0 < len(reason) <= REASON else "not shown"
    return Text(textwrap.fill(told, columns, break_long_words=False), style="dim")


def _below(comparisons: Sequence[Answer]) -> Iterator[str]:
    """Reasons too long for a cell, and labels."""
    for one in comparisons:
        if not one["holds"] and len(reason := one.get("reason") or "") > REASON:
            yield f"{one['a']} − {one['b']}: {reason}"
    yield from (label for one in comparisons for label in one.get("labels", ()))


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


def margin_bar(comparison: Answer, columns: int = BAR) -> str:
    """`  ┊   │  ┊─●──   `: zero, the margin on both sides, the interval and the estimate, all on one scale."""
    delta, margin = comparison["delta"], comparison["margin"]
    if delta is None or not margin:
        return ""
    low, high = interval(comparison)
    half = columns // 2
    seen = [abs(value) for value in (delta, low, high) if value is not None]
    reach: float = min(max(2 * margin, *seen), 5 * margin)

    def column(value: float) -> int:
        return half + max(-half, min(half, round(value / reach * half)))

    cells = [" "] * columns
    for place, mark in ((column(-margin), "┊"), (half, "│"), (column(margin), "┊")):
        cells[place] = mark
    if low is not None and high is not None:
        for place in range(column(low), column(high) + 1):
            cells[place] = "─" if cells[place] == " " else "┼"
        cells[0] = "‹" if low < -reach else cells[0]
        cells[-1] = "›" if high > reach else cells[-1]
    cells[column(delta)] = "●"
    return "".join(cells)


def legend(comparisons: Sequence[Answer], columns: int) -> str:
    """What the table's signs mean: margins, coverages, and the bars, where they are drawn (columns)."""
    margins = {one["metric"]: one["margin"] for one in comparisons if one["margin"]}
    lower = {one["metric"] for one in comparisons if one.get("better") == "lower"}
    down, up = ("left", "right") if columns else ("lower", "higher")
    sides = "; ".join(f"{name} ±{margin:g}, better is {down if name in lower else up}" for name, margin in margins.items())
    covers = f"\ninterval: {text}" if (text := _coverages(comparisons)) else ""
    return f"margin: {f'│ zero, ┊ the margin, ─ the interval, ● the estimate ({sides})' if columns else sides}{covers}"

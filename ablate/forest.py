"""A forest plot: comparisons one below the other, each with its intervals, its margin and its seeds, as a figure or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablate.figures import COLOURS, GRID, INK, PALE
from ablate.study import UserError

SUFFIXES = (".png", ".svg", ".pdf")
ROW, FRAME = 0.55, 1.6
"""Inches per comparison, and around them."""


def forest(comparisons: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Comparisons as documents (compare.as_json), top down, on one axis.

    One metric: the axis is in its unit. Several: in margins, so that metrics of different units can stand in one figure; better
    is then always to the left. Thick: the interval of `no worse` and `same`; thin: that of `better` and `worse`.
    """
    figure = Figure(figsize=(7.2, FRAME + ROW * max(len(comparisons), 1)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    in_margins = len({one["metric"] for one in comparisons}) > 1
    for place, one in enumerate(comparisons):
        _row(axes, -place, one, _scale(one, in_margins))
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_ylim(0.4 - max(len(comparisons), 1), 0.6)
    axes.set_yticks([-place for place in range(len(comparisons))], [_name(one, in_margins) for one in comparisons])
    axes.tick_params(axis="y", length=0, colors=INK)
    axes.set_xlabel(_axis(comparisons, in_margins), color=INK)
    return figure


def save(figure: Figure, path: Path) -> None:
    """UserError for a suffix that is no picture, or a place that cannot be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--plot {str(path)!r}: the name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if not path.parent.is_dir():
        raise UserError(f"--plot {str(path)!r}: there is no folder {str(path.parent)!r}; make it, or name another")
    try:
        figure.savefig(path, dpi=160)
    except OSError as error:
        raise UserError(f"--plot {str(path)!r} cannot be written: {error.strerror}") from error


def _scale(one: Mapping[str, Any], in_margins: bool) -> float:
    if not in_margins:
        return 1.0
    return (1.0 if one["better"] == "lower" else -1.0) / float(one["margin"])


def _row(axes: Axes, at: int, one: Mapping[str, Any], scale: float) -> None:
    margin = abs(one["margin"] * scale)
    axes.fill_between([-margin, margin], at - 0.32, at + 0.32, color=COLOURS[2], alpha=0.13, linewidth=0)
    if one["delta"] is None:
        axes.annotate(one["reason"], (0, at), xytext=(6, 0), textcoords="offset points", va="center", color=PALE, fontsize=8)
        return
    colour = COLOURS[0] if one["holds"] else PALE
    for low, high, width in ((one["low"], one["high"], 1.2), (one["tost_low"], one["tost_high"], 3.6)):
        if low is not None and high is not None:
            axes.plot([low * scale, high * scale], [at, at], color=colour, linewidth=width, solid_capstyle="butt")
    axes.plot([one["delta"] * scale], [at], "o", color=colour, markersize=6)
    holds = ", ".join(one["holds"]) or one["reason"] or "not shown"
    text = f"{one['delta']:+.3g}  {holds}  (n {one['n_a']}/{one['n_b']})"
    axes.annotate(text, (one["delta"] * scale, at), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=8, color=INK)


def _name(one: Mapping[str, Any], in_margins: bool) -> str:
    pair = f"{one['a']} − {one['b']}"
    return f"{pair}\n{one['metric']}" if in_margins else pair


def _axis(comparisons: Sequence[Mapping[str, Any]], in_margins: bool) -> str:
    if in_margins:
        return "difference, in margins of each metric (shaded: one margin); better is left"
    if not comparisons:
        return "nothing to compare"
    one = comparisons[0]
    unit = f" [{one['unit']}]" if one["unit"] else ""
    side = "left" if one["better"] == "lower" else "right"
    return f"difference in {one['metric']}{unit} (shaded: the margin); better is {side}"

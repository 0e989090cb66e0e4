"""The paper's figures, drawn with matplotlib from ablate.tables: lines named where they end, a run's colour the same in each.

Every function returns a Figure and takes the question its title asks. Runs that have measured nothing yet are named below the
axes with the reason; a figure of which nothing is there says so. Nothing here is a verdict: those stand in tables.decisions().
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, NullLocator

from ablate.tables import Tables

INK, PALE, GRID = "#222222", "#8a8a8a", "#e6e6e6"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b37700", "#3a9bd5", "#7a5195")
"""Told apart by colour-blind readers (after Okabe and Ito, darker: they colour text too); the baseline is ink."""
MANY = 7
"""From so many lines on, only the baseline stands out: names at the ends tell the others apart."""
SETTLED = 0.1
"""A loss axis shows what comes after this share of the run: the fall from the untrained loss would flatten all else."""
LABEL_GAP = 0.065
"""Least distance of two labels, as a share of the axis."""
SIZE = (6.8, 4.0)


def colours(tables: Tables) -> dict[str, str]:
    """Run -> its colour in every figure of the study; starts that the plan added to its rows come last."""
    runs = dict.fromkeys([*tables.study.runs, *(job.run for job in tables.plan.jobs)])
    others = [run for run in runs if run != tables.study.baseline]
    return {tables.study.baseline: INK, **{run: COLOURS[place % len(COLOURS)] for place, run in enumerate(others)}}


def curves(tables: Tables, metric: str, runs: Sequence[str], title: str, *, level: float | None = None, says: str = "") -> Figure:
    """The metric over the samples seen: mean over seeds, and their range as a band. level, says: a line to compare with."""
    figure, axes = _axes(title)
    band = tables.band(metric, runs).dropna(subset=["mean"])
    if band.empty:
        return _nothing(figure, axes, tables, metric, runs)
    x = "samples" if band["samples"].notna().all() else "step"
    many = band["run"].nunique() >= MANY
    colour = {run: PALE if many and run != tables.study.baseline else own for run, own in colours(tables).items()}
    _limits(axes, band, x, level)
    if level is not None:
        axes.axhline(level, color=PALE, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(says, (0.99, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=PALE, fontsize=9)
    ends: dict[str, tuple[float, float]] = {}
    for run, line in band.groupby("run", sort=False):
        name = str(run)
        axes.fill_between(line[x], line["low"], line["high"], color=colour[name], alpha=0.15, linewidth=0)
        width, layer = (2.2, 3) if name == tables.study.baseline else (1.6, 2)
        axes.plot(line[x], line["mean"], color=colour[name], linewidth=width, zorder=layer)
        ends[name] = float(line[x].iloc[-1]), float(line["mean"].iloc[-1])
    seeds = band.groupby("run")["n"].max()
    _name_the_lines(axes, ends, colour, {run: f"{run}  ({seeds[run]} seed{'s' if seeds[run] > 1 else ''})" for run in ends})
    axes.set_xlabel("samples seen" if x == "samples" else "step")
    axes.set_ylabel(_label(tables, metric))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _say(figure, tables, metric, runs)
    return figure


def efficiency(tables: Tables, metric: str, runs: Sequence[str], title: str) -> Figure:
    """The metric against visual tokens per frame, at the compute each run spent; the bar is the range over seeds."""
    figure, axes = _axes(title)
    points = tables.efficiency(metric, runs).dropna(subset=["mean", "tokens_per_frame"])
    if points.empty:
        return _nothing(figure, axes, tables, metric, runs)
    colour = colours(tables)
    for row in points.to_dict("records"):
        run, tokens, mean = str(row["run"]), float(row["tokens_per_frame"]), float(row["mean"])
        spread = [[mean - float(row["low"])], [float(row["high"]) - mean]]
        axes.errorbar(tokens, mean, yerr=spread, color=colour[run], marker="o", markersize=7, capsize=4, linewidth=1.4)
        spent = "" if pd.isna(row["flops"]) else f"{row['flops']:.2g} FLOPs, "
        told = f"{run}\n{spent}{row['n']} seed{'s' if row['n'] > 1 else ''}"
        axes.annotate(
            told, (tokens, mean), xytext=(10, 0), textcoords="offset points", va="center", color=colour[run], fontsize=9
        )
    tokens_seen = sorted(set(points["tokens_per_frame"]))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(tokens_seen))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(tokens_seen[0] / 2, tokens_seen[-1] * 6)
    axes.margins(y=0.3)
    axes.set_xlabel("visual tokens per frame")
    axes.set_ylabel(_label(tables, metric))
    _say(figure, tables, metric, runs)
    return figure


def attention(tables: Tables, run: str, title: str, clips: int = 2) -> Figure:
    """Where the queries look in each frame, mean over layers and heads; one row per clip and pass, one shade for all."""
    looks = tables.looks(run, clips) if run else []
    if not looks:
        figure, axes = _axes(title)
        return _nothing(figure, axes, tables, "attention maps", [run] if run else [])
    frames = max(look.maps.shape[2] for look in looks)
    figure = Figure(figsize=(1.1 + 0.95 * frames, 0.75 + 1.0 * len(looks)), layout="constrained")
    grid = figure.subplots(len(looks), frames, squeeze=False)
    top = max(float(look.grid.max()) for look in looks)
    shown = None
    for row, look in zip(grid, looks, strict=True):
        for frame, axes in enumerate(row):
            axes.set_axis_off()
            if frame < len(look.grid):
                shown = axes.imshow(look.grid[frame], vmin=0.0, vmax=top, cmap="Blues")
        label = f"clip {look.clip}\n{look.passes}"
        row[0].text(-0.12, 0.5, label, transform=row[0].transAxes, ha="right", va="center", fontsize=9, color=INK)
    for frame, axes in enumerate(grid[0]):
        axes.set_title(f"frame {frame + 1}", fontsize=9, color=PALE)
    assert shown is not None, "a look has at least one frame"
    figure.colorbar(shown, ax=grid, label="attention on a patch", shrink=0.8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    figure.supxlabel(f"{run}, seed {looks[0].seed}, step {looks[0].step}; mean over layers and heads", fontsize=9, color=PALE)
    return figure


# ---------------------------------------------------------------- the parts of a figure


def _axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _limits(axes: Axes, band: pd.DataFrame, x: str, level: float | None) -> None:
    """Room for the settled part of every line, the level, and the names at the right."""
    settled = band[band[x] >= SETTLED * band[x].max()]
    inside = settled[np.isfinite(settled["low"]) & np.isfinite(settled["high"])]
    values = [*inside["low"], *inside["high"], *([] if level is None else [level])]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(0, float(band[x].max()) or 1.0)


def _name_the_lines(
    axes: Axes, ends: Mapping[str, tuple[float, float]], colour: Mapping[str, str], names: Mapping[str, str]
) -> None:
    """Each line's name to the right of the axes, at the height where it ends, moved apart where they would meet."""
    low, high = axes.get_ylim()
    wanted = {run: (y - low) / (high - low) if np.isfinite(y) else 1.0 for run, (_, y) in ends.items()}
    for run, height in spread(wanted, LABEL_GAP).items():
        axes.annotate(names[run], (1.015, height), xycoords="axes fraction", va="center", color=colour[run], fontsize=9)


def spread(wanted: Mapping[str, float], gap: float) -> dict[str, float]:
    """Heights at least `gap` apart, in the order wanted, from 0 upwards; pushed down again where they pass the top."""
    order = sorted(wanted, key=lambda name: wanted[name])
    heights: list[float] = []
    for name in order:
        height = min(max(wanted[name], 0.0), 1.0)
        heights.append(max(height, heights[-1] + gap) if heights else height)
    limit = max(1.0, gap * (len(order) - 1))
    for place in reversed(range(len(heights))):
        heights[place] = min(heights[place], limit)
        limit = heights[place] - gap
    return dict(zip(order, heights, strict=True))


def _label(tables: Tables, metric: str) -> str:
    unit = tables.unit(metric)
    return f"{metric} ({unit})" if unit else metric


def _say(figure: Figure, tables: Tables, metric: str, runs: Sequence[str]) -> None:
    """Below the axes: which runs are not (wholly) there, and why."""
    missing = tables.missing(metric, runs)
    if missing:
        text = "not there yet, or not to the end: " + "; ".join(f"{run} ({why})" for run, why in missing.items())
        figure.supxlabel(fill(text, 110, max_lines=3, placeholder=" …"), fontsize=8, color=PALE)


def _nothing(figure: Figure, axes: Axes, tables: Tables, metric: str, runs: Sequence[str]) -> Figure:
    missing = tables.missing(metric, runs)
    reasons = [f"{run}: {why}" for run, why in missing.items()] or ["the study names no runs for this figure ([figures])"]
    axes.set_axis_off()
    axes.text(0.0, 0.95, fill(f"Nothing to draw: no {metric}.", 90), transform=axes.transAxes, va="top", color=INK)
    told = "\n".join(fill(reason, 100, max_lines=2, placeholder=" …") for reason in reasons)
    axes.text(0.0, 0.82, told, transform=axes.transAxes, va="top", color=PALE, fontsize=9)
    return figure

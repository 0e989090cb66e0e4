"""How `ablate compare` is drawn: a forest of intervals, what holds in words, and with --explain everything behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ablate.answers.document import Answer
from ablate.screens import drawing
from ablate.screens.comparisons import interval_text
from ablate.screens.drawing import percent

FOREST = 49
"""Columns of a forest plot where there is room; odd, so that it has a middle."""
LEAST_FOREST = 19
"""With fewer columns than this, a forest shows nothing."""
ARROW = {True: "✓", False: "≠", None: "·"}
"""Equal, different, not reported."""


def compare(answer: Answer, explained: bool = False) -> None:
    """Two runs: the forest, what holds in words, what was equal; with `explained`, everything behind it."""
    console = drawing.open_console()
    drawing.title(console, answer, f"{answer['a']} against {answer['b']}")
    for line in answer["open"]:
        console.print(drawing.labelled("waiting", f"{line}: not in it yet"))
    if not answer["comparisons"]:
        console.print("nothing to compare yet: each run needs a job that ended")
        drawing.next_step(console, answer)
        return
    console.print(answer["label"], style="dim")
    console.print()
    for line in forest(answer["comparisons"], console.width):
        console.print(line, soft_wrap=True)
    console.print()
    for one in answer["comparisons"]:
        console.print(f"holds    {one['says']}")
        console.print(drawing.indented(Group(*_beside(one)), 9), style="dim")
    if explained:
        for one in answer["comparisons"]:
            console.print()
            console.print(grounds(one))
        console.print()
        console.print(sources(answer["formulas"]))
        return
    drawing.next_step(console, answer)


def forest(comparisons: Sequence[Answer], width: int = drawing.WIDTH) -> list[str]:
    """A row per comparison, in margins, better to the left; zero │, the margin ┊, both intervals ━ ─, the estimate ●.

    The plot takes what the numbers leave of the width; where that is too little, there are only the numbers.
    """
    drawn = [one for one in comparisons if one["delta"] is not None]
    reach = max([2.0, *(abs(value) for one in drawn for value in _in_margins(one) if value is not None)])
    reach = min(reach, 6.0)
    name = max(len(one["metric"]) for one in comparisons)
    numbers = max((len(_estimate(one)) for one in drawn), default=0)
    left = width - name - numbers - 4
    columns = min(FOREST, left - (left + 1) % 2)
    if columns < LEAST_FOREST:
        between = "  " if name + 2 + numbers <= width else "\n  "
        return [f"{one['metric']:<{name}}{between}{_estimate(one)}" for one in comparisons]
    lines = [f"{one['metric']:<{name}}  {_forest_row(one, reach, columns)}  {_estimate(one)}" for one in comparisons]
    axis = [" "] * columns
    for margin in (-1, 0, 1):
        axis[_column(margin, reach, columns)] = str(abs(margin))
    return [*lines, f"{'':<{name}}  {''.join(axis)}  margins", f"{'':<{name}}  better ←"]


def _in_margins(one: Mapping[str, Any]) -> tuple[float | None, ...]:
    """Estimate, wide interval, narrow interval; better is negative."""
    sign = 1.0 if one["better"] == "lower" else -1.0
    names = ("delta", "low", "high", "tost_low", "tost_high")
    return tuple(None if one[name] is None else sign * one[name] / one["margin"] for name in names)


def _column(value: float, reach: float, columns: int) -> int:
    half = columns // 2
    return half + max(-half, min(half, round(value / reach * half)))


def _forest_row(one: Answer, reach: float, columns: int) -> str:
    cells = [" "] * columns
    for margin, mark in ((-1, "┊"), (0, "│"), (1, "┊")):
        cells[_column(margin, reach, columns)] = mark
    if one["delta"] is None:
        return "".join(cells)
    delta, *ends = _in_margins(one)
    for (left, right), stroke in (((ends[0], ends[1]), "─"), ((ends[2], ends[3]), "━")):
        if left is None or right is None:
            continue
        for at in range(_column(min(left, right), reach, columns), _column(max(left, right), reach, columns) + 1):
            cells[at] = stroke
        if min(left, right) < -reach:
            cells[0] = "‹"
        if max(left, right) > reach:
            cells[-1] = "›"
    assert delta is not None, "checked above"
    cells[_column(delta, reach, columns)] = "●"
    return "".join(cells)


def _estimate(one: Answer) -> str:
    if one["delta"] is None:
        return str(one["reason"])
    inside = f" {text}" if (text := interval_text(one)) else ""
    return f"{one['delta']:+.3g}{inside} ±{one['margin']:g}"


def _beside(one: Answer) -> Iterator[str]:
    """What a reader should see with the verdict, a line each."""
    yield f"n {one['n_a']}/{one['n_b']} seeds · {_noise(one)} · level {one['level']:.3g} · {_budget(one)}"
    yield from _diverged(one)
    unequal = [check for check in one["fairness"] if check["ok"] is False]
    equal = sum(check["ok"] is True for check in one["fairness"])
    if one["fairness"]:
        told = "; ".join(f"≠ {check['check']}{' (declared)' if check['declared'] else ''}" for check in unequal)
        yield f"fair: ✓ {equal} equal{'; ' + told if told else ''}"
    if one.get("samples"):
        yield _by_sample(one["samples"])
    yield from one["labels"][1:]
    for text in one.get("decisions", ()):
        yield f"also judged by decision {text}"
    yield from one["notes"]


def _budget(one: Answer) -> str:
    """ "budget 9,600 samples"; where no trainer says how many, "last step 300"."""
    budget = one["budget"]
    if budget["a"]:
        return f"budget {_both(budget['a'], budget['b'])} samples"
    steps = next((_both(check["a"], check["b"]) for check in one["fairness"] if check["check"] == "last step"), "")
    return f"last step {steps}" if steps else "budget not reported"


def _diverged(one: Answer) -> Iterator[str]:
    counted = zip((one["a"], one["b"]), one["diverged"], strict=False)
    return (f"{diverged} of {drawing.count(jobs, 'seed')} of {run} diverged" for run, (diverged, jobs) in counted if diverged)


def _by_sample(of: Answer) -> str:
    clusters = f"{of['clusters']:,} {of['by'].replace(' or ', 's and ')}s"
    return (
        f"these checkpoints, over {of['samples']:,} validation samples ({clusters}): "
        f"{of['delta']:+.3g} [{of['low']:+.3g}, {of['high']:+.3g}]; shown, never a verdict"
    )


def _noise(one: Answer) -> str:
    noise = one["noise"]
    if noise["sd"] is None:
        return "noise not known"
    df = "known" if noise["df"] is None else f"{noise['df']:.3g} df"
    return f"sd {noise['sd']:.2g} ({df}, {noise['source']})"


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a} / {b}"


def grounds(one: Answer) -> RenderableType:
    """Values by seed, pool, level, and the ledger of fairness with both values."""
    parts: list[RenderableType] = [Text(f"{one['a']} − {one['b']} on {one['metric']}", style="bold")]
    for run, values in ((one["a"], one["values_a"]), (one["b"], one["values_b"])):
        if values:
            parts.append(drawing.indented(f"{run:<8} {'   '.join(f'{seed}: {value:.6g}' for seed, value in values.items())}", 2))
    parts += [drawing.indented(line, 2) for line in _derivation(one)]
    if one.get("samples"):
        parts.append(drawing.indented(f"samples  {_by_sample(one['samples'])}", 2))
    if one["fairness"]:
        table = drawing.table("", "equal?", one["a"], one["b"], "value")
        for column in table.columns[1:]:
            column.no_wrap, column.overflow = False, "fold"
        for check in one["fairness"]:
            declared = "declared" if check["declared"] and check["ok"] is False else ""
            shown = "blocks the verdict" if check["ok"] is False and check["blocks"] and not check["declared"] else declared
            table.add_row(
                ARROW[check["ok"]],
                check["check"],
                drawing.short(check["a"], 30) or "–",
                drawing.short(check["b"], 30) or "–",
                shown or ("not reported" if check["ok"] is None else ""),
            )
        parts.append(drawing.indented(table, 2))
    return Group(*parts)


def _derivation(one: Answer) -> Iterator[str]:
    if one["delta"] is not None:
        low, high = one["low"], one["high"]
        wide = f", {percent(1 - one['level'])} interval [{low:+.4g}, {high:+.4g}]" if low is not None else ""
        low, high = one["tost_low"], one["tost_high"]
        narrow = f", {percent(1 - 2 * one['tost_level'])} interval [{low:+.4g}, {high:+.4g}]" if low is not None else ""
        yield f"Δ        {one['delta']:+.6g} {one['unit']}{wide}{narrow}"
    p = f" · p {one['p']:.3g}" if one["p"] is not None else ""
    yield f"method   {one['method']} · {_noise(one)} · level {one['level']:.4g}{p} · margin {one['margin']:g}"
    if one["correlation"] is not None:
        yield f"seeds    correlation over common seeds {one['correlation']:.2f}; {'paired' if one['paired'] else 'not paired'}"
    pool = one.get("pool")
    if pool:
        ended = pool["ended"] if "ended" in pool else len(pool["jobs"])  # of older records
        yield f"pool     {', '.join(pool['runs']) or 'no run has two seeds'} ({drawing.count(ended, 'job')} had ended)"
        for run, why in pool["left_out"].items():
            yield f"         without {run}: {why}"
    for label in one["labels"]:
        yield f"label    {label}"
    yield from (f"seeds    {text}" for text in _diverged(one))
    if one["visible"] is not None:
        yield f"visible  {one['visible']:.3g} with probability 0.8"
    yield f"holds    {', '.join(one['holds']) or one['reason'] or 'not shown'}"


def sources(formulas: Sequence[Answer]) -> RenderableType:
    """The formulas used, each with where it comes from."""
    parts: list[RenderableType] = [Text("formulas", style="bold")]
    for one in formulas:
        source = f"  [{one['source']}]" if one["source"] else ""
        parts.append(drawing.indented(f"{one['name']}: {one['formula']}{source}", 2))
    return Group(*parts)

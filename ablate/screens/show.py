"""How `ablate show` is drawn: settings, jobs, attempts, the curve, the decisions that rest on a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.answers.document import Answer
from ablate.screens import drawing
from ablate.screens.decide import drawn_decision

FACTS = (
    "samples",
    "flops",
    "device",
    "world_size",
    "tokens_per_frame",
    "manifest_hash",
    "eval_hash",
    "first_batches_hash",
    "initial_weights_hash",
)
SIGNS = "•×+o*#@%&="
"""What draws the points of each seed."""


def show(answer: Answer) -> None:
    """One run: what differs, resolved rates, jobs and attempts, the curve, decisions that rest on it."""
    console = drawing.open_console()
    aliases = f" (also {', '.join(answer['aliases'])})" if answer["aliases"] else ""
    drawing.title(console, answer, f"{answer['run']}{aliases}: {answer['change']}")
    if answer["settings"] is None:
        console.print(drawing.labelled("waiting", f"its settings are not known yet: {answer['jobs'][0]['reason']}"))
    else:
        _settings(console, answer)
    console.print()
    console.print(_jobs_table(answer["jobs"]))
    if answer["attempts"]:
        console.print()
        console.print(_attempts_table(answer["attempts"]))
    if answer["curve"]["jobs"]:
        console.print()
        console.print(Text.from_ansi(curve_plot(answer["curve"]), no_wrap=True))
    if answer["search"]:
        _search(console, answer["search"])
    for made in answer["decisions"]:
        console.print()
        console.print(drawn_decision(made))
    drawing.next_step(console, answer)


def _search(console: Console, search: Answer) -> None:
    """Where a row looked, and what each trial scored there."""
    console.print()
    where = ", ".join(f"{name} in {space}" for name, space in search["space"].items())
    console.print(f"search   {where}: {search['budget']}; {search['chosen'] or 'it has not chosen yet'}")
    if not search["trials"]:
        return
    table = drawing.table(">trial", *search["space"], f">{search['on']}", "")
    for one in search["trials"]:
        cells = [drawing.toml(one["point"][name]) for name in search["space"]]
        table.add_row(str(one["trial"]), *cells, drawing.value(one["score"]) or "–", f"{one['state']} (selected, no evidence)")
    console.print(drawing.indented(table, 9))


def _settings(console: Console, answer: Answer) -> None:
    """What differs from the baseline first, then what is computed, then the rest."""
    differs = {one["setting"] for one in answer["differs"]}
    table = drawing.table("setting", "value", "baseline")
    for one in answer["differs"]:
        table.add_row(
            Text(one["setting"], style="bold"), drawing.toml(one["value"]), Text(drawing.toml(one["baseline"]), style="dim")
        )
    for name, value in answer["derived"].items():
        table.add_row(name, drawing.toml(value), Text("computed", style="dim"))
    for name, value in answer["settings"].items():
        if name not in differs:
            table.add_row(name, drawing.toml(value), "")
    console.print(table)


def _jobs_table(jobs: Sequence[Answer]) -> Table:
    table = drawing.table("job", "state", "why", ">attempts", ">GPU-h", ">USD")
    for job in jobs:
        why = job["reason"].strip().splitlines()[-1:] or [""]
        table.add_row(
            job["key"] or job["id"],
            drawing.state(job["state"]),
            why[0],
            str(job["attempts"]),
            drawing.number(job["gpu_hours"]),
            f"{job['cost']:.2f}",
        )
    return table


def _attempts_table(attempts: Sequence[Answer]) -> Table:
    table = drawing.table("attempt", "state", "started", ">took", "host", "code", "facts")
    for one in attempts:
        took = drawing.span(one["gpu_s"] / one["gpus"]) if one["gpus"] and one["gpu_s"] else ""
        commit = f"{one['git_commit'][:8]}{'+' if one['git_dirty'] else ''}"
        facts = "  ".join(f"{name} {_fact(name, one['facts'][name])}" for name in FACTS if name in one["facts"])
        table.add_row(
            f"{one['id']} {one['number']}",
            drawing.state(one["state"]),
            one["started_at"].replace("T", " ").rstrip("Z"),
            took,
            one["host"],
            " ".join(part for part in (one["code_hash"][:8], commit) if part),
            Text(facts, style="dim"),
        )
    return table


def _fact(name: str, value: Any) -> str:
    if name.endswith("hash"):
        return str(value)[:8]
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def curve_plot(curve: Mapping[str, Any], width: int = drawing.WIDTH - 4, height: int = 16) -> str:
    """The curves of a run's jobs in one frame, a sign per seed; without colour codes."""
    import plotext

    curves = {job: [(step, value) for step, value in points if value is not None] for job, points in curve["jobs"].items()}
    curves = {job: points for job, points in curves.items() if points}
    if not curves:
        return f"{curve['metric']}: no finite value"
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, height)
    for sign, points in zip(cycle(SIGNS), curves.values(), strict=False):
        signal = figure.signal([step for step, _ in points], [value for _, value in points], marker=sign)
        if len(points) > 1:
            signal.lines()
        figure.draw(signal)
    steps, values = zip(*(point for points in curves.values() for point in points), strict=True)
    marks = sorted({round(mark) for mark in _spread(steps)})
    figure.ruler(0, 0).ticks(marks, [f"{mark:,}" for mark in marks])
    figure.ruler(1, 0).ticks(_spread(values), [f"{mark:.4g}" for mark in _spread(values)])
    unit = f" [{curve['unit']}]" if curve["unit"] else ""
    named = "   ".join(f"{sign} {job}" for sign, job in zip(cycle(SIGNS), curves, strict=False))
    figure.title(f"{curve['metric']}{unit} over steps   {named}")
    drawn: str = figure.build().string(colorless=True)
    return "\n".join(line.rstrip() for line in drawn.splitlines())


def _spread(values: Sequence[float]) -> list[float]:
    """Five numbers from the least to the most of `values`, evenly; one where they are all the same."""
    least, most = min(values), max(values)
    return [least + part * (most - least) / 4 for part in range(5)] if most > least else [least]

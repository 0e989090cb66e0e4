"""How `ablate status` is drawn, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ablate.answers.document import Answer
from ablate.screens import drawing
from ablate.screens.decide import decision_table, stale_lines
from ablate.screens.jobs import failed_alike, failure, progress_text, running_table, spent_line

MENTIONED_MINUTES = 0.05
IN_A_ROW = 5
"""Scores of a run side by side: more would not fit."""


def status(answer: Answer) -> None:
    """Where the study stands."""
    drawing.open_console().print(_status(answer))


def follow(ask: Callable[[], Answer], every_s: float = 2.0) -> None:
    """Status, drawn anew until Ctrl-C; a line whenever it changes where there is no terminal."""
    console = drawing.open_console()
    try:
        if console.is_terminal:
            with Live(_status(ask()), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(every_s)
                    live.update(_status(ask()), refresh=True)
        said = ""
        while True:
            answer = ask()
            line = drawing.states(answer["states"])
            running = "; ".join(f"{job['id']} {progress_text(job)}" for job in answer["running"])
            if f"{line}{running}" != said:
                console.print(f"{drawing.clock()}  {line}{' · ' + running if running else ''}", soft_wrap=True)
                said = f"{line}{running}"
            time.sleep(every_s)
    except KeyboardInterrupt:
        return


def _status(answer: Answer) -> Group:
    parts: list[RenderableType] = [drawing.heading(answer, answer["at"]), drawing.states(answer["states"])]
    if answer["running"]:
        parts += ["", running_table(answer["running"])]
    if answer["ended"]:
        parts += ["", _scores(answer["ended"])]
    parts += ["", *_status_lines(answer)]
    if answer["decisions"]:
        parts += ["", decision_table(answer["decisions"])]
    parts += ["", f"Next: {answer['next']}"]
    return Group(*parts)


def _status_lines(answer: Answer) -> Iterator[RenderableType]:
    yield from map(failure, failed_alike(answer["failed"]))
    for wait in answer["waiting"]:
        yield drawing.labelled("waiting", f"{drawing.names(wait['jobs'])}: {wait['reason']}")
    yield spent_line(answer)
    if answer["left_gpu_hours"]:
        yield (
            f"to come  {drawing.number(answer['left_gpu_hours'])} GPU-hours · ${answer['left_cost']:.2f} · "
            f"{drawing.hours(answer['left_wall_hours'])} on {drawing.count(answer['gpus'], 'GPU')}"
        )
    if answer["lost_gpu_minutes"] >= MENTIONED_MINUTES:
        yield f"lost     {drawing.number(answer['lost_gpu_minutes'])} GPU-minutes to crashes: work after a checkpoint, done again"
    if answer["launching"]:
        held = answer["launching"]
        gone = f", but it is gone, last heard of at {held['beat_at']}; the next launch takes over" if held["gone"] else ""
        yield drawing.labelled("launch", f"{held['holder']}, since {held['since']}{gone}")
    if answer["lock"]:
        held = answer["lock"]
        yield f"locked   config {held['hash'][:12]}, since {held['at']}; {held['confirmation']['says']}"
    yield from stale_lines(answer)
    for note in answer["notes"]:
        yield drawing.labelled("note", note)


def _scores(ended: Sequence[Answer]) -> Table:
    table = drawing.table("ended", str(ended[0]["metric"]) + " by seed")
    of_runs: dict[str, list[Answer]] = {}
    for job in ended:
        of_runs.setdefault(job["run"], []).append(job)
    for run, jobs in islice(of_runs.items(), drawing.MOST_ROWS):
        cells = [
            f"{job['seed']}: {'diverged' if job['state'] == 'diverged' else drawing.value(job['value']) or '–'}"
            f"{' (imported)' if job['imported'] else ''}"
            for job in jobs
        ]
        name = f"{run} (selected)" if jobs[0]["selected"] else run
        for first in range(0, len(cells), IN_A_ROW):
            table.add_row(Text("" if first else name, style=drawing.STYLES["done"]), "   ".join(cells[first : first + IN_A_ROW]))
    if len(of_runs) > drawing.MOST_ROWS:
        table.add_row("…", f"and {drawing.count(len(of_runs) - drawing.MOST_ROWS, 'more run')}: ask for --json")
    return table

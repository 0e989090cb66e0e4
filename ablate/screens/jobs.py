"""Jobs as several screens draw them: those that run, those that failed, what they wait for, what they cost."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from ablate.answers.document import Answer
from ablate.screens import drawing


def running_table(running: Sequence[Answer]) -> Table:
    table = drawing.table("running", "change", "", ">done", ">samples", ">loss", ">since", ">left")
    for job in running:
        fraction = job["progress"]
        again = f" try {job['attempt']}" if job["attempt"] > 1 else ""
        table.add_row(
            Text(f"{job['id']}{again}", style=drawing.STYLES["running"]),
            drawing.short(job["change"], 26),
            drawing.meter(fraction),
            "" if fraction is None else f"{fraction:.0%}",
            _step(job) if job["samples"] is None else f"{job['samples']:,}",
            _measured(job) or drawing.value(job["loss"]),
            drawing.span(job["elapsed_s"]),
            "" if job["eta_s"] is None else drawing.span(job["eta_s"]),
        )
    return table


def progress_text(job: Answer) -> str:
    parts = [
        "starting" if job["progress"] is None and job["samples"] is None and not job["measured"] else _step(job),
        "" if job["progress"] is None else f"{job['progress']:.0%}",
        "" if job["samples"] is None else drawing.count(job["samples"], "sample"),
        _measured(job) or ("" if job["loss"] is None else f"loss {drawing.value(job['loss'])}"),
        f"since {drawing.span(job['elapsed_s'])}",
        "" if job["eta_s"] is None else f"{drawing.span(job['eta_s'])} left",
    ]
    return ", ".join(part for part in parts if part)


def _step(job: Answer) -> str:
    """ "step 300", of a job that writes neither progress nor samples."""
    return f"step {job['measured']['step']:,}" if job["measured"] else ""


def _measured(job: Answer) -> str:
    """ "val_loss 1.25", likewise."""
    return f"{job['measured']['name']} {drawing.value(job['measured']['value'])}" if job["measured"] else ""


def by_reason(jobs: Sequence[Answer]) -> dict[str, list[str]]:
    """Last line of the reason -> ids of the jobs it holds for."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        found.setdefault(job["reason"].strip().splitlines()[-1], []).append(job["id"])
    return found


def failed_alike(failed: Sequence[Answer]) -> list[list[Answer]]:
    """Jobs whose reasons begin and end alike but for numbers, together: between there is the log, where seeds differ."""
    found: dict[tuple[str, str], list[Answer]] = {}
    for job in failed:
        lines = re.sub(r"\d+", "0", job["reason"]).strip().splitlines() or [""]
        found.setdefault((lines[0], lines[-1]), []).append(job)
    return list(found.values())


def failure(jobs: Sequence[Answer]) -> Text:
    """Of jobs that failed alike, the first in full."""
    also = f"\n         so did {drawing.names([job['id'] for job in jobs[1:]])}" if len(jobs) > 1 else ""
    return drawing.labelled("failed", f"{jobs[0]['id']}: {jobs[0]['reason'].strip()}{also}")


def spent_line(answer: Answer) -> str:
    return f"spent    {drawing.spent(answer)}{on_orphans(answer)}"


def on_orphans(answer: Answer) -> str:
    orphaned = answer["orphan_gpu_hours"]
    return f" ({drawing.number(orphaned)} of them on jobs no longer asked for)" if orphaned else ""

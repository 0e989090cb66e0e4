"""How `ablate plan` is drawn: jobs by block, sums, the longest chain; with --diff, what an edit changed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from ablate.answers.document import Answer
from ablate.screens import drawing
from ablate.screens.decide import stale_lines
from ablate.screens.jobs import by_reason, on_orphans

CHANGED = {
    "kept": "the same in both",
    "new": "asked for by the new file only",
    "stale": "trained with other settings than the file asks for now; they would be trained anew",
    "reopened": "trained, and what they start from is open again; used as they are if it is decided as it was, else trained anew",
    "orphaned": "have results, and the file asks for them no more",
    "dropped": "planned before, never begun, not asked for any more",
}
PLAIN_REASONS = ("", "nothing is missing")


def plan(answer: Answer) -> None:
    """Jobs by block: state and why, change, hours, money; then the sums and the longest chain."""
    console = drawing.open_console()
    totals = answer["totals"]
    gpus = {job["gpus"] for job in answer["jobs"]}
    each = f", {drawing.count(gpus.pop(), 'GPU')} each" if len(gpus) == 1 else ""
    drawing.title(console, answer, f"{drawing.count(totals['jobs'], 'job')}{each}")
    rows = [list(group) for _, group in groupby(sorted_by_block(answer["jobs"]), key=_alike)]
    _plan_rows(console, rows[: drawing.MOST_ROWS])
    if len(rows) > drawing.MOST_ROWS:
        console.print(
            f"… and {drawing.count(len(rows) - drawing.MOST_ROWS, 'more row')}: ask for one --block, or for --json", style="dim"
        )
    console.print()
    for line in sums(totals):
        console.print(line)
    for sweep, why in answer["skipped_sweeps"].items():
        console.print(f"skipped  {sweep}: {why}", style="dim")
    for stale in stale_lines(answer):
        console.print(stale)
    if answer["locked"]:
        console.print(
            drawing.labelled("locked", f"{answer['confirmation']['says']}; nothing else starts until the lock is lifted")
        )
    for note in answer["notes"]:
        console.print(f"note     {note}")
    drawing.next_step(console, answer)


def changes(answer: Answer) -> None:
    """What an edit of the file does to the jobs."""
    console = drawing.open_console()
    drawing.title(console, answer, f"what changed since {answer['old']}")
    for name, why in CHANGED.items():
        rows = answer[name]
        if not rows:
            continue
        console.print(Text.assemble((f"{name:<9}", "bold"), f"{drawing.count(len(rows), 'job')}: {why}"))
        for _, group in groupby(rows, key=lambda job: job["run"]) if name != "kept" else ():
            jobs = list(group)
            of = f" ({jobs[0]['old_key']} …)" if name == "stale" else f" ({jobs[0]['reason']})" if name == "reopened" else ""
            console.print(
                drawing.indented(f"{jobs[0]['run']} {drawing.seeds([job['seed'] for job in jobs])}: {jobs[0]['change']}{of}", 9)
            )
    for edit in answer["edits"]:
        console.print(f"edit     {edit}")
    if answer["deviates"] and answer["locked"]:
        console.print('         not taken up while the study is locked: `ablate lock --lift --because "…"`, then `ablate launch`')
    elif answer["deviates"]:
        console.print('         frozen at the first launch: `ablate launch` wants --because "…" and keeps it as a deviation')
    console.print()
    console.print(
        f"to come  {drawing.number(answer['left_gpu_hours'])} GPU-hours · ${answer['left_cost']:.2f} "
        f"(before: {drawing.number(answer['left_gpu_hours_before'])} · ${answer['left_cost_before']:.2f})"
    )
    console.print(
        f"lost     {drawing.number(answer['lost_gpu_hours'])} GPU-hours · ${answer['lost_cost']:.2f} of results not used any more"
    )
    drawing.next_step(console, answer)


def sorted_by_block(jobs: Sequence[Answer]) -> list[Answer]:
    """As planned, with the jobs of one run and state side by side."""
    blocks = {block: number for number, block in enumerate(dict.fromkeys(job["block"] for job in jobs))}
    runs = {run: number for number, run in enumerate(dict.fromkeys(job["run"] for job in jobs))}
    return sorted(
        jobs, key=lambda job: (blocks[job["block"]], runs[job["run"]], drawing.ORDER.index(job["state"]), job["reason"])
    )


def _alike(job: Answer) -> tuple[Any, ...]:
    return job["block"], job["run"], _state_of(job), "" if job["imported"] or job["selected"] else job["reason"]


def _state_of(job: Answer) -> str:
    if job["selected"] and job["state"] == "done":
        return "done (selected)"
    return f"{job['state']} (imported)" if job["imported"] else str(job["state"])


def _plan_rows(console: Console, rows: Sequence[Sequence[Answer]]) -> None:
    """A table per block in common columns, and below it what its jobs wait for or why they ended, once per reason."""
    common = _common_start({sweep for jobs in rows for sweep in jobs[0]["sweeps"]})
    names = ("run", "seeds", "state", common or "sweeps", "change", ">hours", ">GPU-h", ">USD")
    cells = [_plan_cells(jobs, common) for jobs in rows]
    widths = [max(map(len, column)) for column in zip(*([name.lstrip(">") for name in names], *cells), strict=True)]
    room = console.width - 2 - 2 * (len(widths) - 1) - sum(widths)
    widths[4] = max(widths[4] + min(room, 0), 12)
    for block, of_block in groupby(zip(rows, cells, strict=True), key=lambda row: str(row[0][0]["block"])):
        table = drawing.table(*names)
        table.show_header = block == rows[0][0]["block"]
        for column, width in zip(table.columns, widths, strict=True):
            column.width = width
        shown: list[Answer] = []
        for jobs, texts in of_block:
            table.add_row(*texts[:2], Text(texts[2], style=drawing.STYLES.get(jobs[0]["state"], "")), *texts[3:])
            shown += jobs
        console.print(Text(f"block {block}" if block else "in no block", style="bold"))
        console.print(drawing.indented(table, 2))
        _reasons(console, shown)
        _expectations(console, shown)


def _expectations(console: Console, jobs: Sequence[Answer]) -> None:
    """What the authors of these rows believe in, under a block's table."""
    said = {job["run"]: job["expects"] for job in jobs if job["expects"]}
    for run, expects in said.items():
        sizes = (f"{metric} {size}" if isinstance(size, str) else f"{metric} {size:+g}" for metric, size in expects.items())
        console.print(drawing.indented(Text(f"expected: {run} against its start: {', '.join(sizes)}", style="dim"), 4))


def _plan_cells(jobs: Sequence[Answer], common: str) -> tuple[str, ...]:
    first = jobs[0]
    return (
        first["run"],
        drawing.seeds([job["seed"] for job in jobs]),
        _state_of(first),
        " ".join(sweep.removeprefix(common) for sweep in first["sweeps"]),
        f"{len(jobs)} trials of its search" if first["selected"] and len(jobs) > 1 else first["change"],
        drawing.number(sum(job["hours"] for job in jobs) / len(jobs)),
        drawing.number(sum(job["gpu_hours"] for job in jobs)),
        f"{sum(job['cost'] for job in jobs):.2f}",
    )


def _reasons(console: Console, jobs: Sequence[Answer]) -> None:
    """What these jobs wait for or why they ended, under a block's table."""
    told = [job for job in jobs if job["reason"].strip() not in PLAIN_REASONS and job["state"] not in ("done", "stopped")]
    for state in dict.fromkeys(job["state"] for job in told):
        for reason, ids in by_reason([job for job in told if job["state"] == state]).items():
            console.print(drawing.indented(Text(f"{state}: {drawing.names(ids)}: {reason}", style="dim"), 4))


def _common_start(names: Collection[str]) -> str:
    """The word that all names begin with, when each goes on with a number: "sweep" of sweep1 and sweep2."""
    starts = {name.rstrip("0123456789") for name in names}
    start = starts.pop() if len(starts) == 1 else ""
    return start if all(len(name) > len(start) for name in names) else ""


def sums(totals: Answer) -> Iterator[str]:
    """What is to come and what is spent, in hours, money and days; the longest chain; how many jobs are in which state."""
    source = {"declared": "hours as declared", "measured": "hours as measured"}.get(
        totals["hours_source"], "hours measured or declared"
    )
    if totals["left_jobs"]:
        yield (
            f"to come  {drawing.count(totals['left_jobs'], 'job')} · {drawing.number(totals['left_gpu_hours'])} GPU-hours · "
            f"${totals['left_cost']:.2f} · {drawing.hours(totals['wall_hours'])} on {drawing.count(totals['gpus'], 'GPU')} "
            f"({source})"
        )
        if totals["maybe_jobs"]:
            more = f"{drawing.count(totals['maybe_jobs'], 'job')} · {drawing.number(totals['maybe_gpu_hours'])} GPU-hours more"
            yield f"         at most {more}, if decisions take a combination that no row trains"
        if len(totals["critical_path"]) > 1:
            chain = _chain(totals["critical_path"])
            yield f"chain    {drawing.hours(totals['critical_path_hours'])} at least, on any number of GPUs: {chain}"
    if totals["spent_gpu_hours"]:
        orphaned = on_orphans(totals)
        yield f"spent    {drawing.number(totals['spent_gpu_hours'])} GPU-hours · ${totals['spent_cost']:.2f}{orphaned}"
    yield f"jobs     {drawing.states(totals['states'])}"


def _chain(ids: Sequence[str]) -> str:
    return " → ".join(ids if len(ids) <= 6 else [*ids[:3], "…", *ids[-2:]])

"""The documents of answers.py drawn for a person: tables, bars and curves, at most 100 columns wide, readable without colour.

Rich draws (drawing.py), plotext plots. Every screen ends with the next step, where there is one.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from ablate import answers
from ablate import drawing as draw
from ablate.answers import Answer

if TYPE_CHECKING:  # types only: launch imports Ray
    from ablate.desk import Desk
    from ablate.launch import Event, Tick

MOST_ROWS = 200
"""Rows of a plan, and runs that have ended, drawn; the rest is told by its number."""
MOST_REASONS = 12
BAR = 21
"""Columns of a margin bar; odd, so that it has a middle."""
EQUIVALENCE = "*"
"""Marks an interval that is the one of `no worse` and `same`, among those of `better` and `worse`."""
MENTIONED_MINUTES = 0.05
LINE_EVERY_S = 30.0
"""How often a launch that writes to a file or pipe says where it stands."""
REDRAW_S = 0.5
PLAIN_REASONS = ("", "nothing is missing")


def plan(answer: Answer) -> None:
    """Jobs by block: state and why, change, hours, money; then the sums and the longest chain."""
    console = draw.open_console()
    totals = answer["totals"]
    gpus = {job["gpus"] for job in answer["jobs"]}
    each = f", {draw.count(gpus.pop(), 'GPU')} each" if len(gpus) == 1 else ""
    draw.title(console, answer, f"{draw.count(totals['jobs'], 'job')}{each}")
    rows = [list(group) for _, group in groupby(sorted_by_block(answer["jobs"]), key=_alike)]
    _plan_rows(console, rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        console.print(f"… and {len(rows) - MOST_ROWS} more rows: ask for one --block, or for --json", style="dim")
    console.print()
    for line in _sums(totals):
        console.print(line)
    for sweep, why in answer["skipped_sweeps"].items():
        console.print(f"skipped  {sweep}: {why}", style="dim")
    for stale in _stale_lines(answer):
        console.print(stale)
    if answer["locked"]:
        console.print(draw.labelled("locked", f"{answer['confirmation']['says']}; nothing else starts until the lock is lifted"))
    for note in answer["notes"]:
        console.print(f"note     {note}")
    draw.next_step(console, answer)


def plan_changes(answer: Answer) -> None:
    """What an edit of the file does to the jobs."""
    console = draw.open_console()
    draw.title(console, answer, f"what changed since {answer['old']}")
    for name, why in CHANGED.items():
        rows = answer[name]
        if not rows:
            continue
        console.print(Text.assemble((f"{name:<9}", "bold"), f"{draw.count(len(rows), 'job')}: {why}"))
        for _, group in groupby(rows, key=lambda job: job["run"]) if name != "kept" else ():
            jobs = list(group)
            of = f" ({jobs[0]['old_key']} …)" if name == "stale" else ""
            console.print(
                draw.indented(f"{jobs[0]['run']} {draw.seeds([job['seed'] for job in jobs])}: {jobs[0]['change']}{of}", 9)
            )
    for edit in answer["edits"]:
        console.print(f"edit     {edit}")
    if answer["deviates"]:
        console.print('         frozen at the first launch: `ablate launch` wants --because "…" and keeps it as a deviation')
    console.print()
    console.print(
        f"to come  {draw.number(answer['left_gpu_hours'])} GPU-hours · ${answer['left_cost']:.2f} "
        f"(before: {draw.number(answer['left_gpu_hours_before'])} · ${answer['left_cost_before']:.2f})"
    )
    console.print(
        f"lost     {draw.number(answer['lost_gpu_hours'])} GPU-hours · ${answer['lost_cost']:.2f} of results not used any more"
    )
    draw.next_step(console, answer)


CHANGED = {
    "kept": "the same in both",
    "new": "asked for by the new file only",
    "stale": "trained with other settings than the file asks for now; they would be trained anew",
    "orphaned": "have results, and the file asks for them no more",
    "dropped": "planned before, never begun, not asked for any more",
}


def sorted_by_block(jobs: Sequence[Answer]) -> list[Answer]:
    """As planned, with the jobs of one run and state side by side."""
    blocks = {block: number for number, block in enumerate(dict.fromkeys(job["block"] for job in jobs))}
    runs = {run: number for number, run in enumerate(dict.fromkeys(job["run"] for job in jobs))}
    return sorted(jobs, key=lambda job: (blocks[job["block"]], runs[job["run"]], draw.ORDER.index(job["state"]), job["reason"]))


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
        table = draw.table(*names)
        table.show_header = block == rows[0][0]["block"]
        for column, width in zip(table.columns, widths, strict=True):
            column.width = width
        shown: list[Answer] = []
        for jobs, texts in of_block:
            table.add_row(*texts[:2], Text(texts[2], style=draw.STYLES.get(jobs[0]["state"], "")), *texts[3:])
            shown += jobs
        console.print(Text(f"block {block}" if block else "in no block", style="bold"))
        console.print(draw.indented(table, 2))
        _reasons(console, shown)
        _expectations(console, shown)


def _expectations(console: Console, jobs: Sequence[Answer]) -> None:
    """What the authors of these rows believe in, under a block's table."""
    said = {job["run"]: job["expects"] for job in jobs if job["expects"]}
    for run, expects in said.items():
        sizes = (f"{metric} {size}" if isinstance(size, str) else f"{metric} {size:+g}" for metric, size in expects.items())
        console.print(draw.indented(Text(f"expected: {run} against its start: {', '.join(sizes)}", style="dim"), 4))


def _plan_cells(jobs: Sequence[Answer], common: str) -> tuple[str, ...]:
    first = jobs[0]
    return (
        first["run"],
        draw.seeds([job["seed"] for job in jobs]),
        _state_of(first),
        " ".join(sweep.removeprefix(common) for sweep in first["sweeps"]),
        f"{len(jobs)} trials of its search" if first["selected"] and len(jobs) > 1 else first["change"],
        draw.number(sum(job["hours"] for job in jobs) / len(jobs)),
        draw.number(sum(job["gpu_hours"] for job in jobs)),
        f"{sum(job['cost'] for job in jobs):.2f}",
    )


def _reasons(console: Console, jobs: Sequence[Answer]) -> None:
    """What these jobs wait for or why they ended, under a block's table."""
    told = [job for job in jobs if job["reason"].strip() not in PLAIN_REASONS and job["state"] not in ("done", "stopped")]
    for state in dict.fromkeys(job["state"] for job in told):
        for reason, ids in _by_reason([job for job in told if job["state"] == state]).items():
            console.print(draw.indented(Text(f"{state}: {draw.names(ids)}: {reason}", style="dim"), 4))


def _by_reason(jobs: Sequence[Answer]) -> dict[str, list[str]]:
    """Last line of the reason -> ids of the jobs it holds for."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        found.setdefault(job["reason"].strip().splitlines()[-1], []).append(job["id"])
    return found


def _common_start(names: Collection[str]) -> str:
    """The word that all names begin with, when each goes on with a number: "sweep" of sweep1 and sweep2."""
    starts = {name.rstrip("0123456789") for name in names}
    start = starts.pop() if len(starts) == 1 else ""
    return start if all(len(name) > len(start) for name in names) else ""


def _sums(totals: Answer) -> Iterator[str]:
    source = {"declared": "hours as declared", "measured": "hours as measured"}.get(
        totals["hours_source"], "hours measured or declared"
    )
    if totals["left_jobs"]:
        yield (
            f"to come  {draw.count(totals['left_jobs'], 'job')} · {draw.number(totals['left_gpu_hours'])} GPU-hours · "
            f"${totals['left_cost']:.2f} · {draw.hours(totals['wall_hours'])} on {draw.count(totals['gpus'], 'GPU')} ({source})"
        )
        if totals["maybe_jobs"]:
            more = f"{draw.count(totals['maybe_jobs'], 'job')} · {draw.number(totals['maybe_gpu_hours'])} GPU-hours more"
            yield f"         at most {more}, if decisions take a combination that no row trains"
        if len(totals["critical_path"]) > 1:
            chain = _chain(totals["critical_path"])
            yield f"chain    {draw.hours(totals['critical_path_hours'])} at least, on any number of GPUs: {chain}"
    if totals["spent_gpu_hours"]:
        orphaned = _on_orphans(totals)
        yield f"spent    {draw.number(totals['spent_gpu_hours'])} GPU-hours · ${totals['spent_cost']:.2f}{orphaned}"
    yield f"jobs     {draw.states(totals['states'])}"


def _chain(ids: Sequence[str]) -> str:
    return " → ".join(ids if len(ids) <= 6 else [*ids[:3], "…", *ids[-2:]])


# ---------------------------------------------------------------- launch


def dry_run(answer: Answer) -> None:
    """What a launch would start, in order."""
    console = draw.open_console()
    draw.title(console, answer, "dry run: nothing is started")
    table = draw.table(">", "job", "change", ">hours", ">GPU-h", ">USD")
    for number, job in enumerate(answer["starts"][:MOST_ROWS], 1):
        table.add_row(
            str(number),
            job["id"],
            job["change"],
            draw.number(job["hours"]),
            draw.number(job["gpu_hours"]),
            f"{job['cost']:.2f}",
        )
    if answer["starts"]:
        console.print("would start, in this order, as GPUs are free:")
        console.print(table)
    else:
        console.print("nothing may start now")
    for reason, ids in _by_reason(answer["waits"]).items():
        console.print(f"later    {draw.names(ids)}: {reason}", style="dim")
    console.print()
    for line in _sums(answer["totals"]):
        console.print(line)
    draw.next_step(console, answer)


def outcome(answer: Answer) -> None:
    """How a launch ended."""
    console = draw.open_console()
    console.print()
    draw.title(console, answer, draw.states(answer["states"]))
    for jobs in _failed_alike(answer["failed"]):
        console.print(_failure(jobs))
        console.print(f"         {jobs[0]['log']}", style="dim")
    console.print(_decision_table(answer["decisions"]))
    for stale in _stale_lines(answer):
        console.print(stale)
    held = answer["lock"]
    if held:
        console.print(f"\nlock     {_lock_line(held)}")
    for why in answer["waiting_for"][:MOST_REASONS]:
        console.print(f"waits    {why}")
    if len(answer["waiting_for"]) > MOST_REASONS:
        console.print(f"         and {len(answer['waiting_for']) - MOST_REASONS} more")
    if answer["over_budget"]:
        console.print(f"budget   {draw.names(answer['over_budget'])} not started: above --max-cost")
    console.print(_spent_line(answer))
    draw.next_step(console, answer)


def _failed_alike(failed: Sequence[Answer]) -> list[list[Answer]]:
    """Jobs whose reasons begin and end alike but for numbers, together: between there is the log, where seeds differ."""
    found: dict[tuple[str, str], list[Answer]] = {}
    for job in failed:
        lines = re.sub(r"\d+", "0", job["reason"]).strip().splitlines() or [""]
        found.setdefault((lines[0], lines[-1]), []).append(job)
    return list(found.values())


def _failure(jobs: Sequence[Answer]) -> Text:
    """Of jobs that failed alike, the first in full."""
    also = f"\n         so did {draw.names([job['id'] for job in jobs[1:]])}" if len(jobs) > 1 else ""
    return draw.labelled("failed", f"{jobs[0]['id']}: {jobs[0]['reason'].strip()}{also}")


def _spent_line(answer: Answer) -> str:
    return f"spent    {draw.spent(answer)}{_on_orphans(answer)}"


def _on_orphans(answer: Answer) -> str:
    orphaned = answer["orphan_gpu_hours"]
    return f" ({draw.number(orphaned)} of them on jobs no longer asked for)" if orphaned else ""


def attempt(answer: Answer) -> None:
    """One job trained in the foreground."""
    console = draw.open_console()
    console.print(
        draw.labelled(answer["state"], f"{answer['job']} attempt {answer['number']}: {answer['reason'] or 'ended well'}")
    )
    if answer["gpus"]:
        console.print(f"took     {draw.span(answer['gpu_s'] / answer['gpus'])}")


class _Screen(Protocol):
    """Where a launch is watched. Asking where it stands costs a few queries: a screen asks when it is going to draw."""

    def event(self, kind: str, text: str) -> None: ...
    def tick(self, ask: Callable[[], Answer]) -> None: ...


class LaunchWatcher:
    """What a launch tells (see launch.Watcher), passed on to a screen; and whether a person wants it to end."""

    def __init__(self, desk: Desk, screen: _Screen, gpus: int | None = None) -> None:
        self._desk, self._screen, self._gpus = desk, screen, gpus
        self._asked: Literal["", "stop", "kill"] = ""

    def event(self, event: Event) -> None:
        self._screen.event(event.kind, event.text)

    def tick(self, tick: Tick) -> None:
        self._screen.tick(lambda: answers.tick(self._desk, tick, self._gpus))

    def ask_to_stop(self, how: Literal["stop", "kill"]) -> None:
        self._asked = how

    def stop_asked(self) -> Literal["", "stop", "kill"]:
        return self._asked


@contextmanager
def launch_watcher(desk: Desk, estimate: Answer, quiet: bool) -> Iterator[LaunchWatcher]:
    """Print the estimate; then watch."""
    if not quiet:
        console = draw.open_console()
        draw.title(console, estimate, "launch")
        for line in _sums(estimate["totals"]):
            console.print(line)
        console.print()
    with watcher(desk, quiet, estimate["totals"]["gpus"]) as watching:
        yield watching


@contextmanager
def watcher(desk: Desk, quiet: bool, gpus: int | None = None) -> Iterator[LaunchWatcher]:
    """A live table on a terminal, one line per event anywhere else, nothing when quiet."""
    console = draw.open_console()
    if quiet or not console.is_terminal:
        yield LaunchWatcher(desk, _Nowhere() if quiet else _Lines(console), gpus)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield LaunchWatcher(desk, _Terminal(live), gpus)


class _Nowhere:
    def event(self, kind: str, text: str) -> None:
        """Nobody looks."""

    def tick(self, ask: Callable[[], Answer]) -> None:
        """Nobody looks."""


class _Lines:
    """For files, pipes and CI: one line per event, and every half minute where it stands."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = time.monotonic()

    def event(self, kind: str, text: str) -> None:
        self._console.print(f"{draw.clock()}  {kind:<8} {text}", soft_wrap=True)

    def tick(self, ask: Callable[[], Answer]) -> None:
        if time.monotonic() - self._said < LINE_EVERY_S:
            return
        self._said = time.monotonic()
        answer = ask()
        self.event("progress", _overall(answer))
        for job in answer["running"]:
            self.event("", f"  {job['id']}: {_progress_text(job)}")


class _Terminal:
    """A table that is drawn anew in place, with the events above it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._drawn = 0.0

    def event(self, kind: str, text: str) -> None:
        self._live.console.print(Text(draw.clock(), style="dim"), Text(f" {kind:<8}", style=draw.STYLES.get(kind, "")), text)

    def tick(self, ask: Callable[[], Answer]) -> None:
        if time.monotonic() - self._drawn < REDRAW_S:
            return
        self._drawn = time.monotonic()
        answer = ask()
        running = [_running_table(answer["running"])] if answer["running"] else []
        self._live.update(Group("", *running, Text(_overall(answer), style="bold")), refresh=True)


def _overall(answer: Answer) -> str:
    left = f" · about {draw.hours(answer['left_wall_hours'])} left" if answer["left_wall_hours"] else ""
    return f"{draw.states(answer['states'])} · {draw.spent(answer)}{left}"


def _running_table(running: Sequence[Answer]) -> Table:
    table = draw.table("running", "change", "", ">done", ">samples", ">loss", ">since", ">left")
    for job in running:
        fraction = job["progress"]
        again = f" try {job['attempt']}" if job["attempt"] > 1 else ""
        table.add_row(
            Text(f"{job['id']}{again}", style=draw.STYLES["running"]),
            draw.short(job["change"], 26),
            draw.meter(fraction),
            "" if fraction is None else f"{fraction:.0%}",
            "" if job["samples"] is None else f"{job['samples']:,}",
            draw.value(job["loss"]),
            draw.span(job["elapsed_s"]),
            "" if job["eta_s"] is None else draw.span(job["eta_s"]),
        )
    return table


def _progress_text(job: Answer) -> str:
    parts = [
        "starting" if job["progress"] is None and job["samples"] is None else "",
        "" if job["progress"] is None else f"{job['progress']:.0%}",
        "" if job["samples"] is None else f"{job['samples']:,} samples",
        "" if job["loss"] is None else f"loss {draw.value(job['loss'])}",
        f"since {draw.span(job['elapsed_s'])}",
        "" if job["eta_s"] is None else f"{draw.span(job['eta_s'])} left",
    ]
    return ", ".join(part for part in parts if part)


# ---------------------------------------------------------------- decide, explain


def decide(answer: Answer) -> None:
    """Per tree the line taken and its numbers; the learn lines that hold; the price of what was not shown."""
    console = draw.open_console()
    draw.title(console, answer, "decisions")
    for number, sweep in enumerate(answers.sweeps_in(answer)):
        if number:
            console.print()
        _sweep(console, sweep)
    if answer["note"] or answer["stale"]:
        console.print()
    for kind, because in dict.fromkeys((one["kind"], one["because"]) for one in answer["stale"]):
        names = [one["name"] for one in answer["stale"] if (one["kind"], one["because"]) == (kind, because)]
        console.print(draw.labelled("stale", f"{draw.count(len(names), kind)} ({draw.names(names)}): {because}"))
    if answer["note"]:
        console.print(f"note     {answer['note']}")
    draw.next_step(console, answer)


def _sweep(console: Console, sweep: Answer) -> None:
    console.print(Text(sweep["sweep"], style="bold"), sweep["asks"])
    if sweep["skipped_because"]:
        console.print(draw.indented(f"skipped: {sweep['skipped_because']}", 2))
    drawn: list[Answer] = []
    for made in sweep["decisions"]:
        console.print(draw.indented(_decision(made), 2))
        drawn += _comparisons(console, made["comparisons"])
        if made["price"]:
            console.print(draw.indented(f"not shown: {made['price']}", 4))
    for learned in sweep["learned"]:
        console.print(
            draw.indented(Text.assemble(("learned: ", "bold"), f"{learned['say']}", (f"  ({learned['text']})", "dim")), 2)
        )
        drawn += _comparisons(console, learned["comparisons"])
    quiet = sweep["learn_lines"] - len(sweep["learned"])
    if quiet and not sweep["open"] and not sweep["skipped_because"]:
        console.print(draw.indented(f"{quiet} of {draw.count(sweep['learn_lines'], 'learn line')} not shown", 2), style="dim")
    for why in sweep["open"]:
        console.print(draw.indented(draw.labelled("waiting", why), 2))
    if drawn:
        console.print(draw.indented(_legend(drawn), 4), style="dim")


def _decision(made: Answer) -> RenderableType:
    took = f" took {made['took']}" if made["took"] else ""
    turned = f"was {made['was']} → now {made['took'] or made['status']}" if made.get("was") else ""
    if made["status"] == "waiting":
        head = Text.assemble((made["name"], "bold"), " is open", (f"  was {made['was']}" if turned else "", "bold yellow"))
        return Group(head, *(draw.indented(line, 2) for line in _today(made)))
    by = ", decided by a person" if made["by"] == "person" else ""
    head = Text.assemble(
        (f"{made['name']}{took}", "bold"), f"  ({made['status']}{by})", (f"  {turned}" if turned else "", "bold yellow")
    )
    lines = [f"turned   {made['why']}"] if turned else []
    lines += [f"line:    {made['line']}"] if made["line"] else []
    return Group(head, *(draw.indented(line, 2) for line in (*lines, f"because  {made['because']}", *_today(made))))


def _today(made: Answer) -> Iterator[str]:
    """What today's numbers and file say, where that is not what is recorded."""
    if today := made.get("today"):
        why = f", because {today['why']}" if today["why"] else ""
        unsaid = f"not recorded (`{today['record']}` does, unless locked)"
        yield f"today    it would take {today['took']} ({today['line']}){why}; {unsaid}"


def _comparisons(console: Console, comparisons: Sequence[Answer]) -> list[Answer]:
    """One line per comparison: difference, interval, bar, seeds, what holds. Returns those drawn."""
    if not comparisons:
        return []
    table = draw.table("compared", "on", ">Δ", "interval", "margin", ">n", "holds")
    for one in comparisons:
        blank = one["delta"] is None
        table.add_row(
            f"{one['a']} − {one['b']}",
            one["metric"],
            "" if blank else f"{one['delta']:+.3g}",
            _interval_cell(one),
            margin_bar(one),
            f"{one['n_a']}/{one['n_b']}",
            ", ".join(one["holds"]) or Text(draw.short(one.get("reason") or "not shown", 24), style="dim"),
        )
    console.print(draw.indented(table, 4))
    for label in dict.fromkeys(label for one in comparisons for label in one.get("labels", ())):
        console.print(draw.indented(label, 4), style="dim")
    return list(comparisons)


def interval(comparison: Answer) -> tuple[float | None, float | None]:
    """The interval its verdicts rest on: the narrower one where only `no worse` or `same` hold."""
    if _of_equivalence(comparison):
        return comparison["tost_low"], comparison["tost_high"]
    return comparison["low"], comparison["high"]


def _covers(comparison: Answer) -> str:
    """With which probability that interval holds the difference: "90 %"."""
    missed = 2 * comparison["tost_level"] if _of_equivalence(comparison) else comparison["level"]
    return draw.percent(1 - missed)


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


def _legend(comparisons: Sequence[Answer]) -> str:
    margins = {one["metric"]: one["margin"] for one in comparisons if one["margin"]}
    lower = {one["metric"] for one in comparisons if one.get("better") == "lower"}
    sides = "; ".join(f"{name} ±{margin:g}, better is {'left' if name in lower else 'right'}" for name, margin in margins.items())
    covers = f"\ninterval: {text}" if (text := _coverages(comparisons)) else ""
    return f"margin: │ zero, ┊ the margin, ─ the interval, ● the estimate ({sides}){covers}"


def _decision_table(decisions: Sequence[Answer]) -> Table:
    table = draw.table("decision", "sweep", "status", "took", "because")
    for made in decisions:
        table.add_row(
            made["name"], made["sweep"], draw.state(made["status"]), made["took"] or "–", draw.short(made["because"], 62)
        )
    return table


def explain(answer: Answer) -> None:
    """What each line of a sweep asks for, in plain words."""
    console = draw.open_console()
    console.print(Text(answer["sweep"], style="bold"), answer["asks"])
    for metric in answer["metrics"]:
        unit = f" {metric['unit']}" if metric["unit"] else ""
        console.print(
            f"  {metric['name']}: {metric['better']} is better; less than {metric['margin']:g}{unit} would not be acted on"
        )
    if answer["skip"]:
        skip = answer["skip"]
        console.print(f"  skipped when {skip['in_words']}: {skip['because']}")
    for tree in answer["trees"]:
        console.print()
        console.print(Text(tree["name"], style="bold"), "decides: read from the top, the first line that holds is taken")
        for number, line in enumerate(tree["lines"], 1):
            console.print(f" {number:>2}  {line['if']}", style="bold")
            console.print(draw.indented(f"when {line['in_words']},\n→ {line['take_in_words']}: {line['because']}", 5))
    if answer["learn"]:
        console.print()
        console.print(Text("learn", style="bold"), "every line that holds is reported; nothing changes")
    for line in answer["learn"]:
        console.print(f"  ·  {line['if']}", style="bold")
        console.print(draw.indented(f"when {line['in_words']},\n→ we say: {line['say']}", 5))
    console.print()
    console.print('"Shown" means that the interval says so. What is not shown is never taken as true.', style="dim")


# ---------------------------------------------------------------- status


def status(answer: Answer) -> None:
    """Where the study stands."""
    draw.open_console().print(_status(answer))


def follow(ask: Callable[[], Answer], every_s: float = 2.0) -> None:
    """Status, drawn anew until Ctrl-C; a line whenever it changes where there is no terminal."""
    console = draw.open_console()
    try:
        if console.is_terminal:
            with Live(_status(ask()), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(every_s)
                    live.update(_status(ask()), refresh=True)
        said = ""
        while True:
            answer = ask()
            line = draw.states(answer["states"])
            running = "; ".join(f"{job['id']} {_progress_text(job)}" for job in answer["running"])
            if f"{line}{running}" != said:
                console.print(f"{draw.clock()}  {line}{' · ' + running if running else ''}", soft_wrap=True)
                said = f"{line}{running}"
            time.sleep(every_s)
    except KeyboardInterrupt:
        return


def _status(answer: Answer) -> Group:
    parts: list[RenderableType] = [draw.heading(answer, answer["at"]), draw.states(answer["states"])]
    if answer["running"]:
        parts += ["", _running_table(answer["running"])]
    if answer["ended"]:
        parts += ["", _scores(answer["ended"])]
    parts += ["", *_status_lines(answer)]
    if answer["decisions"]:
        parts += ["", _decision_table(answer["decisions"])]
    parts += ["", f"Next: {answer['next']}"]
    return Group(*parts)


def _status_lines(answer: Answer) -> Iterator[RenderableType]:
    yield from map(_failure, _failed_alike(answer["failed"]))
    for wait in answer["waiting"]:
        yield draw.labelled("waiting", f"{draw.names(wait['jobs'])}: {wait['reason']}")
    yield _spent_line(answer)
    if answer["left_gpu_hours"]:
        yield (
            f"to come  {draw.number(answer['left_gpu_hours'])} GPU-hours · ${answer['left_cost']:.2f} · "
            f"{draw.hours(answer['left_wall_hours'])} on {draw.count(answer['gpus'], 'GPU')}"
        )
    if answer["lost_gpu_minutes"] >= MENTIONED_MINUTES:
        yield f"lost     {draw.number(answer['lost_gpu_minutes'])} GPU-minutes to crashes: work after a checkpoint, done again"
    if answer["launching"]:
        held = answer["launching"]
        gone = f", but it is gone, last heard of at {held['beat_at']}; the next launch takes over" if held["gone"] else ""
        yield draw.labelled("launch", f"{held['holder']}, since {held['since']}{gone}")
    if answer["lock"]:
        held = answer["lock"]
        yield f"locked   config {held['hash'][:MOST_REASONS]}, since {held['at']}; {held['confirmation']['says']}"
    yield from _stale_lines(answer)
    for note in answer["notes"]:
        yield draw.labelled("note", note)


def _stale_lines(answer: Answer) -> Iterator[RenderableType]:
    """What rests on a decision that says something else now."""
    return (draw.labelled("stale", f"{one['kind']} {one['name']}: {one['because']}") for one in answer["stale"])


def stop(answer: Answer) -> None:
    """What was asked to stop."""
    console = draw.open_console()
    if answer["stopping"]:
        console.print(f"{draw.names(answer['stopping'])}: asked to write a checkpoint and stop")
    if answer["launch"]:
        console.print(f"{answer['launch']}: asked to end its launch")
    console.print(f"\nNext: {answer['next']}")


def retry(answer: Answer) -> None:
    """What will be tried again, and by whom."""
    console = draw.open_console()
    who = f"{answer['launch']} takes it up within seconds" if answer["launch"] else "the next launch takes it up"
    console.print(f"{draw.names(answer['again'])}: earlier failures count no more; {who}")
    console.print(f"\nNext: {answer['next']}")


IN_A_ROW = 5
"""Scores of a run side by side: more would not fit."""


def _scores(ended: Sequence[Answer]) -> Table:
    table = draw.table("ended", str(ended[0]["metric"]) + " by seed")
    of_runs: dict[str, list[Answer]] = {}
    for job in ended:
        of_runs.setdefault(job["run"], []).append(job)
    for run, jobs in islice(of_runs.items(), MOST_ROWS):
        cells = [
            f"{job['seed']}: {'diverged' if job['state'] == 'diverged' else draw.value(job['value']) or '–'}"
            f"{' (imported)' if job['imported'] else ''}"
            for job in jobs
        ]
        name = f"{run} (selected)" if jobs[0]["selected"] else run
        for first in range(0, len(cells), IN_A_ROW):
            table.add_row(Text("" if first else name, style=draw.STYLES["done"]), "   ".join(cells[first : first + IN_A_ROW]))
    if len(of_runs) > MOST_ROWS:
        table.add_row("…", f"and {len(of_runs) - MOST_ROWS} more runs: ask for --json")
    return table


# ---------------------------------------------------------------- show, logs


def show(answer: Answer) -> None:
    """One run: what differs, resolved rates, jobs and attempts, the curve, decisions that rest on it."""
    console = draw.open_console()
    aliases = f" (also {', '.join(answer['aliases'])})" if answer["aliases"] else ""
    draw.title(console, answer, f"{answer['run']}{aliases}: {answer['change']}")
    if answer["settings"] is None:
        console.print(draw.labelled("waiting", f"its settings are not known yet: {answer['jobs'][0]['reason']}"))
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
        console.print(_decision(made))
    draw.next_step(console, answer)


def _search(console: Console, search: Answer) -> None:
    """Where a row looked, and what each trial scored there."""
    console.print()
    where = ", ".join(f"{name} in {space}" for name, space in search["space"].items())
    console.print(f"search   {where}: {search['budget']}; {search['chosen'] or 'it has not chosen yet'}")
    if not search["trials"]:
        return
    table = draw.table(">trial", *search["space"], f">{search['on']}", "")
    for one in search["trials"]:
        cells = [draw.toml(one["point"][name]) for name in search["space"]]
        table.add_row(str(one["trial"]), *cells, draw.value(one["score"]) or "–", f"{one['state']} (selected, no evidence)")
    console.print(draw.indented(table, 9))


def _settings(console: Console, answer: Answer) -> None:
    """What differs from the baseline first, then what is computed, then the rest."""
    differs = {one["setting"] for one in answer["differs"]}
    table = draw.table("setting", "value", "baseline")
    for one in answer["differs"]:
        table.add_row(Text(one["setting"], style="bold"), draw.toml(one["value"]), Text(draw.toml(one["baseline"]), style="dim"))
    for name, value in answer["derived"].items():
        table.add_row(name, draw.toml(value), Text("computed", style="dim"))
    for name, value in answer["settings"].items():
        if name not in differs:
            table.add_row(name, draw.toml(value), "")
    console.print(table)


def _jobs_table(jobs: Sequence[Answer]) -> Table:
    table = draw.table("job", "state", "why", ">attempts", ">GPU-h", ">USD")
    for job in jobs:
        why = job["reason"].strip().splitlines()[-1:] or [""]
        table.add_row(
            job["key"] or job["id"],
            draw.state(job["state"]),
            why[0],
            str(job["attempts"]),
            draw.number(job["gpu_hours"]),
            f"{job['cost']:.2f}",
        )
    return table


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


def _attempts_table(attempts: Sequence[Answer]) -> Table:
    table = draw.table("attempt", "state", "started", ">took", "host", "code", "facts")
    for one in attempts:
        took = draw.span(one["gpu_s"] / one["gpus"]) if one["gpus"] and one["gpu_s"] else ""
        commit = f"{one['git_commit'][:8]}{'+' if one['git_dirty'] else ''}"
        facts = "  ".join(f"{name} {_fact(name, one['facts'][name])}" for name in FACTS if name in one["facts"])
        table.add_row(
            f"{one['id']} {one['number']}",
            draw.state(one["state"]),
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


SIGNS = "•×+o*#@%&="
"""What draws the points of each seed."""


def curve_plot(curve: Mapping[str, Any], width: int = draw.WIDTH - 4, height: int = 16) -> str:
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


def logs(answer: Answer) -> None:
    """The end of each log, as it is."""
    console = draw.open_console()
    for log in answer["logs"]:
        console.print(Text(f"{log['id']} attempt {log['attempt']} ({log['state']})  {log['path']}", style="bold"), soft_wrap=True)
        for line in log["lines"]:
            console.print(Text.from_ansi(line), soft_wrap=True)


def follow_logs(ask: Callable[[], Answer]) -> None:
    """The end of each log, then what is added to the last, until Ctrl-C. A log that is still to come is waited for."""
    try:
        answer = _once_there(ask)
        logs(answer)
        _follow_file(Path(answer["logs"][-1]["path"]))
    except KeyboardInterrupt:
        return


def _once_there(ask: Callable[[], Answer]) -> Answer:
    said = False
    while True:
        try:
            return ask()
        except answers.NoLogYetError as error:
            if not said:
                draw.open_console().print(f"{error}. It is shown as soon as it is there; Ctrl-C leaves", soft_wrap=True)
            said = True
        time.sleep(0.5)


def _follow_file(path: Path) -> None:
    """Print what is added to a file."""
    with path.open(encoding="utf-8", errors="replace") as file:
        file.seek(0, 2)
        while True:
            added = file.read()
            if added:
                sys.stdout.write(added)
                sys.stdout.flush()
            else:
                time.sleep(0.3)


# ---------------------------------------------------------------- lock, rebuild


def lock(answer: Answer) -> None:
    """The final config, each changed key with the decision it came from; or why it is not there yet."""
    console = draw.open_console()
    if "settings" not in answer:
        draw.title(console, answer, "not locked yet")
        for why in answer["reasons"][:MOST_REASONS]:
            console.print(draw.labelled("waiting", why))
        if len(answer["reasons"]) > MOST_REASONS:
            console.print(f"         and {len(answer['reasons']) - MOST_REASONS} more")
        draw.next_step(console, answer)
        return
    draw.title(console, answer, "locked" if answer["locked"] else "lock lifted")
    if answer["lifted_because"]:
        console.print(f"lifted   {answer['lifted_because']}")
    table = draw.table("setting", "value", "from")
    for name in sorted(answer["settings"], key=lambda name: name not in answer["changed"]):
        changed = name in answer["changed"]
        style = "bold" if changed else ""
        table.add_row(
            Text(name, style=style),
            Text(draw.toml(answer["settings"][name]), style=style),
            Text(answer["sources"][name], style=style or "dim"),
        )
    console.print(table)
    console.print()
    console.print(_lock_line(answer))
    for name, because in answer["searches"].items():
        console.print(f"{name}: {because}")
    for conflict in answer["conflicts"]:
        console.print(draw.labelled("conflict", conflict))
    if answer["confirmation"]["because"]:
        console.print(answer["confirmation"]["because"])
        _comparisons(console, answer["confirmation"]["comparisons"])
    draw.next_step(console, answer)


def _lock_line(held: Answer) -> str:
    changes = ", ".join(f"{name} = {draw.toml(held['settings'][name])} ({held['sources'][name]})" for name in held["changed"])
    recipe = f"the baseline with {changes}" if changes else "the baseline, unchanged"
    trained = f"trained as {held['trained_as']}" if held["trained_as"] else "this combination was never trained"
    return f"config {held['hash'][:12]}: {recipe}; {trained}; {held['confirmation']['says']}"


def rebuild(answer: Answer) -> None:
    """What was read back from the folders."""
    console = draw.open_console()
    console.print(
        f"{answer['database']} made anew: {draw.count(answer['jobs'], 'job')}, {draw.count(answer['attempts'], 'attempt')}, "
        f"{draw.count(answer['points'], 'point')}, {draw.count(answer['decisions'], 'decision')}",
        soft_wrap=True,
    )
    for complaint in answer["complaints"]:
        console.print(f"left out  {complaint}", soft_wrap=True)


def rehearse(answer: Answer) -> None:
    """What each rule would do; the locks; lines and how often they say something false; promises kept or not."""
    console = draw.open_console()
    noise = f"noise {answer['noise']}"
    draw.title(console, answer, f"{answer['studies']:,} rehearsed studies · world: {answer['world']} · {noise}")
    sizes = (f"{name} {one['sd']:.3g} ({one['source']})" for name, one in answer["sd"].items())
    console.print(f"sd between seeds: {', '.join(sizes)}", style="dim")
    if answer["past_jobs"]:
        at = "" if answer["budget"] == 1 else f", read at {answer['budget']:.0%} of their length"
        console.print(f"noise: whole curves of {draw.count(answer['past_jobs'], 'past job')}{at}", style="dim")
    if answer["looks"]:
        console.print(f"looks at {' and '.join(map(str, answer['looks']))} seeds per run; every tree is settled", style="dim")
    for one in answer["effects"]:
        console.print(f"true: {one['run']} shifts {one['metric']} by {one['effect']:+g}", style="dim")
    console.print()
    table = draw.table("rule", ">wrong adoptions", ">misses", ">regret", ">net regret", ">GPU-hours")
    equal = [{**one, "rule": f"{one['rule']}, {one['seeds']:.1f} of every run"} for one in answer["equal_hours"]]
    for rule in (*answer["rules"], *equal):
        regrets = (f"{rule['regret']:.2f}", f"{rule['net_regret']:.2f}")
        table.add_row(rule["rule"], _percent(rule["wrong"]), _percent(rule["missed"]), *regrets, f"{rule['gpu_hours']:,.3g}")
    console.print(table)
    console.print("regret in margins; net: a change costs one. The last rows: the trees' GPU-hours, spread evenly", style="dim")
    console.print()
    table = draw.table(">chance", "final config")
    locks = list(answer["rules"][0]["locks"].items())
    for name, chance in locks[:MOST_REASONS]:
        table.add_row(_percent(chance), draw.short(name, 80))
    console.print(table)
    if len(locks) > MOST_REASONS:
        console.print(f"… and {len(locks) - MOST_REASONS} more: see --json", style="dim")
    console.print()
    _rehearsed_lines(console, answer["lines"])
    _rehearsed_targets(console, answer["targets"])
    if not all(target["passed"] for target in answer["targets"]):
        console.print("not kept: more seeds or looks (seeds.extra, evidence.looks) show more; check says what these can")
    draw.next_step(console, answer)


def _rehearsed_lines(console: Console, lines: Sequence[Answer]) -> None:
    """A line that nobody asked (its runs were skipped in every study) has no share."""
    table = draw.table("", "line", ">fires", ">says something false")
    for line in lines:
        share = _percent(line["fired"] / line["asked"]) if line["asked"] and line["fired"] else "never"
        false = _percent(line["false"] / line["asked"]) if line["false"] else ""
        table.add_row(line["where"].removesuffix(" (learn)"), draw.short(line["text"], 56), share, false)
    console.print(table)
    console.print()


def _rehearsed_targets(console: Console, targets: Sequence[Answer]) -> None:
    """Promises in short: of several comparisons the worst; those that are not kept, each."""
    table = draw.table("promise", "of", ">measured", ">limits", ">studies", "")
    for name in dict.fromkeys(target["name"] for target in targets):
        of_name = [target for target in targets if target["name"] == name]
        failed = [target for target in of_name if not target["passed"]]
        worst = min(of_name, key=lambda one: min((one["measured"] or 0) - one["low"], one["high"] - (one["measured"] or 0)))
        for target in failed or [worst]:
            others = f" (nearest of {len(of_name)})" if not failed and len(of_name) > 1 else ""
            measured = "–" if target["measured"] is None else f"{target['measured']:.3g}"
            word = Text("kept", style="green") if target["passed"] else Text("not kept", style="bold red")
            table.add_row(
                name,
                draw.short(target["of"], 42 - len(others)) + others,
                measured,
                f"{target['low']:.3g}–{target['high']:.3g}",
                f"{target['studies']:,}",
                word,
            )
    console.print(table)


@contextmanager
def rehearsal_progress(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal while studies are played; nothing where nobody sees it."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("rehearsing", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# ---------------------------------------------------------------- small things

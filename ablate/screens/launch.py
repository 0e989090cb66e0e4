"""How `ablate launch` is drawn, beforehand and in the end; and `ablate stop` and `ablate retry`. While it lasts: watcher.py."""

from __future__ import annotations

from ablate.answers.document import Answer
from ablate.screens import drawing
from ablate.screens.decide import decision_table, stale_lines
from ablate.screens.jobs import by_reason, failed_alike, failure, spent_line
from ablate.screens.lock import lock_line
from ablate.screens.plan import sums


def dry_run(answer: Answer) -> None:
    """What a launch would start, in order."""
    console = drawing.open_console()
    drawing.title(console, answer, "dry run: nothing is started")
    table = drawing.table(">", "job", "change", ">hours", ">GPU-h", ">USD")
    for number, job in enumerate(answer["starts"][: drawing.MOST_ROWS], 1):
        table.add_row(
            str(number),
            job["id"],
            job["change"],
            drawing.number(job["hours"]),
            drawing.number(job["gpu_hours"]),
            f"{job['cost']:.2f}",
        )
    if answer["starts"]:
        console.print("would start, in this order, as GPUs are free:")
        console.print(table)
    else:
        console.print("nothing may start now")
    for reason, ids in by_reason(answer["waits"]).items():
        console.print(f"later    {drawing.names(ids)}: {reason}", style="dim")
    console.print()
    for line in sums(answer["totals"]):
        console.print(line)
    drawing.next_step(console, answer)


def settling(answer: Answer) -> None:
    """The seeds that could decide a line, and their price."""
    console = drawing.open_console()
    drawing.title(console, answer, f"to settle {answer['sweep']}: look {answer['look']} of {len(answer['looks'])}")
    console.print(f"line     {answer['line']}")
    for job in answer["jobs"]:
        console.print(f"train    {job['id']}: {job['change']}")
    console.print(f"price    {drawing.spent(answer)}")
    drawing.next_step(console, answer)


def outcome(answer: Answer) -> None:
    """How a launch ended."""
    console = drawing.open_console()
    console.print()
    drawing.title(console, answer, drawing.states(answer["states"]))
    for jobs in failed_alike(answer["failed"]):
        console.print(failure(jobs))
        console.print(f"         {jobs[0]['log']}", style="dim")
    console.print(decision_table(answer["decisions"]))
    for stale in stale_lines(answer):
        console.print(stale)
    for line in answer["today"]:
        console.print(drawing.labelled("today", line))
    held = answer["lock"]
    if held:
        console.print(f"\nlock     {lock_line(held)}")
        for note in held["notes"]:
            console.print(drawing.labelled("note", note))
    for why in answer["waiting_for"][: drawing.MOST_REASONS]:
        console.print(f"waits    {why}")
    if len(answer["waiting_for"]) > drawing.MOST_REASONS:
        console.print(f"         and {len(answer['waiting_for']) - drawing.MOST_REASONS} more")
    if answer["over_budget"]:
        console.print(f"budget   {drawing.names(answer['over_budget'])} not started: above --max-cost")
    console.print(spent_line(answer))
    drawing.next_step(console, answer)


def attempt(answer: Answer) -> None:
    """One job trained in the foreground."""
    console = drawing.open_console()
    console.print(
        drawing.labelled(answer["state"], f"{answer['job']} attempt {answer['number']}: {answer['reason'] or 'ended well'}")
    )
    if answer["gpus"]:
        console.print(f"took     {drawing.span(answer['gpu_s'] / answer['gpus'])}")


def stop(answer: Answer) -> None:
    """What was asked to stop."""
    console = drawing.open_console()
    if answer["stopping"]:
        console.print(f"{drawing.names(answer['stopping'])}: asked to write a checkpoint and stop")
    if answer["launch"]:
        console.print(f"{answer['launch']}: asked to end its launch")
    console.print(f"\nNext: {answer['next']}")


def retry(answer: Answer) -> None:
    """What will be tried again, and by whom."""
    console = drawing.open_console()
    who = f"{answer['launch']} takes it up within seconds" if answer["launch"] else "the next launch takes it up"
    console.print(f"{drawing.names(answer['again'])}: earlier failures count no more; {who}")
    console.print(f"\nNext: {answer['next']}")

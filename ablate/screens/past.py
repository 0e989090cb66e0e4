"""How `ablate import` is drawn: what came in, what was there, what was left out and why."""

from __future__ import annotations

from itertools import groupby

from rich.table import Table
from rich.text import Text

from ablate.answers.document import Answer
from ablate.screens import drawing

MOST_ROWS = 40


def imported(answer: Answer) -> None:
    """What came in by run and seed, what was there, what was left out and why."""
    console = drawing.open_console()
    dry = " (dry run: nothing is written)" if answer["dry_run"] else ""
    drawing.title(console, answer, f"import of {answer['source']}, {answer['kind']}{dry}")
    for label, rows in (("new", answer["imported"]), ("known", answer["known"])):
        if rows:
            console.print(Text.assemble((f"{label:<8} ", "bold"), _summary(rows, label)))
    if answer["imported"]:
        console.print(drawing.indented(_table(answer["imported"]), 9))
        told = "with the fairness ledger of its source" if all(row["ledger"] for row in answer["imported"]) else None
        console.print(
            f"ledger   {told or 'none: what was equal between these runs is not known, and every verdict on them says so'}"
        )
    if not answer["imported"] and answer["known"]:
        console.print("         nothing is new; nothing was written")
    reasons = {
        one["why"]: {each["name"]: None for each in answer["left_out"] if each["why"] == one["why"]} for one in answer["left_out"]
    }
    for why, names in reasons.items():
        console.print(drawing.labelled("left out", f"{drawing.names([*names])}: {why}"))
    if answer["waits"]:
        console.print("         import the same again once they are")
    if answer["unread"]:
        console.print(
            f"unread   {drawing.names(answer['unread'])}: columns that are no metric or setting of the study", style="dim"
        )
    drawing.next_step(console, answer)


def _summary(rows: list[Answer], label: str) -> str:
    points = sum(row["points"] for row in rows)
    what = f"{drawing.count(len(rows), 'job')}, {drawing.count(points, 'point')}"
    return what if label == "new" else f"{what}: imported before, with the same numbers"


def _table(rows: list[Answer]) -> Table:
    table = drawing.table("run", "seeds", "state", ">points", ">last step", "metrics")
    grouped = [
        list(group) for _, group in groupby(rows, key=lambda row: (row["run"], row["state"], row["last_step"], row["metrics"]))
    ]
    for group in grouped[:MOST_ROWS]:
        first = group[0]
        table.add_row(
            first["run"],
            drawing.seeds([row["seed"] for row in group]),
            drawing.state(first["state"]),
            f"{sum(row['points'] for row in group):,}",
            f"{first['last_step']:,}",
            drawing.short(", ".join(first["metrics"]), 40),
        )
    if len(grouped) > MOST_ROWS:
        table.add_row("…", drawing.count(len(grouped) - MOST_ROWS, "more row"), "", "", "", "")
    return table

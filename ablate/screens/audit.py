"""How `ablate audit` and `ablate decide --explain` are drawn: what follows from the rows, what does not, and why."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from ablate.answers.document import Answer
from ablate.screens import drawing
from ablate.screens.compare import grounds, sources

MARK = {"follows": "✓", "moved": "≈", "fell": "✗"}


def explained(answer: Answer) -> None:
    """Decisions with everything behind them."""
    console = drawing.open_console()
    drawing.title(console, answer, "decisions, taken again from the rows in the database")
    for one in answer["decisions"]:
        console.print(_head(one))
        for line in _decided(one):
            console.print(drawing.indented(line, 2))
        for comparison in one["comparisons"]:
            console.print()
            console.print(drawing.indented(grounds(comparison), 2))
        console.print()
    for line in answer["open"]:
        console.print(line)
    console.print(sources(answer["formulas"]))
    _deviated(console, answer)
    drawing.next_step(console, answer)


def audit(answer: Answer) -> None:
    """A line per decision and the lock; below each that does not follow, why."""
    console = drawing.open_console()
    every = [*answer["decisions"], *([answer["lock"]] if answer["lock"] else [])]
    wrong = sum(one["verdict"] != "follows" for one in every)
    follow = "the only one follows" if len(every) == 1 else f"all {len(every)} follow"
    told = follow if not wrong else f"{wrong} of {len(every)} {'does' if wrong == 1 else 'do'} not follow from the database"
    drawing.title(console, answer, f"audit: {told if every else 'nothing is decided yet'}")
    for one in every:
        console.print(_head(one))
        for label in one.get("labels", ()):
            console.print(drawing.indented(label, 4), style="dim")
        for problem in one["problems"]:
            console.print(drawing.indented(f"· {problem}", 4))
        for line in _today(one):
            console.print(drawing.indented(line, 4), style="dim")
    _deviated(console, answer)
    drawing.next_step(console, answer)


def _head(one: Answer) -> Text:
    took = f" took {one['took']}" if one.get("took") else f" {one['status']}" if one.get("status") else f" {one['hash'][:12]}"
    number = f", record {one['number']}" if one.get("number") else ""
    style = {"follows": "green", "moved": "yellow", "fell": "bold red"}[one["verdict"]]
    return Text.assemble(
        (f"{MARK[one['verdict']]} ", style), (f"{one['name']}{took}", "bold"), f"  {one['verdict']}{number}, {one['at']}"
    )


def _decided(one: Answer) -> Iterator[str]:
    yield f"line     {one['line'] or '(a person decided)'}"
    yield f"because  {one['because']}"
    if one["sets"]:
        yield f"sets     {', '.join(f'{name} = {drawing.toml(value)}' for name, value in one['sets'].items())}"
    yield f"rests on {drawing.count(len(one['jobs']), 'job')}: {drawing.names(sorted(one['jobs']))}"
    for problem in one["problems"]:
        yield f"≠        {problem}"


def _today(one: Answer) -> Iterator[str]:
    today = one.get("today")
    if today and today["status"] == "decided" and one["status"] == "decided" and today["took"] != one["took"]:
        yield f"with all that is known today it would take {today['took']} ({today['line']}); to turn it: {today['turn']}"


def _deviated(console: Console, answer: Answer) -> None:
    for one in answer["deviations"]:
        console.print(f"deviates since {one['at']}: {'; '.join(one['changes'])} (reason: {one['because']})")

"""How `ablate decide` is drawn: per tree the line taken and its numbers; and decisions wherever else they are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ablate.answers.decide import sweeps_in
from ablate.answers.document import Answer
from ablate.screens import drawing
from ablate.screens.comparisons import bar_columns, comparison_table, legend


def decide(answer: Answer) -> None:
    """Per tree the line taken and its numbers; the learn lines that hold; the price of what was not shown."""
    console = drawing.open_console()
    drawing.title(console, answer, "decisions")
    for number, sweep in enumerate(sweeps_in(answer)):
        if number:
            console.print()
        _sweep(console, sweep)
    if answer["note"] or answer["stale"]:
        console.print()
    for kind, because in dict.fromkeys((one["kind"], one["because"]) for one in answer["stale"]):
        names = [one["name"] for one in answer["stale"] if (one["kind"], one["because"]) == (kind, because)]
        console.print(drawing.labelled("stale", f"{drawing.count(len(names), kind)} ({drawing.names(names)}): {because}"))
    if answer["note"]:
        console.print(f"note     {answer['note']}")
    drawing.next_step(console, answer)


def _sweep(console: Console, sweep: Answer) -> None:
    console.print(Text(sweep["sweep"], style="bold"), sweep["asks"])
    if sweep["skipped_because"]:
        console.print(drawing.indented(f"skipped: {sweep['skipped_because']}", 2))
    drawn = [one for said in (*sweep["decisions"], *sweep["learned"]) for one in said["comparisons"]]
    columns = bar_columns(console, drawn)
    for made in sweep["decisions"]:
        console.print(drawing.indented(drawn_decision(made), 2))
        comparison_table(console, made["comparisons"], columns)
        if made["price"]:
            console.print(drawing.indented(f"not shown: {made['price']}", 4))
    for learned in sweep["learned"]:
        console.print(
            drawing.indented(Text.assemble(("learned: ", "bold"), f"{learned['say']}", (f"  ({learned['text']})", "dim")), 2)
        )
        comparison_table(console, learned["comparisons"], columns)
    quiet = sweep["learn_lines"] - len(sweep["learned"])
    if quiet and not sweep["open"] and not sweep["skipped_because"]:
        console.print(
            drawing.indented(f"{quiet} of {drawing.count(sweep['learn_lines'], 'learn line')} not shown", 2), style="dim"
        )
    for why in sweep["open"]:
        console.print(drawing.indented(drawing.labelled("waiting", why), 2))
    if drawn:
        console.print(drawing.indented(legend(drawn, columns), 4), style="dim")


def drawn_decision(made: Answer) -> RenderableType:
    took = f" took {made['took']}" if made["took"] else ""
    turned = f"was {made['was']} → now {made['took'] or made['status']}" if made.get("was") else ""
    if made["status"] == "waiting":
        head = Text.assemble((made["name"], "bold"), " is open", (f"  was {made['was']}" if turned else "", "bold yellow"))
        return Group(head, *(drawing.indented(line, 2) for line in _today(made)))
    by = ", decided by a person" if made["by"] == "person" else ""
    head = Text.assemble(
        (f"{made['name']}{took}", "bold"), f"  ({made['status']}{by})", (f"  {turned}" if turned else "", "bold yellow")
    )
    lines = [f"turned   {made['why']}"] if turned else []
    lines += [f"line:    {made['line']}"] if made["line"] else []
    return Group(head, *(drawing.indented(line, 2) for line in (*lines, f"because  {made['because']}", *_today(made))))


def _today(made: Answer) -> Iterator[str]:
    """What today's numbers and file say, where that is not what is recorded."""
    if today := made.get("today"):
        why = f", because {today['why']}" if today["why"] else ""
        unsaid = f"not recorded (`{today['record']}` does, unless locked)"
        yield f"today    it would take {today['took']} ({today['line']}){why}; {unsaid}"


def decision_table(decisions: Sequence[Answer]) -> Table:
    table = drawing.table("decision", "sweep", "status", "took", "because")
    for made in decisions:
        table.add_row(
            made["name"], made["sweep"], drawing.state(made["status"]), made["took"] or "–", drawing.short(made["because"], 62)
        )
    return table


def stale_lines(answer: Answer) -> Iterator[RenderableType]:
    """What rests on a decision that says something else now."""
    return (drawing.labelled("stale", f"{one['kind']} {one['name']}: {one['because']}") for one in answer["stale"])

"""How `ablate lock` is drawn: the final config, each changed key with the decision it came from."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ablate.answers.document import Answer
from ablate.screens import drawing
from ablate.screens.comparisons import bar_columns, comparison_table


def lock(answer: Answer) -> None:
    """The final config, each changed key with the decision it came from; or why it is not there yet."""
    console = drawing.open_console()
    if "settings" not in answer:
        drawing.title(console, answer, "not locked yet")
        for why in answer["reasons"][: drawing.MOST_REASONS]:
            console.print(drawing.labelled("waiting", why))
        if len(answer["reasons"]) > drawing.MOST_REASONS:
            console.print(f"         and {len(answer['reasons']) - drawing.MOST_REASONS} more")
        _today(console, answer)
        drawing.next_step(console, answer)
        return
    drawing.title(console, answer, "locked" if answer["locked"] else "lock lifted")
    if answer["lifted_because"]:
        console.print(f"lifted   {answer['lifted_because']}")
    table = drawing.table("setting", "value", "from")
    for name in sorted(answer["settings"], key=lambda name: name not in answer["changed"]):
        changed = name in answer["changed"]
        style = "bold" if changed else ""
        table.add_row(
            Text(name, style=style),
            Text(drawing.toml(answer["settings"][name]), style=style),
            Text(answer["sources"][name], style=style or "dim"),
        )
    console.print(table)
    console.print()
    console.print(lock_line(answer))
    for name, because in answer["searches"].items():
        console.print(f"{name}: {because}")
    for conflict in answer["conflicts"]:
        console.print(drawing.labelled("conflict", conflict))
    if answer["confirmation"]["because"]:
        console.print(answer["confirmation"]["because"])
        comparisons = answer["confirmation"]["comparisons"]
        comparison_table(console, comparisons, bar_columns(console, comparisons))
    _today(console, answer)
    for note in answer["notes"]:
        console.print(drawing.labelled("note", note))
    drawing.next_step(console, answer)


def _today(console: Console, answer: Answer) -> None:
    """Decisions that would say something else with all that is known today."""
    for line in answer["today"]:
        console.print(drawing.labelled("today", line))


def lock_line(held: Answer) -> str:
    changes = ", ".join(f"{name} = {drawing.toml(held['settings'][name])} ({held['sources'][name]})" for name in held["changed"])
    recipe = f"the baseline with {changes}" if changes else "the baseline, unchanged"
    trained = f"trained as {held['trained_as']}" if held["trained_as"] else "this combination was never trained"
    return f"config {held['hash'][:12]}: {recipe}; {trained}; {held['confirmation']['says']}"

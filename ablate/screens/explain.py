"""How `ablate explain` is drawn: each line of a sweep in plain words."""

from __future__ import annotations

from rich.text import Text

from ablate.answers.document import Answer
from ablate.screens import drawing


def explain(answer: Answer) -> None:
    """What each line of a sweep asks for, in plain words."""
    console = drawing.open_console()
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
            console.print(drawing.indented(f"when {line['in_words']},\n→ {line['take_in_words']}: {line['because']}", 5))
    if answer["learn"]:
        console.print()
        console.print(Text("learn", style="bold"), "every line that holds is reported; nothing changes")
    for line in answer["learn"]:
        console.print(f"  ·  {line['if']}", style="bold")
        console.print(drawing.indented(f"when {line['in_words']},\n→ we say: {line['say']}", 5))
    console.print()
    console.print('"Shown" means that the interval says so. What is not shown is never taken as true.', style="dim")

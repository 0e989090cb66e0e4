"""How `ablate rebuild` is drawn: what was read back from the folders."""

from __future__ import annotations

from ablate.answers.document import Answer
from ablate.screens import drawing


def rebuild(answer: Answer) -> None:
    """What was read back from the folders."""
    console = drawing.open_console()
    console.print(
        f"{answer['database']} made anew: {drawing.count(answer['jobs'], 'job')}, "
        f"{drawing.count(answer['attempts'], 'attempt')}, "
        f"{drawing.count(answer['points'], 'point')}, {drawing.count(answer['decisions'], 'decision')}",
        soft_wrap=True,
    )
    for complaint in answer["complaints"]:
        console.print(f"left out  {complaint}", soft_wrap=True)

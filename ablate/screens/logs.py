"""How `ablate logs` is drawn: the end of each log as it is, and with --follow what is added."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.text import Text

from ablate.answers.document import Answer
from ablate.answers.logs import NoLogYetError
from ablate.screens import drawing


def logs(answer: Answer) -> None:
    """The end of each log, as it is."""
    console = drawing.open_console()
    for log in answer["logs"]:
        console.print(Text(f"{log['id']} attempt {log['attempt']} ({log['state']})  {log['path']}", style="bold"), soft_wrap=True)
        for line in log["lines"]:
            console.print(Text.from_ansi(line), soft_wrap=True)


def follow(ask: Callable[[], Answer]) -> None:
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
        except NoLogYetError as error:
            if not said:
                drawing.open_console().print(f"{error}. It is shown as soon as it is there; Ctrl-C leaves", soft_wrap=True)
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

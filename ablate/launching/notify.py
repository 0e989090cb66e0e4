"""[study] on_event: a program of the user's that hears of what happens, as JSON on its stdin. Never through a shell.

    {"event": "failed", "study": "…", "profile": "…", "at": "…Z", "text": "one line", "job": …, "attempt": …, "state": …, …}

event is "decided", "failed", "done" or "budget". The program is called once per event, one after the other, where runs.toml
lies; it may take TIMEOUT_S. Whatever becomes of it, the launch goes on and says so in a note.
"""

from __future__ import annotations

import json
import queue
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ablate.study import Study, UserError

TIMEOUT_S = 30.0
"""A call that takes longer is killed."""
CLOSE_S = 60.0
"""What is still to be told when the launch ends gets so long."""
AT_MOST = 1000
"""Events that may wait for a slow program; later ones are left out, and said to be."""


class Notifier:
    """Calls the program from a thread of its own, so that nothing waits for it."""

    def __init__(self, study: Study, complain: Callable[[str], None]) -> None:
        """complain: hears what went wrong, in the thread that calls `complaints`. UserError if the command cannot be split."""
        self._study, self._complain = study, complain
        self._words = command_words(study)
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue(AT_MOST)
        self._trouble: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="on_event", daemon=True)
        if self._words:
            self._thread.start()

    def tell(self, event: str, at: str, text: str, facts: Mapping[str, Any]) -> None:
        if not self._words:
            return
        told = {"event": event, "study": self._study.name, "profile": self._study.profile, "at": at, "text": text, **facts}
        try:
            self._waiting.put_nowait(told)
        except queue.Full:
            self._trouble.put(f"on_event is too slow: {event!r} was not told ({text})")

    def complaints(self) -> None:
        """Pass on what went wrong since the last call."""
        while not self._trouble.empty():
            self._complain(self._trouble.get())

    def close(self) -> None:
        """Tell what is still to be told, then end."""
        if self._words:
            until = time.monotonic() + CLOSE_S
            while self._waiting.full() and time.monotonic() < until:
                time.sleep(0.1)
            if not self._waiting.full():
                self._waiting.put_nowait(None)
            self._thread.join(max(0.0, until - time.monotonic()))
            if self._thread.is_alive():
                self._trouble.put(f"on_event had not heard all within {CLOSE_S:.0f} s; the rest is left out")
        self.complaints()

    def _work(self) -> None:
        while (told := self._waiting.get()) is not None:
            if trouble := call(self._words, told, self._study.path.parent):
                self._trouble.put(trouble)


def command_words(study: Study) -> tuple[str, ...]:
    """The program and its arguments; () without one. UserError if it cannot be split into words."""
    try:
        return tuple(shlex.split(study.on_event))
    except ValueError as error:
        raise UserError(f"{study.path.name}: [study] on_event {study.on_event!r}: {error}; quote it as in a shell") from error


def call(words: tuple[str, ...], told: Mapping[str, Any], where: Path) -> str:
    """Call the program once; what went wrong, "" if nothing. Its arguments are not quoted: there may be a key among them."""
    what = f"on_event {words[0]!r} on {told['event']!r}"
    try:
        ended = subprocess.run(
            words, input=json.dumps(told, ensure_ascii=False) + "\n", cwd=where, capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False, start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{what}: it took longer than {TIMEOUT_S:g} s and was ended"
    except OSError as error:
        return f"{what}: {error}"
    last = ended.stderr.strip().splitlines()[-1:]
    return f"{what}: exit code {ended.returncode} {' '.join(last)}" if ended.returncode else ""

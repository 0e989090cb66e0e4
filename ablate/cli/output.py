"""Where an answer goes: a screen or (--json) a document, into whatever stdout is; what cannot be written is no traceback."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from ablate.study import UserError


def out(answer: dict[str, Any], as_json: bool, screen: Callable[[dict[str, Any]], None]) -> None:
    try:
        if as_json:
            sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")
        else:
            screen(answer)
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:  # who read it has enough: typer ends us without a word
            raise
        _drop_the_rest(sys.stdout)
        raise UserError(f"the answer could not be written: {error.strerror}") from error


def usable(stream: TextIO | None, encoding: str | None = None) -> TextIO:
    """A stream that takes every text: nowhere if whoever called us closed it; a character that its encoding lacks is a "?"."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding=encoding, errors="replace")
    return stream or Path(os.devnull).open("w", encoding="utf-8")


def write(stream: TextIO, text: str) -> None:
    """As far as anybody reads it and there is room; the exit code says the rest."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        _drop_the_rest(stream)


def _drop_the_rest(stream: TextIO) -> None:
    """What could not be written: Python would try again when it ends, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

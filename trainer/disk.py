"""A disk that is full or fails: told in one line, whoever noticed; and files that outlast a power cut."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

FAILED = os.EX_IOERR
"""Exit code after a write that failed: the log may be on the same disk, so that nothing else can tell."""

_NUMBERS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE})
_RUST = re.compile(r"\(os error (\d+)\)")
"""How safetensors says it."""


def trouble(error: BaseException, folder: Path) -> str:
    """What the disk has, "" if nothing of the kind is behind `error`; torch raises RuntimeError, with the reason in its context.

    folder: what was being written to, if the error does not say.
    """
    for each in _chain(error):
        number = each.errno if isinstance(each, OSError) else next(map(int, _RUST.findall(str(each))), None)
        if number in _NUMBERS:
            place = each.filename if isinstance(each, OSError) and each.filename else folder
            return f"{place}: {os.strerror(number or 0)}. Nothing half-written counts; the next attempt goes on"
    return ""


def save(state: Any, path: Path) -> None:
    """torch.save, through a file of Python's: torch's own does not say what the disk has."""
    with path.open("wb") as file:
        torch.save(state, file)


def sync(path: Path) -> None:
    """A file, or the names in a folder, are on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from or during."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or at.__context__

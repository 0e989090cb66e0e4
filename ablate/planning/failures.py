"""Why an attempt failed, and what may be done: from exit codes and the log's last lines to a class with a policy. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Literal, get_args

FailureClass = Literal["out of memory", "disk error", "data error", "node lost", "timeout", "killed", "code error", "crash"]
"""crash: none of the others could be recognised."""

VERDICT = "ablate: "
"""Begins what the runner of a command (command.py) says in its log; the last line, how the attempt ended."""
EXITED = "the command exited"
"""Begins such a last line where the command itself failed, so that its own last words say more."""

Policy = Literal["resume", "retry once", "never"]
"""resume: again from the last checkpoint, wherever there is room, up to max_attempts. never: a next try would end the same."""

POLICIES: dict[FailureClass, Policy] = {
    "node lost": "resume",
    "timeout": "resume",
    "killed": "resume",
    "crash": "resume",
    "disk error": "resume",
    "out of memory": "retry once",
    "data error": "retry once",
    "code error": "never",
}

_RAISED = re.compile(r"^(?:\[?rank\d+\]?:? ?)?((?:\w+\.)*[A-Z]\w*)(?::|$)", re.MULTILINE)
"""The last line of a traceback: the exception's name, with its modules; torchrun puts "[rank0]: " before it."""
_EXCEPTION = re.compile(r"(Error|Exception|Interrupt|Exit|Full|BadZipFile)$")

_MEMORY = re.compile(
    r"out of memory|OutOfMemory|MemoryError|bad_alloc|Cannot allocate memory|ALLOC_FAILED|DefaultCPUAllocator|Bus error|oom-kill",
    re.IGNORECASE,
)
_TIMEOUT = re.compile(r"time(d)?[ -]?out|TimeoutError|TimeoutExpired|watchdog", re.IGNORECASE)
_DISK = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|Input/output error|Read-only file system|Stale file handle",
    re.IGNORECASE,
)
_DATA = re.compile(r"corrupt|truncated", re.IGNORECASE)
_DATA_ERRORS = frozenset(
    [
        "JSONDecodeError",
        "UnicodeDecodeError",
        "ReadError",
        "BadZipFile",
        "BadGzipFile",
        "UnidentifiedImageError",
        "EOFError",
        "ArrowInvalid",
        "SafetensorError",
        "FileNotFoundError",
        "PermissionError",
        "DataError",
        "ManifestError",
        "LZMAError",
    ]
)
_CODE_ERRORS = frozenset(
    [
        "ImportError",
        "ModuleNotFoundError",
        "SyntaxError",
        "IndentationError",
        "NameError",
        "UnboundLocalError",
        "AttributeError",
        "TypeError",
        "NotImplementedError",
        "ConfigError",
        "UserError",
        "ZeroDivisionError",
        "RecursionError",
    ]
)
_NOT_STARTED = frozenset({2, 126, 127})
"""Exit codes of a command line that is wrong, a file that is no program, and a program that is not there."""
_DISK_CODES = frozenset({os.EX_IOERR, 120})
"""What our trainer says, and what Python says whose output could not be written at its end: the log may be on the same disk."""
_BY_SIGNAL = frozenset({-9, -15, -1, -2, 137, 143, 129, 130})
"""KILL, TERM, HUP, INT, and how a shell spells them."""


def classify(seen: str, exit_codes: Sequence[int], log_tail: str) -> FailureClass:
    """The class of an attempt that ended without a result.

    seen: how the gang was seen to end ("lost", "rank failed", "ended"). exit_codes: per rank, negative for a signal.
    log_tail: the last lines of the rank that failed first. What a log says of memory or time counts before the exception's name,
    for most libraries raise RuntimeError for everything.
    """
    if seen == "lost":
        return "node lost"
    raised = _raised(log_tail)
    quoted = _last_words(log_tail, raised)
    if _MEMORY.search(quoted) or -7 in exit_codes:
        return "out of memory"
    if _DISK.search(quoted) or _DISK_CODES & set(exit_codes):
        return "disk error"
    if raised in _DATA_ERRORS or _DATA.search(quoted):
        return "data error"
    if _TIMEOUT.search(quoted):
        return "timeout"
    if raised in _CODE_ERRORS:
        return "code error"
    if raised:
        return "crash"
    if _BY_SIGNAL & set(exit_codes):
        return "killed"
    return "code error" if _NOT_STARTED & set(exit_codes) else "crash"


def in_words(seen: str, log_tail: str) -> str:
    """Why an attempt that ended without a result failed: as the runner of a command says it, where it was left to say it."""
    lines = log_tail.rstrip().split("\n")
    if not lines[-1].startswith(VERDICT):
        return with_log(f"{seen}, without a result.json", log_tail)
    says, own = lines[-1].removeprefix(VERDICT), "\n".join(line for line in lines if not line.startswith(VERDICT))
    return with_log(says, own) if says.startswith(EXITED) else says


def with_log(reason: str, log_tail: str) -> str:
    return f"{reason}; its log ends:\n{log_tail.rstrip()}" if log_tail.strip() else reason


def tries_left(failures: Sequence[FailureClass], max_attempts: int) -> int:
    """How often a job may still be tried. failures: of the attempts that failed so far, oldest first."""
    if not failures:
        return max_attempts
    left = max_attempts - len(failures)
    match POLICIES[failures[-1]]:
        case "never":
            return 0
        case "retry once":
            return min(left, 2 - failures.count(failures[-1]))
        case "resume":
            return left


def named(text: object) -> FailureClass:
    """A class by its name, as records keep it; "crash" for none or one of another version."""
    return next((kind for kind in get_args(FailureClass) if kind == text), "crash")


def _raised(log_tail: str) -> str:
    """Name of the exception that ended the log's last traceback, without its modules; "" if there is none."""
    found = [name.rpartition(".")[2] for name in _RAISED.findall(log_tail)]
    return next((name for name in reversed(found) if _EXCEPTION.search(name)), "")


def _last_words(log_tail: str, raised: str) -> str:
    """What is searched for signs: from the exception on, or the last three lines. A log may speak of timeouts all day."""
    at = log_tail.rfind(raised) if raised else -1
    words = [line for line in log_tail.splitlines() if not line.startswith(VERDICT)]
    return log_tail[at:] if at >= 0 else "\n".join(words[-3:])

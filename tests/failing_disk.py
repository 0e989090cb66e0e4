"""Programs whose disk fails at the k-th write: forked from a process that has imported them, with failing_disk.c before libc."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.conftest import REPOSITORY, repository_environment

SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True)
class Ran:
    code: int
    writes: int
    """Below the folder, the failing one and those after it included."""


class FailingDisk:
    """Runs `module.function([FOLDER])` again and again, each time in a process of its own."""

    def __init__(self, place: Path, function: str) -> None:
        """place: for the compiled library. function: "package.module:name". Needs a C compiler, `cc`."""
        library = place / "failing_disk.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        environment = {**repository_environment(), "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.failing_disk", function],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=REPOSITORY, text=True,
        )  # fmt: skip

    def run(self, folder: Path, at: int = 0, error: int = 0) -> Ran:
        """Every write below `folder` from the at-th on fails with `error`; 0: none does. Its log, rank0.log, is there too."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([str(folder), at, error]) + "\n")
        self._server.stdin.flush()
        return Ran(*json.loads(self._server.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.communicate()


def serve(function: str) -> None:
    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(module), name)
    library = ctypes.CDLL(os.environ.pop("LD_PRELOAD"))
    for line in sys.stdin:
        folder, at, error = json.loads(line)
        reads, writes = os.pipe()
        child = os.fork()
        if not child:
            log = os.open(f"{folder}/rank0.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            library.fail_below(f"{folder}/".encode(), at, error)
            code = _exit_code(call, folder)
            os.write(writes, b"%d" % library.writes_seen())
            os._exit(code)
        os.close(writes)
        with os.fdopen(reads) as said:
            seen = int(said.read() or "0")
        _, status = os.waitpid(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), seen]), flush=True)


def _exit_code(call: Callable[[list[str]], int], folder: str) -> int:
    """As the interpreter would end."""
    try:
        code = call([folder])
    except Exception:  # whatever it is, the interpreter prints it
        with contextlib.suppress(OSError):
            traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
    except OSError:
        code = 120
    return code


if __name__ == "__main__":
    serve(sys.argv[1])

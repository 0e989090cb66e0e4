"""Two small programs that keep processes from outliving their owner, on Linux; run by path, standard library only.

    python -I -S leash.py tie OWNER_PID COMMAND …      becomes COMMAND, which the kernel kills when OWNER's forking thread ends
    python -I -S leash.py keep                         reads ids from stdin, kills what they name once stdin closes

`tie` reaches the process itself and works even if everything else of ours is gone; `keep` also reaches the children it made
(data workers, a script's own subprocesses), because its stdin closes when the owner dies, whatever it died of.
"""

import contextlib
import ctypes
import os
import signal
import sys
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_NOT_FOUND, _OWNER_GONE = 127, 137


def tie(owner: int, command: list[str]) -> NoReturn:
    """Become `command`, to be killed (SIGKILL) when the thread of process `owner` that started us ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != owner:  # the owner died before the kernel knew of the wish
            sys.exit(_OWNER_GONE)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]!r}: {error.strerror}\n")
        sys.exit(_NOT_FOUND)


def keep() -> None:
    """Kill what stdin names, a process or minus a process group per line, as soon as stdin closes."""
    born = {int(line): birth(int(line)) for line in sys.stdin}
    for target, since in born.items():
        if target < 0 or since == birth(target):  # else its id has passed to another process
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)


def birth(process: int) -> str:
    """When a process started, in the kernel's ticks; "" if there is none."""
    try:
        with open(f"/proc/{process}/stat") as stat:  # noqa: PTH123  (pathlib would double the start-up time)
            return stat.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


if __name__ == "__main__":
    if sys.argv[1] == "tie":
        tie(int(sys.argv[2]), sys.argv[3:])
    keep()

"""Build a cached file or folder once, whoever comes first, and never leave half of one."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


def built_once(target: Path, build: Callable[[Path], None]) -> Path:
    """`target`, after calling `build(temporary path)` if it does not exist yet; processes that come meanwhile wait for the first.

    `build` may make a file or a folder. What a killed build left behind is removed by the next one.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file closes, also when the process dies
        if target.exists():
            return target
        temporary = target.parent / f".{target.name}.building"
        _remove(temporary)
        build(temporary)
        temporary.replace(target)
    return target


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

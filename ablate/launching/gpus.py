"""Who holds memory of a GPU before a job starts there: asked of NVML, where nvidia-ml-py is installed and there is a driver.

A process that died may leave its memory with the driver for a while, and a machine may have other users. A job started beside
them runs out of memory, or trains slower than it is said to.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FREE_BELOW = 2**30
"""Bytes: a display or a monitoring tool may hold so much of a GPU, and it still counts as free."""


def held(gpus: Sequence[str], nvml: Any = None) -> tuple[str, ...]:
    """A line per holder of each GPU of which more than FREE_BELOW is in use; () where all are free, or nobody can tell.

    gpus: numbers in the order of the PCI bus, or UUIDs. nvml: the module pynvml, if not the installed one.
    """
    nvml = nvml or _installed()
    if nvml is None or not gpus:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # a library without its driver
        return ()
    try:
        return tuple(line for gpu in gpus for line in _holders(nvml, gpu))
    finally:
        nvml.nvmlShutdown()


def _installed() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


def _holders(nvml: Any, gpu: str) -> Iterator[str]:
    try:
        number = gpu.isdigit()
        handle = nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if number else nvml.nvmlDeviceGetHandleByUUID(gpu)
        used = _used_bytes(nvml, handle)
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle) if used > FREE_BELOW else ()
    except nvml.NVMLError:  # a GPU that NVML does not know, or may not speak of
        return
    if used <= FREE_BELOW:
        return
    for process in processes:
        memory = "memory" if process.usedGpuMemory is None else _gib(process.usedGpuMemory)
        yield f"GPU {gpu}: {memory} held by pid {process.pid} ({_who(process.pid)})"
    known = sum(process.usedGpuMemory or 0 for process in processes)
    if not processes or (used - known > FREE_BELOW and all(process.usedGpuMemory is not None for process in processes)):
        yield f"GPU {gpu}: {_gib(used - known)} held by no process that can be seen from here (it died, or is in a container)"


def _used_bytes(nvml: Any, handle: Any) -> int:
    """Without what the driver keeps for itself, where it can tell that apart."""
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).used)
    except nvml.NVMLError:  # a driver from before 2022
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)


def _who(pid: int) -> str:
    """A process by its name and owner, never by its arguments, which may hold secrets."""
    place = Path(f"/proc/{pid}")
    try:
        name, state = (place / "comm").read_text().strip(), (place / "stat").read_text().rpartition(")")[2].split()[0]
        return f"{name}, {'dead, but not yet gone' if state in 'ZX' else f'of {place.owner()}'}"
    except (OSError, KeyError):  # KeyError: its owner has no name here
        return "it died, or is in a container" if not place.exists() else "of another user"


def _gib(memory: int) -> str:
    return f"{memory / 2**30:.1f} GiB"

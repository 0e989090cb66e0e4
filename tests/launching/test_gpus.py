"""Memory of a GPU that somebody else holds is told with his pid, waited for, and no failure of the job. NVML is made up here."""

# ruff: noqa: N802, N815, ARG002  (the names and arguments are NVML's)

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from ablate.launching import gang as ganging
from ablate.launching import gpus
from ablate.launching.collect import facts_of, settle
from ablate.launching.gang import Gang, GangEnd, Stop, read_gang, run_gang
from tests.conftest import until
from tests.launching.test_gang import python

GPU = "GPU-1f3a"
"""By its UUID, as a cluster may name it: unlike a number it is not looked for under /dev first."""
GIB = 2**30


@dataclass
class Library:
    """The part of pynvml that is used, for one GPU."""

    used: int
    processes: dict[int, int | None] = field(default_factory=dict)
    """pid -> bytes; None: the driver does not tell."""
    driver: bool = True
    nvmlMemory_v2 = 2

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        if number:
            raise self.NVMLError
        return number

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        assert name == GPU
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int) -> SimpleNamespace:
        return SimpleNamespace(used=self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in self.processes.items()]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made_up = Library(30 * GIB, {os.getpid(): 30 * GIB})
    monkeypatch.setitem(sys.modules, "pynvml", made_up)
    monkeypatch.setattr(ganging, "_LOOK_FOR_FILE_S", 0.02)
    return made_up


def test_a_living_holder_is_named_by_pid_name_and_owner_but_not_by_its_arguments() -> None:
    name, owner = Path("/proc/self/comm").read_text().strip(), Path("/proc/self").owner()
    assert gpus.held(("0",), Library(30 * GIB, {os.getpid(): 30 * GIB})) == (
        f"GPU 0: 30.0 GiB held by pid {os.getpid()} ({name}, of {owner})",
    )


def test_a_dead_holder_is_told_to_be_dead() -> None:
    zombie = subprocess.Popen(python("pass"))
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    (line,) = gpus.held((GPU,), Library(2 * GIB, {zombie.pid: None}))
    zombie.wait()
    assert line.startswith(f"GPU {GPU}: memory held by pid {zombie.pid} (")
    assert line.endswith(", dead, but not yet gone)")
    (line,) = gpus.held((GPU,), Library(2 * GIB, {zombie.pid: 2 * GIB}))
    assert line == f"GPU {GPU}: 2.0 GiB held by pid {zombie.pid} (it died, or is in a container)"


def test_memory_that_no_process_owns_up_to_is_told_too() -> None:
    told = "GPU 0: 5.0 GiB held by no process that can be seen from here (it died, or is in a container)"
    assert gpus.held(("0",), Library(5 * GIB)) == (told,)
    assert gpus.held(("0",), Library(9 * GIB, {os.getpid(): 4 * GIB}))[1:] == (told,)


@pytest.mark.parametrize(
    ("asked", "nvml"),
    [
        (("0",), Library(GIB, {os.getpid(): GIB})),
        ((), Library(9 * GIB)),
        (("7",), Library(9 * GIB)),
        (("0",), Library(9 * GIB, driver=False)),
        (("0",), None),
    ],
    ids=["a display's share", "no GPU", "a GPU that NVML does not know", "no driver", "no library"],
)
def test_nobody_is_told_of_without_reason(asked: tuple[str, ...], nvml: Library | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if nvml is None:
        monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus.held(asked, nvml) == ()


def test_a_gang_waits_until_its_gpus_are_free_and_says_for_whom(library: Library, tmp_path: Path) -> None:
    ends: list[GangEnd] = []
    thread = threading.Thread(target=lambda: ends.append(run_gang(Gang(tmp_path, python("pass"), gpus=(GPU,)), Stop())))
    thread.start()
    until(lambda: (tmp_path / "gang.json").exists())
    (told,) = read_gang(tmp_path)["gpus_held"]
    assert f"held by pid {os.getpid()} " in told
    assert read_gang(tmp_path)["pids"] == []
    assert not (tmp_path / "rank0.log").exists(), "no rank has started"
    library.used = 0
    thread.join(10)
    assert ends[0].cause == "ended"
    facts = facts_of(tmp_path)
    assert facts.pop("gpus_waited_s") >= 0
    assert facts == {"gpus_held": [told]}


@pytest.mark.usefixtures("library")
def test_gpus_that_stay_busy_interrupt_the_attempt_and_cost_the_job_no_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ganging, "GPU_WAIT_S", 0.1)
    end = run_gang(Gang(tmp_path, python("pass"), gpus=(GPU,)), Stop())
    assert (end.cause, end.exit_codes, json.loads((tmp_path / "gang.json").read_text())["cause"]) == ("gpu busy", (), "gpu busy")
    verdict = settle("running", False, None, started=False, seen=end.cause, log_tail=end.log_tail)
    assert verdict.state == "interrupted"
    assert verdict.reason.startswith(f"its GPUs did not become free: GPU {GPU}: 30.0 GiB held by pid {os.getpid()} (")


@pytest.mark.parametrize("by_file", [False, True])
@pytest.mark.usefixtures("library")
def test_a_gang_that_waits_for_gpus_can_be_stopped(tmp_path: Path, by_file: bool) -> None:
    stop = Stop()
    threading.Timer(0.1, lambda: (tmp_path / "stop.json").write_text("{}") if by_file else stop.ask(60.0)).start()
    assert run_gang(Gang(tmp_path, python("pass"), gpus=(GPU,)), stop) == GangEnd("stopped", (), "")
    assert not (tmp_path / "rank0.log").exists()

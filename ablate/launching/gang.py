"""The gang: the ranks of one attempt as processes of this machine. Starts them, watches them, stops them. Standard library only.

The thread that calls `run_gang` starts the ranks and waits for them. It is their owner: if it ends for any reason, they die.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ablate.launching import gpus
from ablate.launching.leash import birth

GangCause = Literal["ended", "rank failed", "stopped", "killed", "gpu busy"]
"""ended: every rank left with 0. stopped: asked to, and left in time. killed: asked to, and did not.
gpu busy: never started, for somebody else held memory of its GPUs all the while."""

STOP_FILE = "stop.json"
"""Put into the attempt's folder, it stops the gang: who cannot reach the supervisor can still reach the folder."""
STOP_GRACE_S = 60.0
"""Time the ranks get to write a checkpoint when a file or a signal asks."""

GPU_WAIT_S = 600.0
"""How long a gang waits for GPUs whose memory somebody else holds. Of a process that died it usually comes back in seconds."""

FAILURE_GRACE_S = 0.5
"""What the other ranks get after one has failed; without their peer they can only clean up."""

_LOOK_S, _LOOK_WHEN_ENDING_S, _LOOK_FOR_FILE_S = 0.05, 0.01, 0.5
_LEASH = str(Path(__file__).with_name("leash.py"))
_TAIL_LINES, _TAIL_BYTES = 20, 8192
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?")
"""What a terminal takes as an order: colours, moves of the cursor, titles, links."""
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that turn the direction of writing."""


@dataclass(frozen=True)
class Gang:
    """What to start: `ranks` times the same command, told apart by their environment."""

    folder: Path
    """The attempt's: gets gang.json and rank{n}.log."""
    command: tuple[str, ...]
    ranks: int = 1
    gpus: tuple[str, ...] = ()
    """Ids of the GPUs the ranks share; all see all of them and pick theirs by LOCAL_RANK."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's environment."""
    cwd: str = ""
    """Where the ranks start; "" for where we are."""


@dataclass(frozen=True)
class GangEnd:
    """How it ended. Whether the training did is not said here but by result.json in the folder."""

    cause: GangCause
    exit_codes: tuple[int, ...]
    """Per rank; -9 for a rank that died of signal 9. Empty when the ranks could not be started."""
    log_tail: str
    """Last lines of the log of the rank that failed first, of rank 0 if none did."""


class Stop:
    """A wish, from any thread or signal handler, that a gang should end: SIGTERM now, SIGKILL when the grace is over."""

    def __init__(self) -> None:
        self._kill_at = float("inf")

    def ask(self, grace_s: float) -> None:
        """Asked twice, the earlier end counts."""
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)

    @property
    def kill_at(self) -> float:
        """On the monotonic clock; infinity until it is asked."""
        return self._kill_at

    @property
    def asked(self) -> bool:
        return self._kill_at < float("inf")


class Keeper:
    """Outlives this process, whatever ends it, by the moment it takes to kill what it was told of."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", _LEASH, "keep"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def add(self, target: int) -> None:
        """target: a process, or minus a process group."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % target)
        self._process.stdin.flush()

    def dismiss(self) -> None:
        """Nothing is killed any more."""
        self._process.kill()
        self._process.communicate()


def run_gang(gang: Gang, stop: Stop, started: Callable[[], None] = lambda: None) -> GangEnd:
    """Start the ranks and wait until none is left, nor any process they started. A gang that was stopped before starts none.

    started: called once the ranks run and gang.json says which they are. Before that, GPUs that are not free are waited for.
    A rank that fails takes the others with it within a second. Ranks that cannot be started are a failed gang: see `log_tail`.
    """
    keeper = Keeper()
    about: dict[str, Any] = {
        "host": socket.gethostname(),
        "owner": os.getpid(),
        "keeper": keeper.pid,
        "pids": [],
        "gpus": list(gang.gpus),
        "started_at": time.time(),
    }
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        end = _until_it_may_start(gang, stop, about)
        if end is None:
            for rank, environment in enumerate(_environments(gang)):
                ranks.append(_start_rank(gang, rank, environment))
                keeper.add(-ranks[-1].pid)
            about |= {"pids": [rank.pid for rank in ranks], "born": [birth(rank.pid) for rank in ranks]}
            _write(gang.folder / "gang.json", about)
            started()
            end = _watch(gang, ranks, stop)
    except OSError as error:  # no such folder, disk full, no more processes: ours to report, not to die of
        end = GangEnd("rank failed", (), f"the ranks could not be started: {error}")
    finally:
        _kill(ranks)
        keeper.dismiss()
    with contextlib.suppress(OSError):  # a full disk must not hide how it ended
        _write(gang.folder / "gang.json", about | asdict(end) | {"ended_at": time.time()})
    return end


def read_gang(folder: Path) -> dict[str, Any]:
    """gang.json of an attempt: host, owner, pids, born, gpus, started_at; once it ended, cause, exit_codes, log_tail, ended_at.

    {} when nothing was started there. Times are seconds since 1970. Where GPUs were waited for: gpus_held, a line per holder,
    and gpus_waited_s.
    """
    try:
        text = (folder / "gang.json").read_text()
    except FileNotFoundError:
        return {}
    about: dict[str, Any] = json.loads(text)
    return about


def end_left_behind(folder: Path) -> None:
    """Kill what a gang of this machine left running, its supervisor being dead or frozen: nothing may run twice."""
    about = read_gang(folder)
    if "cause" in about or about.get("host") != socket.gethostname():
        return
    for pid, born in zip(about["pids"], about.get("born", ()), strict=False):
        if born and born == birth(pid):  # else its id has passed to another process
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def log_tail(folder: Path, rank: int = 0, lines: int = _TAIL_LINES) -> str:
    """The last lines a rank wrote, fit to be quoted; "" if it wrote none."""
    try:
        with (folder / f"rank{rank}.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return fit_to_quote("\n".join(text.splitlines()[-lines:]))


def fit_to_quote(text: str) -> str:
    """`text` of others without what a terminal would act on instead of showing it."""
    return _UNSEEN.sub("", _ESCAPES.sub("", text))


def tied(command: Sequence[str]) -> list[str]:
    """`command` as one that dies with the thread that starts it."""
    return [sys.executable, "-I", "-S", _LEASH, "tie", str(os.getpid()), *command]


def _until_it_may_start(gang: Gang, stop: Stop, about: dict[str, Any]) -> GangEnd | None:
    """Wait until nobody holds memory of the gang's GPUs, while gang.json says who does. None: the ranks may start."""
    began = time.monotonic()
    while not stop.asked and _asked_in_folder(gang.folder) is None:
        held = gpus.held(gang.gpus) if _exist(gang.gpus) else ()
        if not held:
            return None
        waited_s = time.monotonic() - began
        if waited_s >= GPU_WAIT_S:
            return GangEnd("gpu busy", (), "\n".join(held))
        if about.get("gpus_held") != held:
            about["gpus_held"] = held
            _write(gang.folder / "gang.json", about)
        about["gpus_waited_s"] = round(waited_s, 1)
        time.sleep(_LOOK_FOR_FILE_S)
    return GangEnd("stopped", (), "")


def _environments(gang: Gang) -> list[dict[str, str]]:
    """Of every rank: ours, the gang's, and the names torch.distributed reads."""
    shared = {**os.environ, "PYTHONUNBUFFERED": "1", **gang.env}
    shared |= {"WORLD_SIZE": str(gang.ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    if gang.gpus:
        shared["CUDA_VISIBLE_DEVICES"] = ",".join(gang.gpus) if _exist(gang.gpus) else ""
        shared["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as NVML and Ray count them
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(gang.ranks)]


def _exist(gpus: Sequence[str]) -> bool:
    """Whether this machine has them. Logical GPUs are made up to place jobs on a CPU; a rank must not look for them."""
    return all(not gpu.isdigit() or Path(f"/dev/nvidia{gpu}").exists() for gpu in gpus)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _start_rank(gang: Gang, rank: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A session of its own, so that the terminal's Ctrl-C goes to us alone and killing its group ends all it started."""
    with (gang.folder / f"rank{rank}.log").open("ab") as log:
        return subprocess.Popen(
            tied(gang.command),
            env=environment,
            cwd=gang.cwd or None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _watch(gang: Gang, ranks: Sequence[subprocess.Popen[bytes]], stop: Stop) -> GangEnd:
    """Wait for the ranks; end them all once one failed or a stop was asked."""
    failed: int | None = None
    terminated = killed = False
    deadline, look_for_file_at = float("inf"), 0.0
    while alive := [rank for rank in ranks if not _ended(rank)]:
        if not stop.asked and time.monotonic() >= look_for_file_at:
            look_for_file_at = time.monotonic() + _LOOK_FOR_FILE_S
            if (grace_s := _asked_in_folder(gang.folder)) is not None:
                stop.ask(grace_s)
        if not stop.asked and failed is None and (failed := _first_failed(ranks)) is not None:
            deadline = time.monotonic() + FAILURE_GRACE_S
        ending = stop.asked or failed is not None
        if ending and not terminated:
            _terminate(alive)
            terminated = True
        if time.monotonic() >= min(deadline, stop.kill_at):
            _kill(alive)
            killed = True
        time.sleep(_LOOK_WHEN_ENDING_S if ending else _LOOK_S)
    codes = tuple(rank.returncode for rank in ranks)
    if failed is None and not stop.asked:
        failed = _first_failed(ranks)
    if not any(codes):
        return GangEnd("ended", codes, log_tail(gang.folder))
    if failed is not None:
        return GangEnd("rank failed", codes, log_tail(gang.folder, failed))
    return GangEnd("killed" if killed else "stopped", codes, log_tail(gang.folder))


def _asked_in_folder(folder: Path) -> float | None:
    """Seconds of grace if the folder holds a wish to stop; none when the attempt was given up while this machine was frozen."""
    try:
        asked = json.loads((folder / STOP_FILE).read_text())
    except FileNotFoundError:
        return None
    except ValueError:  # not written by us, who write it whole; a wish all the same
        return STOP_GRACE_S
    return 0.0 if isinstance(asked, dict) and asked.get("fenced") else STOP_GRACE_S


def _ended(rank: subprocess.Popen[bytes]) -> bool:
    """Whether a rank has ended; if so, what it left behind is killed before its id can be given to another process."""
    if rank.returncode is None and os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
        _kill_group(rank)
        rank.wait()
    return rank.returncode is not None


def _first_failed(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    return next((number for number, rank in enumerate(ranks) if rank.returncode), None)


def _terminate(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """To the ranks alone: they decide what becomes of their own processes (a data worker that is told too looks like a crash)."""
    for rank in ranks:
        os.kill(rank.pid, signal.SIGTERM)  # not rank.terminate(), which may take note of its end before _ended does


def _kill(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        if rank.returncode is None:
            _kill_group(rank)
            rank.wait()


def _kill_group(rank: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(rank.pid, signal.SIGKILL)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".json.new")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)

"""A Ray cluster of a test's own: `ray start` with a private folder, port and token; nodes of made-up GPUs that can be killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.conftest import repository_environment

TOKEN = "0123456789abcdef" * 4


class Node:
    """One `ray start --block` and the processes below it."""

    def __init__(self, words: list[str], environment: dict[str, str], log: Path) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *words]
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)

    def family(self) -> list[psutil.Process]:
        """Its processes, itself last."""
        try:
            top = psutil.Process(self.process.pid)
            return [*top.children(recursive=True), top]
        except psutil.NoSuchProcess:
            return []

    def signal(self, number: signal.Signals) -> None:
        """To all of them."""
        for process in self.family():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def kill(self) -> None:
        """As when its plug is pulled: every process at once, the ranks included."""
        family = self.family()
        self.signal(signal.SIGSTOP)  # so that none sees another die
        for process in family:
            with_suppressed_kill(process)
        self.process.wait(10)


def with_suppressed_kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


class OwnCluster:
    """Head without GPUs, and nodes that have some."""

    def __init__(self, *nodes: int) -> None:
        """nodes: logical GPUs of each."""
        self.folder = Path(tempfile.mkdtemp(prefix="own-", dir="/tmp"))  # short: sockets lie below it
        self.token = TOKEN
        with socket.socket() as probe:
            probe.bind(("127.0.0.2", 0))
            self.port = int(probe.getsockname()[1])
        self.address = f"127.0.0.2:{self.port}"
        self.environment = {
            **repository_environment(),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            "RAY_worker_niceness": "0",
            "OMP_NUM_THREADS": "1",
        }
        self.log = self.folder / "nodes.log"
        self.nodes: list[Node] = []
        self._start(["--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--num-gpus=0", "--include-dashboard=false"])
        for gpus in nodes:
            self.add(gpus)

    def add(self, gpus: int) -> Node:
        return self._start([f"--address={self.address}", f"--num-gpus={gpus}"])

    def _start(self, words: list[str]) -> Node:
        plain = ["--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats", "--node-ip-address=127.0.0.2"]
        node = Node([*words, *plain], self.environment, self.log)
        self.nodes.append(node)
        until_said(self.log, "Ray runtime started.", len(self.nodes))
        return node

    def node_of(self, pid: int) -> Node:
        """The node a process runs on."""
        return next(node for node in self.nodes if pid in {process.pid for process in node.family()})

    def close(self) -> None:
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def until_said(log: Path, words: str, times: int) -> None:
    until = time.monotonic() + 60
    while log.read_text().count(words) < times:
        assert time.monotonic() < until, f"no {times} nodes within a minute: {log.read_text()}"
        time.sleep(0.1)


def ablate(*words: str, environment: dict[str, str] | None = None, group: bool = False) -> subprocess.Popen[str]:
    """The command, as a person types it, in a process of its own; in a process group of its own if asked."""
    return subprocess.Popen(
        [sys.executable, "-m", "ablate.cli", *words],
        env=environment or dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0 if group else None,
    )

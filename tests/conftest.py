"""What all tests share: one Ray of four made-up GPUs, and ways to watch processes by their ids."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablate.launching.jobs import Cluster

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Embedded Ray with 4 logical GPUs: the only one a test process starts. Leave nothing running in it."""
    with Cluster.connect(gpus=4) as cluster:
        yield cluster


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(holds: Callable[[], object], seconds: float = 10.0) -> float:
    """Wait until it holds; how long that took. Fails when it takes longer."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"did not come to hold within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - began


def repository_environment() -> dict[str, str]:
    """For programs started by a test that import our packages."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}

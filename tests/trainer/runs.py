"""Whole runs for tests: in this process, or as processes, one per rank, as a user would start them."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.trainer.conftest import metrics_of
from trainer.data.open import open_data
from trainer.job import Job
from trainer.ranks import Ranks
from trainer.train import StopSignal, main, train

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["trainer.train"])
ALONE = Ranks(0, 1, torch.device("cpu"))
Processes = Sequence[BaseProcess]


def trained(job: Job, stop_after_a_step: bool = False) -> Job:
    stop = StopSignal()
    stop.asked = stop_after_a_step
    with contextlib.redirect_stdout(io.StringIO()):
        ended = train(job, open_data(job.config, job.seed, job.cache), ALONE, stop)
    assert ended is not stop_after_a_step
    return job


def started(job: Job, ranks: int = 1) -> Processes:
    """`python -m trainer.train FOLDER`, once per rank; each is forked from one process that has imported it already."""
    known = {"OMP_NUM_THREADS": "1"}
    if ranks > 1:
        known |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    processes = [
        _FORKS.Process(target=_rank, args=(str(job.folder), known | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def _rank(folder: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    log = os.open(f"{folder}/rank{environment['RANK']}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.exit(main([folder]))


def ended(processes: Processes, code: int = 0) -> None:
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [code] * len(processes)


def wait_until(what: Callable[[], object], processes: Processes, most_s: float = 120) -> None:
    """Returns as soon as `what` holds, or a process has ended."""
    deadline = time.monotonic() + most_s
    while not what() and all(process.is_alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.002)


def signalled(process: BaseProcess, number: int) -> None:
    assert process.pid is not None
    os.kill(process.pid, number)


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def lines(job: Job) -> int:
    path = job.folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def losses(job: Job) -> list[float]:
    return [line["metrics"]["loss"] for line in metrics_of(job) if line["step"] > 0]


def told(job: Job, name: str) -> list[float]:
    """A metric's values, where it was measured."""
    return [line["metrics"][name] for line in metrics_of(job) if name in line["metrics"]]


def weights(job: Job) -> dict[str, torch.Tensor]:
    return load_file(job.folder / "model" / "model.safetensors")


def same_weights(a: Job, b: Job) -> bool:
    theirs = weights(b)
    return all(torch.equal(tensor, theirs[name]) for name, tensor in weights(a).items())


def saved(job: Job) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted((job.folder / "checkpoints").glob("[0-9]*"))


def optimizer_of(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    return state

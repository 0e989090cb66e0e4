"""The script of docs/slurm.md, run by a real SLURM: on this machine, if one answers here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, repository_environment, until
from tests.launching.test_launch import SMALL, desk_of

SCRIPT = re.search(r"(?m)^    #!/bin/bash\n(    .*\n)+", (REPOSITORY / "docs" / "slurm.md").read_text())


def asked(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def answers() -> bool:
    return (
        shutil.which("sbatch") is not None and subprocess.run(["sinfo", "-h"], capture_output=True, check=False).returncode == 0
    )


def state(job: str) -> str:
    found = re.search(r"JobState=(\w+)", asked("scontrol", "show", "job", job))
    return found[1] if found else ""


def script(nodes: int) -> str:
    """As the page has it, with made-up GPUs, less time, and the folder's own token."""
    assert SCRIPT is not None
    text = re.sub(r"(?m)^    ", "", SCRIPT[0])
    for said, here in (
        ("--nodes=2", f"--nodes={nodes}"),
        (" --gpus-per-node=8 --exclusive", ""),
        ("--time=24:00:00 --signal=B:TERM@300", "--time=2 --signal=B:TERM@30"),
        ("$HOME/.ablate-token", "$PWD/token"),
        ("ray start --head", "ray start --num-gpus=4 --num-cpus=1 --include-dashboard=false --head"),
        ("ray start --address", "ray start --num-gpus=4 --num-cpus=1 --address"),
    ):
        assert text.count(said) == 1, said
        text = text.replace(said, here)
    return text


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_study_goes_on_in_the_next_allocation_until_it_is_done(tmp_path: Path) -> None:
    if not answers():
        pytest.skip("no SLURM answers here")
    seconds = "faults.seconds       = 12.0"
    desk = desk_of(tmp_path, SMALL.replace("faults.seconds       = 0.0", seconds))
    nodes = len(asked("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split())
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    (tmp_path / "job.sh").write_text(script(nodes))
    paths = f"{Path(shutil.which('python3') or '').parent}:{REPOSITORY / '.venv' / 'bin'}:{os.environ['PATH']}"
    environment = {**repository_environment(), "PATH": paths, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_worker_niceness"] = "0"
    submit = ["sbatch", "--parsable", "-o", "said.txt", "job.sh"]
    job = subprocess.run(submit, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    try:
        restarts, began = 0, time.monotonic()
        while state(job) not in ("COMPLETED", "FAILED", "TIMEOUT") and time.monotonic() - began < 900:
            if state(job) == "PENDING" and (tmp_path / "said.txt").exists():  # it asked for more: SLURM would wait two minutes
                restarts += 1
                asked("scontrol", "update", f"JobId={job}", "StartTime=now")
                until(lambda: state(job) != "PENDING", 60)
            time.sleep(1)
        said = (tmp_path / "said.txt").read_text()
        assert state(job) == "COMPLETED", said
        assert restarts > 0, "it needs more than one allocation"
    finally:
        subprocess.run(["scancel", job], check=False)
    assert {planned.state for planned in desk.plan().jobs} == {"done", "diverged"}
    assert desk.store.lock()
    tries = [attempt for each in desk.store.attempts().values() for attempt in each]
    stopped = [attempt for attempt in tries if attempt.state == "interrupted"]
    assert stopped
    assert all(attempt.facts["lost_gpu_s"] < 4.0 for attempt in stopped), "each wrote a checkpoint first"
    assert {attempt.state for attempt in tries} == {"done", "diverged", "interrupted"}

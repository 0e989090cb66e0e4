"""The shipped study with the real trainer in the `smoke` profile: mechanics only, killed in the middle and called again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ablate.desk import Desk, open_desk
from ablate.runs_toml import read_study
from tests.conftest import REPOSITORY, alive, repository_environment, until

pytestmark = pytest.mark.timeout(600)


def ablate(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ablate.cli", *arguments, "--study", str(folder / "runs.toml"), "--profile", "smoke"]
    environment = {**repository_environment(), "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped file beside small data and untrained backbones."""
    folder = tmp_path_factory.mktemp("smoke")
    shutil.copy(REPOSITORY / "runs.toml", folder)
    prepare = [sys.executable, "-m", "trainer.data.prepare", "--small", "--root", "data/smoke", "--cache", "outputs/.cache"]
    subprocess.run(prepare, cwd=folder, env=repository_environment(), check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def desk(folder: Path) -> Desk:
    """The whole study: its launch killed -9 while two jobs train, then called again to the end."""
    first = ablate(folder, "launch", "--gpus", "4")
    started = lambda: list(folder.glob("outputs/*/smoke/*/1/gang.json"))  # noqa: E731
    until(lambda: len(started()) >= 3 or first.poll() is not None, 240)
    assert first.poll() is None, first.communicate()[0]
    pids = [pid for path in started() for pid in json.loads(path.read_text())["pids"]]
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    until(lambda: not any(map(alive, pids)), 20)
    second = ablate(folder, "launch", "--gpus", "4")
    output = second.communicate(timeout=500)[0]
    assert second.returncode == 0, output
    return open_desk(read_study(folder / "runs.toml", "smoke"))


def test_every_job_ends_once_and_every_tree_takes_a_line(desk: Desk) -> None:
    states = {job.id: job.state for job in desk.plan().jobs}
    assert set(states.values()) <= {"done", "diverged", "skipped"}, states
    assert {name: record.status for name, record in desk.store.decisions().items()}.keys() == {"freeze", "lr", "images", "mix"}
    ended = [attempt for tries in desk.store.attempts().values() for attempt in tries if attempt.state in ("done", "diverged")]
    assert len(ended) == len(desk.store.attempts())
    interrupted = [attempt for tries in desk.store.attempts().values() for attempt in tries if attempt.state == "interrupted"]
    assert interrupted, "the kill was in the middle of something"
    lock = desk.store.lock()
    assert lock is not None
    assert set(lock.settings) == set(desk.study.settings)


def test_no_process_of_the_study_is_left(desk: Desk) -> None:
    pids = [pid for path in desk.folders.base.glob("*/*/gang.json") for pid in json.loads(path.read_text())["pids"]]
    until(lambda: not any(map(alive, pids)), 10)


def test_every_job_logged_what_the_figures_need(desk: Desk) -> None:
    for job in desk.plan().jobs:
        if job.state != "done" or job.key is None:
            continue
        names = set(desk.store.metric_names(job.key))
        wanted = {
            "loss",
            "grad_norm",
            "lr/connector",
            "samples",
            "progress",
            "val_loss",
            "val_loss/image",
            "val_loss/text",
        }
        assert wanted <= names, (job.id, wanted - names)
        if job.run not in ("A8a", "A8b"):
            assert "val_loss/video" in names, job.id
        if job.run not in ("A6", "B1"):
            assert {"attention_entropy", "loss_fine", "loss_coarse", "loss_ratio"} <= names, job.id
        last = desk.store.attempts()[job.key][-1]
        assert {"manifest_hash", "eval_hash", "flops", "tokens_per_frame", "device", "uninformed"} <= set(last.facts), job.id
        per_sample = sorted(desk.folders.attempt(job.key, last.number).glob("eval/*.parquet"))
        losses = pq.read_table(per_sample[-1]).column("loss").to_pylist()
        assert sum(losses) / len(losses) == pytest.approx(
            desk.store.final_values([job.key], {"val_loss": 1})[job.key]["val_loss"], rel=1e-5
        )


def test_runs_with_one_seed_saw_the_same_samples_and_started_from_the_same_weights(desk: Desk) -> None:
    facts = {
        job.run: desk.store.attempts()[job.key][-1].facts
        for job in desk.plan().jobs
        if job.key and job.state == "done" and job.seed == 42
    }
    same = [run for run in ("F1", "F2", "F3", "A1", "A6") if run in facts]
    for name in ("manifest_hash", "eval_hash", "first_batches_hash", "initial_weights_hash"):
        assert len({facts[run][name] for run in same}) == 1, name
    assert facts["A8a"]["manifest_hash"] == facts["A8b"]["manifest_hash"] != facts["F3"]["manifest_hash"]


def test_launching_again_trains_nothing(desk: Desk, folder: Path) -> None:
    before = desk.store.attempts()
    again = ablate(folder, "launch", "--gpus", "4")
    output = again.communicate(timeout=100)[0]
    assert again.returncode == 0, output
    assert desk.store.attempts() == before


def test_the_database_is_made_again_from_the_folders(desk: Desk, folder: Path) -> None:
    decisions, finals = desk.store.decisions(), desk.store.final_values(None, {"val_loss": 1})
    rebuilt = ablate(folder, "rebuild")
    output = rebuilt.communicate(timeout=100)[0]
    assert rebuilt.returncode == 0, output
    anew = open_desk(desk.study)
    assert anew.store.decisions() == decisions
    assert anew.store.final_values(None, {"val_loss": 1}) == finals

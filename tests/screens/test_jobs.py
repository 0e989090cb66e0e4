"""Running jobs of trainers that write neither progress nor samples: where they stand is told by what they measure."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablate.answers import launch as launch_answers
from ablate.answers.status import status
from ablate.clock import utc_now
from ablate.desk import Desk, open_desk
from ablate.launching.watch import Measured, Progress, Tick, latest, measured
from ablate.runs_toml import read_study
from ablate.screens.jobs import progress_text, running_table
from db.records import JobRecord, Point
from tests.small_study import NOW, STUDY, TRAINER


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    (tmp_path / "runs.toml").write_text(STUDY)
    (tmp_path / "train.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    return open_desk(read_study(tmp_path / "runs.toml"))


def measure(desk: Desk, **points: tuple[int, float]) -> dict[str, Any]:
    """F3 at seed 42 runs and has measured this; how `status` tells of it."""
    job = desk.plan().of_run("F3")[0]
    assert job.key is not None
    assert job.settings is not None
    desk.store.save_job(JobRecord(job.key, job.run, job.seed, job.settings, 2, NOW))
    number = desk.store.claim(job.key, started_at=utc_now(), host="here", gpus=2, code_hash="")
    assert number is not None
    desk.store.add_points(
        job.key, number, [Point(job.key, number, step, name, value) for name, (step, value) in points.items()], 0
    )
    (running,) = status(desk)["running"]
    found = latest(desk, [job.key]).get(job.key, {})
    progress = Progress(job.id, None, None, None, 30.0, None, measured(desk, found))
    (followed,) = launch_answers.tick(desk, Tick(desk.plan(), (progress,), 60.0, 0.03))["running"]
    assert followed["measured"] == running["measured"]
    return dict(running)


def test_the_last_step_and_the_first_metric_of_the_study_are_told(desk: Desk) -> None:
    job = measure(desk, loss=(1300, 2.0), val_loss=(1000, 1.25), accuracy=(1400, 0.5))
    assert job["measured"] == {"step": 1300, "name": "val_loss", "value": 1.25}
    assert progress_text(job).startswith("step 1,300, val_loss 1.25, since ")
    console = Console(file=io.StringIO(), width=100)
    console.print(running_table([job]))
    assert isinstance(console.file, io.StringIO)
    assert "step 1,300  val_loss 1.25" in console.file.getvalue()


def test_without_it_the_loss_is_told(desk: Desk) -> None:
    assert progress_text(measure(desk, loss=(20, 0.5), f1=(30, 0.25))).startswith("step 20, loss 0.5, since ")


def test_where_nothing_was_measured_yet_a_job_is_starting(desk: Desk) -> None:
    assert progress_text(measure(desk)).startswith("starting, since ")


def test_progress_and_samples_are_told_as_ever(desk: Desk) -> None:
    job = measure(desk, samples=(10, 960.0), loss=(10, 1.5), val_loss=(5, 1.25))
    assert job["measured"] is None
    assert progress_text(job).startswith("960 samples, loss 1.5, since ")


def test_of_several_metrics_the_newest_step_counts(desk: Desk) -> None:
    assert measured(desk, {"val_loss": (3, 0.5), "loss": (7, 1.0)}) == Measured(7, "val_loss", 0.5)

"""A few steps, operation by operation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer.conftest import NewJob
from trainer.phases import each, phase, watching
from trainer.trace import main


def test_a_trace_names_phases_and_operations(new_job: NewJob, capfd: pytest.CaptureFixture[str]) -> None:
    job = new_job("run", {"train.samples": 24})
    assert main([str(job.folder), "--steps", "1"]) == 0
    assert "aten::" in capfd.readouterr().out
    assert "aten::" in (job.folder / "trace" / "table.txt").read_text()
    names = {event.get("name") for event in json.loads((job.folder / "trace" / "trace.json").read_text())["traceEvents"]}
    assert {"step", "encode", "queries", "lm", "backward", "optimizer"} <= names
    assert sorted(path.name for path in job.folder.iterdir()) == ["config.json", "trace"]


def test_a_missing_config_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"Error: {tmp_path}: there is no config.json")


def test_no_steps_are_no_trace(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--steps", "0"])


def test_time_is_booked_on_the_innermost_phase() -> None:
    now = iter(range(100))
    with watching(clock=lambda: float(next(now))) as watch:
        for _ in each("step", [1, 2]):
            with phase("data"):
                pass
    assert watch.seconds["step/data"] == 2.0
    assert watch.seconds["step"] == 4.0
    with phase("unwatched"):
        pass
    assert set(watch.seconds) == {"", "step", "step/data"}

"""The torch-free example trainer keeps the folder contract, and really learns."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ablate.runs_toml import read_study
from ablate.study import Settings, nested
from tests.conftest import REPOSITORY, repository_environment, until

STUDY = read_study(REPOSITORY / "examples/quick/runs.toml", "smoke")
STEPS = 120


def folder_of(
    place: Path, name: str, changes: Settings | None = None, *, attempt: int = 1, resume_from: str = "", seed: int = 42
) -> Path:
    folder = place / name
    folder.mkdir()
    settings = {**STUDY.settings, **(changes or {})}
    job = {
        "study": "quick",
        "profile": "smoke",
        "job": name,
        "run": name,
        "seed": seed,
        "attempt": attempt,
        "resume_from": resume_from,
    }
    references = {"F3": nested(STUDY.settings)}
    (folder / "config.json").write_text(json.dumps({**job, "settings": nested(settings), "references": references}))
    return folder


def start(folder: Path, rank: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "examples.quick.train", str(folder)]
    environment = {**repository_environment(), "RANK": str(rank), "WORLD_SIZE": "2"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def train(folder: Path) -> tuple[int, str]:
    process = start(folder)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def points(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def values(folder: Path, name: str) -> list[float]:
    return [point["metrics"][name] for point in points(folder) if name in point["metrics"]]


def read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


def test_a_run_writes_a_line_per_step_facts_a_checkpoint_and_a_result(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a")
    assert train(folder) == (0, "")
    assert [point["step"] for point in points(folder)] == list(range(1, STEPS + 1))
    assert values(folder, "progress")[-1] == 1.0
    assert values(folder, "samples")[-1] == 2400
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["00000100"]
    result = read(folder, "result.json")
    assert (result["outcome"], result["facts"]["samples"]) == ("done", 2400)
    uninformed = read(folder, "facts.json")["uninformed"]["val_loss"]
    assert values(folder, "val_loss")[-1] < 0.9 * uninformed, "it has learnt"


def test_going_on_from_a_checkpoint_ends_in_the_very_same_numbers(tmp_path: Path) -> None:
    whole = folder_of(tmp_path, "whole")
    train(whole)
    first = folder_of(tmp_path, "first", {"faults.crash_at_step": 70, "train.save_every": 25})
    code, output = train(first)
    assert code == 1
    assert "asked to crash at step 70" in output
    assert not (first / "result.json").exists()
    (checkpoint,) = (first / "checkpoints").iterdir()
    second = folder_of(tmp_path, "second", {"faults.crash_at_step": 70}, attempt=2, resume_from=str(checkpoint))
    assert train(second)[0] == 0
    assert [point["step"] for point in points(second)] == list(range(51, STEPS + 1))
    assert [point["metrics"] for point in points(second)] == [point["metrics"] for point in points(whole)][50:]


def test_asked_to_stop_it_saves_and_leaves_without_a_result(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a", {"faults.seconds": 30.0})
    leader, other = start(folder), start(folder, rank=1)
    until(lambda: len(points(folder)) > 3)
    for process in (leader, other):
        process.send_signal(signal.SIGTERM)
    assert (leader.wait(5), other.wait(5)) == (143, 143)
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert int(checkpoint.name) == points(folder)[-1]["step"]
    assert not (folder / "result.json").exists()


def test_asked_to_stop_in_its_last_step_it_ends_instead(tmp_path: Path) -> None:
    """A checkpoint of the last step would leave nothing to do for who goes on from it."""
    folder = folder_of(tmp_path, "a", {"train.samples": 40, "faults.seconds": 30.0})
    leader = start(folder)
    until(lambda: len(points(folder)) == 1)
    leader.send_signal(signal.SIGTERM)
    assert leader.wait(5) == 0
    assert len(points(folder)) == 2
    assert read(folder, "result.json")["outcome"] == "done"


def test_other_ranks_leave_when_the_first_has_ended(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a")
    other = start(folder, rank=1)
    train(folder)
    assert other.wait(5) == 0


def test_a_rate_that_is_too_high_diverges_which_is_a_result(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a", {"optim.readout_ratio": 100.0})
    assert train(folder) == (0, "")
    result = read(folder, "result.json")
    assert result["outcome"] == "diverged"
    assert result["reason"].startswith("loss ")


def test_seeds_order_and_begin_differently_and_see_the_same_samples(tmp_path: Path) -> None:
    facts = []
    for seed in (42, 43):
        folder = folder_of(tmp_path, f"s{seed}", seed=seed)
        train(folder)
        facts.append(read(folder, "facts.json"))
    same = {name for name in facts[0] if facts[0][name] == facts[1][name]}
    assert {"manifest_hash", "eval_hash"} <= same
    assert not {"first_batches_hash", "initial_weights_hash"} & same


@pytest.mark.parametrize("run", [name for name in STUDY.runs if name not in ("F3", "A8a")])  # A8a is its own start
def test_every_row_changes_what_is_learnt(tmp_path: Path, run: str) -> None:
    base, changed = folder_of(tmp_path, "base"), folder_of(tmp_path, "changed", STUDY.runs[run].changes)
    train(base)
    train(changed)
    assert values(base, "loss") != values(changed, "loss")


def test_the_same_compute_is_fewer_samples_for_a_wider_network(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "wide", STUDY.runs["B1"].changes)
    train(folder)
    facts = read(folder, "result.json")["facts"]
    assert facts["samples"] == 600
    assert facts["flops"] == 2400 * 6 * 12 * 5


def test_unknown_settings_are_refused(tmp_path: Path) -> None:
    code, output = train(folder_of(tmp_path, "a", {"optim.speed": 3}))
    assert code == 1
    assert "settings of 'optim' are ['lr', 'momentum', 'readout_ratio']; missing or unknown: ['speed']" in output

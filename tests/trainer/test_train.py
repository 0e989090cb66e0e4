"""Whole runs, small: what they leave behind, and what changes nothing about them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.conftest import NewJob, metrics_of
from tests.trainer.runs import ended, losses, same_weights, saved, started, told, trained, weights
from trainer.config import ConfigError
from trainer.data.tiny import Backbone, tiny_backbone
from trainer.metrics import METRICS
from trainer.train import crosses, main


def test_a_run_leaves_its_curve_its_facts_its_model_and_its_result(new_job: NewJob) -> None:
    job = trained(new_job("F3"))
    lines = metrics_of(job)
    assert [line["step"] for line in lines] == list(range(7))
    assert [line["step"] for line in lines if "val_loss" in line["metrics"]] == [0, 4, 6]
    last = lines[-1]["metrics"]
    assert set(METRICS) - set(last) <= {
        "loss_coarse",
        "loss_fine",
        "loss_ratio",
    }  # of the step or of the evaluation: the same names
    assert (last["samples"], last["progress"]) == (48, 1.0)
    assert "loss_coarse" in lines[1]["metrics"]
    assert "loss_coarse" not in lines[2]["metrics"]
    facts = json.loads((job.folder / "facts.json").read_text())
    assert facts["samples_planned"] == 48
    assert facts["uninformed"]["val_loss/video"] <= lines[0]["metrics"]["val_loss/video"]
    result = json.loads((job.folder / "result.json").read_text())
    assert result["outcome"] == "done"
    assert result["facts"]["samples"] == 48
    assert sorted(path.name for path in job.folder.iterdir()) == [
        "config.json",
        "eval",
        "facts.json",
        "metrics.jsonl",
        "model",
        "result.json",
    ]


def test_the_same_seed_gives_the_same_bits(new_job: NewJob) -> None:
    one, two = trained(new_job("one")), trained(new_job("two"))
    assert losses(one) == losses(two)
    assert same_weights(one, two)


def test_stopped_and_resumed_runs_give_the_same_bits(new_job: NewJob) -> None:
    whole = trained(new_job("whole"))
    first = trained(new_job("first"), stop_after_a_step=True)
    second = trained(new_job("second", resume_from=str(saved(first)[0])), stop_after_a_step=True)
    third = trained(new_job("third", resume_from=str(saved(second)[0])))
    assert not (first.folder / "result.json").exists()
    assert losses(first) + losses(second) + losses(third) == losses(whole)
    assert same_weights(whole, third)
    assert metrics_of(third)[-1]["metrics"]["val_loss"] == metrics_of(whole)[-1]["metrics"]["val_loss"]
    assert [line["step"] for line in metrics_of(third)] == [3, 4, 5, 6]


def test_micro_batches_change_nothing_but_speed(new_job: NewJob) -> None:
    whole, parts = trained(new_job("whole")), trained(new_job("parts", {"train.micro_batch_samples": 3}))
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "still"),
    [
        ({"model.freeze_dino": True, "model.freeze_llm": True}, ("model.dino.", "model.llm.")),
        ({"model.freeze_llm": True}, ("model.llm.",)),
    ],
)
def test_what_is_frozen_keeps_its_bits_and_the_rest_moves(
    new_job: NewJob, changes: dict[str, Any], still: tuple[str, ...]
) -> None:
    job = trained(new_job("frozen", changes | {"train.samples": 16}))
    pretrained: dict[str, Backbone] = {"dino": "dino-untrained", "llm": "llama-untrained"}
    before = {
        f"model.{part}.{name}": tensor
        for part, kind in pretrained.items()
        for name, tensor in load_file(tiny_backbone(kind, job.cache) / "model.safetensors").items()
    }
    after = weights(job)
    for name, tensor in before.items():
        if name.startswith(still):
            assert torch.equal(tensor, after[name]), name
    moved = [name for name in before if not name.startswith(still) and not torch.equal(before[name], after[name])]
    assert bool(moved) == (len(still) == 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.deep_query": False},
        {"model.coarse_only": True},
        {"model.encoder": "multi_token", "model.tokens_per_frame": 16},
        {"train.lambda_coarse": 0.5},
        {"train.loss": "text_ce_answer_only", "data.mix": {"image": 0.75, "text": 0.25}, "data.replicate_image_frames": 4},
    ],
)
def test_every_variant_learns(new_job: NewJob, changes: dict[str, Any]) -> None:
    job = trained(new_job("run", {"train.samples": 160, "data.repeat": True, "eval.every_samples": 1000} | changes))
    evals = [line["metrics"]["val_loss"] for line in metrics_of(job) if "val_loss" in line["metrics"]]
    assert evals[-1] < evals[0] - 0.3


def test_two_settings_do_not_give_the_same_first_losses(new_job: NewJob) -> None:
    variants: dict[str, dict[str, Any]] = {
        "F3": {},
        "A1": {"model.deep_query": False},
        "A6": {"model.coarse_only": True},
        "B1": {"model.encoder": "multi_token", "model.tokens_per_frame": 16},
        "answers": {"train.loss": "text_ce_answer_only"},
        "coarse": {"train.lambda_coarse": 1.0},
        "often": {"data.replicate_image_frames": 2},
    }
    first = {name: losses(trained(new_job(name, changes | {"train.samples": 8})))[0] for name, changes in variants.items()}
    assert len({round(loss, 6) for loss in first.values()}) == len(variants), first


def test_an_absurd_rate_ends_as_diverged_with_its_curve(new_job: NewJob) -> None:
    job = trained(new_job("LR9", {"optim.lr": 1.0, "optim.warmup_fraction": 0.0, "eval.every_samples": 8}))
    result = json.loads((job.folder / "result.json").read_text())
    assert result["outcome"] == "diverged"
    assert "val_loss" in result["reason"] or "not finite" in result["reason"]
    assert metrics_of(job)[-1]["metrics"]["samples"] == result["facts"]["samples"]
    assert not (job.folder / "model").exists()


def test_the_command_trains_a_folder(new_job: NewJob) -> None:
    job = new_job("run", {"train.samples": 8})
    command = [sys.executable, "-m", "trainer.train", str(job.folder)]
    known = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=job.folder, env=known, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("run-s42 attempt 1: 8 samples in 1 steps of 8 samples, ")
    assert (job.folder / "result.json").exists()


def test_two_ranks_give_the_losses_of_one(new_job: NewJob) -> None:
    """The last step has one sample: one of the ranks has none."""
    changes = {"train.samples": 25, "train.micro_batch_samples": 2}
    shared = new_job("shared", changes)
    processes = started(shared, ranks=2)
    alone = trained(new_job("alone", changes))
    ended(processes)
    assert losses(shared) == pytest.approx(losses(alone), abs=1e-5)
    assert told(shared, "val_loss") == pytest.approx(told(alone, "val_loss"), abs=1e-5)
    assert json.loads((shared.folder / "facts.json").read_text())["world_size"] == 2


def test_backbones_are_made_before_ranks_meet(new_job: NewJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards `save_pretrained` writes nothing on any rank but the first, and whichever comes first makes them."""
    folder, cache = new_job("job").folder, tmp_path / "fresh"
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"files": str(cache)}))
    there: list[str] = []

    def meet() -> None:
        there.extend(path.parent.name.split("-")[0] for path in cache.glob("tiny/*/model.safetensors"))
        raise ConfigError("they have met")

    monkeypatch.setattr("trainer.train.start_ranks", meet)
    assert main([str(folder)]) == 2
    assert sorted(there) == ["dino", "llama"]


def test_a_missing_config_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main([str(tmp_path)]) == 2
    signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().err
    assert said == f"Error: {tmp_path}: there is no config.json; give the folder of an attempt: python -m trainer.train FOLDER\n"


@pytest.mark.parametrize(
    ("before", "after", "crossed"), [(0, 24, False), (24, 50, True), (50, 74, False), (99, 100, True), (0, 150, True)]
)
def test_an_evaluation_is_due_when_a_multiple_is_passed(before: int, after: int, crossed: bool) -> None:
    assert crosses(50, before, after) is crossed

"""A checkpoint holds all a run needs, and is whole as soon as it is there."""

from __future__ import annotations

import random
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import small_batch, small_model
from trainer import checkpoint
from trainer.checkpoint import Progress, complete_checkpoints
from trainer.config import ConfigError, OptimConfig
from trainer.model.packing import pack
from trainer.model.vision_language import VisionLanguageModel
from trainer.optim import build_optimizer, set_rates
from trainer.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


def stepped(model: VisionLanguageModel, optimizer: torch.optim.Optimizer, times: int) -> None:
    packed = pack(small_batch([2, 0], [3, 4]), 1, ALONE.device)
    for _ in range(times):
        optimizer.zero_grad()
        torch.autograd.backward(model(packed).losses.square().mean())
        optimizer.step()


def new(seed: int) -> tuple[VisionLanguageModel, torch.optim.Optimizer]:
    model = small_model(seed)
    optimizer = build_optimizer(model.parts(), model, OptimConfig())
    set_rates(optimizer, 1.0)
    return model, optimizer


def test_everything_comes_back_bit_by_bit(tmp_path: Path) -> None:
    model, optimizer = new(0)
    stepped(model, optimizer, 2)
    progress = Progress(step=2, samples=16, evals=[(0, 2.5), (2, 0.1 + 0.2)], grad_norms=[1 / 3, float("nan")], wall_s=1.5)
    checkpoint.save(tmp_path, model, optimizer, progress, ALONE, keep=2)
    drawn = (torch.rand(3), random.random())
    other, its_optimizer = new(1)
    back = checkpoint.load(tmp_path / "checkpoints" / "00000002", other, its_optimizer, ALONE)
    assert str(asdict(back)) == str(asdict(progress))  # as text: NaN is not itself
    assert torch.equal(torch.rand(3), drawn[0])
    assert random.random() == drawn[1]
    stepped(model, optimizer, 2)
    stepped(other, its_optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_only_the_newest_are_kept_and_half_written_ones_do_not_count(tmp_path: Path) -> None:
    model, optimizer = new(0)
    (tmp_path / "checkpoints" / ".00000009.partial").mkdir(parents=True)
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, model, optimizer, Progress(step=step), ALONE, keep=2)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["00000002", "00000003"]


def test_a_checkpoint_that_is_not_there_is_told(tmp_path: Path) -> None:
    model, optimizer = new(0)
    with pytest.raises(
        ConfigError, match=re.escape("no checkpoint there (progress.json is missing); leave it empty to start anew")
    ):
        checkpoint.load(tmp_path / "nothing", model, optimizer, ALONE)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    model, optimizer = new(0)
    checkpoint.save(tmp_path, model, optimizer, Progress(step=1), ALONE, keep=1)
    other = small_model(coarse_only=True)
    with pytest.raises(ConfigError, match="a checkpoint of another model"):
        checkpoint.load(tmp_path / "checkpoints" / "00000001", other, build_optimizer(other.parts(), other, OptimConfig()), ALONE)


def test_a_checkpoint_of_other_settings_is_refused_and_they_are_named(tmp_path: Path) -> None:
    model, optimizer = new(0)
    its = {"seed": 1, "optim.lr": 0.1, "data.mix": {"video": 1.0}}
    checkpoint.save(tmp_path, model, optimizer, Progress(step=1, of=its), ALONE, keep=1)
    folder = tmp_path / "checkpoints" / "00000001"
    assert checkpoint.load(folder, model, optimizer, ALONE, its).of == its
    with pytest.raises(
        ConfigError, match=re.escape("a checkpoint of another run: seed = 2, there 1; optim.lr = 0.2, there 0.1;")
    ):
        checkpoint.load(folder, model, optimizer, ALONE, its | {"seed": 2, "optim.lr": 0.2})


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_0.pt", "progress.json"])
@pytest.mark.parametrize("kept", [0, 100])
def test_a_checkpoint_that_was_cut_is_told(tmp_path: Path, name: str, kept: int) -> None:
    model, optimizer = new(0)
    checkpoint.save(tmp_path, model, optimizer, Progress(step=1), ALONE, keep=1)
    file = tmp_path / "checkpoints" / "00000001" / name
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=r"the checkpoint cannot be read \(.+\); remove it, and go on from the one before"):
        checkpoint.load(file.parent, model, optimizer, ALONE)

"""The most that fit: found without touching the run, and without changing what it computes."""

from __future__ import annotations

import json

import pytest
import torch

from tests.trainer.conftest import NewJob
from tests.trainer.runs import ALONE, losses, same_weights, saved, trained
from trainer import micro_batch as micro_batch_file
from trainer.config import ConfigError
from trainer.data.open import Data, open_data
from trainer.job import Job
from trainer.micro_batch import heaviest, micro_batch
from trainer.model.load import build_model
from trainer.model.vision_language import VisionLanguageModel
from trainer.optim import build_optimizer

AUTO = {"train.micro_batch_samples": "auto", "train.samples": 32}


def told(job: Job) -> int:
    return int(json.loads((job.folder / "facts.json").read_text())["micro_batch_samples"])


def built(job: Job) -> tuple[Data, VisionLanguageModel, torch.optim.AdamW]:
    data, model = open_data(job.config, job.seed, job.cache), build_model(job.config.model, job.cache, job.seed)
    return data, model, build_optimizer(model.parts(), model, job.config.optim)


def tight(monkeypatch: pytest.MonkeyPatch, job: Job, samples: int) -> None:
    """A budget into which the heaviest `samples` fit, and not one more."""
    data, model, _ = built(job)
    rows = heaviest(model, data.train.samples, job.config, samples)
    needed = micro_batch_file._on_cpu(model, data.train.samples, rows, job.config, ALONE)
    monkeypatch.setattr(micro_batch_file, "CPU_BUDGET_BYTES", needed)


def test_a_wide_budget_takes_a_ranks_whole_share(new_job: NewJob) -> None:
    assert told(trained(new_job("auto", AUTO))) == 8


@pytest.mark.parametrize(("fit", "found"), [(1, 1), (3, 2), (5, 4)])
def test_a_tight_budget_takes_what_fits_and_the_run_is_that_of_the_number_given(
    new_job: NewJob, monkeypatch: pytest.MonkeyPatch, fit: int, found: int
) -> None:
    job = new_job("auto", AUTO)
    tight(monkeypatch, job, fit)
    auto = trained(job)
    assert told(auto) == found
    given = trained(new_job("given", AUTO | {"train.micro_batch_samples": found}))
    assert losses(auto) == losses(given)
    assert same_weights(auto, given)
    whole = trained(new_job("whole", AUTO | {"train.micro_batch_samples": 8}))
    assert losses(auto) == pytest.approx(losses(whole), rel=1e-5)


def test_looking_for_it_leaves_no_trace(new_job: NewJob) -> None:
    job = new_job("auto", AUTO)
    data, model, optimizer = built(job)
    before, random = {name: p.clone() for name, p in model.named_parameters()}, torch.get_rng_state()
    assert micro_batch(model, optimizer, data, job.config, ALONE) == 8
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not optimizer.state
    assert model.training


def test_a_resumed_run_keeps_the_number_it_began_with(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = new_job("auto", AUTO)
    with monkeypatch.context() as patch:
        tight(patch, job, 2)
        stopped = trained(job, stop_after_a_step=True)
    resumed = trained(new_job("resumed", AUTO, resume_from=str(saved(stopped)[-1])))
    assert told(stopped) == told(resumed) == 2


def test_where_not_one_sample_fits_the_error_says_what_to_do(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batch_file, "CPU_BUDGET_BYTES", 1000)
    with pytest.raises(ConfigError, match=r'"auto": not even one sample fits .* set train.activation_checkpointing = true'):
        trained(new_job("auto", AUTO))


def test_the_heaviest_come_first(new_job: NewJob) -> None:
    job = new_job("auto", AUTO)
    data, model, _ = built(job)
    rows = heaviest(model, data.train.samples, job.config, len(data.train.samples))
    frames = data.train.samples.frames_distinct()[rows].tolist()
    assert sorted(rows) == list(range(len(data.train.samples)))
    assert frames == sorted(frames, reverse=True)


def test_activation_checkpointing_lets_more_samples_fit(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = new_job("usual", AUTO)
    tight(monkeypatch, job, 2)
    again = new_job("again", AUTO | {"train.activation_checkpointing": True})
    assert told(trained(job)) == 2
    assert told(trained(again)) > 2
    assert losses(again) == pytest.approx(losses(job), rel=1e-5)

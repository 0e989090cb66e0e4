"""How long a run is."""

from __future__ import annotations

import re

import pytest

from tests.trainer.conftest import NewJob
from trainer.config import ConfigError
from trainer.data.open import open_data
from trainer.horizon import Horizon, horizon
from trainer.job import Job

B1 = {"model.encoder": "multi_token", "model.tokens_per_frame": 16, "train.flops": "as R0"}


def of(job: Job) -> Horizon:
    return horizon(job, open_data(job.config, job.seed, job.cache).train.samples)


def test_a_run_of_its_own_ends_at_its_samples(new_job: NewJob) -> None:
    end = of(new_job("F3", {"train.samples": 45}))
    assert (end.samples, end.steps, end.samples_of(0), end.samples_of(5), end.tokens_per_frame) == (45, 6, 8, 5, 1.0)


def test_as_another_run_ends_at_its_compute(new_job: NewJob) -> None:
    theirs, ours = of(new_job("F3")), of(new_job("B1", B1, references=[{}]))
    assert ours.flops_per_sample > theirs.flops_per_sample
    assert ours.samples < theirs.samples == 48
    spent, allowed = ours.samples * ours.flops_per_sample, theirs.samples * theirs.flops_per_sample
    assert abs(spent - allowed) <= ours.flops_per_sample / 2
    assert ours.tokens_per_frame == 16


def test_the_reference_counts_with_its_own_samples(new_job: NewJob) -> None:
    assert of(new_job("B1", B1, references=[{"train.samples": 24}])).samples < of(new_job("again", B1, references=[{}])).samples


@pytest.mark.parametrize("said", ["as F9", "like R0", "as"])
def test_a_run_without_reference_is_an_error(new_job: NewJob, said: str) -> None:
    expected = f"train.flops = '{said}'; allowed: 'own', or 'as RUN' with the settings of RUN under references (there: 'as R0')"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        of(new_job("B1", {**B1, "train.flops": said}, references=[{}]))


def test_a_replicated_image_reads_more_tokens_and_encodes_no_more_frames(new_job: NewJob) -> None:
    images = {"data.mix": {"image": 1.0}, "train.samples": 16}
    once, often = of(new_job("once", images)), of(new_job("often", images | {"data.replicate_image_frames": 16}))
    assert (once.tokens_per_frame, often.tokens_per_frame) == (1, 16)
    assert once.flops_by_part["dino"] == often.flops_by_part["dino"]
    assert once.flops_by_part["fine_lm"] < often.flops_by_part["fine_lm"]

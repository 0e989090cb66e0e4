"""Every setting is read by something, and runs that differ in one setting differ in nothing else."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from tests.trainer.conftest import NewJob
from tests.trainer.runs import trained
from trainer.checkpoint import Progress
from trainer.config import TrainConfig
from trainer.data.open import open_data
from trainer.job import Job
from trainer.model.load import build_model, initial_weights_hash
from trainer.optim import DivergenceWatch


def test_every_setting_is_read_by_a_run(new_job: NewJob) -> None:
    """A run stopped and saved after its first step, one that ends, and a step that is not finite."""
    read: set[str] = set()
    stopped, whole = new_job("stopped"), new_job("whole", {"optim.warmup_fraction": 0.0, "train.samples": 16})
    for job in (stopped, whole):
        recorded = {part.name: recording(getattr(job.config, part.name), part.name, read) for part in fields(job.config)}
        trained(replace(job, config=TrainConfig(**recorded)), stop_after_a_step=job is stopped)
    DivergenceWatch(recorded["train"], 0, Progress()).after_step(math.nan, math.nan)
    there = {f"{part}.{field.name}" for part, its in recorded.items() for field in fields(its)}
    assert there - read == set()


def recording(part: Any, name: str, read: set[str]) -> Any:
    """The same settings; who reads one, but to copy them all (dataclasses.asdict), is noted in `read`."""
    assert is_dataclass(part)
    known = {field.name for field in fields(part)}

    def look(self: object, wanted: str) -> Any:
        if wanted in known and sys._getframe(1).f_code.co_filename != dataclasses.__file__:
            read.add(f"{name}.{wanted}")
        return object.__getattribute__(self, wanted)

    object.__setattr__(part, "__class__", type("Recording", (type(part),), {"__getattribute__": look}))
    return part


VARIANTS: dict[str, dict[str, Any]] = {
    "F3": {},
    "F1": {"model.freeze_dino": True, "model.freeze_llm": True},
    "LR4": {"optim.connector_ratio": 1.0},
    "A1": {"model.deep_query": False},
    "A6": {"model.coarse_only": True},
    "B1": {"model.encoder": "multi_token", "model.tokens_per_frame": 16},
    "workers": {"data.workers": 2, "train.micro_batch_samples": 3},
}


def seen(job: Job) -> dict[str, Any]:
    data = open_data(job.config, job.seed, job.cache)
    return {
        "manifest": data.manifest_hash,
        "eval": data.eval_hash,
        "first batches": data.train.first_batches_hash(),
        "order": [data.train.global_batch(step) for step in range(6)],
        "weights": initial_weights_hash(build_model(job.config.model, job.cache, job.seed)),
        "frames": data.train.samples.frames_shown().tolist(),
        "supervised": int(data.train.load(data.train.global_batch(0)).supervised.sum()),
    }


@pytest.mark.parametrize("changes", list(VARIANTS.values())[1:], ids=list(VARIANTS)[1:])
def test_rows_with_one_seed_share_samples_order_and_first_weights(new_job: NewJob, changes: dict[str, Any]) -> None:
    assert seen(new_job("row", changes)) == seen(new_job("F3"))


def test_another_seed_has_another_order_and_other_first_weights_of_the_same_samples(new_job: NewJob) -> None:
    job = new_job("F3")
    one, other = seen(job), seen(replace(job, seed=43))
    assert {name for name in one if one[name] != other[name]} == {"first batches", "order", "weights", "supervised"}


def test_another_mix_is_another_manifest_with_the_same_first_weights(new_job: NewJob) -> None:
    mix = {"data.mix": {"video": 0.50, "image": 0.25, "text": 0.25}, "train.samples": 24}
    one, other = seen(new_job("F3", {"train.samples": 24, "data.mix": {"video": 0.75, "image": 0.25}})), seen(new_job("D1", mix))
    assert {name for name in one if one[name] == other[name]} >= {"eval", "weights"}
    assert one["manifest"] != other["manifest"]


def test_replicating_images_changes_how_often_they_are_shown_and_nothing_else(new_job: NewJob) -> None:
    images = {"data.mix": {"image": 0.75, "text": 0.25}, "train.samples": 16, "train.loss": "text_ce_answer_only"}
    once, often = seen(new_job("A8a", images)), seen(new_job("A8b", images | {"data.replicate_image_frames": 16}))
    assert {name for name in once if once[name] != often[name]} == {"frames"}


def test_the_hashes_are_logged(new_job: NewJob) -> None:
    job = trained(new_job("run", {"train.samples": 8}))
    facts, known = json.loads((job.folder / "facts.json").read_text()), seen(job)
    assert facts["manifest_hash"] == known["manifest"]
    assert facts["eval_hash"] == known["eval"]
    assert facts["first_batches_hash"] == known["first batches"]
    assert facts["initial_weights_hash"] == known["weights"]

"""What a step does on a GPU: on one that computes nothing where there is none, and whole runs where there is one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import NewJob
from tests.trainer.runs import losses, saved, told, trained
from trainer.data.open import open_data
from trainer.feed import Feed
from trainer.job import Job
from trainer.micro_batch import micro_batch
from trainer.model.load import build_model
from trainer.optim import build_optimizer, scale_and_clip, step_if_finite
from trainer.ranks import Ranks
from trainer.step import Clock, accumulate, plan_step
from trainer.train import StopSignal, train

HERE = Path(__file__).parent
GPU = Ranks(0, 1, torch.device("cuda", 0))
ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this torch has a CUDA of its own")
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_a_step_mixes_no_devices_and_waits_once_when_all_is_done(tmp_path: Path) -> None:
    """Linear maps are in bfloat16, forward and backward; the one number the host asks for is read after the optimiser's step."""
    library, headers = tmp_path / "pretended_gpu.so", Path(torch.__file__).parent / "include"
    subprocess.run(
        ["c++", "-std=c++20", "-shared", "-fPIC", f"-I{headers}", "-o", library, HERE / "pretended_gpu.cpp"], check=True
    )
    command = [sys.executable, "-m", "tests.trainer.pretended_gpu", library]
    ran = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=HERE.parents[1], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    cases = json.loads(ran.stdout)
    assert len(cases) == 4
    for case, found in cases.items():
        assert found == {"waits in": ["read", "read"], "products in": ["bfloat16"]}, case


def on_a_gpu(job: Job, stop_after_a_step: bool = False) -> Job:
    stop = StopSignal()
    stop.asked = stop_after_a_step
    with contextlib.redirect_stdout(io.StringIO()):
        train(job, open_data(job.config, job.seed, job.cache), GPU, stop)
    return job


@ON_A_GPU
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data.workers": 2, "train.micro_batch_samples": 3},
        {"train.micro_batch_samples": "auto"},
        {"train.activation_checkpointing": True},
        {"train.compile": True},
        {"model.coarse_only": True},
        {"model.encoder": "multi_token", "model.tokens_per_frame": 4},
        {"model.freeze_dino": True, "model.freeze_llm": True},
    ],
)
def test_a_run_tells_what_it_tells_on_a_cpu(new_job: NewJob, changes: dict[str, Any]) -> None:
    there, here = on_a_gpu(new_job("gpu", changes)), trained(new_job("cpu", changes))
    assert losses(there) == pytest.approx(losses(here), rel=1e-3)
    assert told(there, "val_loss") == pytest.approx(told(here, "val_loss"), rel=1e-3)
    assert told(there, "memory_gib")[-1] > 0


@ON_A_GPU
def test_in_bfloat16_losses_stay_near(new_job: NewJob) -> None:
    there, here = on_a_gpu(new_job("gpu", {"train.precision": "bfloat16"})), trained(new_job("cpu"))
    assert losses(there) == pytest.approx(losses(here), rel=0.05)
    assert losses(there) != pytest.approx(losses(here), rel=1e-6)


@ON_A_GPU
def test_a_stopped_run_goes_on(new_job: NewJob) -> None:
    whole, first = on_a_gpu(new_job("whole")), on_a_gpu(new_job("first"), stop_after_a_step=True)
    second = on_a_gpu(new_job("second", resume_from=str(saved(first)[-1])))
    assert losses(first) + losses(second) == pytest.approx(losses(whole), rel=1e-4)


@ON_A_GPU
def test_nothing_in_a_step_waits(new_job: NewJob) -> None:
    job = new_job("job", {"train.precision": "bfloat16", "train.micro_batch_samples": 4})
    data, model = open_data(job.config, job.seed, job.cache), build_model(job.config.model, job.cache, job.seed).to(GPU.device)
    optimizer = build_optimizer(model.parts(), model, job.config.optim)
    trained_ones = [p for p in model.parameters() if p.requires_grad]
    plans = [plan_step(data.train.global_batch(step), step, job.config, GPU, 4) for step in range(3)]
    feed = Feed(data.train.loaded([rows for plan in plans for rows in plan.micro]), 1, GPU.device)
    try:
        for number, plan in enumerate(plans):
            torch.cuda.set_sync_debug_mode("error" if number else "default")  # in the first, memory is taken
            totals = accumulate(model, model, feed, plan, job.config, GPU, Clock()).over(GPU)
            norm = scale_and_clip(trained_ones, 1 / totals.targets, 1.0)
            step_if_finite(optimizer, totals.loss, norm)
            optimizer.zero_grad(set_to_none=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    told, norm_read = totals.read(norm)
    assert told["targets"] > 0
    assert norm_read > 0


@ON_A_GPU
def test_the_search_for_a_micro_batch_leaves_the_gpu_as_it_was(new_job: NewJob) -> None:
    job = new_job("job", {"train.micro_batch_samples": "auto", "train.batch_samples": 16})
    data, model = open_data(job.config, job.seed, job.cache), build_model(job.config.model, job.cache, job.seed).to(GPU.device)
    optimizer = build_optimizer(model.parts(), model, job.config.optim)
    before = torch.cuda.memory_allocated(GPU.device)
    assert micro_batch(model, optimizer, data, job.config, GPU) == 16
    assert torch.cuda.memory_allocated(GPU.device) == before

"""Stopped anywhere and resumed: the same bits as never having stopped."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.conftest import NewJob
from tests.trainer.runs import (
    ended,
    lines,
    losses,
    optimizer_of,
    same_weights,
    saved,
    signalled,
    started,
    told,
    trained,
    wait_until,
)
from trainer.train import STOPPED

LONG: dict[str, Any] = {"train.samples": 160, "data.repeat": True, "eval.every_samples": 100}
"""20 steps."""
AT_EVERY_STEP = {"train.checkpoint_every_minutes": 1e-9}


@pytest.mark.parametrize(
    ("ranks", "workers"), [(2, 0), (1, 2), pytest.param(2, 2, marks=pytest.mark.slow), pytest.param(1, 0, marks=pytest.mark.slow)]
)
def test_a_stopped_run_goes_on_with_the_same_bits(new_job: NewJob, ranks: int, workers: int) -> None:
    """Only the last rank hears the signal: all stop, and all save."""
    settings = LONG | {"data.workers": workers, "train.micro_batch_samples": 3}
    first, whole = new_job("first", settings), new_job("whole", settings)
    processes, others = started(first, ranks), started(whole, ranks) if ranks > 1 else []
    wait_until(lambda: lines(first) > 3, processes)
    signalled(processes[-1], signal.SIGTERM)
    ended(processes, STOPPED)
    ended(others)
    assert len(saved(first)) == 1
    assert sorted(path.name for path in saved(first)[0].glob("rng_*")) == [f"rng_{rank}.pt" for rank in range(ranks)]
    second = new_job("second", settings, resume_from=str(saved(first)[0]))
    ended(started(second, ranks))
    if ranks == 1:
        trained(replace(whole, config=replace(whole.config, data=replace(whole.config.data, workers=0))))
    for name in ("loss", "grad_norm", "samples", "lr/llm"):
        assert told(first, name) + told(second, name) == told(whole, name)
    assert told(first, "val_loss") + told(second, "val_loss") == told(whole, "val_loss")
    assert same_weights(second, whole)


def test_killed_during_a_save_it_goes_on_from_the_save_before(new_job: NewJob) -> None:
    job = new_job("killed", LONG | AT_EVERY_STEP)
    processes = started(job)
    wait_until(lambda: len(saved(job)) > 1 and list((job.folder / "checkpoints").glob(".*.partial")), processes)
    signalled(processes[0], signal.SIGKILL)
    ended(processes, -signal.SIGKILL)
    whole, last = trained(new_job("whole", LONG)), saved(job)[-1]
    resumed = trained(new_job("resumed", LONG, resume_from=str(last)))
    assert list((job.folder / "checkpoints").glob(".*")) == []  # what was left half is gone
    step = int(last.name)
    assert losses(job)[:step] + losses(resumed) == losses(whole)
    assert same_weights(resumed, whole)


def test_the_optimiser_and_the_place_in_the_data_come_back_too(new_job: NewJob) -> None:
    """Two runs stopped after the same step, one of them resumed on the way: their checkpoints are the same."""
    whole = trained(new_job("step1"), stop_after_a_step=True)
    straight = trained(new_job("step2", resume_from=str(saved(whole)[0])), stop_after_a_step=True)
    again = trained(new_job("again", resume_from=str(saved(whole)[0])), stop_after_a_step=True)
    one, two = saved(straight)[0], saved(again)[0]
    assert one.name == two.name == "00000002"
    a, b = optimizer_of(one), optimizer_of(two)
    assert a["param_groups"] == b["param_groups"]
    for number, state in a["state"].items():
        assert all(torch.equal(value, b["state"][number][name]) for name, value in state.items())
    weights, theirs = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert all(torch.equal(value, theirs[name]) for name, value in weights.items())
    progress, its = (json.loads((path / "progress.json").read_text()) for path in (one, two))
    for clock in ("wall_s", "step_s", "compute_s"):
        del progress[clock], its[clock]
    assert progress == its


def test_checkpoints_do_not_fill_a_disk(new_job: NewJob) -> None:
    """While it runs there are the newest few, once it has ended there are none."""
    job = new_job("run", LONG | AT_EVERY_STEP | {"train.keep_checkpoints": 2})
    processes = started(job)
    most = 0

    def over() -> bool:
        nonlocal most
        most = max(most, len(saved(job)))
        return (job.folder / "result.json").exists()

    wait_until(over, processes)
    ended(processes)
    assert most in (2, 3)  # the third for the moment between a rename and a removal
    assert not (job.folder / "checkpoints").exists()

"""In float64 nothing but rounding is left: ranks and micro-batches change no loss, no gradient and no weight."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.conftest import NewJob
from tests.trainer.runs import ALONE, ended, losses, started, told, trained, weights
from trainer.config import TrainConfig
from trainer.data.open import Data, open_data
from trainer.feed import Feed
from trainer.job import Job
from trainer.model.load import build_model
from trainer.model.vision_language import VisionLanguageModel
from trainer.ranks import Ranks
from trainer.step import Clock, StepPlan, accumulate, plan_step

STEPS = {"train.samples": 157, "train.precision": "float64", "data.repeat": True, "eval.every_samples": 1000}
"""20 steps of 8 samples, the last of 5."""


def same(a: Job, b: Job) -> None:
    assert losses(b) == pytest.approx(losses(a), abs=1e-9)
    assert told(b, "grad_norm") == pytest.approx(told(a, "grad_norm"), abs=1e-9)
    theirs = weights(b)
    for name, tensor in weights(a).items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=1e-9)


def test_two_ranks_and_any_micro_batch_are_one_process(new_job: NewJob) -> None:
    shared = new_job("shared", STEPS | {"train.micro_batch_samples": 2})
    processes = started(shared, ranks=2)
    alone = trained(new_job("alone", STEPS))
    parts = trained(new_job("parts", STEPS | {"train.micro_batch_samples": 3}))
    ended(processes)
    assert len(losses(alone)) == 20
    same(alone, parts)
    same(alone, shared)


@pytest.mark.parametrize(
    "changes",
    [{"train.lambda_coarse": 0.5}, {"model.deep_query": False}, {"model.encoder": "multi_token", "model.tokens_per_frame": 4}],
)
@pytest.mark.parametrize("micro", [1, 3])
def test_gradients_of_micro_batches_are_those_of_the_whole(new_job: NewJob, changes: dict[str, object], micro: int) -> None:
    whole, parts = (
        gradients(new_job(name, STEPS | changes | {"train.micro_batch_samples": size})) for name, size in (("a", 8), ("b", micro))
    )
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=0, atol=1e-9)


def gradients(job: Job) -> dict[str, Tensor]:
    """Of the first step, summed over its tokens."""
    data, model = open_data(job.config, job.seed, job.cache), build_model(job.config.model, job.cache, job.seed).double()
    plan = first_step(data, job)
    accumulate(model, model, feed(data, plan, model), plan, job.config, ALONE, Clock())
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def first_step(data: Data, job: Job) -> StepPlan:
    micro = job.config.train.micro_batch_samples
    assert micro != "auto"
    return plan_step(data.train.global_batch(0), 0, job.config, ALONE, micro)


def feed(data: Data, plan: StepPlan, model: VisionLanguageModel) -> Feed:
    return Feed(data.train.loaded(plan.micro), model.connector.tokens_per_frame, ALONE.device)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("micro", [1, 3, 8])
def test_ranks_and_micro_batches_share_the_rows_of_a_step_between_them(world: int, micro: int) -> None:
    rows = list(range(100, 121))
    config = TrainConfig.from_dict({"train": {"batch_samples": 21}})
    plans = [plan_step(rows, 0, config, Ranks(rank, world, ALONE.device), micro) for rank in range(world)]
    assert [row for plan in plans for part in plan.micro for row in part] == rows
    assert all(len(part) <= micro for plan in plans for part in plan.micro)


def test_every_forward_goes_through_the_wrapped_model(new_job: NewJob) -> None:
    job = new_job("run", {"train.micro_batch_samples": 3, "train.lambda_coarse": 0.5})
    data, model = open_data(job.config, job.seed, job.cache), build_model(job.config.model, job.cache, job.seed)
    wrapped = Wrapped(model)
    for part in (model.dino.embeddings, *model.llm.model.layers, model.connector.query_out):
        part.register_forward_pre_hook(lambda *_: wrapped.must_be_inside())
    plan = first_step(data, job)
    accumulate(wrapped, model, feed(data, plan, model), plan, job.config, ALONE, Clock())
    assert wrapped.calls == len(plan.micro) == 3


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls, self.inside = model, 0, False

    def forward(self, *given: Sequence[object], **named: object) -> object:
        self.calls, self.inside = self.calls + 1, True
        result = self.model(*given, **named)
        self.inside = False
        return result

    def must_be_inside(self) -> None:
        assert self.inside

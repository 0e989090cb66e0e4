"""However the layers are run, the same numbers come out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import small_batch, small_model
from trainer.model import blocks as blocks_file
from trainer.model.blocks import Blocks, blocks
from trainer.model.packing import Packed, pack
from trainer.model.vision_language import VisionLanguageModel

VARIANTS: dict[str, dict[str, Any]] = {
    "F3": {},
    "F1": {"freeze_dino": True, "freeze_llm": True},
    "A1": {"deep_query": False},
    "A6": {"coarse_only": True},
    "B1": {"encoder": "multi_token", "tokens_per_frame": 4},
}
MIXTURE = ([3, 0, 1, 5], [2, 2, 2, 2], [1, 1, 0, 0], [0, 0, 0, 0], [4, 3, 2, 1], [6, 1, 1, 1], [5, 5, 0, 1], [1, 0, 2, 3])
"""Frames of the samples of each batch; words as `WORDS`, another order in each."""
WORDS = [4, 6, 3, 2]
COMPILING = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # the compiler warns of itself


def packed(model: VisionLanguageModel, frames: list[int], turn: int = 0) -> Packed:
    words = WORDS[turn % 4 :] + WORDS[: turn % 4]
    return pack(small_batch(frames, words, seed=turn), model.connector.tokens_per_frame, torch.device("cpu"))


def losses_and_gradients(model: VisionLanguageModel, batch: Packed, how: Blocks) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    with blocks(how):
        losses = model(batch).losses
    torch.autograd.backward(losses.sum())
    return losses.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_layers_computed_again_give_the_same_bits(settings: dict[str, Any]) -> None:
    model = small_model(**settings).double()
    batch = packed(model, MIXTURE[0])
    losses, gradients = losses_and_gradients(model, batch, Blocks())
    again, its = losses_and_gradients(model, batch, Blocks(again=True))
    assert torch.equal(again, losses)
    assert its.keys() == gradients.keys()
    assert all(torch.equal(its[name], gradient) for name, gradient in gradients.items())


def kept_bytes(model: VisionLanguageModel, batch: Packed, how: Blocks) -> int:
    """What lies between forward and backward: allocations that outlive the forward."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True, acc_events=True) as seen, blocks(how):
        loss = model(batch).losses.sum()
    assert loss.requires_grad
    return sum(event.self_cpu_memory_usage for event in seen.key_averages())


@pytest.mark.parametrize("settings", [VARIANTS["F3"], VARIANTS["B1"]], ids=["F3", "B1"])
def test_layers_computed_again_keep_less_than_half_the_memory(settings: dict[str, Any]) -> None:
    model = small_model(**settings)
    batch = packed(model, [8, 8, 8, 8])
    assert kept_bytes(model, batch, Blocks(again=True)) < kept_bytes(model, batch, Blocks()) / 2


@pytest.fixture
def fresh() -> Iterator[None]:
    """Graphs are counted from none."""
    for forget in (torch._dynamo.reset, torch._dynamo.utils.counters.clear, blocks_file._compiled.cache_clear):
        forget()
    yield
    torch._dynamo.reset()


@COMPILING
@pytest.mark.usefixtures("fresh")
def test_compiled_layers_give_the_same_over_a_mixture_with_few_graphs() -> None:
    """One graph serves all layers of a kind and all lengths; without frames, and with one, there is another."""
    compiled_is_exact("A6", "eager", most_graphs=6)


@pytest.mark.slow
@COMPILING
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(("backend", "most"), [("aot_eager", 1e-11), ("inductor", 1e-5)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_layers_give_the_same_for_every_variant(variant: str, backend: str, most: float) -> None:
    """Inductor rounds otherwise where the language model's norms compute in float32, whatever the weights."""
    compiled_is_exact(variant, backend, most_graphs=20, most=most)


def compiled_is_exact(variant: str, backend: str, most_graphs: int, most: float = 1e-11) -> None:
    model = small_model(**VARIANTS[variant]).double()
    for turn, frames in enumerate(MIXTURE):
        batch = packed(model, frames, turn)
        if variant == "F1" and not batch.clips:
            continue  # texts alone train nothing there
        losses, gradients = losses_and_gradients(model, batch, Blocks())
        compiled, its = losses_and_gradients(model, batch, Blocks(compiled=True, backend=backend))
        torch.testing.assert_close(compiled, losses, rtol=0, atol=most)
        for name, gradient in gradients.items():
            torch.testing.assert_close(its[name], gradient, rtol=0, atol=most * max(1.0, float(gradient.abs().max())), msg=name)
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert 0 < counters["stats"]["unique_graphs"] <= most_graphs

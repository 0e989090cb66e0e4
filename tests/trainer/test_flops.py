"""Our counts against the counter of PyTorch, which sees every matrix product."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.trainer.conftest import SIDE, small_batch, small_model
from trainer.config import ModelConfig
from trainer.flops import Shape, Sizes, mean_flops, measured_coarse_flops, operations, sample_flops, sizes
from trainer.model.packing import pack
from trainer.model.vision_language import VisionLanguageModel

VARIANTS: dict[str, dict[str, Any]] = {
    "F3": {},
    "F2": {"freeze_llm": True},
    "F1": {"freeze_dino": True, "freeze_llm": True},
    "A1": {"deep_query": False},
    "A6": {"coarse_only": True},
    "B1": {"encoder": "multi_token", "tokens_per_frame": 4},
    "B1 frozen": {"encoder": "multi_token", "tokens_per_frame": 4, "freeze_dino": True},
}
SAMPLES, FRAMES, WORDS = 3, 4, 5


def counted(model: VisionLanguageModel, replicate: int, coarse: str = "no") -> float:
    batch = small_batch([FRAMES] * SAMPLES, [WORDS] * SAMPLES, replicate)
    packed = pack(batch, model.connector.tokens_per_frame, torch.device("cpu"))
    # Only with the plain implementation are attention's products visible to the counter on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        torch.autograd.backward(model(packed, coarse=coarse).losses.sum())
    return float(counter.get_total_flops()) / SAMPLES


@pytest.mark.parametrize("replicate", [1, 3])
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_flops_per_sample_are_those_counted(settings: dict[str, Any], replicate: int) -> None:
    model, shape = small_model(**settings), Shape(FRAMES, FRAMES * replicate, WORDS, WORDS)
    ours = sample_flops(ModelConfig(**settings), sizes(model.dino.config, model.llm.config, SIDE), shape)
    # The static query is projected once for all frames and counted for each: below 1 % here, nothing at real sizes.
    assert sum(ours.values()) == pytest.approx(counted(model, replicate), rel=1e-2)


def test_measuring_the_coarse_loss_costs_what_is_counted() -> None:
    model = small_model()
    ours = measured_coarse_flops(sizes(model.dino.config, model.llm.config, SIDE), Shape(FRAMES, FRAMES, WORDS, WORDS))
    assert ours == pytest.approx(counted(model, 1, "measured") - counted(model, 1), rel=1e-3)


def test_the_mean_weighs_shapes_by_how_often_they_occur() -> None:
    s, config = sizes(small_model().dino.config, small_model().llm.config, SIDE), ModelConfig()
    short, long = Shape(0, 0, 4, 3), Shape(4, 4, 4, 4)
    mean = mean_flops(config, s, [(short, 3), (long, 1)])
    assert mean["dino"] == pytest.approx(sample_flops(config, s, long)["dino"] / 4)
    with pytest.raises(ValueError, match="no samples"):
        mean_flops(config, s, [])


def test_at_the_real_size_most_of_a_sample_is_dino() -> None:
    from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
    from transformers.models.llama.configuration_llama import LlamaConfig

    dino = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14)
    llm = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    parts = sample_flops(ModelConfig(), sizes(dino, llm, 224), Shape(7, 7, 128, 128))
    assert 300e9 < sum(parts.values()) < 400e9
    assert parts["dino"] / sum(parts.values()) > 0.6


def test_bytes_are_what_each_product_reads_and_writes() -> None:
    s = Sizes(8, 1, 32, 4, 12, 8, 1, 8, 8, 16, 10)
    ops = {(o.part, o.name): o for o in operations(ModelConfig(encoder="multi_token"), s, Shape(0, 0, 3, 2))}
    head = ops["head", "head"]  # 2 tokens, 8 -> 10, three passes
    assert head.flops == 3 * 2 * 2 * 8 * 10
    assert head.bytes(2, samples=4) == 3 * 2 * (2 * (8 + 10) + 8 * 10 / 4)
    assert ops["fine_lm", "mlp"].bytes(4, samples=1) == 3 * 4 * (3 * 3 * (8 + 16) + 3 * 8 * 16)
    assert ops["fine_lm", "attention"].weights == 0

"""FLOPs of training on one sample, counted from the sizes, by part: dino, queries, coarse_lm, fine_lm, head.

A multiply and an add are 2 FLOPs; matrix products only (norms, softmax and activations are below 1 %). Padding is not counted.
Causal attention counts as full, as `torch.utils.flop_counter` does (our counts are tested against it). A backward costs one
product for the weights' gradient where they train, and one for the input's where something before it trains.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.llama.configuration_llama import LlamaConfig

from trainer.config import ModelConfig


@dataclass(frozen=True)
class Sizes:
    """The sizes that the counts depend on."""

    dino_width: int
    dino_layers: int
    dino_mlp: int
    """Products of one token in an MLP, in multiples of its width."""
    patches: int
    patch_pixels: int
    """Numbers in one patch: 3 channels x side x side."""
    llm_width: int
    llm_layers: int
    llm_heads_width: int
    """All query heads together."""
    llm_kv_width: int
    """All key heads together."""
    llm_mlp: int
    vocabulary: int


@dataclass(frozen=True)
class Shape:
    """One sample, or the mean of many (`mean_flops` is exact for many: it adds up their counts)."""

    distinct_frames: int
    shown_frames: int
    text_tokens: int
    supervised_tokens: int


def sizes(dino: Dinov2Config, llm: LlamaConfig, frame_side: int) -> Sizes:
    """frame_side: pixels; frames are square, and may be of another size than the one DINO was pretrained on."""
    patch = int(dino.patch_size)
    hidden = int(dino.hidden_size * dino.mlp_ratio)
    mlp = 3 * ((int(hidden * 2 / 3) + 7) // 8 * 8) if dino.use_swiglu_ffn else 2 * hidden
    head = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
    return Sizes(
        dino_width=dino.hidden_size,
        dino_layers=dino.num_hidden_layers,
        dino_mlp=mlp,
        patches=(frame_side // patch) ** 2,
        patch_pixels=3 * patch * patch,
        llm_width=llm.hidden_size,
        llm_layers=llm.num_hidden_layers,
        llm_heads_width=llm.num_attention_heads * head,
        llm_kv_width=llm.num_key_value_heads * head,
        llm_mlp=llm.intermediate_size,
        vocabulary=llm.vocab_size,
    )


def mean_flops(config: ModelConfig, s: Sizes, shapes: Iterable[tuple[Shape, int]]) -> dict[str, float]:
    """FLOPs per sample by part, over shapes and how often each occurs. Raises ValueError when there is none."""
    totals: dict[str, float] = {}
    samples = 0
    for shape, count in shapes:
        samples += count
        for part, flops in sample_flops(config, s, shape).items():
            totals[part] = totals.get(part, 0.0) + flops * count
    if samples == 0:
        raise ValueError("no samples to count FLOPs of")
    return {part: total / samples for part, total in totals.items()}


def sample_flops(config: ModelConfig, s: Sizes, shape: Shape) -> dict[str, float]:
    """Forward and backward of one sample, by part."""
    visual = shape.shown_frames * config.tokens_per_frame
    two_passes = config.encoder == "foveated" and not config.coarse_only
    return {
        "dino": shape.distinct_frames * _dino(config, s),
        "queries": _connector(config, s, shape),
        "coarse_lm": _language(config, s, shape.shown_frames) if two_passes else 0.0,
        "fine_lm": _language(config, s, visual + shape.text_tokens),
        "head": shape.supervised_tokens * _backward(2.0 * s.llm_width * s.vocabulary, weights=not config.freeze_llm),
    }


def measured_coarse_flops(s: Sizes, shape: Shape) -> float:
    """Forward alone of what measuring (not training) the coarse loss of one sample adds."""
    tokens = shape.shown_frames + shape.text_tokens
    return sum(_language_forward(s, tokens)) + shape.supervised_tokens * 2.0 * s.llm_width * s.vocabulary


def _backward(forward: float, *, weights: bool, inputs: bool = True) -> float:
    """Forward and backward together."""
    return forward * (1 + weights + inputs)


def _dino(config: ModelConfig, s: Sizes) -> float:
    """One frame through DINO. A deep query needs only K and V of the last layer."""
    n, d = s.patches + 1, s.dino_width
    embed = 2.0 * s.patches * s.patch_pixels * d
    kv = 4.0 * n * d * d
    rest = 4.0 * n * d * d + 2.0 * n * d * s.dino_mlp + 4.0 * n * n * d
    deep = config.encoder == "foveated" and config.deep_query
    layers = s.dino_layers * kv + (s.dino_layers - deep) * rest
    if config.encoder == "foveated" and not deep:
        layers += kv  # of the one cross-attention on the final features
    if config.freeze_dino:
        return embed + layers
    return _backward(embed, weights=True, inputs=False) + _backward(layers, weights=True)


def _connector(config: ModelConfig, s: Sizes, shape: Shape) -> float:
    """Everything between DINO's patches and the language model: looks, projections in and out."""
    d, trains = s.dino_width, not config.freeze_dino
    out = _backward(2.0 * d * d + 2.0 * d * s.llm_width, weights=True)
    if config.encoder == "multi_token":
        needless = 0.0 if trains else 2.0 * d * d  # nothing before the first map trains
        return shape.distinct_frames * config.tokens_per_frame * (out - needless)
    looking = 2.0 * d * d + 4.0 * (s.patches + 1) * d  # the query's projection; scores and their sum over patches
    if config.deep_query:
        looking = s.dino_layers * (looking + 2.0 * d * d + 2.0 * d * s.dino_mlp)
    look = _backward(2.0 * d * d, weights=True) + _backward(looking, weights=trains) + out
    if config.coarse_only:
        return shape.distinct_frames * look
    next_query = _backward(2.0 * s.llm_width * d, weights=True)
    return (shape.distinct_frames + shape.shown_frames) * look + shape.shown_frames * next_query


def _language(config: ModelConfig, s: Sizes, tokens: int) -> float:
    """One sequence through the language model, without the head. Both sides of an attention product come from before it."""
    projections, attention = _language_forward(s, tokens)
    return _backward(projections, weights=not config.freeze_llm) + _backward(attention, weights=True)


def _language_forward(s: Sizes, tokens: int) -> tuple[float, float]:
    """(projections and MLPs, attention) of one sequence."""
    per_token = 4.0 * s.llm_width * (s.llm_heads_width + s.llm_kv_width) + 6.0 * s.llm_width * s.llm_mlp
    return s.llm_layers * tokens * per_token, s.llm_layers * 4.0 * tokens * tokens * s.llm_heads_width

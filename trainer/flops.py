"""FLOPs and bytes of training on one sample, counted from the sizes, by operation and by part (PARTS).

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
    parts = dict.fromkeys(PARTS, 0.0)
    for operation in operations(config, s, shape):
        parts[operation.part] += operation.flops
    return parts


def measured_coarse_flops(s: Sizes, shape: Shape) -> float:
    """Forward alone of what measuring (not training) the coarse loss of one sample adds."""
    reading = _language("coarse_lm", s, shape.shown_frames + shape.text_tokens, weights=True)
    return sum(o.flops / o.passes for o in reading) + shape.supervised_tokens * 2.0 * s.llm_width * s.vocabulary


PARTS = ("dino", "queries", "coarse_lm", "fine_lm", "head")


@dataclass(frozen=True)
class Operation:
    """The products of one kind that a sample takes, all layers together, forward and backward."""

    part: str
    name: str
    forward_flops: float
    forward_numbers: float
    """Activations read and written in the forward."""
    weights: float
    """Numbers of its matrices; 0 for attention."""
    passes: int
    """1, and 1 for the gradient of the weights where they train, and 1 for that of the inputs where something before trains."""

    @property
    def flops(self) -> float:
        return self.forward_flops * self.passes

    def bytes(self, number_bytes: float, samples: float) -> float:
        """Moved at least, per sample, when `samples` share a read of the matrices: each pass reads and writes what it must once.

        Norms, activations and residuals are left out: they can be fused into the products beside them.
        """
        return self.passes * number_bytes * (self.forward_numbers + self.weights / samples)


def operations(config: ModelConfig, s: Sizes, shape: Shape) -> list[Operation]:
    """Every product that training on one sample takes."""
    visual = shape.shown_frames * config.tokens_per_frame
    two_passes = config.encoder == "foveated" and not config.coarse_only
    trains = not config.freeze_llm
    return [
        *_dino(config, s, shape.distinct_frames),
        *_connector(config, s, shape),
        *(_language("coarse_lm", s, shape.shown_frames, weights=trains) if two_passes else ()),
        *_language("fine_lm", s, visual + shape.text_tokens, weights=trains),
        _map("head", "head", shape.supervised_tokens, s.llm_width, s.vocabulary, 1 + trains + 1),
    ]


def _map(part: str, name: str, tokens: float, inner: int, outer: int, passes: int, matrices: int = 1) -> Operation:
    """tokens x inner through `matrices` of inner x outer."""
    numbers = tokens * (inner + outer)
    return Operation(
        part, name, 2.0 * matrices * tokens * inner * outer, float(matrices * numbers), float(matrices * inner * outer), passes
    )


def _dino(config: ModelConfig, s: Sizes, frames: int) -> list[Operation]:
    """A deep query needs only K and V of the last layer."""
    n, d, trains = s.patches + 1, s.dino_width, not config.freeze_dino
    tokens, passes = frames * n, 3 if trains else 1
    deep = config.encoder == "foveated" and config.deep_query
    whole = s.dino_layers - deep
    again = config.encoder == "foveated" and not deep  # K and V of the one cross-attention on the final features
    return [
        _map("dino", "patches", frames * s.patches, s.patch_pixels, d, 1 + trains),
        _map("dino", "key, value", tokens, d, d, passes, 2 * (s.dino_layers + again)),
        _map("dino", "query, out", tokens, d, d, passes, 2 * whole),
        _map("dino", "mlp", tokens, d, s.dino_mlp // 2, passes, 2 * whole),
        Operation("dino", "attention", 4.0 * whole * frames * n * n * d, 4.0 * whole * tokens * d, 0.0, passes),
    ]


def _connector(config: ModelConfig, s: Sizes, shape: Shape) -> list[Operation]:
    """Everything between DINO's patches and the language model: looks, projections in and out."""
    d, trains = s.dino_width, not config.freeze_dino
    if config.encoder == "multi_token":
        tokens = shape.distinct_frames * config.tokens_per_frame
        # Where DINO is frozen nothing before the first map trains.
        return [_map("queries", "out", tokens, d, d, 2 + trains), _map("queries", "to llm", tokens, d, s.llm_width, 3)]
    looks = shape.distinct_frames + (0 if config.coarse_only else shape.shown_frames)
    layers = s.dino_layers if config.deep_query else 1
    attention = 4.0 * layers * looks * (s.patches + 1) * d
    made = [
        _map("queries", "in", looks, d, d, 3),
        _map("queries", "query", looks, d, d, 2 + trains, layers),
        Operation("queries", "attention", attention, 2.0 * layers * looks * (s.patches + 2) * d, 0.0, 2 + trains),
        _map("queries", "out", looks, d, d, 3),
        _map("queries", "to llm", looks, d, s.llm_width, 3),
    ]
    if config.deep_query:
        made.append(_map("queries", "layer out", looks, d, d, 2 + trains, layers))
        made.append(_map("queries", "mlp", looks, d, s.dino_mlp // 2, 2 + trains, 2 * layers))
    if not config.coarse_only:
        made.append(_map("queries", "next query", shape.shown_frames, s.llm_width, d, 3))
    return made


def _language(part: str, s: Sizes, tokens: int, *, weights: bool) -> list[Operation]:
    """One sequence through the language model, without the head. Both sides of an attention product come from before it."""
    passes, layers = 2 + weights, s.llm_layers
    numbers = 2.0 * layers * tokens * (s.llm_heads_width + s.llm_kv_width)
    return [
        _map(part, "query, out", tokens, s.llm_width, s.llm_heads_width, passes, 2 * layers),
        _map(part, "key, value", tokens, s.llm_width, s.llm_kv_width, passes, 2 * layers),
        _map(part, "mlp", tokens, s.llm_width, s.llm_mlp, passes, 3 * layers),
        Operation(part, "attention", 4.0 * layers * tokens * tokens * s.llm_heads_width, numbers, 0.0, 3),
    ]

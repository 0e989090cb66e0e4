"""What the trainer is timed on: rows of the study, at two sizes, on batches of random pixels and words.

tiny: the backbones and the mixture of the tiny study. full: DINOv2-small and SmolLM2-135M with random weights, 7 frames and 128
words in the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from trainer.config import ModelConfig
from trainer.data.batches import Batch
from trainer.data.frames import DINOV2, RELAY, Look
from trainer.data.tiny import dino_config, llama_config
from trainer.flops import Operation, Shape, operations, sizes
from trainer.model.load import assemble
from trainer.model.vision_language import VisionLanguageModel

DINOV2_SMALL = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14, image_size=518)
"""facebook/dinov2-small."""
SMOLLM2_135M = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=2048,
    rope_theta=100000.0,
    tie_word_embeddings=True,
    pad_token_id=2,
    bos_token_id=1,
    eos_token_id=2,
)
"""HuggingFaceTB/SmolLM2-135M-Instruct."""


@dataclass(frozen=True)
class Shapes:
    name: Literal["tiny", "full"]
    dino: Dinov2Config
    llm: LlamaConfig
    look: Look
    clips: tuple[int, int]
    """Frames of a clip in the mixture, least and most."""
    words: tuple[int, int]
    """Text tokens, least and most."""


def shapes_called(name: Literal["tiny", "full"]) -> Shapes:
    if name == "tiny":
        return Shapes(name, dino_config(), llama_config(), RELAY, (3, 6), (8, 21))
    return Shapes(name, DINOV2_SMALL, SMOLLM2_135M, DINOV2, (5, 15), (32, 224))


@dataclass(frozen=True)
class Case:
    name: str
    frames: tuple[int, ...]
    """Of each sample of a batch; a mixture, or all the same."""
    replicate: int = 1
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(**self.changes)


def cases(shapes: Shapes, samples: int) -> list[Case]:
    """Fixed clips for F3; the mixture (60 % clips, 26 % images, 14 % text; mean 3 or 7 frames) for the variants.

    samples: of a batch. Batches of long clips have fewer: as many frames as 8 (full: 12) for each sample.
    """
    random = torch.Generator().manual_seed(0)
    least, most = shapes.clips
    clips = [int(torch.randint(least, most + 1, (1,), generator=random)) for _ in range(samples)]
    kinds = [i / samples for i in range(samples)]
    mixture = tuple(clip if kind < 0.60 else 1 if kind < 0.86 else 0 for clip, kind in zip(clips, kinds, strict=True))
    images = tuple(1 if kind < 0.86 else 0 for kind in kinds)
    most_frames = samples * (8 if shapes.name == "tiny" else 12)
    fixed = [Case(f"F3, {n} frame{'s' * (n > 1)}", (n,) * max(1, min(samples, most_frames // n))) for n in (1, 7, 16, 64)]
    return [
        *fixed,
        Case("F3, mixture", mixture),
        Case("F1, mixture", mixture, changes={"freeze_dino": True, "freeze_llm": True}),
        Case("A6, mixture", mixture, changes={"coarse_only": True}),
        Case("B1, mixture", mixture, changes={"encoder": "multi_token", "tokens_per_frame": 16}),
        Case("A8a, images", images),
        Case("A8b, images", images, replicate=16),
    ]


def model_of(case: Case, shapes: Shapes) -> VisionLanguageModel:
    """Random weights, the same for all cases."""
    torch.manual_seed(0)
    return assemble(case.model, Dinov2Model(shapes.dino), LlamaForCausalLM(shapes.llm), seed=0)


def random_batch(case: Case, shapes: Shapes) -> Batch:
    """Random pixels and words; all text is supervised."""
    random, samples = torch.Generator().manual_seed(1), len(case.frames)
    lengths = torch.randint(shapes.words[0], shapes.words[1] + 1, (samples,), generator=random)
    is_text = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    ids = torch.randint(1, shapes.llm.vocab_size, is_text.shape, generator=random).where(is_text, 0)
    frame_of = torch.full((samples, max(case.frames) * case.replicate), -1)
    used = 0
    for i, count in enumerate(case.frames):
        frame_of[i, : count * case.replicate] = torch.arange(used, used + count).repeat_interleave(case.replicate)
        used += count
    pixels = torch.randint(256, (used, 3, shapes.look.size, shapes.look.size), generator=random, dtype=torch.uint8)
    return Batch(pixels, frame_of, ids, is_text, is_text.clone(), tuple(range(samples)), ("",) * samples, shapes.look)


def part_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """These samples alone, padded to the longest of them."""
    at = torch.tensor(rows)
    frame_of, is_text = batch.frame_of[at], batch.is_text[at]
    there = frame_of >= 0
    used, again = torch.unique(frame_of[there], return_inverse=True)
    frame_of = frame_of.clone()
    frame_of[there] = again
    shown, words = int(there.sum(1).max()) if there.numel() else 0, int(is_text.sum(1).max())
    return replace(
        batch,
        frames=batch.frames[used],
        frame_of=frame_of[:, :shown],
        ids=batch.ids[at, :words],
        is_text=is_text[:, :words],
        supervised=batch.supervised[at, :words],
        rows=tuple(batch.rows[row] for row in rows),
        kinds=tuple(batch.kinds[row] for row in rows),
    )


def work_of(case: Case, shapes: Shapes, batch: Batch) -> list[Operation]:
    """Every product that a step on the batch takes, sample by sample."""
    its_sizes = sizes(shapes.dino, shapes.llm, shapes.look.size)
    return [op for sample in range(len(batch.rows)) for op in operations(case.model, its_sizes, _shape_of(batch, sample))]


def _shape_of(batch: Batch, sample: int) -> Shape:
    shown = batch.frame_of[sample][batch.frame_of[sample] >= 0]
    words = int(batch.is_text[sample].sum())
    return Shape(len(torch.unique(shown)), len(shown), words, words - (len(shown) == 0))

"""Small models with random weights, and small data in the real layout, for tests of the trainer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from trainer.config import ModelConfig
from trainer.data.batches import Batch
from trainer.data.manifest import index_root, write_manifest
from trainer.data.shards import Kind, Sample, write_shard
from trainer.job import Job, read_job
from trainer.model.load import assemble
from trainer.model.vision_language import VisionLanguageModel

VOCABULARY = 50
SIDE = 28
"""Pixels; with patches of 14, four of them."""
torch.set_num_threads(1)


def small_dino(seed: int = 0) -> Dinov2Model:
    torch.manual_seed(seed)
    config = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=SIDE,
        patch_size=14,
        layerscale_value=0.7,
        initializer_range=0.2,
    )
    return Dinov2Model(config).eval()


def small_llm(seed: int = 1) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def small_model(seed: int = 0, **settings: Any) -> VisionLanguageModel:
    return assemble(ModelConfig(**settings), small_dino(), small_llm(), seed)


def small_batch(frame_counts: Sequence[int], text_lengths: Sequence[int], replicate: int = 1, seed: int = 0) -> Batch:
    """Random samples; every frame of a sample is shown `replicate` times in a row; all text is supervised."""
    generator = torch.Generator().manual_seed(seed)
    size, length = len(frame_counts), max(text_lengths)
    frame_of = torch.full((size, replicate * max(frame_counts)), -1)
    ids, is_text = torch.zeros(size, length, dtype=torch.long), torch.zeros(size, length, dtype=torch.bool)
    used = 0
    for i, (frames, words) in enumerate(zip(frame_counts, text_lengths, strict=True)):
        frame_of[i, : frames * replicate] = torch.arange(used, used + frames).repeat_interleave(replicate)
        used += frames
        ids[i, :words] = torch.randint(1, VOCABULARY, (words,), generator=generator)
        is_text[i, :words] = True
    kinds = tuple("video" if frames > 1 else "image" if frames else "text" for frames in frame_counts)
    return Batch(
        torch.randn(used, 3, SIDE, SIDE, generator=generator), frame_of, ids, is_text, is_text.clone(), tuple(range(size)), kinds
    )


def one_of(batch: Batch, i: int) -> Batch:
    """A batch of sample `i` alone, without padding."""
    frame_of = batch.frame_of[i][batch.frame_of[i] >= 0]
    distinct, again = torch.unique(frame_of, return_inverse=True)
    words = int(batch.is_text[i].sum())
    cut = (batch.ids[i, :words][None], batch.is_text[i, :words][None], batch.supervised[i, :words][None])
    return Batch(batch.frames[distinct], again[None], *cut, batch.rows[i : i + 1], batch.kinds[i : i + 1])


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ (36 videos, 24 images, 20 texts; a validation set "few" of a third of each) and files/ (the cache)."""
    folder = tmp_path_factory.mktemp("small")
    root, random = folder / "data", np.random.default_rng(0)
    (root / "shards").mkdir(parents=True)
    for source, count, frames in (("relay", 36, 3), ("one_hop", 24, 1), ("words", 20, 0)):
        write_shard(root / "shards" / f"{source}-00.tar", [(_sample(source, i, frames, random), ".png") for i in range(count)])
    entries = index_root(root, folder / "files")
    held_out = [e for source in ("relay", "one_hop", "words") for e in [e for e in entries if e.source == source][::3]]
    write_manifest(root / "manifests" / "few.parquet", held_out)
    return folder


def _sample(source: str, number: int, frames: int, random: np.random.Generator) -> Sample:
    pictures = []
    for _ in range(frames):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (56, 56, 3), np.uint8)).save(file, "PNG")
        pictures.append(file.getvalue())
    digits = " ".join(str(digit) for digit in random.integers(0, 10, max(1, frames - 1)))
    if not frames:
        digits = f"{number // 10} {number % 10}"  # texts with one content are one sample
    meta: dict[str, Any] = {"user": "what digits do cues point at ?" if frames > 1 else "what digit matches the cue ?"}
    meta |= {"assistant": digits, "source": source, "frame_count": frames}
    if frames > 1:
        meta["target_cells"] = [int(cell) for cell in random.integers(0, 16, frames - 1)] + [-1]
    kinds: dict[int, Kind] = {0: "text", 1: "image"}
    return Sample(f"{source}-{number:03d}", kinds.get(frames, "video"), meta, tuple(pictures))


SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "model": {"vision": "tiny/dino-untrained", "language": "tiny/llama-untrained"},
    "optim": {"lr": 1e-3, "connector_ratio": 3.0},
    "train": {"samples": 48, "batch_samples": 8, "micro_batch_samples": 8, "precision": "float32"},
    "data": {"mix": {"video": 0.5, "image": 0.25, "text": 0.25}, "workers": 0},
    "eval": {"set": "few", "every_samples": 32, "batch_samples": 16, "attention_clips": 3},
}
NewJob = Callable[..., Job]


@pytest.fixture
def new_job(small_data: Path, tmp_path: Path) -> NewJob:
    """new_job("name", {"train.samples": 16}, resume_from=…) makes an attempt's folder with its config.json and reads it."""

    def new(
        name: str, changes: Mapping[str, Any] | None = None, resume_from: str = "", references: Sequence[Mapping[str, Any]] = ()
    ) -> Job:
        folder = tmp_path / name
        folder.mkdir()
        said = {
            "study": "test",
            "profile": "tiny",
            "job": f"{name}-s42",
            "run": name,
            "seed": 42,
            "attempt": 1,
            "resume_from": resume_from,
            "settings": settings(small_data, changes or {}),
            "references": {f"R{i}": settings(small_data, its) for i, its in enumerate(references)},
            "files": str(small_data / "files"),
        }
        (folder / "config.json").write_text(json.dumps(said))
        return read_job(folder)

    return new


def settings(small_data: Path, changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    nested = {part: dict(values) for part, values in SETTINGS.items()}
    nested["data"]["root"] = str(small_data / "data")
    for name, value in changes.items():
        part, setting = name.split(".")
        nested.setdefault(part, {})[setting] = value
    return nested


def metrics_of(job: Job) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]

"""A run's data, opened: manifest drawn (once for the study), texts tokenised and frames decoded (once for the checkout)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.config import TrainConfig
from trainer.data.batches import Samples, SampleStream, Validation
from trainer.data.frames import Frames, Look, look_of
from trainer.data.indexed import counted_by, index_path, read_index, usable
from trainer.data.manifest import SCHEMA, Manifest, draw, index_root, shards_of, table_of, validation
from trainer.data.once import built_once
from trainer.data.scenes import scenes
from trainer.data.shards import DataError, fingerprint, read_entry
from trainer.data.texts import Texts, loss_without_looking, tokenised
from trainer.data.tokenizer import Tokenizer, load_tokenizer
from trainer.losses import loss_named


@dataclass(frozen=True)
class Data:
    train: SampleStream
    val: Validation
    tokenizer: Tokenizer
    uninformed: dict[str, float]
    """Per visual kind the validation loss of one who never looks; text is absent: there the untrained loss stands for it."""
    manifest_hash: str
    eval_hash: str
    scenes: Sequence[str | None]
    """Per validation sample the clip or image that it is about; None for a text."""
    shards: Path
    look: Look
    """How pixels become the vision model's input."""

    def answers(self, rows: Sequence[int]) -> list[str]:
        """The validation set's gold answers."""
        told = []
        for row in rows:
            ids, answer = self.val.samples.texts.of(row)
            told.append(self.tokenizer.decode(ids[answer].tolist()))
        return told

    def target_cells(self, row: int) -> list[int] | None:
        """Per frame of a validation sample the patch that must be looked at (-1: none); None where the shard does not say."""
        entry = self.val.samples.manifest.entry(row)
        cells = read_entry(self.shards, entry, with_pictures=False).meta.get("target_cells")
        if cells is not None and len(cells) != entry.frames:
            raise DataError(f"{self.shards / entry.shard}: {entry.key}: {len(cells)} target_cells for {entry.frames} frames")
        return cells


def open_data(config: TrainConfig, seed: int, cache: Path) -> Data:
    """Everything a run reads. `seed` is the job's: it orders the samples; which samples is the study's (data.manifest_seed).

    cache: folder shared by all jobs of a checkout. Raises DataError with what to change.
    """
    root = Path(config.data.root)
    shards_of(root)
    tokenizer = load_tokenizer(config.model.language, cache)
    held_out = validation(root, config.eval.set)
    drawn, train_texts = training(config, tokenizer, cache)
    val_texts = texts_of(held_out, config, tokenizer, cache)
    look = look_of(config.model.vision)
    frames = Frames(root / "shards", look.size, cache, left_out=index_path(root).exists())

    def samples(manifest: Manifest, texts: Texts) -> Samples:
        return Samples(manifest, texts, frames, look, config, tokenizer.pad_id)

    answer_only = loss_named(config.train.loss).answer_only
    return Data(
        SampleStream(samples(drawn, train_texts), config.train.batch_samples, seed),
        Validation(samples(held_out, val_texts), config.eval.batch_samples),
        tokenizer,
        loss_without_looking(drawn, train_texts, held_out, val_texts, answer_only),
        drawn.hash,
        held_out.hash,
        scenes(held_out, root / "shards", cache / "scenes" / f"{held_out.hash}.parquet"),
        root / "shards",
        look,
    )


def training(config: TrainConfig, tokenizer: Tokenizer, cache: Path) -> tuple[Manifest, Texts]:
    """The training manifest and its texts, from the cache when these shards were drawn from in this way before."""
    root = Path(config.data.root)
    shards = shards_of(root)
    sets = sorted((root / "manifests").glob("*.parquet"))
    said = [
        [fingerprint(path) for path in (*shards, *sets)],
        sorted(config.data.mix.items()),
        [config.train.samples, config.data.manifest_seed, config.data.repeat],
    ]
    if index_path(root).exists():
        said.append([fingerprint(index_path(root)), tokenizer.hash, config.data.max_text_tokens])
    name = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    path = cache / "manifests" / f"{name}.parquet"

    def build(temporary: Path) -> None:
        pool, data = pool_of(root, cache, tokenizer, config.data.max_text_tokens), config.data
        rows = draw(pool, held_out_of(root), data.mix, config.train.samples, data.manifest_seed, data.repeat)
        drawn_from = os.path.relpath(root.resolve(), cache.resolve())  # true of a copied checkout too
        pq.write_table(rows.replace_schema_metadata({"root": drawn_from}), temporary)

    built_once(path, build)
    manifest = Manifest(pq.read_table(path))
    texts = texts_of(manifest, config, tokenizer, cache)
    return manifest.with_tokens(texts.lengths()), texts


def pool_of(root: Path, cache: Path, tokenizer: Tokenizer, most_tokens: int) -> pa.Table:
    """What manifests are drawn from: the good samples of the index, or without one every sample, as it stands in its shard.

    Raises DataError for an index that does not fit its shards, and without one for the first sample that cannot be used.
    """
    if index_path(root).exists():
        return usable(read_index(root), tokenizer.hash, counted_by(root), most_tokens).select(SCHEMA.names)
    return table_of(index_root(root, cache))


def held_out_of(root: Path) -> pa.Table:
    """The samples of all validation sets."""
    sets = [validation(root, file.stem).table.select(SCHEMA.names) for file in sorted((root / "manifests").glob("*.parquet"))]
    return pa.concat_tables(sets) if sets else SCHEMA.empty_table()


def texts_of(manifest: Manifest, config: TrainConfig, tokenizer: Tokenizer, cache: Path) -> Texts:
    """A manifest's texts as tokens, from the cache when they have been tokenised before."""
    target = cache / "texts" / f"{manifest.hash}-{tokenizer.hash[:8]}-{config.data.max_text_tokens}"
    return tokenised(manifest, Path(config.data.root) / "shards", tokenizer, config.data.max_text_tokens, target)

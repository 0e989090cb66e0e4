"""A run's data, opened: manifest drawn (once for the study), texts tokenised and frames decoded (once for the checkout)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.config import TrainConfig
from trainer.data.batches import Samples, SampleStream, Validation
from trainer.data.frames import Frames, fingerprint, look_of
from trainer.data.manifest import Manifest, draw, index_root, shards_of, table_of, validation
from trainer.data.once import built_once
from trainer.data.shards import DataError, read_sample
from trainer.data.texts import Texts, loss_without_looking, tokenised
from trainer.data.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Data:
    train: SampleStream
    val: Validation
    tokenizer: Tokenizer
    uninformed: dict[str, float]
    """Per visual kind the validation loss of one who never looks; text is absent: there the untrained loss stands for it."""
    manifest_hash: str
    eval_hash: str
    shards: Path

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
        cells = read_sample(self.shards / entry.shard, entry.offset, entry.length).meta.get("target_cells")
        if cells is not None and len(cells) != entry.frames:
            raise DataError(f"{self.shards / entry.shard}: {entry.key}: {len(cells)} target_cells for {entry.frames} frames")
        return cells


def open_data(config: TrainConfig, seed: int, cache: Path) -> Data:
    """Everything a run reads. `seed` is the job's: it orders the samples; which samples is the study's (data.manifest_seed).

    cache: folder shared by all jobs of a checkout. Raises DataError with what to change.
    """
    root = Path(config.data.root)
    shards = shards_of(root)
    tokenizer = load_tokenizer(config.model.language, cache)
    held_out = validation(root, config.eval.set)
    drawn, train_texts = _drawn(config, root, shards, tokenizer, cache)
    val_texts = tokenised(held_out, root / "shards", tokenizer, config.data.max_text_tokens, _texts_path(held_out, config, cache))
    look = look_of(config.model.vision)
    frames = Frames(root / "shards", look.size, cache)

    def samples(manifest: Manifest, texts: Texts) -> Samples:
        return Samples(manifest, texts, frames, look, config, tokenizer.pad_id)

    answer_only = config.train.loss == "text_ce_answer_only"
    return Data(
        SampleStream(samples(drawn, train_texts), config.train.batch_samples, seed),
        Validation(samples(held_out, val_texts), config.eval.batch_samples),
        tokenizer,
        loss_without_looking(drawn, train_texts, held_out, val_texts, answer_only),
        drawn.hash,
        held_out.hash,
        root / "shards",
    )


def _drawn(config: TrainConfig, root: Path, shards: list[Path], tokenizer: Tokenizer, cache: Path) -> tuple[Manifest, Texts]:
    """The training manifest and its texts, from the cache when these shards were drawn from in this way before."""
    sets = sorted((root / "manifests").glob("*.parquet"))
    said = [
        [fingerprint(path) for path in (*shards, *sets)],
        sorted(config.data.mix.items()),
        [config.train.samples, config.data.manifest_seed, config.data.repeat],
    ]
    name = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    path = cache / "manifests" / f"{name}.parquet"
    if not path.exists():
        held_out = [entry for file in sets for entry in validation(root, file.stem).entries()]
        rows = draw(
            index_root(root, cache),
            held_out,
            config.data.mix,
            config.train.samples,
            config.data.manifest_seed,
            config.data.repeat,
        )
        built_once(path, lambda temporary: pq.write_table(table_of(rows), temporary))
    manifest = Manifest(pq.read_table(path))
    texts = tokenised(manifest, root / "shards", tokenizer, config.data.max_text_tokens, _texts_path(manifest, config, cache))
    return Manifest(manifest.table.append_column("tokens", pa.array(texts.lengths()))), texts


def _texts_path(manifest: Manifest, config: TrainConfig, cache: Path) -> Path:
    name = hashlib.sha256(config.model.language.encode()).hexdigest()[:8]
    return cache / "texts" / f"{manifest.hash}-{name}-{config.data.max_text_tokens}"

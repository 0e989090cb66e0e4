"""A run's data, opened."""

import math
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trainer.config import TrainConfig
from trainer.data.open import open_data
from trainer.data.shards import DataError
from trainer.data.tokenizer import write_tiny_tokenizer


def test_training_and_validation_share_neither_key_nor_content(config: TrainConfig, world: tuple[Path, Path]) -> None:
    data = open_data(config, 42, world[1])
    train, val = data.train.samples.manifest.entries(), data.val.samples.manifest.entries()
    assert not {(e.source, e.key) for e in train} & {(e.source, e.key) for e in val}
    assert not {e.content for e in train} & {e.content for e in val}


def test_a_drawn_manifest_says_which_folder_it_is_from(config: TrainConfig, world: tuple[Path, Path]) -> None:
    root, cache = world
    open_data(config, 42, cache)
    manifests = list((cache / "manifests").glob("*.parquet"))
    assert manifests
    assert {(cache / pq.read_schema(file).metadata[b"root"].decode()).resolve() for file in manifests} == {root.resolve()}


def test_the_manifest_is_the_studys_and_not_the_seeds(config: TrainConfig, world: tuple[Path, Path]) -> None:
    first, second = open_data(config, 42, world[1]), open_data(config, 43, world[1])
    assert first.manifest_hash == second.manifest_hash
    other = open_data(replace(config, data=replace(config.data, manifest_seed=2)), 42, world[1])
    assert other.manifest_hash != first.manifest_hash
    assert other.eval_hash == first.eval_hash


def test_the_manifest_counts_frames_and_tokens(config: TrainConfig, world: tuple[Path, Path]) -> None:
    samples = open_data(config, 42, world[1]).train.samples
    assert samples.manifest.tokens is not None
    assert (samples.manifest.tokens == samples.text_tokens()).all()
    video = samples.manifest.kinds.index("video")
    assert (samples.manifest.frames[video], samples.text_tokens()[video]) == (6, 16)


def test_another_tokenizer_of_the_same_name_reads_the_texts_anew(
    config: TrainConfig, world: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "language"
    write_tiny_tokenizer(folder)
    its = replace(config, model=replace(config.model, language=str(folder)))
    before = open_data(its, 42, world[1]).train.samples.texts.of(0)[0].tolist()
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("{{", "{{ bos_token + ' ' }}{{", 1))
    after = open_data(its, 42, world[1]).train.samples.texts.of(0)[0].tolist()
    assert after == open_data(its, 42, tmp_path / "cache").train.samples.texts.of(0)[0].tolist()
    assert after != before


def test_answers_and_targets_are_those_of_the_shards(config: TrainConfig, world: tuple[Path, Path]) -> None:
    data = open_data(config, 42, world[1])
    assert [len(answer.split()) for answer in data.answers([0, data.val.rows("image")[0]])] == [5, 1]
    cells = data.target_cells(0)
    assert cells is not None
    assert cells[0] == -1
    assert all(0 <= cell < 16 for cell in cells[1:])
    assert data.target_cells(data.val.rows("image")[0]) is None


def test_one_who_never_looks_guesses_digits(config: TrainConfig, world: tuple[Path, Path]) -> None:
    told = open_data(config, 42, world[1]).uninformed
    assert set(told) == {"video", "image"}
    assert told["video"] == pytest.approx(5 * math.log(10) / 6, rel=0.35)  # 20 clips are few counts
    everything = open_data(replace(config, train=replace(config.train, loss="text_ce_all")), 42, world[1]).uninformed
    assert everything["video"] < told["video"]


def test_a_mix_the_pool_cannot_give_is_told(config: TrainConfig, world: tuple[Path, Path]) -> None:
    greedy = replace(config, train=replace(config.train, samples=400))
    with pytest.raises(
        DataError, match=r"data.mix asks for 120 samples of 'image/sparse', and there are 25 outside the validation"
    ):
        open_data(greedy, 42, world[1])


def test_an_answer_that_would_be_cut_away_is_told(config: TrainConfig, world: tuple[Path, Path]) -> None:
    short = replace(config, data=replace(config.data, max_text_tokens=5))
    with pytest.raises(DataError, match=r"\.tar: .*: no token of its answer is among the first 5; raise data.max_text_tokens"):
        open_data(short, 42, world[1])


def test_a_folder_that_is_not_there_is_told(config: TrainConfig, world: tuple[Path, Path], tmp_path: Path) -> None:
    nowhere = replace(config, data=replace(config.data, root=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"data.root = .*: there are no shards .*python -m trainer.data.prepare"):
        open_data(nowhere, 42, world[1])

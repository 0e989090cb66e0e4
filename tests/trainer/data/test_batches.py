"""Batches are the seed's alone, and hold what the manifest says."""

import multiprocessing
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer.config import TrainConfig
from trainer.data import frames as frames_file
from trainer.data.batches import Batch, SampleStream, stream_seed
from trainer.data.frames import RELAY
from trainer.data.open import Data, open_data
from trainer.data.shards import DataError
from trainer.model.packing import pack


@pytest.fixture
def data(config: TrainConfig, world: tuple[Path, Path]) -> Data:
    return open_data(config, seed=42, cache=world[1])


def first(data: Data, kind: str) -> int:
    return data.train.samples.manifest.kinds.index(kind)


def same(a: Batch, b: Batch) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in Batch.__dataclass_fields__]
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def test_the_order_is_a_permutation_made_by_the_seed_alone(data: Data, config: TrainConfig, world: tuple[Path, Path]) -> None:
    order = [row for step in range(5) for row in data.train.global_batch(step)]
    assert sorted(order) == list(range(40))
    again = open_data(replace(config, data=replace(config.data, replicate_image_frames=4, workers=2)), 42, world[1])
    assert [row for step in range(5) for row in again.train.global_batch(step)] == order
    other = open_data(config, 43, world[1])
    assert [row for step in range(5) for row in other.train.global_batch(step)] != order
    assert again.train.first_batches_hash() == data.train.first_batches_hash() != other.train.first_batches_hash()


def test_past_the_end_it_goes_on_with_another_permutation(data: Data) -> None:
    first_pass, second_pass = ([row for step in range(a, a + 5) for row in data.train.global_batch(step)] for a in (0, 5))
    assert sorted(second_pass) == sorted(first_pass) != second_pass
    assert second_pass != first_pass
    assert data.train.global_batch(0) == first_pass[:8]


def test_a_batch_across_the_end_has_the_rest_of_one_pass_and_the_start_of_the_next(data: Data) -> None:
    stream = SampleStream(data.train.samples, batch_samples=24, seed=42)
    one, two = stream.global_batch(0), stream.global_batch(1)
    assert sorted([*one, *two[:16]]) == list(range(40))
    assert stream.steps(40) == 2
    assert stream.steps(49) == 3


def test_streams_of_a_seed_differ_and_stay() -> None:
    seeds = {stream_seed(42, "init"), stream_seed(42, "order"), stream_seed(42, "dropout"), stream_seed(43, "init")}
    assert len(seeds) == 4
    assert stream_seed(42, "order") == 7827107569428156913


def test_a_batch_holds_each_frame_once_and_says_where_it_is_shown(data: Data) -> None:
    video, image, text = first(data, "video"), first(data, "image"), first(data, "text")
    batch = data.train.load([text, image, video])
    assert batch.frames.shape == (7, 3, 56, 56)
    assert batch.frame_of.tolist() == [[-1] * 6, [0, -1, -1, -1, -1, -1], [1, 2, 3, 4, 5, 6]]
    assert batch.kinds == ("text", "image", "video")
    assert batch.rows == (text, image, video)
    assert abs(float(pack(batch, 1, torch.device("cpu")).frames.mean())) < 0.5


def test_a_batch_of_texts_has_no_frames(data: Data) -> None:
    batch = data.train.load([first(data, "text")])
    assert batch.frames.shape == (0, 3, 56, 56)
    assert batch.frame_of.shape == (1, 0)


def test_a_replicated_image_is_encoded_once(config: TrainConfig, world: tuple[Path, Path]) -> None:
    many = open_data(replace(config, data=replace(config.data, replicate_image_frames=4)), 42, world[1])
    image, video = first(many, "image"), first(many, "video")
    batch = many.train.load([image, video])
    assert batch.frames.shape[0] == 7
    assert batch.frame_of.tolist() == [[0, 0, 0, 0, -1, -1], [1, 2, 3, 4, 5, 6]]
    assert many.train.samples.frames_shown()[[image, video]].tolist() == [4, 6]
    assert many.train.samples.frames_distinct()[[image, video]].tolist() == [1, 6]


def test_a_long_clip_is_thinned(config: TrainConfig, world: tuple[Path, Path]) -> None:
    short = open_data(replace(config, data=replace(config.data, max_frames=3)), 42, world[1])
    whole = open_data(config, 42, world[1])
    row = first(short, "video")
    assert torch.equal(short.train.load([row]).frames, whole.train.load([row]).frames[[0, 2, 5]])


def test_padding_is_no_text_and_no_target(data: Data) -> None:
    batch = data.train.load(data.train.global_batch(0))
    lengths = [data.train.samples.texts.length(row) for row in batch.rows]
    assert batch.is_text.sum(1).tolist() == lengths
    assert batch.ids.shape[1] == max(lengths)
    assert not (batch.supervised & ~batch.is_text).any()
    assert (batch.ids[~batch.is_text] == data.tokenizer.pad_id).all()


def test_the_loss_says_what_is_supervised(config: TrainConfig, world: tuple[Path, Path]) -> None:
    answers = open_data(config, 42, world[1])
    everything = open_data(replace(config, train=replace(config.train, loss="text_ce_all")), 42, world[1])
    rows = [first(answers, "video"), first(answers, "text")]
    narrow, wide = answers.train.load(rows), everything.train.load(rows)
    assert narrow.supervised[0].sum() == 6  # five digits and the end
    assert torch.equal(wide.supervised[0], wide.is_text[0])
    assert wide.supervised[1].sum() == wide.is_text[1].sum() - 1  # nothing stands left of a text's first token


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_loaded_ahead_are_the_same(data: Data, workers: int) -> None:
    plan = [data.train.global_batch(step)[:4] for step in range(3)]
    for rows, batch in zip(plan, data.train.loaded(plan, workers), strict=True):
        assert same(batch, data.train.load(rows))


def test_a_signal_to_all_processes_stops_no_batch(data: Data) -> None:
    plan = [data.train.global_batch(step)[:4] for step in range(12)]
    batches = data.train.loaded(plan, workers=2)
    next(batches), next(batches)  # one of each process
    workers = multiprocessing.active_children()
    subprocess.run(["kill", "-TERM", *[str(worker.pid) for worker in workers]], check=True)
    assert len(list(batches)) == 10


def test_who_trains_can_end_its_loaders(data: Data) -> None:
    batches = data.train.loaded([data.train.global_batch(step)[:4] for step in range(12)], workers=2)
    next(batches), next(batches)
    workers = multiprocessing.active_children()
    for worker in workers:  # as the interpreter's end does it, after a crash
        worker.terminate()
        worker.join(10)
    assert not any(worker.is_alive() for worker in workers)


def test_the_validation_set_comes_once_in_its_order(data: Data) -> None:
    rows = [row for batch in data.val.batches() for row in batch.rows]
    assert rows == list(range(15)) == list(range(len(data.val)))
    assert [*data.val.rows("video"), *data.val.rows("image"), *data.val.rows("text")] == rows


def test_a_prompt_ends_where_the_answer_begins(data: Data) -> None:
    assert data.tokenizer.decode(data.val.prompt(0)) == "what digits do cues point at ?"
    assert data.tokenizer.decode(data.val.prompt(data.val.rows("image")[0])) == "what digit matches the cue ?"


def test_frames_travel_as_decoded_and_are_normalised_where_they_are_used(data: Data) -> None:
    batch = data.train.load(data.train.global_batch(0))
    assert batch.frames.dtype == torch.uint8
    packed = pack(batch, 1, torch.device("cpu"))
    assert torch.equal(packed.frames, RELAY.normalised(batch.frames))
    floats = replace(batch, frames=packed.frames, look=None)
    assert torch.equal(pack(floats, 1, torch.device("cpu")).frames, packed.frames)


def test_a_sample_that_fails_in_a_loaders_process_is_told_by_shard_and_key(
    config: TrainConfig, world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world[0], tmp_path / "data")
    monkeypatch.setattr(frames_file, "MOST_CACHED_BYTES", 1)
    data = open_data(replace(config, data=replace(config.data, root=str(tmp_path / "data"))), 42, tmp_path / "cache")
    entry = data.train.samples.manifest.entry(first(data, "video"))
    shard = tmp_path / "data" / "shards" / entry.shard
    content = bytearray(shard.read_bytes())
    content[entry.offset + 2048 : entry.offset + entry.length - 1024] = bytes(entry.length - 3072)
    shard.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{shard}: .*"):
        list(data.train.loaded([data.train.global_batch(step) for step in range(5)], workers=2))

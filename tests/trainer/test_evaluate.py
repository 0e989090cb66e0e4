"""A validation set through a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.conftest import NewJob
from trainer.data.batches import Batch, Samples
from trainer.data.open import open_data
from trainer.evaluate import Evaluator, normalised, uninformed
from trainer.model.load import build_model
from trainer.ranks import Ranks

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("said", "normal"), [("The Cat.", "cat"), ("  a  red,  BALL! ", "red ball"), ("anthem", "anthem"), ("7", "7"), ("", "")]
)
def test_answers_are_compared_without_case_articles_and_punctuation(said: str, normal: str) -> None:
    assert normalised(said) == normal


def test_uninformed_takes_the_better_guess_per_kind_and_weighs_kinds_by_their_samples() -> None:
    untrained = {"val_loss": 9.0, "val_loss/video": 2.0, "val_loss/image": 1.0, "val_loss/text": 0.5}
    told = uninformed(untrained, {"video": 1.5, "image": 1.2}, {"video": 2, "image": 1, "text": 1})
    assert told == {"val_loss": (2 * 1.5 + 1.0 + 0.5) / 4, "val_loss/video": 1.5, "val_loss/image": 1.0, "val_loss/text": 0.5}


def test_uninformed_leaves_out_what_nobody_knows() -> None:
    assert uninformed({"val_loss/video": math.nan}, {}, {"video": 3, "image": 0, "text": 0}) == {}


def test_an_evaluation_tells_all_it_measured_and_nothing_else(new_job: NewJob) -> None:
    job = new_job("F3")
    data = open_data(job.config, job.seed, job.cache)
    model = build_model(job.config.model, job.cache, job.seed)
    metrics = Evaluator(data, job.config, Ranks(0, 1, CPU), job.folder).evaluate(model, model, 7)
    assert set(metrics) == {
        *("val_loss", "val_loss/video", "val_loss/image", "val_loss/text", "loss_fine", "loss_coarse", "loss_ratio"),
        *("attention_entropy", "target_hit", "image_vqa"),
    }
    table = pq.read_table(job.folder / "eval" / "00000007.parquet")
    assert table.column_names == ["row", "kind", "clip", "image", "loss", "tokens"]
    assert sum(table["loss"].to_pylist()) / len(table) == pytest.approx(metrics["val_loss"])
    videos = [loss for loss, kind in zip(table["loss"].to_pylist(), table["kind"].to_pylist(), strict=True) if kind == "video"]
    assert sum(videos) / len(videos) == pytest.approx(metrics["val_loss/video"])
    maps = load_file(job.folder / "eval" / "00000007_attention.safetensors")
    assert sorted(maps) == [f"{row}/{view}" for row in range(3) for view in ("coarse", "fine")]
    assert maps["0/fine"].shape == (3, 4, 3, 17)
    torch.testing.assert_close(maps["0/fine"].sum(-1), torch.ones(3, 4, 3))


def test_processes_that_load_ahead_change_no_bit_and_no_random_stream(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where frames are not kept decoded, one process that decodes would hold up a GPU in every evaluation."""
    told, here, load = [], Counter[int](), Samples.load

    def counted(samples: Samples, rows: Sequence[int]) -> Batch:
        here[workers] += 1
        return load(samples, rows)

    monkeypatch.setattr(Samples, "load", counted)
    for workers in (0, 2):
        job = new_job(f"{workers} workers", {"data.workers": workers, "eval.batch_samples": 4})
        data = open_data(job.config, job.seed, job.cache)
        model = build_model(job.config.model, job.cache, job.seed)
        before, evaluator = torch.get_rng_state(), Evaluator(data, job.config, Ranks(0, 1, CPU), job.folder)
        told.append(evaluator.evaluate(model, model, 0))
        assert torch.equal(torch.get_rng_state(), before)
    assert told[0] == told[1]
    assert here[2] == here[0] - len(evaluator.batches())


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({"model.coarse_only": True}, {"loss_fine", "loss_coarse", "loss_ratio"}),
        (
            {"model.encoder": "multi_token", "model.tokens_per_frame": 16},
            {"loss_fine", "loss_ratio", "attention_entropy", "target_hit"},
        ),
    ],
)
def test_what_a_variant_has_not_is_absent(new_job: NewJob, changes: dict[str, object], absent: set[str]) -> None:
    job = new_job("run", changes)
    data = open_data(job.config, job.seed, job.cache)
    model = build_model(job.config.model, job.cache, job.seed)
    metrics = Evaluator(data, job.config, Ranks(0, 1, CPU), job.folder).evaluate(model, model, 0)
    assert absent.isdisjoint(metrics)
    assert "image_vqa" in metrics


@pytest.mark.parametrize("size", [1, 2, 5, 64])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_sample_is_one_ranks_and_clips_with_maps_are_the_first_ranks(new_job: NewJob, size: int, world: int) -> None:
    job = new_job("run", {"eval.batch_samples": size, "eval.attention_clips": 3})
    data = open_data(job.config, job.seed, job.cache)
    shares = [Evaluator(data, job.config, Ranks(rank, world, CPU), job.folder).batches() for rank in range(world)]
    assert sorted(row for share in shares for rows in share for row in rows) == list(range(len(data.val)))
    assert {0, 1, 2} <= {row for rows in shares[0] for row in rows}
    assert max(map(len, shares)) - min(map(len, shares)) <= max(1, -(-3 // size))


def test_a_guess_without_looking_is_the_most_common_answer_to_a_question(new_job: NewJob) -> None:
    job = new_job("run", {"data.mix": {"image": 1.0}, "train.samples": 16})
    data = open_data(job.config, job.seed, job.cache)
    texts = data.train.samples.texts
    told = [data.tokenizer.decode(ids[answer].tolist()) for ids, answer in map(texts.of, range(len(texts)))]
    rows = data.val.rows("image")
    counts = sorted(((told.count(one), -told.index(one), one) for one in set(told)), reverse=True)
    right = sum(gold == counts[0][2] for gold in data.answers(rows)) / len(rows)  # they all ask the same question
    assert Evaluator(data, job.config, Ranks(0, 1, CPU), job.folder).guessed() == {"image_vqa": right}


def test_a_guess_needs_questions_in_training(new_job: NewJob) -> None:
    job = new_job("run", {"data.mix": {"text": 1.0}, "train.samples": 8})
    data = open_data(job.config, job.seed, job.cache)
    assert Evaluator(data, job.config, Ranks(0, 1, CPU), job.folder).guessed() == {}


def test_every_picture_is_told_with_the_losses(new_job: NewJob) -> None:
    job = new_job("run")
    data = open_data(job.config, job.seed, job.cache)
    model = build_model(job.config.model, job.cache, job.seed)
    Evaluator(data, job.config, Ranks(0, 1, CPU), job.folder).evaluate(model, model, 1)
    for row in pq.read_table(job.folder / "eval" / "00000001.parquet").to_pylist():
        assert {name for name in ("clip", "image") if row[name]} == {"video": {"clip"}, "image": {"image"}, "text": set()}[
            row["kind"]
        ]


def test_the_batch_size_of_an_evaluation_changes_nothing(new_job: NewJob) -> None:
    told = []
    for size in (5, 64):
        job = new_job(f"run{size}", {"eval.batch_samples": size})
        data = open_data(job.config, job.seed, job.cache)
        model = build_model(job.config.model, job.cache, job.seed)
        told.append(Evaluator(data, job.config, Ranks(0, 1, CPU), job.folder).evaluate(model, model, 0))
    assert told[0] == pytest.approx(told[1], rel=1e-5)

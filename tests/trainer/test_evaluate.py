"""A validation set through a model."""

from __future__ import annotations

import math
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.conftest import NewJob, one_of, small_batch, small_model
from trainer.data.open import open_data
from trainer.evaluate import Evaluator, greedy, normalised, uninformed
from trainer.model.load import build_model
from trainer.model.packing import pack
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


@pytest.mark.parametrize("settings", [{}, {"deep_query": False}, {"encoder": "multi_token", "tokens_per_frame": 4}])
def test_greedy_answers_with_a_cache_are_those_without(settings: dict[str, Any]) -> None:
    model, batch = small_model(**settings), small_batch([2, 1, 0], [3, 1, 5])
    prompts = [batch.ids[i][batch.is_text[i]].tolist() for i in range(3)]
    answers = greedy(model, batch, prompts, most=4, eos=-1, device=CPU)
    for i, answer in enumerate(answers):
        told = list(prompts[i])
        for expected in answer:
            alone = one_of(batch, i)
            packed = pack(alone, model.connector.tokens_per_frame, CPU)
            visual = model.connector.see(model.dino, model.llm, packed, "coarse_fine").final.tokens
            words = model.llm.model.embed_tokens(torch.tensor(told))
            hidden = model.llm.model(inputs_embeds=torch.cat([visual, words])[None]).last_hidden_state[0, -1]
            told.append(int(model.llm.lm_head(hidden).argmax()))
            assert told[-1] == expected


def test_an_answer_ends_before_the_end_token() -> None:
    model, batch = small_model(), small_batch([2], [3])
    prompt = [batch.ids[0].tolist()]
    free = greedy(model, batch, prompt, most=5, eos=-1, device=CPU)[0]
    assert greedy(model, batch, prompt, most=5, eos=free[2], device=CPU)[0] == free[: free.index(free[2])]


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
    assert table.column_names == ["row", "kind", "loss", "tokens"]
    assert sum(table["loss"].to_pylist()) / len(table) == pytest.approx(metrics["val_loss"])
    videos = [loss for loss, kind in zip(table["loss"].to_pylist(), table["kind"].to_pylist(), strict=True) if kind == "video"]
    assert sum(videos) / len(videos) == pytest.approx(metrics["val_loss/video"])
    maps = load_file(job.folder / "eval" / "00000007_attention.safetensors")
    assert sorted(maps) == [f"{row}/{view}" for row in range(3) for view in ("coarse", "fine")]
    assert maps["0/fine"].shape == (3, 4, 3, 17)
    torch.testing.assert_close(maps["0/fine"].sum(-1), torch.ones(3, 4, 3))


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


def test_the_batch_size_of_an_evaluation_changes_nothing(new_job: NewJob) -> None:
    told = []
    for size in (5, 64):
        job = new_job(f"run{size}", {"eval.batch_samples": size})
        data = open_data(job.config, job.seed, job.cache)
        model = build_model(job.config.model, job.cache, job.seed)
        told.append(Evaluator(data, job.config, Ranks(0, 1, CPU), job.folder).evaluate(model, model, 0))
    assert told[0] == pytest.approx(told[1], rel=1e-5)

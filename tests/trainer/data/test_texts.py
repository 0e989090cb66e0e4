"""Texts are tokenised once, in any number of pieces; the loss of one who never looks, on cases counted by hand."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainer.config import TrainConfig
from trainer.data import texts as texts_file
from trainer.data.manifest import Manifest, index_root, table_of
from trainer.data.texts import Turn, _without_looking, tokenised
from trainer.data.tokenizer import load_tokenizer


def test_a_fair_coin_costs_ln_2_and_a_fixed_word_almost_nothing() -> None:
    train: Sequence[Turn] = [((1,), (coin, 9)) for coin in (5, 6)] * 500
    assert _without_looking(train, train, answer_only=True) == pytest.approx(math.log(2) / 2, abs=2e-3)


def test_answers_are_known_by_their_question() -> None:
    train: list[Turn] = [((1,), (5,)), ((2,), (6,))] * 500
    assert _without_looking(train, train, answer_only=True) < 0.01
    assert _without_looking(train, [((3,), (5,))], answer_only=True) == pytest.approx(math.log(2), abs=0.01)


def test_with_every_token_supervised_the_question_counts_too() -> None:
    train: Sequence[Turn] = [((1, 2, 3), (coin,)) for coin in (5, 6)] * 500
    assert _without_looking(train, train, answer_only=False) == pytest.approx(math.log(2) / 4, abs=5e-3)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_texts_do_not_depend_on_how_they_were_parted(
    processes: int, world: tuple[Path, Path], config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = world
    manifest = Manifest(table_of(index_root(root, cache)[::-1]))
    tokenizer = load_tokenizer(config.model.language, cache)
    whole = tokenised(manifest, root / "shards", tokenizer, 512, tmp_path / "whole")
    monkeypatch.setattr(texts_file, "PART_ROWS", 50)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(processes)))
    parted = tokenised(manifest, root / "shards", tokenizer, 512, tmp_path / "parted")
    for name in ("starts.npy", "ids.npy", "answer.npy"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parted" / name).read_bytes()
    assert len(whole) == len(parted) == 130
    assert len({whole.length(row) for row in range(130)}) > 3

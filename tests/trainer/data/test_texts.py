"""The loss of one who never looks, on cases counted by hand."""

import math
from collections.abc import Sequence

import pytest

from trainer.data.texts import Turn, _without_looking


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

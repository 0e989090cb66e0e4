"""Ray Tune's part in a search: points are a function of what has ended, and ASHA gives up who falls behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from ablate.launching.tune import ask, given_up
from ablate.planning.search import Tried, holds
from ablate.study import Range, Search, Settings

SPACE = {
    "optim.lr": Range("log", (1e-5, 1e-1)),
    "model.units": Range("int", (4, 64)),
    "model.wide": Range("log", (1, 1000)),
    "optim.decay": Range("uniform", (0.0, 0.3)),
    "data.mix": Range("choice", ({"video": 0.5, "image": 0.5}, {"video": 1.0}, {"image": 1.0})),
}
SEARCH = Search(SPACE, 12, "val_loss", {}, "tpe", 3, 1, 1001)
ONE = replace(SEARCH, space={"x": Range("log", (1.0, 300.0))})


def tried(number: int, point: Settings, score: float | None, *curve: float) -> Tried:
    return Tried(number, f"r-trial-s{number}-0", "", point, "stopped" if score is None else "done", score, curve)


def bowl(point: Settings) -> float:
    x = point["x"]
    assert isinstance(x, float)
    return math.log10(x / 30) ** 2


def found(search: Search, trials: int) -> list[Tried]:
    ended: list[Tried] = []
    for number in range(1, trials + 1):
        point = ask(search, True, number, ended)
        ended.append(tried(number, point, bowl(point)))
    return ended


@pytest.mark.parametrize("by", ["tpe", "random"])
def test_every_point_lies_in_its_space_and_has_its_types(by: str) -> None:
    search = replace(SEARCH, by=by)  # type: ignore[arg-type]  # one of the two
    ended: list[Tried] = []
    for number in range(1, 13):
        point = ask(search, True, number, ended)
        assert point.keys() == SPACE.keys()
        assert all(holds(SPACE[name], value) for name, value in point.items()), point
        assert [type(value) for value in point.values()] == [float, int, int, float, dict]
        ended.append(tried(number, point, float(number)))
    assert len({str(one.point) for one in ended}) == 12


def test_a_point_is_the_same_again_for_the_same_ended_trials_and_another_for_others() -> None:
    ended = found(ONE, 8)
    assert ask(ONE, True, 9, ended) == ask(ONE, True, 9, list(ended))
    lowest_is_best = [replace(one, score=float(str(one.point["x"]))) for one in ended]
    assert ask(ONE, True, 9, ended) != ask(ONE, True, 9, lowest_is_best)
    assert ask(replace(ONE, by="random"), True, 9, ended) == ask(replace(ONE, by="random"), True, 9, [])


def test_following_what_scored_well_comes_nearer_to_the_optimum_than_chance() -> None:
    def best(by: str, seed: int) -> float:
        search = replace(ONE, by=by, first_seed=seed)  # type: ignore[arg-type]  # one of the two
        return min(bowl(one.point) for one in found(search, 16))

    seeds = range(0, 2000, 100)
    assert sum(best("tpe", seed) for seed in seeds) < 0.7 * sum(best("random", seed) for seed in seeds)


def test_a_trial_that_was_given_up_is_known_to_be_bad() -> None:
    low = [tried(number, {"x": 2.0 + number}, None, 1.0) for number in range(1, 6)]
    high = [tried(number, {"x": 100.0 + number}, 0.1 + number / 100) for number in range(6, 9)]
    asked = [float(str(ask(ONE, True, number, [*low, *high])["x"])) for number in range(9, 19)]
    assert min(asked) > 15, asked


def test_higher_may_be_better() -> None:
    ended = [replace(one, score=-float(str(one.score))) for one in found(ONE, 8)]
    assert ask(ONE, False, 9, ended) == ask(ONE, True, 9, found(ONE, 8))


@pytest.mark.parametrize(
    ("curves", "stopped"),
    [
        ({}, {}),
        ({1: [9.0]}, {}),
        ({1: [1.0], 2: [2.0]}, {2: 1}),
        ({1: [2.0], 2: [1.0]}, {}),  # who came first is not judged by who came later
        ({1: [1.0, 0.9, 0.8], 2: [0.9, 0.8, 0.9]}, {2: 3}),  # rungs at evaluations 1, 3, 9, …
        ({1: [1.0, 0.5], 2: [0.9, 0.8]}, {}),
        ({1: [1.0], 2: [math.nan], 3: [math.inf, 0.5]}, {}),  # a value that is none is not judged: its trainer tells divergence
        ({1: [1.0], 2: [0.5], 3: [0.6], 4: [0.1]}, {}),
        ({1: [1.0], 2: [0.5], 3: [0.6], 4: [0.7]}, {4: 1}),
    ],
)
def test_a_trial_behind_the_best_third_at_a_rung_is_given_up(curves: dict[int, Sequence[float]], stopped: dict[int, int]) -> None:
    assert given_up(ONE, True, curves) == stopped
    assert given_up(ONE, False, {number: [-value for value in curve] for number, curve in curves.items()}) == stopped


def test_grace_and_halving_say_where_the_rungs_are() -> None:
    curves = {1: [1.0] * 8, 2: [2.0] * 8}
    assert given_up(replace(ONE, grace=2), True, curves) == {2: 2}
    assert given_up(replace(ONE, halving=2, grace=4), True, curves) == {2: 4}
    assert given_up(replace(ONE, halving=0), True, curves) == {}


def test_the_best_at_every_rung_always_goes_on() -> None:
    curves = {number: [abs(number - 7) + 1 / at for at in range(1, 30)] for number in range(1, 20)}
    assert 7 not in given_up(ONE, True, curves)
    assert len(given_up(ONE, True, curves)) > 10

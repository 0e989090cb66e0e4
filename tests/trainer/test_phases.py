"""A step's time is told apart by what is done, the backward's by whose it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import torch

from tests.trainer.conftest import small_batch, small_model
from trainer.model.packing import pack
from trainer.phases import made, phase, watching


def test_time_is_booked_on_the_innermost_phase() -> None:
    clock: Iterator[int] = count()
    with watching(clock=lambda: float(next(clock))) as watch, phase("outer"), phase("inner"):
        pass
    assert watch.seconds == {"": 1, "outer": 2, "outer/inner": 1}


def test_a_backward_is_told_apart_by_the_gradients_it_reaches() -> None:
    clock: Iterator[int] = count()
    with watching(clock=lambda: float(next(clock))) as watch:
        first = made("first", torch.ones(2, requires_grad=True) * 2)
        second = made("second", first * 3)
        with phase("backward"):
            second.sum().backward()
    assert {path for path in watch.seconds if path} == {"backward", "backward/second", "backward/first"}


@pytest.mark.parametrize("frozen", [False, True])
def test_the_models_backward_has_the_parts_of_its_forward(frozen: bool) -> None:
    model = small_model(freeze_dino=frozen)
    packed = pack(small_batch([2, 1, 0], [3, 2, 4]), 1, torch.device("cpu"))
    with watching() as watch:
        with phase("forward"):
            loss = model(packed).losses.sum()
        with phase("backward"):
            loss.backward()
    parts = {"encode", "queries", "lm", "loss"}
    assert {path.removeprefix("forward/") for path in watch.seconds if path.startswith("forward/")} == parts
    told = {path.removeprefix("backward/") for path in watch.seconds if path.startswith("backward/")}
    assert told == (parts - {"encode"} if frozen else parts)


def test_unwatched_nothing_is_told_and_nothing_is_kept() -> None:
    tensor = made("part", torch.ones(2, requires_grad=True) * 2)
    assert not tensor._backward_hooks

"""Where every token of a batch lies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.trainer.conftest import small_batch
from trainer.model.packing import pack

CPU = torch.device("cpu")


def test_visual_tokens_come_first_and_text_follows_without_a_gap() -> None:
    packed = pack(small_batch([2, 0, 1], [3, 2, 1]), 1, CPU)
    assert packed.places.shape == (3, 5)
    assert packed.places.flat.tolist() == [0, 1, 2, 3, 4, 5, 6, 10, 11]
    assert packed.places.column.tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 1]
    assert packed.order.tolist() == [0, 1, 3, 4, 5, 6, 7, 2, 8]  # of 3 visual tokens, then 6 text tokens
    assert packed.reading.shape == (2, 2)
    assert (packed.reading.flat.tolist(), packed.time.tolist(), packed.sample.tolist()) == ([0, 1, 2], [0, 1, 0], [0, 0, 2])
    assert packed.tokens == 9


def test_a_token_is_predicted_from_the_one_left_of_it() -> None:
    batch = small_batch([2, 0], [2, 3])
    packed = pack(batch, 1, CPU)
    assert packed.target_from.tolist() == [1, 2, 4, 5]
    assert packed.target_row.tolist() == [0, 0, 1, 1]
    assert packed.targets.tolist() == [*batch.ids[0, :2].tolist(), *batch.ids[1, 1:].tolist()]
    assert packed.seen.tolist() == [0, 1]


def test_the_first_token_of_a_text_without_frames_is_no_target() -> None:
    assert pack(small_batch([0], [4]), 1, CPU).supervised == 3


def test_repeated_frames_get_slots_beside_each_other() -> None:
    packed = pack(small_batch([1, 2], [2, 2], replicate=3), 1, CPU)
    assert packed.frame.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert packed.slot.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert packed.slots == 3


def test_several_tokens_per_frame_lie_in_time() -> None:
    packed = pack(small_batch([2], [1]), 4, CPU)
    assert packed.places.column.tolist() == packed.order.tolist() == list(range(9))


def test_without_targets_everything_else_stays() -> None:
    packed = pack(small_batch([2], [3]), 1, CPU)
    nothing = packed.without_targets()
    assert nothing.supervised == 0
    assert nothing.places == packed.places


def test_what_lies_on_the_device_already_is_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user of a GPU has it who moves what the processor made: only memory of the host can be page-locked."""
    pinned: list[str] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.device.type)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch, there = small_batch([2, 1], [3, 3]), torch.device("meta")
    pack(replace(batch, frames=batch.frames.to(there)), 1, there)
    assert set(pinned) == {"cpu"}

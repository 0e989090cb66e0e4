"""Micro-batches arrive in order and whole, whether or not they were prepared ahead of their time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.trainer.conftest import small_batch
from trainer.data.batches import Batch
from trainer.data.frames import Look
from trainer.data.shards import DataError
from trainer.feed import Feed
from trainer.model.packing import Packed, pack

CPU = torch.device("cpu")
BATCHES = [small_batch([2, 0, 1], [3, 2, 4], seed=seed) for seed in range(4)]


def taken(feed: Feed, count: int, ahead: bool) -> list[Packed]:
    found = []
    for _ in range(count):
        found.append(feed.take())
        if ahead:
            feed.prepare()
    return found


@pytest.mark.parametrize("ahead", [False, True])
def test_every_micro_batch_comes_once_in_order(ahead: bool) -> None:
    feed = Feed(iter(BATCHES), 1, CPU)
    for packed, batch in zip(taken(feed, 4, ahead), BATCHES, strict=True):
        alone = pack(batch, 1, CPU)
        assert torch.equal(packed.frames, alone.frames)
        assert torch.equal(packed.text, alone.text)
        assert torch.equal(packed.places.flat, alone.places.flat)
    with pytest.raises(StopIteration):
        feed.take()


def test_a_sample_that_cannot_be_used_is_told_when_its_turn_comes() -> None:
    def broken() -> Iterator[Batch]:
        yield BATCHES[0]
        yield BATCHES[1]
        raise DataError("shard 3: key 7")

    feed = Feed(broken(), 1, CPU)
    assert len(taken(feed, 2, ahead=True)) == 2  # the third was prepared, and has failed, by now
    with pytest.raises(DataError, match="shard 3: key 7"):
        feed.take()


def test_frames_of_bytes_become_the_floats_of_their_look() -> None:
    look = Look(28, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    raw = BATCHES[0].frames.mul(50).add(128).clamp(0, 255).to(torch.uint8)
    batch = Batch(
        raw, *(getattr(BATCHES[0], name) for name in ("frame_of", "ids", "is_text", "supervised", "rows", "kinds")), look
    )
    frames = Feed(iter([batch]), 1, CPU).take().frames
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames[:, 1], (raw[:, 1] / 255 - 0.5) / 0.3)

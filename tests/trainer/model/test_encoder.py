"""DINO walked by hand computes what transformers computes."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.conftest import SIDE, small_dino
from trainer.model.encoder import attention_parts, features, keep_deep, keep_deep_and_look, keep_shallow, look_deep, look_shallow


@pytest.mark.parametrize("side", [SIDE, 2 * SIDE])
def test_features_equal_those_of_dinov2(side: int) -> None:
    dino, frames = small_dino(), torch.randn(3, 3, side, side)
    torch.testing.assert_close(features(dino, frames), dino(frames).last_hidden_state)


def test_kept_keys_and_values_are_those_of_every_layer() -> None:
    dino, frames = small_dino(), torch.randn(2, 3, SIDE, SIDE)
    hidden = dino(frames, output_hidden_states=True).hidden_states
    kept = keep_deep(dino, frames)
    for layer, before, key, value in zip(dino.encoder.layer, hidden, kept.keys, kept.values, strict=False):
        parts = attention_parts(layer)
        normed = layer.norm1(before)
        torch.testing.assert_close(key.transpose(1, 2).flatten(2), parts.key(normed))
        torch.testing.assert_close(value.transpose(1, 2).flatten(2), parts.value(normed))


def test_a_query_that_starts_as_the_cls_token_ends_as_the_cls_token() -> None:
    dino, frames = small_dino(), torch.randn(2, 3, SIDE, SIDE)
    start = dino.embeddings(frames)[:, :1]
    seen, _ = look_deep(dino, start, keep_deep(dino, frames))
    torch.testing.assert_close(seen, features(dino, frames)[:, :1])


@pytest.mark.parametrize(("look", "keep", "layers"), [(look_deep, keep_deep, 3), (look_shallow, keep_shallow, 1)])
def test_attention_maps_sum_to_1_and_reproduce_the_fast_path(look: object, keep: object, layers: int) -> None:
    assert callable(look)
    assert callable(keep)
    dino, frames, queries = small_dino(), torch.randn(2, 3, SIDE, SIDE), torch.randn(2, 4, 32)
    kept = keep(dino, frames)
    fast, nothing = look(dino, queries, kept)
    slow, looks = look(dino, queries, kept, attention=True)
    assert nothing is None
    assert looks.shape == (2, 4, layers, 4, 5)
    torch.testing.assert_close(looks.sum(-1), torch.ones(2, 4, layers, 4))
    torch.testing.assert_close(slow, fast)


def test_a_query_that_rides_along_sees_what_it_would_see_alone() -> None:
    dino, frames, query = small_dino(), torch.randn(2, 3, SIDE, SIDE), torch.randn(32)
    kept, seen = keep_deep_and_look(dino, frames, query)
    alone = keep_deep(dino, frames)
    torch.testing.assert_close(seen, look_deep(dino, query.expand(2, 1, -1), alone)[0])
    torch.testing.assert_close((kept.keys, kept.values), (alone.keys, alone.values))


def test_queries_do_not_see_each_other() -> None:
    dino, frames, queries = small_dino(), torch.randn(1, 3, SIDE, SIDE), torch.randn(1, 3, 32)
    kept = keep_deep(dino, frames)
    together, _ = look_deep(dino, queries, kept)
    torch.testing.assert_close(together[:, 1:2], look_deep(dino, queries[:, 1:2], kept)[0])


def test_no_frames_give_no_looks_and_a_zero_gradient_for_every_weight_that_looks() -> None:
    dino = small_dino()
    seen, _ = look_deep(dino, torch.zeros(0, 1, 32), keep_deep(dino, torch.zeros(0, 3, SIDE, SIDE)))
    torch.autograd.backward(seen.sum())
    without = [n for n, p in dino.named_parameters() if p.grad is None and n != "embeddings.mask_token"]
    assert without == []

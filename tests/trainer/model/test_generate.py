"""New tokens after frames and a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from tests.trainer.conftest import one_of, small_batch, small_model
from trainer.data.batches import Batch
from trainer.model.foveated import Mode
from trainer.model.generate import generate, sampled
from trainer.model.packing import pack
from trainer.model.vision_language import VisionLanguageModel

CPU = torch.device("cpu")
VARIANTS: dict[str, dict[str, Any]] = {
    "F3": {},
    "A1": {"deep_query": False},
    "A6": {"coarse_only": True},
    "B1": {"encoder": "multi_token", "tokens_per_frame": 4},
}


def without_cache(model: VisionLanguageModel, alone: Batch, mode: Mode, most: int) -> list[int]:
    """The whole model again for every token; it predicts the token that is put in the next one's place."""
    told: list[int] = []
    for _ in range(most):
        ids = torch.cat([alone.ids, torch.tensor([[*told, 0]])], 1)
        longer = replace(alone, ids=ids, is_text=torch.ones_like(ids).bool(), supervised=torch.ones_like(ids).bool())
        logits = model(pack(longer, model.connector.tokens_per_frame, CPU), mode, logits=True).logits
        told.append(int(logits[-1].argmax()))
    return told


def told(model: VisionLanguageModel, batch: Batch, most: int = 5, stops: Sequence[int] = (), **options: Any) -> list[list[int]]:
    packed = pack(batch, model.connector.tokens_per_frame, CPU)
    ids: list[list[int]] = generate(model, packed, most=most, stops=stops, pad=0, **options).tolist()
    return ids


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_tokens_are_the_most_likely_ones_of_the_whole_model_without_a_cache(variant: str, mode: Mode) -> None:
    model, batch = small_model(**VARIANTS[variant]), small_batch([3, 1, 0], [3, 1, 5])
    expected = [without_cache(model, one_of(batch, i), mode, most=5) for i in range(3)]
    assert told(model, batch, mode=mode) == expected


def test_modes_of_a_foveated_model_can_tell_different_things() -> None:
    model, batch = small_model(), small_batch([6], [3])
    assert len({tuple(told(model, batch, most=12, mode=mode)[0]) for mode in get_args(Mode)}) > 1


def test_a_sample_ends_with_its_first_stop_token_and_the_others_go_on() -> None:
    model, batch = small_model(), small_batch([3, 1], [3, 4])
    free = told(model, batch, most=6)
    stops = [49, next(token for token in free[0][1:] if token not in free[1])]
    at = free[0].index(stops[1])
    assert told(model, batch, most=6, stops=stops) == [[*free[0][: at + 1], *[0] * (5 - at)], free[1]]


def test_nothing_is_generated_after_all_have_ended() -> None:
    model, batch = small_model(), small_batch([2], [3])
    free = told(model, batch)[0]
    assert told(model, batch, stops=[free[2]])[0] == free[: free.index(free[2]) + 1]


def test_draws_follow_the_cut_distribution() -> None:
    chances = torch.tensor([0.05, 0.5, 0.15, 0.3])
    drawn = sampled(1.0, 0.75, torch.Generator().manual_seed(0))(chances.log().expand(20_000, -1))
    shares = torch.bincount(drawn, minlength=4) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0, 0.5 / 0.8, 0, 0.3 / 0.8]), atol=0.02, rtol=0)


def test_a_low_temperature_is_greedy_and_a_seed_draws_the_same_again() -> None:
    model, batch = small_model(), small_batch([2, 0], [3, 2])
    assert told(model, batch, choose=sampled(1e-4)) == told(model, batch)
    one, two, other = (told(model, batch, choose=sampled(2.0, 0.9, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2))
    assert one == two != other


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 0.0), (1.0, 1.5)])
def test_what_is_no_distribution_is_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and top_p"):
        sampled(temperature, top_p)

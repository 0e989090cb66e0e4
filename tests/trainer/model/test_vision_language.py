"""What every variant of the model must hold: foveated, shallow, coarse-only, multi-token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import one_of, small_batch, small_llm, small_model
from trainer.data.batches import Batch
from trainer.model.foveated import Mode
from trainer.model.packing import Packed, pack
from trainer.model.vision_language import Prediction, VisionLanguageModel

CPU = torch.device("cpu")
VARIANTS: dict[str, dict[str, Any]] = {
    "foveated": {},
    "shallow": {"deep_query": False},
    "coarse only": {"coarse_only": True},
    "multi-token": {"encoder": "multi_token", "tokens_per_frame": 4},
}
every_variant = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)


def run(model: VisionLanguageModel, batch: Batch, **asked: Any) -> Prediction:
    prediction = model(packed(model, batch), logits=True, **asked)
    assert isinstance(prediction, Prediction)
    return prediction


def packed(model: VisionLanguageModel, batch: Batch) -> Packed:
    return pack(batch, model.connector.tokens_per_frame, CPU)


def test_without_frames_logits_equal_those_of_llama() -> None:
    batch = small_batch([0, 0], [7, 4])
    logits = run(small_model(), batch).logits
    llama = small_llm()
    for i, expected in ((0, logits[:6]), (1, logits[6:])):
        alone = llama(batch.ids[i : i + 1, : int(batch.is_text[i].sum())]).logits[0, :-1]
        torch.testing.assert_close(expected, alone)


@every_variant
def test_a_batch_is_its_samples_one_by_one(settings: dict[str, Any]) -> None:
    model, batch = small_model(**settings), small_batch([3, 0, 1, 5], [4, 6, 3, 2])
    together = run(model, batch, coarse="measured")
    alone = [run(model, one_of(batch, i), coarse="measured") for i in range(4)]
    torch.testing.assert_close(together.logits, torch.cat([p.logits for p in alone]))
    if together.coarse_logits is not None:
        torch.testing.assert_close(
            together.coarse_logits, torch.cat([p.coarse_logits for p in alone if p.coarse_logits is not None])
        )


@every_variant
@pytest.mark.parametrize("mode", ["coarse_fine", "autoregressive"])
def test_a_replicated_frame_encoded_once_is_one_encoded_each_time(settings: dict[str, Any], mode: Mode) -> None:
    model, once = small_model(**settings), small_batch([1, 2], [4, 3], replicate=3)
    each_time = Batch(
        once.frames[once.frame_of.flatten()[once.frame_of.flatten() >= 0]],
        torch.where(once.frame_of >= 0, torch.cumsum((once.frame_of >= 0).flatten(), 0).view_as(once.frame_of) - 1, -1),
        *(once.ids, once.is_text, once.supervised, once.rows, once.kinds),
    )
    assert len(each_time.frames) == 9
    torch.testing.assert_close(run(model, once, mode=mode).logits, run(model, each_time, mode=mode).logits)


@every_variant
@pytest.mark.parametrize("mode", ["coarse_only", "coarse_fine", "autoregressive"])
def test_every_variant_runs_in_every_mode(settings: dict[str, Any], mode: Mode) -> None:
    prediction = run(small_model(**settings), small_batch([3, 0, 1], [4, 6, 3]), mode=mode, attention=True)
    assert prediction.logits.isfinite().all()
    looks = prediction.views.final.looks
    if looks is not None:
        torch.testing.assert_close(looks.sum(-1), torch.ones(looks.shape[:-1]))


@every_variant
def test_autoregressive_on_one_frame_is_the_parallel_way(settings: dict[str, Any]) -> None:
    model, batch = small_model(**settings), small_batch([1, 1], [4, 3])
    torch.testing.assert_close(run(model, batch, mode="autoregressive").logits, run(model, batch).logits)


@every_variant
def test_looking_at_the_attention_changes_nothing(settings: dict[str, Any]) -> None:
    model, batch = small_model(**settings), small_batch([3, 1], [4, 3])
    torch.testing.assert_close(run(model, batch, attention=True).logits, run(model, batch).logits)


def test_the_coarse_pass_without_text_is_the_one_with_text() -> None:
    model, batch = small_model(), small_batch([4], [5])
    laid = packed(model, batch)
    coarse = model.connector.see(model.dino, model.llm, laid, "coarse_only").final.tokens  # [M, L]
    alone = model.llm.model(inputs_embeds=coarse[None]).last_hidden_state
    with_text = model.llm.model(inputs_embeds=model.tokens(coarse, laid)[None]).last_hidden_state[:, :4]
    torch.testing.assert_close(alone, with_text)


@pytest.mark.parametrize("mode", ["coarse_fine", "autoregressive"])
def test_a_look_depends_on_frames_before_it_only(mode: Mode) -> None:
    model, batch = small_model(), small_batch([4], [3])
    later = Batch(batch.frames.clone(), batch.frame_of, batch.ids, batch.is_text, batch.supervised, batch.rows, batch.kinds)
    later.frames[2] += 1.0

    def looks(its: Batch) -> Tensor:
        seen = run(model, its, mode=mode, attention=True).views.final.looks
        assert seen is not None
        return seen

    before, after = looks(batch), looks(later)
    torch.testing.assert_close(before[:2], after[:2])
    assert not torch.allclose(before[3], after[3])  # frame 2 moved where frame 3 is looked at


def test_changing_the_query_moves_the_look() -> None:
    model, batch = small_model(), small_batch([2], [3])
    before = run(model, batch, attention=True).views.final.looks
    with torch.no_grad():
        model.connector.get_parameter("q_init").neg_()
    after = run(model, batch, attention=True).views.final.looks
    assert before is not None
    assert after is not None
    assert (before[0] - after[0]).abs().max() > 0.01
    torch.testing.assert_close(before[1], after[1])  # made from the coarse token of frame 0


@every_variant
def test_every_trainable_parameter_is_in_the_graph_of_texts_alone(settings: dict[str, Any]) -> None:
    """DDP needs it: some rank's micro-batch may have no frames."""
    model = small_model(**settings)
    torch.autograd.backward(run(model, small_batch([0, 0], [4, 3])).logits.sum())
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_measured_coarse_loss_has_no_gradient() -> None:
    prediction = run(small_model(), small_batch([2], [3]), coarse="measured")
    assert prediction.coarse_logits is not None
    assert not prediction.coarse_logits.requires_grad
    trained = run(small_model(), small_batch([2], [3]), coarse="trained").coarse_logits
    assert trained is not None
    assert trained.requires_grad


@every_variant
@pytest.mark.parametrize("mode", ["coarse_fine", "autoregressive"])
def test_bfloat16_computes_about_the_same(settings: dict[str, Any], mode: Mode) -> None:
    model, batch = small_model(**settings), small_batch([3, 0, 1], [4, 6, 3], replicate=2)
    exact = run(model, batch, mode=mode, coarse="measured", attention=True).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = run(model, batch, mode=mode, coarse="measured", attention=True).logits
    assert (rounded - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_visual_tokens_have_the_scale_they_are_given() -> None:
    batch = small_batch([2], [3])
    once, twice = (run(small_model(visual_scale=scale), batch, mode="coarse_only").views.final.tokens for scale in (0.1, 0.2))
    torch.testing.assert_close(2 * once, twice)

"""The reference that speed is compared with computes what the trainer computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.plain_model import PlainModel
from benchmarks.trainer import main
from tests.trainer.conftest import small_batch, small_model
from trainer.model.packing import pack

VARIANTS: dict[str, dict[str, Any]] = {
    "F3": {},
    "F1": {"freeze_dino": True, "freeze_llm": True},
    "A1": {"deep_query": False},
    "A6": {"coarse_only": True},
    "B1": {"encoder": "multi_token", "tokens_per_frame": 4},
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize(("frames", "replicate"), [([3, 0, 1, 5], 1), ([1, 2, 0, 1], 3), ([0, 0, 0, 0], 1)])
def test_loss_and_gradients_are_the_same(settings: dict[str, Any], frames: list[int], replicate: int) -> None:
    model, batch = small_model(**settings).double(), small_batch(frames, [4, 6, 3, 2], replicate)
    packed = pack(batch, model.connector.tokens_per_frame, torch.device("cpu"))
    ours, plain = model(packed).losses.sum(), PlainModel(model)(batch)
    torch.testing.assert_close(plain, ours)
    if not plain.requires_grad:  # F1 on texts alone: nothing that trains has a part in it
        return
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    both = [torch.autograd.grad(loss, [p for _, p in trained], allow_unused=True) for loss in (ours, plain)]
    for (name, p), mine, its in zip(trained, *both, strict=True):
        none = torch.zeros_like(p)
        torch.testing.assert_close(none if its is None else its, none if mine is None else mine, msg=name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "Z9"], "Error: --cases 'Z9': no case begins so; cases: F3, 1 frame; F3, 7 frames"),
        (["--repeat", "0"], "Error: --repeat and --steps are at least 1"),
        (["--tables", "row"], "Error: --tables 'row'; there are rows, parts, options and loop"),
    ],
)
def test_a_benchmark_of_nothing_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)

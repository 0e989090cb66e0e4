"""What looks say."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import safe_open

from trainer.attention import entropy, hits, write_maps


def test_a_uniform_look_has_the_most_entropy_and_a_sharp_one_none() -> None:
    uniform, sharp = torch.full((1, 2, 3, 5), 0.2), torch.zeros(1, 2, 3, 5)
    sharp[..., 4] = 1.0
    torch.testing.assert_close(entropy(torch.cat([uniform, sharp])), torch.tensor([math.log(5), 0.0]))


def test_a_hit_is_where_the_mean_over_layers_and_heads_peaks_without_cls() -> None:
    looks = torch.zeros(2, 1, 2, 4)
    looks[..., 0] = 0.9  # CLS
    looks[:, 0, :, 2] = 0.1
    assert hits(looks, torch.tensor([1, 2])).tolist() == [True, False]


def test_maps_are_written_with_their_layout(tmp_path: Path) -> None:
    write_maps(tmp_path / "maps.safetensors", {"3/fine": torch.rand(2, 4, 6, 17)})
    with safe_open(tmp_path / "maps.safetensors", framework="pt") as file:
        assert file.get_tensor("3/fine").shape == (2, 4, 6, 17)
        assert file.metadata()["layout"].startswith("layers, heads, frames, 1 + patches")

"""What the looks say: how spread they are, whether they meet their target, and the raw maps of a few clips.

M frames shown, N patches (CLS before them), H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


def entropy(looks: Tensor) -> Tensor:
    """looks: [M, layers, H, 1+N], summing to 1 over the last -> nats [M], mean over layers and heads; at most ln(1+N)."""
    nats: Tensor = torch.special.entr(looks.float()).sum(-1).mean((1, 2))
    return nats


def hits(looks: Tensor, targets: Tensor) -> Tensor:
    """Does the mean look peak on its target? CLS is left out.

    looks: [M, layers, H, 1+N], targets: [M] patch indices -> bool [M].
    """
    peaks: Tensor = looks.mean((1, 2))[:, 1:].argmax(-1)  # [M]
    return torch.eq(peaks, targets)


def write_maps(path: Path, maps: Mapping[str, Tensor]) -> None:
    """Raw maps by name "ROW/coarse" or "ROW/fine", each [layers, H, frames, 1+N] float32, CLS first."""
    partial = path.with_name(f".{path.name}.partial")
    layout = {"layout": "layers, heads, frames, 1 + patches (CLS first, then the grid row by row)"}
    save_file({name: m.float().cpu().contiguous() for name, m in maps.items()}, partial, metadata=layout)
    partial.replace(path)

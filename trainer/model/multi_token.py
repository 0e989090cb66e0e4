"""The multi-token connector (B1): DINO's patch grid pooled to a few tokens per frame; no query, no second pass.

M frames shown, U distinct, N patches in a g x g grid, K = k x k visual tokens per frame, D DINO width, L language-model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from trainer.model.encoder import features
from trainer.model.foveated import Mode, View, Views
from trainer.model.packing import Packed
from trainer.phases import made, phase


class MultiToken(nn.Module):
    trained_mode: Mode = "coarse_only"

    def __init__(self, dino_width: int, llm_width: int, *, tokens_per_frame: int, visual_scale: float) -> None:
        super().__init__()
        self.tokens_per_frame, self.visual_scale = tokens_per_frame, visual_scale
        self.side = round(tokens_per_frame**0.5)
        # The same two maps as the foveated connector, so that both share their initial weights.
        self.query_out = nn.Linear(dino_width, dino_width)
        self.to_llm = nn.Linear(dino_width, llm_width)

    def see(
        self,
        dino: Dinov2Model,
        llm: LlamaForCausalLM,  # noqa: ARG002
        packed: Packed,
        mode: Mode,  # noqa: ARG002
        attention: bool = False,  # noqa: ARG002
    ) -> Views:
        """One pass, whatever mode is asked: there is no query that could change between frames."""
        with phase("encode"), torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in dino.parameters())):
            patches = made("encode", features(dino, packed.frames)[:, 1:])  # [U, N, D]
        with phase("queries"):  # what stands in their place
            tokens = made("queries", self.to_llm(self.query_out(self._pool(patches))) * self.visual_scale)  # [U, K, L]
        return Views(View(tokens[packed.frame].flatten(0, 1), None), None)

    def _pool(self, patches: Tensor) -> Tensor:
        """patches: [U, N, D] -> [U, K, D]"""
        grid = round(patches.shape[1] ** 0.5)
        if grid == self.side:
            return patches
        image = patches.transpose(1, 2).reshape(-1, patches.shape[2], grid, grid)  # [U, D, g, g]
        return F.adaptive_avg_pool2d(image, self.side).flatten(2).transpose(1, 2)

"""The whole model: a vision backbone, a language model, and the connector between them (all we add).

M frames shown, K visual tokens per frame, W text tokens, P supervised tokens (all samples together), L language-model width,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from trainer.losses import head_losses
from trainer.model.foveated import Foveated, Mode, Views
from trainer.model.language import read
from trainer.model.multi_token import MultiToken
from trainer.model.packing import Packed
from trainer.phases import made, phase

Coarse = Literal["no", "measured", "trained"]
"""What is done about the loss from the coarse tokens: nothing, computed without gradient, computed with."""


@dataclass(frozen=True)
class Prediction:
    losses: Tensor
    """[P] nats for `packed.targets`, float32 or better."""
    coarse_losses: Tensor | None
    """[P] the same predicted from the coarse tokens alone; None when not asked for or there is one pass only."""
    views: Views
    logits: Tensor | None = None
    """[P, V], where asked for."""
    coarse_logits: Tensor | None = None


class VisionLanguageModel(nn.Module):
    def __init__(self, dino: Dinov2Model, llm: LlamaForCausalLM, connector: Foveated | MultiToken) -> None:
        super().__init__()
        self.dino, self.llm, self.connector = dino, llm, connector

    @property
    def two_passes(self) -> bool:
        return self.connector.trained_mode == "coarse_fine"

    def parts(self) -> dict[str, nn.Module]:
        """The modules that have a learning rate of their own; every parameter is in exactly one."""
        return {"connector": self.connector, "dino": self.dino, "llm": self.llm}

    def forward(
        self,
        packed: Packed,
        mode: Mode | None = None,
        coarse: Coarse = "no",
        attention: bool = False,
        logits: bool = False,
    ) -> Prediction:
        """Predict the supervised tokens; `mode` is the trained one unless another is asked for.

        coarse: also predict from the coarse tokens, without or with gradient, on frames encoded once for both.
        """
        views = self.see(packed, mode, attention)
        coarse_losses, coarse_logits = None, None
        if coarse != "no" and views.coarse is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and coarse == "trained"):
                coarse_losses, coarse_logits = self._predict(views.coarse.tokens, packed, logits)
        losses, fine_logits = self._predict(views.final.tokens, packed, logits)
        return Prediction(losses, coarse_losses, views, fine_logits, coarse_logits)

    def see(self, packed: Packed, mode: Mode | None = None, attention: bool = False) -> Views:
        """The visual tokens of all frames shown; every mode goes through here, and parts in the connector's `see`."""
        return self.connector.see(self.dino, self.llm, packed, mode or self.connector.trained_mode, attention)

    def tokens(self, visual: Tensor, packed: Packed) -> Tensor:
        """visual: [M*K, L] -> [visual tokens, text] of every sample, one after another: [M*K+W, L]."""
        words = self.llm.model.embed_tokens(packed.text)  # [W, L]
        return torch.cat([visual.to(words.dtype), words]).index_select(0, packed.order)

    def _predict(self, visual: Tensor, packed: Packed, logits: bool) -> tuple[Tensor, Tensor | None]:
        """Losses [P] and, if asked, logits [P, V]: computed at the supervised tokens only."""
        with phase("lm"):
            hidden = made("lm", read(self.llm, self.tokens(visual, packed), packed.places))  # [M*K+W, L]
        with phase("loss"):
            hidden = hidden.index_select(0, packed.target_from)  # [P, L]
            losses = made("loss", head_losses(hidden, self.llm.lm_head.weight, packed.targets))
            return losses, self.llm.lm_head(hidden) if logits else None

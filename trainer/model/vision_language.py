"""The whole model: a vision backbone, a language model, and the connector between them (all we add).

B samples, M frames shown, K visual tokens per frame, L language-model width, C columns of the packed sequence, P supervised
tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from trainer.model.foveated import Foveated, Views, Way
from trainer.model.multi_token import MultiToken
from trainer.model.packing import Packed
from trainer.phases import phase

Coarse = Literal["no", "measured", "trained"]
"""What is done about the loss from the coarse tokens: nothing, computed without gradient, computed with."""


@dataclass(frozen=True)
class Prediction:
    logits: Tensor
    """[P, V] for `packed.targets`."""
    coarse_logits: Tensor | None
    """[P, V] predicted from the coarse tokens alone; None when not asked for or there is one pass only."""
    views: Views


class VisionLanguageModel(nn.Module):
    def __init__(self, dino: Dinov2Model, llm: LlamaForCausalLM, connector: Foveated | MultiToken) -> None:
        super().__init__()
        self.dino, self.llm, self.connector = dino, llm, connector

    @property
    def two_passes(self) -> bool:
        return self.connector.trained_way == "coarse_fine"

    def parts(self) -> dict[str, nn.Module]:
        """The modules that have a learning rate of their own; every parameter is in exactly one."""
        return {"connector": self.connector, "dino": self.dino, "llm": self.llm}

    def forward(
        self,
        packed: Packed,
        way: Way | None = None,
        coarse: Coarse = "no",
        attention: bool = False,
    ) -> Prediction:
        """Predict the supervised tokens; `way` is the trained one unless another is asked for.

        coarse: also predict from the coarse tokens, without or with gradient, on frames encoded once for both.
        """
        views = self.connector.see(self.dino, self.llm, packed, way or self.connector.trained_way, attention)
        coarse_logits = None
        if coarse != "no" and views.coarse is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and coarse == "trained"):
                coarse_logits = self._predict(views.coarse.tokens, packed)
        return Prediction(self._predict(views.final.tokens, packed), coarse_logits, views)

    def sequence(self, visual: Tensor, packed: Packed) -> Tensor:
        """visual: [M*K, L] -> [visual tokens, text] of every sample, packed left: [B, C, L]."""
        words = self.llm.model.embed_tokens(packed.text)  # [W, L]
        rows = torch.cat([packed.visual_at[0], packed.text_at[0]])
        columns = torch.cat([packed.visual_at[1], packed.text_at[1]])
        empty: Tensor = words.new_zeros(*packed.shape, words.shape[-1])
        return empty.index_put((rows, columns), torch.cat([visual.to(words.dtype), words]))

    def _predict(self, visual: Tensor, packed: Packed) -> Tensor:
        """Logits [P, V], computed at the supervised tokens only."""
        with phase("lm"):
            hidden = self.llm.model(inputs_embeds=self.sequence(visual, packed), use_cache=False).last_hidden_state  # [B, C, L]
        with phase("loss"):
            logits: Tensor = self.llm.lm_head(hidden[packed.target_from])
        return logits

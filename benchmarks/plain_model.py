"""The same model written plainly: the reference that the trainer's speed is compared with.

Same weights, same losses (tested), and none of what makes ours fast: clips padded to the longest of the batch (blank frames for
texts too), a replicated image encoded as often as it is shown, `Dinov2Model` as it is and then K and V of every layer computed
again for each look, text read by the coarse pass as well, logits at every position, a wait for the loss in every step.

B samples, T frames of the longest clip, K visual tokens per frame, S text tokens, N patches, D DINO width, L the other's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data.batches import Batch
from trainer.model.encoder import attention_parts
from trainer.model.foveated import Foveated
from trainer.model.multi_token import MultiToken
from trainer.model.vision_language import VisionLanguageModel


class PlainModel(nn.Module):
    """Takes the parts of `model`: whoever trains one trains the other."""

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self.dino, self.llm, self.connector = model.dino, model.llm, model.connector

    def forward(self, batch: Batch) -> Tensor:
        """The summed loss over supervised tokens."""
        there = batch.frame_of >= 0  # [B, T]
        if not there.shape[1]:
            return self._loss(self.llm.model.embed_tokens(batch.ids)[:, :0], there, batch)
        frames = torch.where(there[..., None, None, None], batch.frames[batch.frame_of.clamp(min=0)], 0.0)  # [B, T, 3, H, W]
        hidden = self.dino(frames.flatten(0, 1), output_hidden_states=True)
        if isinstance(self.connector, MultiToken):
            return self._loss(self._pooled(self.connector, hidden.last_hidden_state[:, 1:], there.shape), there, batch)
        states = hidden.hidden_states if self.connector.deep_query else (hidden.last_hidden_state,)
        coarse = self._look(self.connector, self.connector.q_static.expand(there.numel(), -1), states, there.shape)
        if self.connector.coarse_only:
            return self._loss(coarse, there, batch)
        after = self.connector.to_query(self._read(coarse, there, batch)[:, : there.shape[1]])  # [B, T, Q]
        first = self.connector.q_init.to(after.dtype).expand(len(after), 1, -1)
        queries = torch.cat([first, after[:, :-1]], 1)
        return self._loss(self._look(self.connector, queries.flatten(0, 1), states, there.shape), there, batch)

    def _look(self, its: Foveated, queries: Tensor, states: tuple[Tensor, ...], shape: torch.Size) -> Tensor:
        """queries: [B*T, Q], states: hidden states before each layer. Visual tokens [B, T, L]."""
        layers = self.dino.encoder.layer if its.deep_query else self.dino.encoder.layer[-1:]
        hidden = its.query_in(queries)[:, None]  # [B*T, 1, D]
        for layer, state in zip(layers, states, strict=False):
            parts, normed = attention_parts(layer), layer.norm1(state)
            query = self._heads(parts.query(layer.norm1(hidden) if its.deep_query else hidden))
            key, value = self._heads(parts.key(normed)), self._heads(parts.value(normed))
            seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            if its.deep_query:
                hidden = hidden + layer.layer_scale1(parts.out(seen))
                hidden = hidden + layer.layer_scale2(layer.mlp(layer.norm2(hidden)))
            else:
                hidden = seen
        tokens: Tensor = its.to_llm(its.query_out(self.dino.layernorm(hidden))) * its.visual_scale
        return tokens.view(*shape, -1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.dino.config.num_attention_heads, -1).transpose(1, 2)

    def _pooled(self, its: MultiToken, patches: Tensor, shape: torch.Size) -> Tensor:
        """patches: [B*T, N, D] -> [B, T*K, L]"""
        grid = round(patches.shape[1] ** 0.5)
        image = patches.transpose(1, 2).reshape(len(patches), -1, grid, grid)
        pooled = F.adaptive_avg_pool2d(image, its.side).flatten(2).transpose(1, 2)
        tokens: Tensor = its.to_llm(its.query_out(pooled)) * its.visual_scale
        return tokens.reshape(shape[0], -1, tokens.shape[-1])

    def _read(self, visual: Tensor, there: Tensor, batch: Batch) -> Tensor:
        """visual: [B, T*K, L], text after it: [B, T*K+S, L] hidden states; holes are masked, positions count what is there."""
        words = self.llm.model.embed_tokens(batch.ids)
        mask = self._mask(visual, there, batch)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        embeds = torch.cat([visual.to(words.dtype), words], 1)
        hidden: Tensor = self.llm.model(inputs_embeds=embeds, attention_mask=mask, position_ids=places).last_hidden_state
        return hidden

    def _mask(self, visual: Tensor, there: Tensor, batch: Batch) -> Tensor:
        per_frame = visual.shape[1] // there.shape[1] if there.shape[1] else 1
        return torch.cat([there.repeat_interleave(per_frame, 1), batch.is_text], 1).long()

    def _loss(self, visual: Tensor, there: Tensor, batch: Batch) -> Tensor:
        """Every target is predicted from the last place before it that is there."""
        logits = self.llm.lm_head(self._read(visual, there, batch))  # [B, T*K+S, V]
        mask = self._mask(visual, there, batch)
        places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        before = torch.where(mask > 0, places, -1).cummax(1).values.roll(1, 1)  # [B, T*K+S] last place left of each that is there
        before[:, 0] = -1
        text = slice(visual.shape[1], None)
        targets = torch.where(batch.supervised & (before[:, text] >= 0), batch.ids, -100)  # [B, S]
        chosen = logits.gather(1, before[:, text].clamp(min=0)[..., None].expand(-1, -1, logits.shape[-1]))  # [B, S, V]
        return F.cross_entropy(chosen.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")

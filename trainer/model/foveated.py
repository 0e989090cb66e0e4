"""The foveated connector: a query looks at each frame and one visual token comes out; where to look comes from the frames before.

M frames shown, U distinct, K = 1 visual token per frame, Q query width = D DINO width, L language-model width.
Two passes: `q_static` looks everywhere (coarse), the language model reads that and says where each next look goes (fine).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from trainer.model.encoder import Kept, keep_deep, keep_deep_and_look, keep_shallow, look_deep, look_shallow
from trainer.model.language import read
from trainer.model.packing import Packed
from trainer.phases import made, phase

Mode = Literal["coarse_only", "coarse_fine", "autoregressive"]
"""How a model looks: one static pass; two parallel passes, as trained; frame by frame with a KV cache."""


@dataclass(frozen=True)
class View:
    """One pass over the shown frames."""

    tokens: Tensor
    """[M*K, L] visual tokens at the scale of text embeddings."""
    looks: Tensor | None
    """[M, layers, H, 1+N] where the queries looked, CLS first; None when not asked for or there are no queries."""


@dataclass(frozen=True)
class Views:
    final: View
    """What the text is predicted from."""
    coarse: View | None
    """The static pass under a fine one; None when there is one pass only."""


class Foveated(nn.Module):
    tokens_per_frame = 1

    def __init__(self, dino_width: int, llm_width: int, *, deep_query: bool, coarse_only: bool, visual_scale: float) -> None:
        super().__init__()
        self.deep_query, self.coarse_only, self.visual_scale = deep_query, coarse_only, visual_scale
        self.trained_mode: Mode = "coarse_only" if coarse_only else "coarse_fine"
        # A bias here would be the same for every query and drown it: all queries would look alike.
        self.query_in = nn.Linear(dino_width, dino_width, bias=False)
        self.query_out = nn.Linear(dino_width, dino_width)
        self.to_llm = nn.Linear(dino_width, llm_width)
        self.q_static = nn.Parameter(torch.empty(dino_width))
        if not coarse_only:
            self.to_query = nn.Linear(llm_width, dino_width)
            self.q_init = nn.Parameter(torch.empty(dino_width))

    def see(self, dino: Dinov2Model, llm: LlamaForCausalLM, packed: Packed, mode: Mode, attention: bool = False) -> Views:
        """Look at every shown frame. A model trained with the static query alone has one mode, whatever is asked."""
        trains = any(p.requires_grad for p in dino.parameters())
        if self.deep_query and not attention and (trains or not torch.is_grad_enabled()):
            with phase("encode"):
                kept, seen = keep_deep_and_look(dino, packed.frames, self.query_in(self.q_static))
            coarse = View(self._shown(made("encode", self._token(seen)), packed)[:, 0], None)
        else:  # frozen patches need no graph, the query does; and where it looks is told by a look of its own
            with phase("encode"), torch.set_grad_enabled(torch.is_grad_enabled() and trains):
                kept = (keep_deep if self.deep_query else keep_shallow)(dino, packed.frames)
            coarse = self._coarse(dino, kept, packed, attention)
        if self.coarse_only or mode == "coarse_only":
            return Views(coarse, None)
        if mode == "autoregressive":
            return Views(self._one_by_one(dino, llm, kept, packed, attention), coarse)
        queries = self._next_queries(llm, coarse.tokens, packed)  # [M, Q]
        return Views(self._fine(dino, queries, kept, packed, attention), coarse)

    def _coarse(self, dino: Dinov2Model, kept: Kept, packed: Packed, attention: bool) -> View:
        """One static look per distinct frame, repeated as often as the frame is shown."""
        queries = self.q_static.expand(packed.frames.shape[0], 1, -1)  # [U, 1, Q]
        tokens, looks = self._look(dino, queries, kept, attention)
        return View(self._shown(tokens, packed)[:, 0], None if looks is None else looks[packed.frame, 0])

    def _fine(self, dino: Dinov2Model, queries: Tensor, kept: Kept, packed: Packed, attention: bool) -> View:
        """queries: [M, Q], one per shown frame."""
        if packed.once:
            tokens, looks = self._look(dino, queries[:, None], kept, attention)
            return View(tokens[:, 0], None if looks is None else looks[:, 0])
        by_frame = queries.new_zeros(packed.frames.shape[0], packed.slots, queries.shape[-1])  # [U, R, Q]
        by_frame = by_frame.index_put((packed.frame, packed.slot), queries)
        tokens, looks = self._look(dino, by_frame, kept, attention)
        here = (packed.frame, packed.slot)
        return View(tokens[here], None if looks is None else looks[here])

    def _look(self, dino: Dinov2Model, queries: Tensor, kept: Kept, attention: bool) -> tuple[Tensor, Tensor | None]:
        """queries: [U, R, Q] -> visual tokens [U, R, L], looks [U, R, layers, H, 1+N]"""
        look = look_deep if self.deep_query else look_shallow
        with phase("queries"):
            seen, looks = look(dino, self.query_in(queries), kept, attention)  # [U, R, D]
            return made("queries", self._token(seen)), looks

    def _token(self, seen: Tensor) -> Tensor:
        """[..., D] -> visual tokens [..., L]"""
        tokens: Tensor = self.to_llm(self.query_out(seen)) * self.visual_scale
        return tokens

    def _shown(self, tokens: Tensor, packed: Packed) -> Tensor:
        """Of distinct frames [U, ...] -> of frames shown [M, ...]"""
        return tokens if packed.once else tokens[packed.frame]

    def _next_queries(self, llm: LlamaForCausalLM, coarse: Tensor, packed: Packed) -> Tensor:
        """coarse: [M, L]. Frame t's query is made from frames before t, frame 0's is `q_init`: [M, Q].

        The language model reads visual tokens alone: with causal attention the text after them could not change them.
        """
        if packed.clips == 0:
            nothing: Tensor = self.to_query(coarse) + self.q_init  # [0, Q]: no numbers, but all parameters are in the graph
            return nothing
        with phase("lm"):
            hidden = made("lm", read(llm, coarse, packed.reading))  # [M, L]
        after = self.to_query(hidden)  # [M, Q]
        # Frames are in time, clip by clip: what the frame before said is one row up, but for the first of a clip.
        shifted = torch.cat([self.q_init.to(after.dtype)[None], after[:-1]])
        queries: Tensor = torch.where((packed.time == 0)[:, None], self.q_init.to(after.dtype), shifted)
        return queries

    def _one_by_one(self, dino: Dinov2Model, llm: LlamaForCausalLM, kept: Kept, packed: Packed, attention: bool) -> View:
        """Frame after frame: the query for frame t+1 comes from the fine token of frame t. For evaluation."""
        if packed.clips == 0:
            return self._coarse(dino, kept, packed, attention)  # no frames, no looks
        frame = packed.frame.new_zeros(packed.reading.shape)  # [clips, T], 0 where a clip has ended
        frame[packed.clip, packed.time] = packed.frame
        cache = DynamicCache()
        query, tokens, looks = self.q_init.expand(packed.clips, 1, -1), [], []
        for t in range(packed.reading.shape[1]):
            token, look = self._look(dino, query, kept.of(frame[:, t]), attention)  # [clips, 1, L]
            output = llm.model(inputs_embeds=token, past_key_values=cache, use_cache=True)
            query = self.to_query(output.last_hidden_state)  # [clips, 1, Q]
            tokens.append(token)
            looks.append(look)
        here = (packed.clip, packed.time)
        seen = [look for look in looks if look is not None]
        return View(torch.cat(tokens, 1)[here], torch.cat(seen, 1)[here] if seen else None)

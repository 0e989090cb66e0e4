"""The language model, read by hand: what `LlamaModel` computes, on tokens without padding and without waiting for the device.

W tokens of all sequences together, B sequences, C columns (the longest sequence), L width, H query heads, G key heads, d = head.

Linear maps, norms and activations see the W tokens alone; only attention sees the padded [B, C]. Causal attention makes right
padding harmless: nothing before it sees it. The public walk is `LlamaModel.forward`; ours computes the same (tested).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM

from trainer.model.blocks import block


@dataclass(frozen=True)
class Places:
    """Where W tokens stand in [B, C]: sequence after sequence, each from its first token on."""

    column: Tensor
    """[W] the token's place in its sequence."""
    flat: Tensor
    """[W] the same as an index into [B*C]."""
    shape: tuple[int, int]
    """(B, C)."""

    @property
    def full(self) -> bool:
        """No padding: tokens lie in [B, C] as they are."""
        return self.flat.numel() == self.shape[0] * self.shape[1]


def read(llm: LlamaForCausalLM, tokens: Tensor, places: Places) -> Tensor:
    """tokens: [W, L] embeddings in the order of `places` -> hidden states after the final norm [W, L]."""
    model = llm.model
    columns = torch.arange(places.shape[1], device=tokens.device)[None]
    tables = model.rotary_emb(tokens, columns)  # cos and sin, [1, C, d] each
    rotations = [table[0].index_select(0, places.column)[:, None] for table in tables]  # [W, 1, d] each
    hidden = tokens
    for layer in model.layers:
        hidden = block(_through, layer, hidden, rotations, places)
    normed: Tensor = model.norm(hidden)
    return normed


def _through(layer: LlamaDecoderLayer, hidden: Tensor, rotations: list[Tensor], places: Places) -> Tensor:
    """hidden: [W, L] -> the same, after one layer."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    projected = (attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed))
    query, key, value = (x.view(len(hidden), -1, attention.head_dim) for x in projected)  # [W, H, d], [W, G, d], [W, G, d]
    turned = _turned(torch.cat((query, key), 1), *rotations)
    joined = torch.cat((turned, value), 1)  # [W, H+2G, d]
    hidden = hidden + attention.o_proj(_attend(joined, query.shape[1], places))
    result: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return result


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position: x [W, heads, d], cos and sin [W, 1, d]."""
    first, second = torch.chunk(x, 2, -1)
    return (x * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)


def _attend(joined: Tensor, heads: int, places: Places) -> Tensor:
    """Queries, keys and values side by side, [W, H+2G, d] -> causal attention within each sequence, [W, H*d]."""
    groups, width = (joined.shape[1] - heads) // 2, joined.shape[2]
    rows = joined.flatten(1)  # [W, (H+2G)*d]
    rows = rows if places.full else _spread(rows, places)
    padded = rows.view(*places.shape, -1, width).transpose(1, 2)  # [B, H+2G, C, d]
    query, key, value = torch.split(padded, [heads, groups, groups], 1)
    seen = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=heads != groups)  # [B, H, C, d]
    seen = seen.transpose(1, 2).reshape(places.shape[0] * places.shape[1], -1)
    return seen if places.full else _gather(seen, places)


def _spread(x: Tensor, places: Places) -> Tensor:
    """[W, ...] -> [B*C, ...], 0 where there is no token."""
    if torch.compiler.is_compiling():  # torch 2.11 traces `_Spread` and loses its gradient without a word
        return x.new_zeros(places.shape[0] * places.shape[1], *x.shape[1:]).index_copy(0, places.flat, x)
    rows: Tensor = _Spread.apply(x, places.flat, places.shape[0] * places.shape[1])  # type: ignore[no-untyped-call]  # torch's
    return rows


def _gather(x: Tensor, places: Places) -> Tensor:
    """[B*C, ...] -> [W, ...]"""
    if torch.compiler.is_compiling():
        return x.index_select(0, places.flat)
    rows: Tensor = _Gather.apply(x, places.flat)  # type: ignore[no-untyped-call]  # torch's
    return rows


class _Spread(torch.autograd.Function):
    """Each place has one token at most: the gradient is a selection, no sum (which a GPU adds up in any order)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, flat: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(flat)
        return x.new_zeros(size, *x.shape[1:]).index_copy_(0, flat, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, flat: Tensor) -> Tensor:
        ctx.save_for_backward(flat)
        ctx.size = len(x)
        return x.index_select(0, flat)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rows = gradient.new_zeros(ctx.size, *gradient.shape[1:])
        return rows.index_copy_(0, ctx.saved_tensors[0], gradient), None

"""DINO, walked by hand: every distinct frame once, with K and V kept; then queries that look at what was kept.

U distinct frames, R queries per frame, N patches (and one CLS token before them), D DINO width, H heads, d = D / H.
The public walk is `Dinov2Model.forward`; ours computes the same numbers (tested) and keeps what queries need.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer, Dinov2Model


@dataclass(frozen=True)
class Kept:
    """What DINO keeps of U frames for queries to look at: per layer that queries walk through, K and V."""

    keys: tuple[Tensor, ...]
    """Per layer [U, H, 1+N, d]."""
    values: tuple[Tensor, ...]

    def of(self, frames: Tensor) -> Kept:
        """frames: [M] indices; the same for frames picked (and repeated) by index."""
        return Kept(tuple(k[frames] for k in self.keys), tuple(v[frames] for v in self.values))


@dataclass(frozen=True)
class AttentionParts:
    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module


def attention_parts(layer: Dinov2Layer) -> AttentionParts:
    """The four projections of a DINO layer; transformers renamed them between 5.17 and 5.23."""
    attention = layer.attention
    if hasattr(attention, "q_proj"):
        return AttentionParts(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    inner = attention.attention
    return AttentionParts(inner.query, inner.key, inner.value, attention.output.dense)


def features(dino: Dinov2Model, frames: Tensor) -> Tensor:
    """frames: [U, 3, H, W] -> what `Dinov2Model` returns, [U, 1+N, D] after the final norm."""
    hidden = dino.embeddings(frames)  # [U, 1+N, D]
    for layer in dino.encoder.layer:
        hidden, _, _ = _through(dino, layer, hidden)
    normed: Tensor = dino.layernorm(hidden)
    return normed


def keep_deep(dino: Dinov2Model, frames: Tensor) -> Kept:
    """frames: [U, 3, H, W]; U may be 0, so that a batch of texts still has DINO in its graph. K and V of all layers.

    The last layer's K and V need nothing of its attention and MLP: those are not computed.
    """
    hidden = dino.embeddings(frames)  # [U, 1+N, D]
    *layers, last = dino.encoder.layer
    keys, values = [], []
    for layer in layers:
        hidden, key, value = _through(dino, layer, hidden)
        keys.append(key)
        values.append(value)
    key, value = _keys_and_values(dino, last, last.norm1(hidden))
    return Kept((*keys, key), (*values, value))


def keep_shallow(dino: Dinov2Model, frames: Tensor) -> Kept:
    """frames: [U, 3, H, W]. K and V of one cross-attention on the final features, with the last layer's projections."""
    last = dino.encoder.layer[-1]
    key, value = _keys_and_values(dino, last, last.norm1(features(dino, frames)))
    return Kept((key,), (value,))


def look_deep(dino: Dinov2Model, queries: Tensor, kept: Kept, attention: bool = False) -> tuple[Tensor, Tensor | None]:
    """Walk queries through all layers on the kept K/V; patches never see them, nor do they see each other.

    queries: [U, R, D]. Returns what they saw [U, R, D] after the final norm and, if asked, where they looked
    [U, R, layers, H, 1+N]: softmax weights, CLS first, summing to 1.
    """
    hidden, looks = queries, []
    for layer, key, value in zip(dino.encoder.layer, kept.keys, kept.values, strict=True):
        parts = attention_parts(layer)
        seen, weights = _attend(_heads(dino, parts.query(layer.norm1(hidden))), key, value, attention)
        hidden = _rest_of_layer(layer, parts, hidden, seen)
        looks.append(weights)
    return dino.layernorm(hidden), _stack(looks)


def look_shallow(dino: Dinov2Model, queries: Tensor, kept: Kept, attention: bool = False) -> tuple[Tensor, Tensor | None]:
    """One cross-attention: no depth, no residual, no MLP. Shapes as `look_deep`, with one layer."""
    parts = attention_parts(dino.encoder.layer[-1])
    seen, weights = _attend(_heads(dino, parts.query(queries)), kept.keys[0], kept.values[0], attention)
    return dino.layernorm(_merge(seen)), _stack([weights])


def _through(dino: Dinov2Model, layer: Dinov2Layer, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """hidden: [U, 1+N, D] before the layer; after it, and the layer's K and V [U, H, 1+N, d]."""
    parts = attention_parts(layer)
    normed = layer.norm1(hidden)
    key, value = _keys_and_values(dino, layer, normed)
    seen = F.scaled_dot_product_attention(_heads(dino, parts.query(normed)), key, value)
    return _rest_of_layer(layer, parts, hidden, seen), key, value


def _keys_and_values(dino: Dinov2Model, layer: Dinov2Layer, normed: Tensor) -> tuple[Tensor, Tensor]:
    """normed: [U, 1+N, D] -> [U, H, 1+N, d] each"""
    parts = attention_parts(layer)
    return _heads(dino, parts.key(normed)), _heads(dino, parts.value(normed))


def _heads(dino: Dinov2Model, x: Tensor) -> Tensor:
    """[U, n, D] -> [U, H, n, d]"""
    heads = dino.config.num_attention_heads
    return x.view(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """[U, H, n, d] -> [U, n, D]"""
    return x.transpose(1, 2).flatten(2)


def _rest_of_layer(layer: Dinov2Layer, parts: AttentionParts, hidden: Tensor, seen: Tensor) -> Tensor:
    """hidden: [U, n, D] before the layer, seen: [U, H, n, d] what attention brought; the layer's result [U, n, D]."""
    hidden = hidden + layer.layer_scale1(parts.out(_merge(seen)))
    result: Tensor = hidden + layer.layer_scale2(layer.mlp(layer.norm2(hidden)))
    return result


def _attend(query: Tensor, key: Tensor, value: Tensor, attention: bool) -> tuple[Tensor, Tensor | None]:
    """query: [U, H, R, d], key and value: [U, H, 1+N, d]. Seen [U, H, R, d] and, if asked, weights [U, H, R, 1+N]."""
    if not attention:
        return F.scaled_dot_product_attention(query, key, value), None
    weights = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, dim=-1)
    return weights @ value, weights


def _stack(looks: list[Tensor | None]) -> Tensor | None:
    """Per layer [U, H, R, 1+N] -> [U, R, layers, H, 1+N]"""
    weights = [w for w in looks if w is not None]
    return torch.stack(weights).permute(1, 3, 0, 2, 4) if weights else None

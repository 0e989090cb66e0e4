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

from trainer.model.blocks import block


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
    rows, heads = hidden.flatten(0, 1), dino.config.num_attention_heads
    for layer in dino.encoder.layer:
        rows, _, _ = block(_through, layer, rows, heads, len(frames), hidden.shape[1])
    normed: Tensor = dino.layernorm(rows).view(hidden.shape)
    return normed


def keep_deep(dino: Dinov2Model, frames: Tensor) -> Kept:
    """frames: [U, 3, H, W]; U may be 0, so that a batch of texts still has DINO in its graph. K and V of all layers.

    The last layer's K and V need nothing of its attention and MLP: those are not computed.
    """
    return _walk(dino, frames, None)[0]


def keep_deep_and_look(dino: Dinov2Model, frames: Tensor, query: Tensor) -> tuple[Kept, Tensor]:
    """`keep_deep`, and what one query [D] that looks at every frame sees: [U, 1, D], as `look_deep` says.

    The query rides along with the patches: one walk instead of two, whose maps and norms are done for both at once.
    """
    kept, seen = _walk(dino, frames, query)
    assert seen is not None
    return kept, seen


def _walk(dino: Dinov2Model, frames: Tensor, query: Tensor | None) -> tuple[Kept, Tensor | None]:
    hidden = dino.embeddings(frames)  # [U, 1+N, D]
    count, patches = hidden.shape[:2]
    heads = dino.config.num_attention_heads
    rows = hidden.flatten(0, 1)  # [U*(1+N), D], and after them [U, D], the query at every frame
    if query is not None:
        rows = torch.cat([rows, query.to(rows.dtype).expand(count, -1)])
    *layers, last = dino.encoder.layer
    keys, values = [], []
    for layer in layers:
        rows, key, value = block(_through, layer, rows, heads, count, patches)
        keys.append(key)
        values.append(value)
    parts, normed = attention_parts(last), last.norm1(rows)
    key, value = _keys_and_values(parts, normed[: count * patches], heads, count, patches)
    kept = Kept((*keys, key), (*values, value))
    if query is None:
        return kept, None
    looking = _heads(parts.query(normed[count * patches :]), heads, count, 1)
    seen = _rest_of_layer(last, parts, rows[count * patches :], _merge(F.scaled_dot_product_attention(looking, key, value)))
    return kept, dino.layernorm(seen)[:, None]


def keep_shallow(dino: Dinov2Model, frames: Tensor) -> Kept:
    """frames: [U, 3, H, W]. K and V of one cross-attention on the final features, with the last layer's projections."""
    last, final = dino.encoder.layer[-1], features(dino, frames)
    heads = dino.config.num_attention_heads
    key, value = _keys_and_values(attention_parts(last), last.norm1(final.flatten(0, 1)), heads, *final.shape[:2])
    return Kept((key,), (value,))


def look_deep(dino: Dinov2Model, queries: Tensor, kept: Kept, attention: bool = False) -> tuple[Tensor, Tensor | None]:
    """Walk queries through all layers on the kept K/V; patches never see them, nor do they see each other.

    queries: [U, R, D]. Returns what they saw [U, R, D] after the final norm and, if asked, where they looked
    [U, R, layers, H, 1+N]: softmax weights, CLS first, summing to 1.
    """
    rows, looks, heads = queries.flatten(0, 1), [], dino.config.num_attention_heads  # rows: [U*R, D]
    for layer, key, value in zip(dino.encoder.layer, kept.keys, kept.values, strict=True):
        rows, weights = block(_looking, layer, rows, key, value, heads, attention)
        looks.append(weights)
    return dino.layernorm(rows).view(queries.shape), _stack(looks)


def look_shallow(dino: Dinov2Model, queries: Tensor, kept: Kept, attention: bool = False) -> tuple[Tensor, Tensor | None]:
    """One cross-attention: no depth, no residual, no MLP. Shapes as `look_deep`, with one layer."""
    parts = attention_parts(dino.encoder.layer[-1])
    query = _heads(parts.query(queries.flatten(0, 1)), dino.config.num_attention_heads, *queries.shape[:2])
    seen, weights = _attend(query, kept.keys[0], kept.values[0], attention)
    return dino.layernorm(_merge(seen)).view(queries.shape), _stack([weights])


def _through(layer: Dinov2Layer, rows: Tensor, heads: int, count: int, patches: int) -> tuple[Tensor, Tensor, Tensor]:
    """One layer over `count` frames of `patches` (1+N) rows each; rows behind those are one query per frame.

    rows: [U*(1+N), D] or [U*(1+N) + U, D]. After the layer the same, and the layer's K and V [U, H, 1+N, d].
    """
    parts, own = attention_parts(layer), [count * patches, len(rows) - count * patches]
    normed = layer.norm1(rows)
    # Split, not sliced: the gradient of two slices is two tensors of zeros to fill and to add.
    key, value = _keys_and_values(parts, torch.split(normed, own)[0], heads, count, patches)
    query, looking = torch.split(parts.query(normed), own)
    seen = _merge(F.scaled_dot_product_attention(_heads(query, heads, count, patches), key, value))
    if len(looking):
        looked = F.scaled_dot_product_attention(_heads(looking, heads, count, 1), key, value)
        seen = torch.cat([seen, _merge(looked)])
    return _rest_of_layer(layer, parts, rows, seen), key, value


def _looking(
    layer: Dinov2Layer, rows: Tensor, key: Tensor, value: Tensor, heads: int, attention: bool
) -> tuple[Tensor, Tensor | None]:
    """One layer over queries [U*R, D] that look at K and V [U, H, 1+N, d]; the same, and where they looked [U, H, R, 1+N]."""
    parts, count = attention_parts(layer), len(key)
    query = _heads(parts.query(layer.norm1(rows)), heads, count, len(rows) // count if count else 1)
    seen, weights = _attend(query, key, value, attention)
    return _rest_of_layer(layer, parts, rows, _merge(seen)), weights


def _keys_and_values(parts: AttentionParts, normed: Tensor, heads: int, count: int, patches: int) -> tuple[Tensor, Tensor]:
    """normed: [U*(1+N), D] -> [U, H, 1+N, d] each"""
    return _heads(parts.key(normed), heads, count, patches), _heads(parts.value(normed), heads, count, patches)


def _heads(x: Tensor, heads: int, count: int, each: int) -> Tensor:
    """[U*n, D] -> [U, H, n, d]"""
    return x.view(count, each, heads, x.shape[-1] // heads).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """[U, H, n, d] -> [U*n, D]"""
    return x.transpose(1, 2).flatten(2).flatten(0, 1)


def _rest_of_layer(layer: Dinov2Layer, parts: AttentionParts, rows: Tensor, seen: Tensor) -> Tensor:
    """rows: [n, D] before the layer, seen: [n, D] what attention brought; the layer's result [n, D]."""
    rows = rows + layer.layer_scale1(parts.out(seen))
    result: Tensor = rows + layer.layer_scale2(layer.mlp(layer.norm2(rows)))
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

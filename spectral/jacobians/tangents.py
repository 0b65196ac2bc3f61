"""Derivatives of whole layers in closed form, forward and reverse, for many vectors at one point.

They stand behind the batch: k tangents or cotangents at ``(B, T, width)`` are ``(B, k, T, width)``.
All that is large is a product of matrices, and what the point itself gives is computed once.
"""

import torch
from torch import Tensor

from spectral.jacobians.layers import Attended, Attention, Layer, LayerNorm
from spectral.jacobians.linearisation import Pass, as_chunk


def layer_tangents(layer: Layer, seen: Pass, moved: Tensor, source: Tensor | None = None) -> Tensor:
    """Of a layer's output, ``(B, k, T, D)``, from its input's and the context's ``(B, k, S, C)``.

    ``seen`` is its forward pass at all its tokens. Without a context the layer has none.
    """
    own, cross, ffn = layer.self_attention, layer.cross_attention, layer.ffn
    normal = layer_norm_tangents(own.norm, seen.hidden[0], moved)
    moved = moved + attention_tangents(own, seen.self_attended, normal, normal)
    if cross is not None:
        assert seen.cross_attended is not None
        assert source is not None
        normal = layer_norm_tangents(cross.norm, seen.hidden[1], moved)
        moved = moved + attention_tangents(cross, seen.cross_attended, normal, source)
    normal = layer_norm_tangents(ffn.norm, seen.hidden[-1], moved)
    inner = (normal @ ffn.in_weight.T) * seen.slope[:, None]
    return moved + inner @ ffn.out_weight.T


def layer_cotangents(layer: Layer, seen: Pass, moved: Tensor) -> Tensor:
    """Of the input of a layer without cross-attention, ``(B, k, T, D)``, from its output's."""
    own, ffn = layer.self_attention, layer.ffn
    inner = (moved @ ffn.out_weight) * seen.slope[:, None]
    moved = moved + layer_norm_cotangents(ffn.norm, seen.hidden[-1], inner @ ffn.in_weight)
    normal = self_attention_cotangents(own, seen.self_attended, moved)
    return moved + layer_norm_cotangents(own.norm, seen.hidden[0], normal)


def layer_norm_tangents(norm: LayerNorm, hidden: Tensor, moved: Tensor) -> Tensor:
    """Of the norm at hidden states ``(B, T, D)``, from theirs: ``(B, k, T, D)`` both."""
    along, inverse = _along(norm, hidden)
    return _projected(moved, along) * (norm.weight * inverse)[:, None]


def layer_norm_cotangents(norm: LayerNorm, hidden: Tensor, moved: Tensor) -> Tensor:
    """Of hidden states ``(B, T, D)``, from those of the norm there: ``(B, k, T, D)`` both."""
    along, inverse = _along(norm, hidden)
    return _projected(moved * (norm.weight * inverse)[:, None], along)


def attention_tangents(
    attention: Attention, attended: Attended, queries: Tensor, source: Tensor
) -> Tensor:
    r"""Of what attention adds to the stream, ``(B, k, T, D)``.

    .. math:: do_t = \sum_s a_{ts} (z_{ts} - \bar z_t) v_s + a_{ts}\, dv_s, \qquad
        z_{ts} = \gamma (dq_t' k_s + q_t' dk_s)

    The source's tangents are projected to keys and values, or, where that is less, queries and
    weights of all heads are taken to the source: S C multiply-adds per head and T, or per D.

    Args:
        attention: Its weights.
        attended: Its forward pass.
        queries: Tangents of the normalised queries' side, ``(B, k, T, D)``.
        source: Tangents of keys' and values' side, ``(B, k, S, C)``.
    """
    split = (attention.heads, -1)
    query = attention.scale * attended.query
    asked = torch.unflatten(queries @ (attention.scale * attention.query_weight.T), -1, split)
    asked = asked.transpose(2, 3)
    key_weight, value_weight = (
        torch.unflatten(weight, 0, split)
        for weight in (attention.key_weight, attention.value_weight)
    )
    projected = query.shape[-2] > query.shape[-1]
    if projected:
        keys, values = (
            torch.unflatten(source @ weight.T, -1, split).transpose(2, 3)
            for weight in (attention.key_weight, attention.value_weight)
        )
        keys = torch.cat([keys, attended.key[:, None].expand_as(keys)], -1)
    numbers = queries.shape[1] * attended.weights[..., 0, :].numel()
    size = as_chunk(None, numbers, queries.device)
    found = torch.empty_like(asked)
    for start in range(0, query.shape[-2], size):
        some = slice(start, start + size)
        weights, output = attended.weights[..., some, :], attended.output[..., some, :]
        if projected:
            both = [query[:, None, :, some].expand_as(asked[..., some, :]), asked[..., some, :]]
            logits = torch.cat(both, -1) @ keys.mT
            heard = torch.einsum("bnts,bknsd->bkntd", weights, values)
        else:
            taken = (query[..., some, :] @ key_weight).flatten(1, 2)[:, None] @ source.mT
            logits = torch.unflatten(taken, 2, split)
            logits += torch.einsum("bkntd,bnsd->bknts", asked[..., some, :], attended.key)
            heard = torch.unflatten(weights.flatten(1, 2)[:, None] @ source, 2, split)
            heard = torch.einsum("bkntc,ndc->bkntd", heard, value_weight)
        logits *= weights[:, None]
        heard = heard + torch.einsum("bknts,bnsd->bkntd", logits, attended.value)
        found[..., some, :] = heard - output[:, None] * logits.sum(-1, keepdim=True)
    return _joined(found) @ attention.out_weight.T


def self_attention_cotangents(attention: Attention, attended: Attended, moved: Tensor) -> Tensor:
    """Of the normalised hidden states, from those of what attention adds: ``(B, k, T, D)`` both."""
    split = (attention.heads, -1)
    query, key, value = attended.query, attended.key, attended.value
    heard = torch.unflatten(moved @ attention.out_weight, -1, split).transpose(2, 3)
    along = (heard * attended.output[:, None]).sum(-1, keepdim=True)
    queries = torch.empty_like(heard)
    keys, values = torch.zeros_like(heard), torch.zeros_like(heard)
    numbers = moved.shape[1] * attended.weights[..., 0, :].numel()
    size = as_chunk(None, numbers, moved.device)
    for start in range(0, query.shape[-2], size):
        some = slice(start, start + size)
        weights, part = attended.weights[..., some, :], heard[..., some, :]
        logits = torch.einsum("bkntd,bnsd->bknts", part, value)
        logits -= along[..., some, :]
        logits *= weights[:, None]
        queries[..., some, :] = torch.einsum("bknts,bnsd->bkntd", logits, key)
        keys += torch.einsum("bknts,bntd->bknsd", logits, query[..., some, :])
        values += torch.einsum("bnts,bkntd->bknsd", weights, part)
    sides = ((queries, attention.query_weight), (keys, attention.key_weight))
    result = sum(attention.scale * _joined(rows) @ weight for rows, weight in sides)
    return result + _joined(values) @ attention.value_weight


def _joined(rows: Tensor) -> Tensor:
    """Heads ``(B, k, heads, T, d)`` side by side, ``(B, k, T, inner)``."""
    return rows.transpose(2, 3).flatten(3)


def _along(norm: LayerNorm, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Standardised hidden states, ``(B, 1, T, D)``, and their inverse deviations, ``(B, T, 1)``."""
    centred = hidden - hidden.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    return (centred * inverse)[:, None], inverse


def _projected(moved: Tensor, along: Tensor) -> Tensor:
    """Rows less their mean and their part along the standardised hidden state."""
    moved = moved - moved.mean(-1, keepdim=True)
    return moved - along * (along * moved).mean(-1, keepdim=True)

"""Derivatives of norms and whole layers in closed form, for many vectors at one point.

They stand behind the batch: k tangents or cotangents at ``(B, T, width)`` are ``(B, k, T, width)``.
All that is large is a product of matrices, and what the point itself gives is computed once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from spectral._validation import as_chunk
from spectral.jacobians.layers import (
    ALL,
    Attended,
    Attention,
    Layer,
    LayerNorm,
    Pass,
    run,
    standardised,
)
from spectral.jacobians.propagators import checked
from spectral.jacobians.triplets import LinearOperator

_TOGETHER = 2**22
"""Numbers of directions of the context, or of logits, moved at once by a layer."""


def as_norm(module: nn.Module, dtype: torch.dtype) -> LayerNorm:
    """A layer norm of either library as tensors of a dtype."""
    norm: Any = module
    weight, bias = (part.detach().to(dtype) for part in (norm.weight, norm.bias))
    return LayerNorm(weight, bias, norm.eps)


@dataclass(frozen=True)
class LayerNormJacobian:
    """diag(gain) (I - 11'/D - x x'/D) at hidden states ``(*batch, width)``."""

    gain: Tensor  # (*batch, width): r w
    along: Tensor  # (*batch, width): x, centred and scaled

    def tangents(self, rows: Tensor) -> Tensor:
        """Of the norm, from those of hidden states: rows that broadcast with ``gain``."""
        return self._projected(rows) * self.gain

    def cotangents(self, rows: Tensor) -> Tensor:
        """Of hidden states, from those of the norm: rows that broadcast with ``gain``."""
        return self._projected(rows * self.gain)

    def apply(self, matrix: Tensor) -> Tensor:
        """Products with matrices ``(*batch, width, columns)``; 5 width multiply-adds a column."""
        return self[..., None, :].tangents(matrix.mT).mT

    def __getitem__(self, index: object) -> "LayerNormJacobian":
        """The same at some of the states."""
        return LayerNormJacobian(self.gain[index], self.along[index])  # type: ignore[index]

    def to(self, dtype: torch.dtype) -> "LayerNormJacobian":
        """The same in another dtype."""
        return LayerNormJacobian(self.gain.to(dtype), self.along.to(dtype))

    def _projected(self, rows: Tensor) -> Tensor:
        rows = rows - rows.mean(-1, keepdim=True)
        return rows - self.along * (self.along * rows).mean(-1, keepdim=True)


def layer_norm_jacobian(norm: LayerNorm, hidden: Tensor) -> LayerNormJacobian:
    r"""The Jacobian of a layer norm, :math:`r\,\mathrm{diag}(w)(I - 11'/D - \hat x \hat x'/D)`.

    At hidden states ``(*batch, width)``; raises ValueError for another width than the norm's.
    Without eps the hidden state itself is a null direction too.

    Example:
        >>> norm = LayerNorm(torch.ones(2), torch.zeros(2), 0.0)
        >>> layer_norm_jacobian(norm, torch.tensor([1.0, -1.0])).apply(torch.eye(2)).norm() < 1e-6
        tensor(True)
    """
    width = len(norm.weight)
    if hidden.shape[-1] != width:
        raise ValueError(f"hidden must have width {width}, got shape {tuple(hidden.shape)}")
    along, inverse = standardised(norm, hidden)
    return LayerNormJacobian(norm.weight * inverse, along)


def layer_tangents(point: Pass, moved: Tensor, source: Tensor | None = None) -> Tensor:
    """Of a layer's output, ``(B, k, T, D)``, from its input's and a context's ``(B, k, S, C)``."""
    layer = point.layer
    attention, cross, ffn = layer.self_attention, layer.cross_attention, layer.ffn
    normal = layer_norm_jacobian(attention.norm, point.hidden[0][:, None]).tangents(moved)
    moved = moved + _attention_tangents(attention, point.self_attended, normal, normal)
    if cross is not None:
        assert point.cross_attended is not None
        assert source is not None
        normal = layer_norm_jacobian(cross.norm, point.hidden[1][:, None]).tangents(moved)
        moved = moved + _attention_tangents(cross, point.cross_attended, normal, source)
    normal = layer_norm_jacobian(ffn.norm, point.hidden[-1][:, None]).tangents(moved)
    return moved + ((normal @ ffn.in_weight.T) * point.slope[:, None]) @ ffn.out_weight.T


def layer_cotangents(point: Pass, moved: Tensor) -> Tensor:
    """Of the input of a layer without cross-attention, ``(B, k, T, D)``, from its output's."""
    attention, ffn = point.layer.self_attention, point.layer.ffn
    inner = ((moved @ ffn.out_weight) * point.slope[:, None]) @ ffn.in_weight
    moved = moved + layer_norm_jacobian(ffn.norm, point.hidden[-1][:, None]).cotangents(inner)
    normal = _self_attention_cotangents(attention, point.self_attended, moved)
    return moved + layer_norm_jacobian(attention.norm, point.hidden[0][:, None]).cotangents(normal)


def total_sensitivity(
    layers: Sequence[Layer], hidden: Tensor, context: Tensor, tokens: slice = ALL
) -> LinearOperator:
    """The total derivative of the last hidden states by the context, matrix-free.

    With what arrives through earlier tokens' keys and values, of which ``sensitivity`` knows
    nothing. Columns of J V go through the layers together, 2 S C multiply-adds each per layer, head
    and token, or per layer and D where that is less; a column of J' U is a vjp of all layers.

    Decoder ``layers`` from the lowest up, ``hidden``, the residual stream before the lowest,
    ``(*batch, tokens, width)``, and ``context``, ``(*batch, frames, source width)``, give an
    operator of shape ``(*batch, T D, S C)`` for the T ``tokens`` chosen. Raises ValueError as
    :func:`spectral.linearise`.

    Example:
        >>> total_sensitivity(layers, torch.ones(5, 8), torch.ones(20, 8), slice(4, 5)).shape
        torch.Size([8, 160])
    """
    hidden, source, _ = checked(layers[0], hidden, context)
    assert source is not None
    batch, (frames, width) = hidden.shape[:-2], source.shape[-2:]
    rows, items = hidden.reshape(-1, *hidden.shape[-2:]), source.reshape(-1, frames, width)
    passes = cache(lambda: run_all(layers, rows, items))

    def moved(directions: Tensor) -> Tensor:
        result = directions.new_zeros(*directions.shape[:2], *rows.shape[1:])
        for point in passes():
            result = layer_tangents(point, result, directions)
        return result[:, :, tokens]

    def matmat(columns: Tensor) -> Tensor:
        directions = columns.mT.reshape(len(items), -1, frames, width)
        assert layers[0].cross_attention is not None
        logits = layers[0].cross_attention.heads * rows.shape[-2]
        numbers = len(items) * frames * max(width, logits)
        parts = torch.split(directions, max(1, _TOGETHER // numbers), dim=1)
        result = torch.cat([moved(part) for part in parts], 1)
        return result.flatten(2).mT.reshape(*batch, -1, result.shape[1])

    def last(context: Tensor) -> Tensor:
        stream = hidden
        for layer in layers:
            stream = forward(layer, stream, context)
        return stream[..., tokens, :]

    pull = cache(lambda: torch.func.vjp(last, source.detach())[1])
    shape = hidden[..., tokens, :].shape

    def rmatmat(columns: Tensor) -> Tensor:
        rows = columns.movedim(-1, 0).reshape(-1, *shape)
        return torch.stack([pull()(row)[0].flatten(-2).detach() for row in rows], -1)

    whole = torch.Size([*batch, shape[-2:].numel(), frames * width])
    return LinearOperator(whole, matmat, rmatmat, hidden.dtype, hidden.device)


def forward(
    layer: Layer, hidden: Tensor, context: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """The layer's output ``(*batch, tokens, width)``, the reference of every closed form."""
    return run(layer, hidden, context, mask).output


def run_all(layers: Sequence[Layer], hidden: Tensor, context: Tensor | None = None) -> list[Pass]:
    """Every layer's pass at all tokens: hidden ``(*batch, T, width)`` before the lowest."""
    passes: list[Pass] = []
    for layer in layers:
        passes.append(run(layer, hidden, context))
        hidden = passes[-1].output
    return passes


def _attention_tangents(
    attention: Attention, attended: Attended, queries: Tensor, source: Tensor
) -> Tensor:
    r"""Of what attention adds to the stream, ``(B, k, T, D)``.

    .. math:: do_t = \sum_s a_{ts} (z_{ts} - \bar z_t) v_s + a_{ts}\, dv_s, \qquad
        z_{ts} = \gamma (dq_t' k_s + q_t' dk_s)

    from tangents of the normalised queries' side, ``(B, k, T, D)``, and of keys' and values' side,
    ``(B, k, S, C)``.
    """
    split = (attention.heads, -1)
    query = attention.scale * attended.query
    tangents = _by_head(attention, queries @ (attention.scale * attention.query_weight.T))
    # keys and values of the source, or, where that is less, queries and weights taken to the source
    projected = query.shape[-2] > query.shape[-1]
    both_weights = (attention.key_weight, attention.value_weight)
    if projected:
        keys, values = (_by_head(attention, source @ weight.T) for weight in both_weights)
        keys = torch.cat([keys, attended.key[:, None].expand_as(keys)], -1)
    else:
        key_weight, value_weight = (torch.unflatten(weight, 0, split) for weight in both_weights)
    result = torch.empty_like(tangents)
    for block in _blocks(attended, queries):
        weights, output = attended.weights[..., block, :], attended.output[..., block, :]
        part = tangents[..., block, :]
        if projected:
            both = [query[:, None, :, block].expand_as(part), part]
            logits = torch.cat(both, -1) @ keys.mT
            mixed = torch.einsum("bnts,bknsd->bkntd", weights, values)
        else:
            taken = (query[..., block, :] @ key_weight).flatten(1, 2)[:, None] @ source.mT
            logits = torch.unflatten(taken, 2, split)
            logits += torch.einsum("bkntd,bnsd->bknts", part, attended.key)
            mixed = torch.unflatten(weights.flatten(1, 2)[:, None] @ source, 2, split)
            mixed = torch.einsum("bkntc,ndc->bkntd", mixed, value_weight)
        logits *= weights[:, None]
        mixed = mixed + torch.einsum("bknts,bnsd->bkntd", logits, attended.value)
        result[..., block, :] = mixed - output[:, None] * logits.sum(-1, keepdim=True)
    return _joined(result) @ attention.out_weight.T


def _self_attention_cotangents(attention: Attention, attended: Attended, moved: Tensor) -> Tensor:
    """Of the normalised hidden states, from those of what attention adds: ``(B, k, T, D)`` both."""
    query, key, value = attended.query, attended.key, attended.value
    moved_output = _by_head(attention, moved @ attention.out_weight)
    along = (moved_output * attended.output[:, None]).sum(-1, keepdim=True)
    queries = torch.empty_like(moved_output)
    keys, values = torch.zeros_like(moved_output), torch.zeros_like(moved_output)
    for block in _blocks(attended, moved):
        weights, part = attended.weights[..., block, :], moved_output[..., block, :]
        logits = torch.einsum("bkntd,bnsd->bknts", part, value)
        logits -= along[..., block, :]
        logits *= weights[:, None]
        queries[..., block, :] = torch.einsum("bknts,bnsd->bkntd", logits, key)
        keys += torch.einsum("bknts,bntd->bknsd", logits, query[..., block, :])
        values += torch.einsum("bnts,bkntd->bknsd", weights, part)
    sides = ((queries, attention.query_weight), (keys, attention.key_weight))
    result = sum(attention.scale * _joined(rows) @ weight for rows, weight in sides)
    return result + _joined(values) @ attention.value_weight


def _blocks(attended: Attended, moved: Tensor) -> list[slice]:
    """Slices of the queries' tokens, by what the logits of all k vectors take."""
    numbers = moved.shape[1] * attended.weights[..., 0, :].numel()
    size = as_chunk(None, numbers, moved.device)
    return [slice(start, start + size) for start in range(0, attended.query.shape[-2], size)]


def _by_head(attention: Attention, rows: Tensor) -> Tensor:
    """Rows ``(B, k, T, inner)`` by head, ``(B, k, heads, T, d)``."""
    return torch.unflatten(rows, -1, (attention.heads, -1)).transpose(2, 3)


def _joined(rows: Tensor) -> Tensor:
    """Heads ``(B, k, heads, T, d)`` side by side, ``(B, k, T, inner)``."""
    return rows.transpose(2, 3).flatten(3)

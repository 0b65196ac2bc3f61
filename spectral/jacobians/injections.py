r"""How a layer, or a stack of them, lets the audio in: Jacobians by the context, never stored.

One layer's injection is :math:`G_l = df_l/dc`, ``D x (S C)`` for S frames of a context of width C;
with past keys and values held fixed they add up, through the propagators of the layers above, to
the sensitivity :math:`J_L = \sum_l W_L \cdots W_{l+1} G_l`. Both are
:class:`~spectral.jacobians.context_jacobian.ContextJacobian`: a sensitivity is an injection through
the heads of all layers, head n of layer l going by
:math:`\Phi_n = W_L \cdots W_{l+1} (I + F_l) O_n`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from spectral.jacobians.context_jacobian import ContextJacobian
from spectral.jacobians.layers import Attended, Attention, Layer, forward
from spectral.jacobians.linearisation import (
    ALL,
    Pass,
    as_chunk,
    checked,
    forward_passes,
    record,
    sublayer_jacobians,
)
from spectral.jacobians.operators import LinearOperator, function_operator
from spectral.jacobians.propagators import SubLayerJacobians
from spectral.jacobians.sublayers import SubLayerJacobian, by_token
from spectral.jacobians.tangents import layer_tangents

_TOGETHER = 2**22
"""Numbers of directions of the context, or of logits, moved at once by a layer."""


def injection(
    layer: Layer,
    hidden: Tensor,
    context: Tensor,
    mask: Tensor | None = None,
    tokens: slice = ALL,
    chunk: int | None = None,
) -> ContextJacobian:
    """G_l = df_l/dc of one layer: :func:`sensitivity` of it alone.

    6 D^3 multiply-adds per token.

    Args:
        layer: A decoder layer.
        hidden: The residual stream before it, ``(*batch, tokens, width)``.
        context, mask, tokens, chunk: As for :func:`sensitivity`.

    Returns:
        G_l in factors, ``(*batch, tokens)`` matrices of D x (S C).

    Raises:
        ValueError: As :func:`sensitivity`.

    Example:
        >>> from spectral.jacobians.testing import random_layer
        >>> layer = random_layer(width=8, heads=2)
        >>> injection(layer, torch.ones(5, 8), torch.ones(20, 8)).frame_norms().shape
        torch.Size([5, 20])
    """
    return sensitivity([layer], [hidden], context, mask, tokens, chunk)


def sensitivity(
    layers: Sequence[Layer],
    hidden: Sequence[Tensor],
    context: Tensor,
    mask: Tensor | None = None,
    tokens: slice = ALL,
    chunk: int | None = None,
) -> ContextJacobian:
    r"""J_L, the fixed-past sensitivity of every token's last hidden state to the context.

    .. math:: J_L = \sum_{l=1}^{L} W_L \cdots W_{l+1} G_l

    What reaches a token through the keys and values of earlier tokens is not in it; the total is
    :func:`total_sensitivity`. 10 D^3 multiply-adds per token and layer, the lowest layer 6; the
    result holds D^2 numbers per token and layer, for which ``tokens`` sets the bound.

    Args:
        layers: Decoder layers from the lowest to the highest, with heads of one width.
        hidden: The residual stream before each of them, ``(*batch, tokens, width)``.
        context: Shape ``(*batch, frames, source width)``, or one for all the batch.
        mask: Shape ``(*batch, tokens)``, bool, true where a token is real; all of them by default.
        tokens: Which tokens to return; keys and values come from all that are given.
        chunk: How many tokens are worked on at a time; by default as many as suit the device.

    Returns:
        J_L in factors, ``(*batch, tokens)`` matrices of D x (S C).

    Raises:
        ValueError: As :func:`spectral.jacobians.propagators.propagators` does, for no layers or
            another number of hidden states, and for a layer without cross-attention.

    Example:
        >>> from spectral.jacobians.testing import random_layer
        >>> layers = [random_layer(width=8, heads=2, seed=seed) for seed in (0, 1)]
        >>> hidden = [torch.ones(5, 8), torch.ones(5, 8)]
        >>> sensitivity(layers, hidden, torch.ones(20, 8)).singular_values().shape
        torch.Size([5, 8])
    """
    if not layers or len(layers) != len(hidden):
        raise ValueError(
            f"give one hidden state per layer, and at least one, got {len(hidden)} for "
            f"{len(layers)} layers"
        )

    def points() -> Iterator[LayerPoint]:
        for layer, stream in zip(reversed(layers), reversed(hidden), strict=True):
            require_injection(layer)
            stream, source, real = checked(layer, stream, context, mask)
            size = as_chunk(chunk, layer.width * len(layer.ffn.in_bias), layer.device)
            seen = record(layer, stream, source, real, tokens)
            parts = sublayer_jacobians(layer, seen, tokens, size)
            shown = real if real is None else real[..., tokens].reshape(-1, 1, 1)
            yield LayerPoint(layer, parts, seen.cross_attended, shown, size)

    return summed_ways(points(), len(layers), chunk)


@dataclass(frozen=True)
class LayerPoint:
    """A layer linearised at n tokens, as :func:`summed_ways` takes it."""

    layer: Layer
    parts: tuple[SubLayerJacobian, ...]
    crossed: Attended | None
    real: Tensor | None  # (n, 1, 1): false where a token is none, and has no Jacobian
    chunk: int


def summed_ways(
    points: Iterable[LayerPoint], count: int, chunk: int | None = None
) -> ContextJacobian:
    """J_L of ``count`` layers, the highest first: :func:`sensitivity`.

    Raises ValueError for a layer without cross-attention.
    """
    found: list[ContextJacobian] = []
    upper: Tensor | None = None
    for point in points:
        attention = require_injection(point.layer)
        assert point.crossed is not None
        below, crossing, ffn = point.parts
        if upper is None:
            upper = _identity(ffn, point.real)
        _append(upper, ffn, point.chunk)
        found.append(_heads(attention, point.crossed, upper @ attention.out_weight))
        if len(found) < count:
            _append(upper, crossing, point.chunk)
            _append(upper, below, point.chunk)
    return joined(found[::-1], chunk)


def require_injection(layer: Layer) -> Attention:
    """The layer's cross-attention; raises ValueError where it has none."""
    if layer.cross_attention is None:
        raise ValueError("a layer without cross-attention has no injection: leave it out")
    return layer.cross_attention


@dataclass(frozen=True)
class LayerJacobians:
    """All Jacobians of a decoder layer at T tokens, from one linearisation."""

    propagator: Tensor  # (*batch, T, width, width)
    sublayers: SubLayerJacobians
    injection: ContextJacobian


def layer_jacobians(
    layer: Layer, hidden: Tensor, context: Tensor, tokens: slice = ALL
) -> LayerJacobians:
    """:func:`propagators`, :func:`sublayer_propagators` and :func:`injection` of a layer at once.

    As many operations as the first of them, and D^3 per token more; it holds four matrices of
    D x D per token, for which ``tokens`` sets the bound.

    Args:
        layer: A decoder layer.
        hidden: The residual stream before it, ``(*batch, tokens, width)``.
        context, tokens: As for :func:`sensitivity`.

    Raises:
        ValueError: As :func:`sensitivity`.

    Example:
        >>> from spectral.jacobians.testing import random_layer
        >>> layer = random_layer(width=8, heads=2)
        >>> layer_jacobians(layer, torch.ones(5, 8), torch.ones(20, 8)).propagator.shape
        torch.Size([5, 8, 8])
    """
    attention = require_injection(layer)
    hidden, source, _ = checked(layer, hidden, context, None)
    size = as_chunk(None, layer.width * len(layer.ffn.in_bias), layer.device)
    seen = record(layer, hidden, source, None, tokens)
    parts = sublayer_jacobians(layer, seen, tokens, size)
    own, crossing, ffn = (_dense(part, size) for part in parts)
    assert seen.cross_attended is not None
    upper = ffn + torch.eye(layer.width, dtype=ffn.dtype, device=ffn.device)
    way = _heads(attention, seen.cross_attended, upper @ attention.out_weight)
    below = torch.baddbmm(own, crossing, own).add_(crossing)  # (I + C)(I + A) - I
    whole = upper.baddbmm(upper, below)
    shape = hidden[..., tokens, 0].shape
    whole, own, crossing, ffn = (
        torch.unflatten(each, 0, shape) for each in (whole, own, crossing, ffn)
    )
    return LayerJacobians(whole, SubLayerJacobians(own, crossing, ffn), joined([way]))


def total_sensitivity(
    layers: Sequence[Layer], hidden: Tensor, context: Tensor, tokens: slice = ALL
) -> LinearOperator:
    """The total derivative of the last hidden states by the context, matrix-free by autograd.

    With what arrives through earlier tokens' keys and values, of which :func:`sensitivity` knows
    nothing. Columns of J V go through the layers together, 2 S C multiply-adds each per layer, head
    and token, or per layer and D where that is less; a column of J' U is a vjp of all layers.

    Args:
        layers: Decoder layers from the lowest to the highest.
        hidden: The residual stream before the lowest, ``(*batch, tokens, width)``.
        context: Shape ``(*batch, frames, source width)``, with the batch of ``hidden``.
        tokens: Whose last hidden states; one (``slice(t, t + 1)``) for its own Jacobian.

    Returns:
        An operator of shape ``(*batch, T D, S C)`` for T tokens.

    Raises:
        ValueError: As :func:`spectral.jacobians.propagators.propagators` does.

    Example:
        >>> from spectral.jacobians.testing import random_layer
        >>> layers = [random_layer(width=8, heads=2, seed=seed) for seed in (0, 1)]
        >>> total_sensitivity(layers, torch.ones(5, 8), torch.ones(20, 8), slice(4, 5)).shape
        torch.Size([8, 160])
    """
    hidden, source, _ = checked(layers[0], hidden, context, None)
    assert source is not None
    batch, (frames, width) = hidden.shape[:-2], source.shape[-2:]
    rows, items = hidden.reshape(-1, *hidden.shape[-2:]), source.reshape(-1, frames, width)
    passes = cache(lambda: forward_passes(layers, rows, items))

    def matmat(columns: Tensor) -> Tensor:
        directions = torch.unflatten(
            columns.mT.reshape(len(items), -1, frames * width), -1, (-1, width)
        )
        assert layers[0].cross_attention is not None
        logits = layers[0].cross_attention.heads * rows.shape[-2]
        numbers = len(items) * frames * max(width, logits)
        parts = torch.split(directions, max(1, _TOGETHER // numbers), dim=1)
        moved = torch.cat([_moved(layers, passes(), part)[:, :, tokens] for part in parts], 1)
        return moved.flatten(2).mT.reshape(*batch, -1, moved.shape[1])

    def last(context: Tensor) -> Tensor:
        stream = hidden
        for layer in layers:
            stream = forward(layer, stream, context)
        return stream[..., tokens, :]

    pull = cache(lambda: function_operator(last, source, source.ndim - 2).rmatmat)
    shape = torch.Size([*batch, hidden[..., tokens, :].shape[-2:].numel(), frames * width])
    return LinearOperator(
        shape, matmat, lambda columns: pull()(columns), hidden.dtype, hidden.device
    )


def _moved(layers: Sequence[Layer], passes: Sequence[Pass], rows: Tensor) -> Tensor:
    """Tangents of the last hidden states ``(B, k, T, D)`` from the context's ``(B, k, S, C)``."""
    moved = rows.new_zeros(*rows.shape[:2], *passes[0].hidden[0].shape[-2:])
    for layer, seen in zip(layers, passes, strict=True):
        moved = layer_tangents(layer, seen, moved, rows)
    return moved


def _identity(like: SubLayerJacobian, shown: Tensor | None) -> Tensor:
    """One D x D identity per token, zeros for those not real."""
    count, width = like.direction.shape
    one = torch.eye(width, dtype=like.direction.dtype, device=like.direction.device)
    return one.repeat(count, 1, 1) if shown is None else one * shown


def _dense(part: SubLayerJacobian, chunk: int) -> Tensor:
    """J, ``(n, width, width)``."""
    count, width = part.direction.shape
    result = part.direction.new_empty(count, width, width)
    for start in range(0, count, chunk):
        some = slice(start, start + chunk)
        result[some] = part.at(some).transposed().mT
    return result


def _append(upper: Tensor, part: SubLayerJacobian, chunk: int) -> None:
    """upper <- upper (I + J), in place."""
    for start in range(0, len(upper), chunk):
        some = slice(start, start + chunk)
        upper[some] += upper[some] @ part.at(some).transposed().mT


def _heads(attention: Attention, attended: Attended, ways: Tensor) -> ContextJacobian:
    """The context's Jacobian through one layer's heads; ``ways``: from their outputs onward."""
    *batch, heads, tokens, _ = attended.weights.shape
    items = math.prod(batch)
    key_weight, value_weight = (
        torch.unflatten(weight, 0, (heads, -1))
        for weight in (attention.key_weight, attention.value_weight)
    )
    weights, outputs, keys = (
        by_token(rows).reshape(items, tokens, heads, rows.shape[-1])
        for rows in (
            attended.weights,
            attended.output,
            attention.scale * attended.query @ key_weight,
        )
    )
    return ContextJacobian(
        shape=torch.Size([*batch, tokens]),
        ways=ways.reshape(items, tokens, *ways.shape[-2:]),
        weights=weights,
        values=attended.value.reshape(items, *attended.value.shape[-3:]),
        outputs=outputs,
        keys=keys,
        value_weights=value_weight,
        chunk=1,
    )


def joined(parts: Sequence[ContextJacobian], chunk: int | None = None) -> ContextJacobian:
    """The sum of Jacobians of the same tokens by one context, as one through all their heads."""
    widths = {part.values.shape[-1] for part in parts}
    if len(widths) > 1:
        raise ValueError(f"all heads must have one width, got {sorted(widths)}")
    inner = sum(part.ways.shape[-1] for part in parts)
    numbers = 2 * inner * (parts[0].weights.shape[-1] + 2 * inner)
    return ContextJacobian(
        shape=parts[0].shape,
        ways=torch.cat([part.ways for part in parts], -1),
        weights=torch.cat([part.weights for part in parts], 2),
        values=torch.cat([part.values for part in parts], 1),
        outputs=torch.cat([part.outputs for part in parts], 2),
        keys=torch.cat([part.keys for part in parts], 2),
        value_weights=torch.cat([part.value_weights for part in parts], 0),
        chunk=as_chunk(chunk, numbers, parts[0].ways.device),
    )

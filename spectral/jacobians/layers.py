"""A pre-norm transformer layer as plain tensors, all that the kernels see, and its forward pass."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ALL = slice(None)


@dataclass(frozen=True)
class LayerNorm:
    """y = weight * (h - mean h) / sqrt(var h + eps) + bias, with the biased variance."""

    weight: Tensor  # (width,)
    bias: Tensor  # (width,)
    eps: float


@dataclass(frozen=True)
class Attention:
    """Multi-head attention behind a layer norm: out(sum_s softmax_s(scale q.k_s) v_s).

    Keys and values come from the normalised hidden states too, or from a context as it is.
    ``inner`` is heads times the width of a head.
    """

    norm: LayerNorm
    query_weight: Tensor  # (inner, width)
    query_bias: Tensor  # (inner,)
    key_weight: Tensor  # (inner, source width)
    key_bias: Tensor  # (inner,)
    value_weight: Tensor  # (inner, source width)
    value_bias: Tensor  # (inner,)
    out_weight: Tensor  # (width, inner)
    out_bias: Tensor  # (width,)
    heads: int
    scale: float


@dataclass(frozen=True)
class FeedForward:
    """out(gelu(in(norm(h)))), with the exact gelu, x times the normal distribution function."""

    norm: LayerNorm
    in_weight: Tensor  # (hidden width, width)
    in_bias: Tensor  # (hidden width,)
    out_weight: Tensor  # (width, hidden width)
    out_bias: Tensor  # (width,)


@dataclass(frozen=True)
class Layer:
    """One pre-norm layer: each sub-layer's output is added to the residual stream.

    A decoder layer is causal and has cross-attention, an encoder layer neither. Raises ValueError
    for weights that do not fit each other in shape, dtype or device, or heads that do not divide an
    attention's inner width.
    """

    self_attention: Attention
    cross_attention: Attention | None
    ffn: FeedForward
    causal: bool

    def __post_init__(self) -> None:
        for name in ("self_attention", "cross_attention", "ffn"):
            part = getattr(self, name)
            if part is None:
                continue
            inner = len(part.in_weight if name == "ffn" else part.query_bias)
            if name != "ffn" and (part.heads < 1 or inner % part.heads):
                raise ValueError(
                    f"{name}.heads must divide {inner}, its inner width, got {part.heads}"
                )
            source = part.key_weight.shape[-1] if name == "cross_attention" else self.width
            for field, tensor in _tensors(part):
                rows = self.width if field.startswith(("out", "norm")) else inner
                columns = {"out_weight": inner, "key_weight": source, "value_weight": source}
                matrix = rows, columns.get(field, self.width)
                shape = matrix if field.endswith("_weight") else (rows,)
                if tensor.shape != shape:
                    raise ValueError(
                        f"{name}.{field} must have shape {shape}, got {tuple(tensor.shape)}"
                    )
        kinds = {(tensor.dtype, tensor.device) for _, tensor in _tensors(self)}
        if len(kinds) > 1:
            raise ValueError(
                f"all weights must have one dtype and device, got {sorted(map(str, kinds))}: "
                "use Layer.to after building it from weights of one kind"
            )
        if not self.dtype.is_floating_point:
            raise ValueError(f"weights must be real floating point, got {self.dtype}")

    @property
    def width(self) -> int:
        """D, the width of the residual stream."""
        return len(self.self_attention.out_bias)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every weight, in which the kernels compute."""
        return self.ffn.out_bias.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.ffn.out_bias.device

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> "Layer":
        """The same layer in another dtype or on another device."""
        moved: Layer = _moved(self, device or self.device, dtype or self.dtype)
        return moved


@dataclass(frozen=True)
class Attended:
    """What one attention computed: T queries over S keys, per head."""

    query: Tensor  # (*batch, heads, T, d), before scaling
    key: Tensor  # (*batch, heads, S, d)
    value: Tensor  # (*batch, heads, S, d)
    weights: Tensor  # (*batch, heads, T, S), rows sum to one
    output: Tensor  # (*batch, heads, T, d), weights @ value


@dataclass(frozen=True)
class Pass:
    """A layer's forward pass at some tokens, with what its derivatives need of it."""

    layer: Layer
    hidden: tuple[Tensor, ...]  # residual stream before each sub-layer, (*batch, T, width)
    self_attended: Attended
    cross_attended: Attended | None
    inner: Tensor  # (*batch, T, hidden width), before the gelu

    @property
    def output(self) -> Tensor:
        """The residual stream after the layer, ``(*batch, T, width)``."""
        ffn = self.layer.ffn
        added = functional.linear(functional.gelu(self.inner), ffn.out_weight, ffn.out_bias)
        return self.hidden[-1] + added

    @cached_property
    def slope(self) -> Tensor:
        """The exact gelu's derivative at ``inner``."""
        density = (self.inner.square() / -2).exp() / math.sqrt(2 * math.pi)
        return torch.special.ndtr(self.inner) + self.inner * density


def run(
    layer: Layer,
    hidden: Tensor,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    tokens: slice = ALL,
) -> Pass:
    """The layer's pass at the tokens asked for; keys and values come from all of them.

    Of hidden states ``(*batch, tokens, width)``, a context ``(*batch, frames, source width)`` for
    cross-attention, and a mask ``(*batch, tokens)``, bool: where it is false, a token is seen by
    none but itself. Differentiable.
    """
    attention, cross, ffn = layer.self_attention, layer.cross_attention, layer.ffn
    normal = normalised(attention.norm, hidden)
    visible = None
    if layer.causal or mask is not None:
        visible = hidden.new_ones(hidden.shape[-2], hidden.shape[-2], dtype=torch.bool)
        itself = visible.tril().triu()
        visible = visible.tril() if layer.causal else visible
        if mask is not None:
            visible = visible & mask[..., None, None, :] | itself  # so that no row is empty
        visible = visible[..., tokens, :]
    attended = _attend(attention, normal[..., tokens, :], normal, visible)
    streams = [hidden[..., tokens, :]]
    streams.append(streams[0] + _projected(attention, attended))
    crossed = None
    if cross is not None:
        if context is None:
            raise ValueError("a layer with cross-attention needs context, (*batch, frames, width)")
        crossed = _attend(cross, normalised(cross.norm, streams[-1]), context)
        streams.append(streams[-1] + _projected(cross, crossed))
    inner = functional.linear(normalised(ffn.norm, streams[-1]), ffn.in_weight, ffn.in_bias)
    return Pass(layer, tuple(streams), attended, crossed, inner)


def normalised(norm: LayerNorm, hidden: Tensor) -> Tensor:
    """The layer norm of hidden states ``(*batch, tokens, width)``."""
    return functional.layer_norm(hidden, hidden.shape[-1:], norm.weight, norm.bias, norm.eps)


def standardised(norm: LayerNorm, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states less their mean over their deviation, and its inverse, ``(*batch, T, 1)``."""
    centred = hidden - hidden.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    return centred * inverse, inverse


def _attend(
    attention: Attention, queries: Tensor, source: Tensor, visible: Tensor | None = None
) -> Attended:
    """Normalised tokens ``(*batch, T, width)`` over ``(*batch, S, source width)``.

    ``visible``: which key (column) a query (row) may see, broadcast to ``(*batch, heads, T, S)``.
    """
    split = (attention.heads, -1)
    query, key, value = (
        torch.unflatten(functional.linear(rows, weight, bias), -1, split).transpose(-2, -3)
        for rows, weight, bias in (
            (queries, attention.query_weight, attention.query_bias),
            (source, attention.key_weight, attention.key_bias),
            (source, attention.value_weight, attention.value_bias),
        )
    )
    logits = (query * attention.scale) @ key.mT
    if visible is not None:
        logits = logits.masked_fill(~visible, -torch.inf)
    weights = logits.softmax(-1)
    return Attended(query, key, value, weights, weights @ value)


def _projected(attention: Attention, attended: Attended) -> Tensor:
    """What attention adds to the residual stream, ``(*batch, T, width)``."""
    joined = attended.output.transpose(-2, -3).flatten(-2)
    return functional.linear(joined, attention.out_weight, attention.out_bias)


_Part = Layer | Attention | FeedForward | LayerNorm


def _moved(part: Any, *where: Any) -> Any:
    if isinstance(part, Tensor):
        return part.to(*where)
    if not isinstance(part, _Part):
        return part
    return replace(part, **{name: _moved(value, *where) for name, value in vars(part).items()})


def _tensors(part: _Part) -> Iterator[tuple[str, Tensor]]:
    """All tensors, by the way to them, such as ``norm.weight``."""
    for field, value in vars(part).items():
        if isinstance(value, Tensor):
            yield field, value
        elif isinstance(value, _Part):
            yield from ((f"{field}.{name}", tensor) for name, tensor in _tensors(value))

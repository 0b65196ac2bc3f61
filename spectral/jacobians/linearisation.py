"""A layer, linearised at every token of a batch: where all kernels on layers start from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from spectral._validation import as_mask, require_finite, whole_number
from spectral.jacobians.layers import (
    Attended,
    Layer,
    after_ffn,
    attend,
    attention_output,
    normalised,
    visible,
)
from spectral.jacobians.operators import LinearOperator
from spectral.jacobians.sublayers import (
    SubLayerJacobian,
    attention_jacobian,
    feed_forward_jacobian,
    gelu_slope,
)

CACHED, ON_DEVICE = 2**20, 2**28
"""Numbers that a chunk of tokens may need, by default: on a CPU, so that they stay in its caches
(and clear of the page faults that allocations above 32 MiB pay); and on any other device."""

ALL = slice(None)


@dataclass(frozen=True)
class Linearisation:
    """A layer's factored Jacobians at the real tokens of a batch: what is needed to apply W."""

    shape: torch.Size  # (*batch, tokens)
    real: Tensor | None  # (n,), which of the flattened tokens the parts stand for; None for all
    parts: tuple[SubLayerJacobian, ...]  # in the order in which the stream passes them
    chunk: int  # tokens assembled at a time

    @property
    def width(self) -> int:
        """D, the width of the residual stream."""
        return self.parts[0].direction.shape[-1]

    def assemble(self, transposed: Callable[[tuple[SubLayerJacobian, ...]], Tensor]) -> Tensor:
        """Matrices ``(*batch, tokens, D, D)`` from a function to their transposes."""
        like = self.parts[0].direction
        new = like.new_empty if self.real is None else like.new_zeros
        result = new(self.shape.numel(), self.width, self.width)
        for start in range(0, len(like), self.chunk):
            some = slice(start, start + self.chunk)
            where = some if self.real is None else self.real[some]
            result[where] = transposed(tuple(part.at(some) for part in self.parts))
        return torch.unflatten(result.mT, 0, self.shape)

    def operator(self) -> LinearOperator:
        """W as an operator of shape ``(*batch, tokens, D, D)``."""

        def matmat(rows: Tensor) -> Tensor:
            for part in self.parts:
                rows = rows + part.apply(rows)
            return rows

        def rmatmat(rows: Tensor) -> Tensor:
            for part in reversed(self.parts):
                rows = rows + part.apply_transpose(rows)
            return rows

        like = self.parts[0].direction
        return LinearOperator(
            torch.Size([*self.shape, self.width, self.width]),
            lambda columns: self._on_rows(columns, matmat),
            lambda columns: self._on_rows(columns, rmatmat),
            like.dtype,
            like.device,
            lambda index: self.at(index).operator(),
        )

    def at(self, index: Tensor) -> "Linearisation":
        """The same at some of the tokens, batch flattened, by their numbers ``(n,)``."""
        shape, real, chosen = torch.Size([len(index)]), None, index
        if self.real is not None:
            place = index.new_full((self.shape.numel(),), -1)
            place[self.real] = torch.arange(len(self.real), device=index.device)
            chosen = place[index]
            real = (chosen >= 0).nonzero()[:, 0]
            chosen = chosen[real]
        return Linearisation(shape, real, tuple(part.at(chosen) for part in self.parts), self.chunk)

    def _on_rows(self, columns: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a product of rows ``(n, k, D)`` to columns ``(*batch, tokens, D, k)``."""
        rows = columns.reshape(self.shape.numel(), *columns.shape[-2:]).mT
        if self.real is None:
            result = product(rows.contiguous())
        else:
            result = rows.new_zeros(rows.shape)
            result[self.real] = product(rows[self.real])
        return result.mT.reshape(columns.shape)


def linearise(
    layer: Layer,
    hidden: Tensor,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    tokens: slice = ALL,
    chunk: int | None = None,
) -> Linearisation:
    """A layer's factored Jacobians; arguments and errors of :func:`propagators`."""
    hidden, context, real = checked(layer, hidden, context, mask)
    frames = max(hidden.shape[-2], 0 if context is None else context.shape[-2])
    chunk = as_chunk(chunk, layer.width * (len(layer.ffn.in_bias) + frames), layer.device)
    parts = sublayer_jacobians(layer, record(layer, hidden, context, real, tokens), tokens, chunk)
    shape = hidden[..., tokens, 0].shape
    index = None
    if real is not None and not bool(real[..., tokens].all()):
        index = real[..., tokens].flatten().nonzero()[:, 0]
        parts = tuple(part.at(index) for part in parts)
    return Linearisation(shape, index, parts, chunk)


def as_chunk(chunk: int | None, numbers: int, device: torch.device) -> int:
    """``chunk`` itself, checked, or how many tokens of so many numbers each suit the device."""
    if chunk is not None:
        return whole_number(chunk, "chunk", least=1)
    return max(1, (CACHED if device.type == "cpu" else ON_DEVICE) // max(numbers, 1))


@dataclass(frozen=True)
class Pass:
    """A layer's forward pass at some tokens, with what the derivatives need of it."""

    hidden: tuple[Tensor, ...]  # residual stream before each sub-layer, (*batch, T, width)
    self_attended: Attended
    cross_attended: Attended | None
    inner: Tensor  # (*batch, T, hidden width), before the gelu

    @cached_property
    def slope(self) -> Tensor:
        """The gelu's derivative there."""
        return gelu_slope(self.inner)


def record(
    layer: Layer, hidden: Tensor, context: Tensor | None, mask: Tensor | None, tokens: slice
) -> Pass:
    """Run the layer at the tokens asked for; keys and values come from all of them."""
    normal = normalised(layer.self_attention.norm, hidden)
    seen = visible(hidden.shape[-2], layer.causal, mask, hidden.device)
    seen = seen if seen is None else seen[..., tokens, :]
    attended = attend(layer.self_attention, normal[..., tokens, :], normal, seen)
    streams = [hidden[..., tokens, :]]
    streams.append(streams[-1] + attention_output(layer.self_attention, attended))
    crossed = None
    if layer.cross_attention is not None and context is not None:
        normal = normalised(layer.cross_attention.norm, streams[-1])
        crossed = attend(layer.cross_attention, normal, context)
        streams.append(streams[-1] + attention_output(layer.cross_attention, crossed))
    normal = normalised(layer.ffn.norm, streams[-1])
    inner = functional.linear(normal, layer.ffn.in_weight, layer.ffn.in_bias)
    return Pass(tuple(streams), attended, crossed, inner)


def forward_passes(
    layers: Sequence[Layer], hidden: Tensor, context: Tensor | None = None
) -> list[Pass]:
    """Every layer's pass at all tokens: hidden ``(B, T, width)`` before the lowest."""
    passes = []
    for layer in layers:
        passes.append(record(layer, hidden, context, None, ALL))
        hidden = after_ffn(layer, passes[-1].hidden[-1])
    return passes


def sublayer_jacobians(
    layer: Layer, seen: Pass, tokens: slice, chunk: int
) -> tuple[SubLayerJacobian, ...]:
    """Self-attention's, cross-attention's (where there is one) and the FFN's, batch flattened.

    S d D multiply-adds per token and attention, ``chunk`` tokens of an utterance at a time.
    """
    jacobians: list[SubLayerJacobian] = [
        attention_jacobian(
            layer.self_attention, seen.hidden[0], seen.self_attended, chunk, own=tokens
        )
    ]
    if layer.cross_attention is not None and seen.cross_attended is not None:
        jacobians.append(
            attention_jacobian(layer.cross_attention, seen.hidden[1], seen.cross_attended, chunk)
        )
    return (*jacobians, feed_forward_jacobian(layer.ffn, seen.hidden[-1], seen.inner))


def checked(
    layer: Layer, hidden: Tensor, context: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The arguments outside autograd, padding set to zero, one context per utterance."""
    hidden = _as_rows(hidden, "hidden", "(*batch, tokens, width)", layer, layer.width)
    real = None
    if mask is not None:
        real = as_mask(mask, hidden.shape[:-1], hidden.device)
        hidden = hidden.where(real[..., None], 0.0)
    require_finite(hidden, "hidden", "mask out the tokens that are not real")
    if layer.cross_attention is None:
        if context is not None:
            raise ValueError("context must be None for a layer without cross-attention")
        return hidden, None, real
    if context is None:
        raise ValueError("a layer with cross-attention needs context, (*batch, frames, width)")
    source = layer.cross_attention.key_weight.shape[-1]
    context = _as_rows(context, "context", "(*batch, frames, source width)", layer, source)
    require_finite(context, "context", "encode the audio again")
    try:
        context = context.expand(*hidden.shape[:-2], -1, -1)
    except RuntimeError:
        raise ValueError(
            f"context must have the batch dimensions of hidden, {tuple(hidden.shape[:-2])}, or "
            f"none, got shape {tuple(context.shape)}"
        ) from None
    if not context.shape[-2]:
        raise ValueError("context must have at least one frame, got none")
    return hidden, context, real


def _as_rows(rows: Tensor, name: str, layout: str, layer: Layer, width: int) -> Tensor:
    if not isinstance(rows, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(rows).__name__}")
    if rows.ndim < 2 or rows.shape[-1] != width:
        raise ValueError(
            f"{name} must have shape {layout} with width {width}, got {tuple(rows.shape)}"
        )
    if rows.dtype != layer.dtype or rows.device != layer.device:
        raise ValueError(
            f"{name} must be {layer.dtype} on {layer.device} as the layer's weights are, got "
            f"{rows.dtype} on {rows.device}: use .to, or Layer.to"
        )
    return rows.detach()

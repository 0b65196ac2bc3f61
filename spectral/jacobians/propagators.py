r"""Layers linearised at every token, and all that may be asked of their Jacobians.

Past keys and values are held fixed: the propagator W_l = I + df_l/dh_{l-1} at token t is how that
token's hidden state after the layer moves with its own hidden state before it, block (t, t) of the
layer's whole Jacobian; the injection G_l = df_l/dc is how it moves with the context. In closed
form, as products of matrices (see ``spectral.jacobians.sublayers``), in the dtype and on the device
of the layer, without gradients. Masked tokens have Jacobians of zeros.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectral._validation import as_chunk, as_mask, require_finite
from spectral.jacobians.context_jacobian import ContextJacobian, joined, through_heads
from spectral.jacobians.layers import ALL, Attended, Attention, Layer, forward, run
from spectral.jacobians.operators import LinearOperator, function_operator
from spectral.jacobians.stability import layer_gains, unstable_dimensions
from spectral.jacobians.sublayers import SubLayerJacobian, sublayer_jacobians, without_mean
from spectral.jacobians.triplets import top_singular_triplets

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class SubLayerJacobians:
    """The sub-layers' own Jacobians without the identity, each ``(*batch, tokens, width, width)``.

    W = (I + ffn) (I + cross_attention) (I + self_attention), each at its own place in the stream.
    """

    self_attention: Tensor
    cross_attention: Tensor | None
    ffn: Tensor

    def product(self) -> Tensor:
        """W, ``(*batch, tokens, width, width)``; 2 D^3 multiply-adds each."""
        below = self.self_attention
        if self.cross_attention is not None:
            below = below + self.cross_attention + self.cross_attention @ below
        whole = self.ffn + below + self.ffn @ below
        whole.diagonal(dim1=-2, dim2=-1).add_(1)
        return whole


@dataclass(frozen=True)
class Linearisation:
    """One layer's factored Jacobians at n tokens, those of a batch flattened."""

    layer: Layer
    shape: torch.Size  # (*batch, tokens)
    parts: tuple[SubLayerJacobian, ...]  # in the order in which the stream passes them
    crossed: Attended | None
    real: Tensor | None  # (n,) bool: false where a token is none, and has no Jacobian
    chunk: int  # tokens assembled at a time

    def assemble(self, transposed: Callable[[tuple[SubLayerJacobian, ...]], Tensor]) -> Tensor:
        """Matrices ``(*batch, tokens, D, D)`` from a function to their transposes."""
        like, width = self.parts[0].direction, self.layer.width
        result = like.new_zeros(self.shape.numel(), width, width)
        index = None if self.real is None else self.real.nonzero()[:, 0]
        for start in range(0, len(like if index is None else index), self.chunk):
            some = slice(start, start + self.chunk)
            where = some if index is None else index[some]
            result[where] = transposed(tuple(part.at(where) for part in self.parts))
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

        def on_rows(product: Callable[[Tensor], Tensor], columns: Tensor) -> Tensor:
            rows = columns.reshape(self.shape.numel(), *columns.shape[-2:]).mT.contiguous()
            if self.real is not None:
                rows = rows.where(self.real[:, None, None], 0.0)
            return product(rows).mT.reshape(columns.shape)

        return LinearOperator(
            torch.Size([*self.shape, self.layer.width, self.layer.width]),
            partial(on_rows, matmat),
            partial(on_rows, rmatmat),
            self.layer.dtype,
            self.layer.device,
            lambda index: self.at(index).operator(),
        )

    def at(self, index: Tensor) -> "Linearisation":
        """The same at some of the n tokens, by their numbers."""
        return replace(
            self,
            shape=torch.Size([len(index)]),
            parts=tuple(part.at(index) for part in self.parts),
            crossed=None,
            real=None if self.real is None else self.real[index],
        )

    def append_to(self, upper: Tensor, part: SubLayerJacobian) -> None:
        """upper <- upper (I + J), in place, for J the Jacobian of one of the parts."""
        for start in range(0, len(upper), self.chunk):
            some = slice(start, start + self.chunk)
            upper[some] += upper[some] @ part.at(some).transposed().mT


@dataclass(frozen=True)
class LinearisedLayers:
    """One layer, or a stack of them, at T tokens: made by :func:`linearise`.

    Of a stack, tensors have the layers as their first dimension, (layers, *batch, T, ...).
    """

    points: tuple[Linearisation, ...]
    stacked: bool
    chunk: int | None

    def propagators(self) -> Tensor:
        """W, ``(*batch, T, D, D)``: :func:`spectral.propagators`."""
        return self._stack(_product)

    def sublayers(self) -> SubLayerJacobians:
        """The factors of W less their identities: :func:`spectral.sublayer_propagators`.

        Raises ValueError for a stack of which some layers alone have cross-attention.
        """
        count = len(self.points[0].parts)
        if any(len(point.parts) != count for point in self.points):
            raise ValueError("some layers have cross-attention and others none: linearise apart")
        found = [self._stack(partial(_factor, i)) for i in range(count)]
        return SubLayerJacobians(found[0], found[1] if count == 3 else None, found[-1])

    def operator(self) -> LinearOperator:
        """W V and W' U without W: :func:`spectral.propagator_operator`."""
        each = [point.operator() for point in self.points]
        if not self.stacked:
            return each[0]
        return LinearOperator(
            torch.Size([len(each), *each[0].shape]),
            lambda v: torch.stack([one.matmat(own) for one, own in zip(each, v, strict=True)]),
            lambda u: torch.stack([one.rmatmat(own) for one, own in zip(each, u, strict=True)]),
            each[0].dtype,
            each[0].device,
        )

    def injection(self, layer: int = 0) -> ContextJacobian:
        """G_l of one layer of the stack, from 0: :func:`spectral.injection`."""
        return _summed_ways([self.points[layer]], 1, self.chunk)

    def sensitivity(self) -> ContextJacobian:
        """J_L of the stack, lowest layer first: :func:`spectral.sensitivity`."""
        return _summed_ways(reversed(self.points), len(self.points), self.chunk)

    def columns(self) -> dict[str, Tensor]:
        """Numbers per layer and token, each ``(layers, *batch, T)``, modulo the direction 1.

        sigma_1 and ratio (sigma_2 / sigma_1) of the propagator; alignment with the layer above and
        gain, NaN for the last; unstable: eigenvalues of modulus above one; injection: Frobenius
        norm of G_l, NaN without cross-attention. See :func:`spectral.layer_gains`.
        """
        whole = torch.stack([point.assemble(_product) for point in self.points])
        found = top_singular_triplets(
            without_mean(whole), tolerance=_TOLERANCE, limit=whole.shape[-1]
        )
        gains = layer_gains(found.unbind())
        last = torch.full_like(gains.singular_value_ratio[:1], torch.nan)
        return {
            "sigma_1": found.sigma[..., 0],
            "ratio": gains.singular_value_ratio,
            "alignment": torch.cat([gains.alignment, last]),
            "gain": torch.cat([gains.gain, last]),
            "unstable": unstable_dimensions(whole),
            "injection": torch.stack([self._injected(i) for i in range(len(self.points))]),
        }

    def _injected(self, layer: int) -> Tensor:
        point = self.points[layer]
        if point.crossed is None:
            return torch.full(point.shape, torch.nan, dtype=point.layer.dtype)
        grams = self.injection(layer).gram()
        diagonal = grams.diagonal(dim1=-2, dim2=-1).sum(-1)
        return (diagonal - grams.sum((-2, -1)) / grams.shape[-1]).clamp(min=0).sqrt()

    def _stack(self, transposed: Callable[[tuple[SubLayerJacobian, ...]], Tensor]) -> Tensor:
        found = [point.assemble(transposed) for point in self.points]
        return torch.stack(found) if self.stacked else found[0]


def linearise(
    layer: Layer | Sequence[Layer],
    hidden: Tensor | Sequence[Tensor],
    context: Tensor | None = None,
    mask: Tensor | None = None,
    tokens: slice = ALL,
    chunk: int | None = None,
) -> LinearisedLayers:
    """Linearise a layer, or a stack of them, at every token: all its Jacobians from one pass.

    S d D multiply-adds per token and attention; what is then asked for costs what the function of
    that name says. Holds about 4 D + hidden width + heads d^2 numbers per token and layer.

    Args:
        layer: The layer's weights, or those of layers from the lowest to the highest.
        hidden: The residual stream before it, ``(*batch, tokens, width)``, from the first token on,
            finite where the mask is true; or one per layer of a stack.
        context: Shape ``(*batch, frames, source width)``, what cross-attention listens to, or one
            for all the batch; None for layers without cross-attention.
        mask: Bool, true where a token is real, of a shape that broadcasts to ``(*batch, tokens)``;
            all of them by default. What lies under a false entry does not matter, be it NaN.
        tokens: Which tokens to linearise at; keys and values come from all that are given.
        chunk: How many tokens are worked on at a time, in any number of utterances; by default as
            many as fit a CPU's caches, or take a GiB of another device in float32.

    Returns:
        A :class:`LinearisedLayers`.

    Raises:
        ValueError: For hidden states or a context of another shape, dtype or device than the layer
            calls for, a context that is missing or not called for, NaN or infinity in a real token,
            a mask of another shape, dtype or device, a chunk below 1, no layers, or another number
            of hidden states.

    Example:
        >>> point = linearise(layers, torch.ones(2, 5, 8), context=torch.ones(20, 8))
        >>> point.propagators().shape, point.sensitivity().shape
        (torch.Size([2, 5, 8, 8]), torch.Size([5]))
    """
    stacked = not isinstance(layer, Layer)
    layers = [layer] if isinstance(layer, Layer) else layer
    pairs = _pairs(layers, list(hidden) if stacked else [hidden])  # type: ignore[list-item]
    points = tuple(_linearised(*pair, context, mask, tokens, chunk) for pair in pairs)
    return LinearisedLayers(points, stacked, chunk)


def propagators(
    layer: Layer,
    hidden: Tensor,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    tokens: slice = ALL,
    chunk: int | None = None,
) -> Tensor:
    r"""The exact propagator W of a layer at every token, past keys and values held fixed.

    .. math:: W = (I + F)(I + C)(I + A)

    with A, C and F the Jacobians of self-attention, cross-attention (decoder layers) and FFN at
    their places in the residual stream. For an encoder layer all frames' keys and values other than
    the frame's own are held fixed: the diagonal blocks of the full Jacobian.

    8 D^3 multiply-adds per token with an FFN of width 4 D (A and C 1 D^3 each, F 4, the products 1
    each; 6 without cross-attention), 2 d D^2 + S d D for d the width of a head and S frames, all in
    matrix products; once per utterance 2 S D^2 for the keys and values. Memory beside the result:
    about 8 D^2 + S D numbers per token of a chunk, and heads T (T + S) attention weights and
    2 T d D numbers per utterance.

    Args:
        layer, hidden, context, mask, tokens, chunk: As for :func:`linearise`, of one layer.

    Returns:
        Shape ``(*batch, tokens, width, width)``, W[..., i, j] = dh_l[i] / dh_{l-1}[j], in the
        layer's dtype, strided as a transpose. Zeros where the mask is false.

    Raises:
        ValueError: As :func:`linearise`.

    Example:
        >>> propagators(layer, torch.ones(5, 8), context=torch.ones(20, 8)).shape
        torch.Size([5, 8, 8])
    """
    return linearise(layer, hidden, context, mask, tokens, chunk).propagators()


def sublayer_propagators(
    layer: Layer,
    hidden: Tensor,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    tokens: slice = ALL,
    chunk: int | None = None,
) -> SubLayerJacobians:
    """The factors of :func:`propagators` less their identities.

    6 D^3 multiply-adds per token (5 without cross-attention).

    Args:
        layer, hidden, context, mask, tokens, chunk: As for :func:`linearise`, of one layer.

    Returns:
        Each factor ``(*batch, tokens, width, width)``.

    Raises:
        ValueError: As :func:`linearise`.

    Example:
        >>> sublayer_propagators(layer, torch.ones(5, 8), torch.ones(20, 8)).ffn.shape
        torch.Size([5, 8, 8])
    """
    return linearise(layer, hidden, context, mask, tokens, chunk).sublayers()


def propagator_operator(
    layer: Layer,
    hidden: Tensor,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    tokens: slice = ALL,
    chunk: int | None = None,
) -> LinearOperator:
    """W V and W' U at every token, without W.

    13 D^2 + 2 d D multiply-adds per vector (11 D^2 without cross-attention), the weights read once
    for all tokens and vectors; S d D per token once.

    Args:
        layer, hidden, context, mask, tokens, chunk: As for :func:`linearise`, of one layer.

    Returns:
        An operator of shape ``(*batch, tokens, width, width)``.

    Raises:
        ValueError: As :func:`linearise`.

    Example:
        >>> operator = propagator_operator(layer, torch.ones(5, 8), torch.ones(20, 8))
        >>> operator.matmat(torch.ones(5, 8, 1)).shape
        torch.Size([5, 8, 1])
    """
    return linearise(layer, hidden, context, mask, tokens, chunk).operator()


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
        layer, hidden, context, mask, tokens, chunk: As for :func:`linearise`, of a decoder layer.

    Returns:
        G_l in factors, ``(*batch, tokens)`` matrices of D x (S C).

    Raises:
        ValueError: As :func:`sensitivity`.

    Example:
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
    result holds D^2 numbers per token and layer, for which ``tokens`` sets the bound, and layers
    are linearised one after the other.

    Args:
        layers: Decoder layers from the lowest to the highest, with heads of one width.
        hidden: The residual stream before each of them, ``(*batch, tokens, width)``.
        context, mask, tokens, chunk: As for :func:`linearise`.

    Returns:
        J_L in factors, ``(*batch, tokens)`` matrices of D x (S C).

    Raises:
        ValueError: As :func:`linearise`, and for a layer without cross-attention.

    Example:
        >>> hidden = [torch.ones(5, 8), torch.ones(5, 8)]
        >>> sensitivity(layers, hidden, torch.ones(20, 8)).singular_values().shape
        torch.Size([5, 8])
    """
    for layer in layers:
        _crossing(layer)
    pairs = reversed(_pairs(layers, hidden))
    points = (_linearised(*pair, context, mask, tokens, chunk) for pair in pairs)
    return _summed_ways(points, len(layers), chunk)


def layer_operator(layer: Layer, hidden: Tensor, context: Tensor | None = None) -> LinearOperator:
    """The whole Jacobian of a layer, every token's output by every token's input, matrix-free.

    Each product is a jvp or vjp of :func:`spectral.jacobians.layers.forward`.

    Args:
        layer, hidden, context: As for :func:`linearise`, of one layer.

    Returns:
        An operator of shape ``(*batch, T D, T D)`` for T tokens.

    Raises:
        ValueError: As :func:`linearise`.

    Example:
        >>> layer_operator(encoder_layer, torch.ones(5, 8)).shape
        torch.Size([40, 40])
    """
    hidden, context, _ = checked(layer, hidden, context)
    return function_operator(lambda h: forward(layer, h, context), hidden, hidden.ndim - 2)


def autodiff_propagators(
    function: Callable[[Tensor], Tensor], hidden: Tensor, chunk: int | None = None
) -> Tensor:
    """Propagators of any layer by automatic differentiation, token by token.

    The reference of the closed forms, and the way for layers that are not of their kind.

    Args:
        function: The layer on one utterance, ``(tokens, width) -> (tokens, width)``.
        hidden: Shape ``(tokens, width)``.
        chunk: How many rows of W are differentiated at a time; all by default.

    Returns:
        Shape ``(tokens, width, width)``.

    Raises:
        RuntimeError: Where torch cannot differentiate the function.

    Example:
        >>> autodiff_propagators(lambda rows: 2 * rows, torch.ones(3, 2))[0]
        tensor([[2., 0.],
                [0., 2.]])
    """

    def at(token: int) -> Callable[[Tensor], Tensor]:
        index = torch.tensor([token], device=hidden.device)
        return lambda row: function(hidden.index_copy(0, index, row[None]))[token]

    with sdpa_kernel(SDPBackend.MATH):
        rows = [
            torch.func.jacrev(at(token), chunk_size=chunk)(row).detach()
            for token, row in enumerate(hidden.detach())
        ]
    return torch.stack(rows)


def checked(
    layer: Layer, hidden: Tensor, context: Tensor | None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The arguments outside autograd, padding set to zero, one context per utterance."""
    hidden = _as_rows(hidden, "hidden", "(*batch, tokens, width)", layer, layer.width)
    if mask is not None:
        if isinstance(mask, Tensor):
            with suppress(RuntimeError):  # another shape is refused just below
                mask = mask.expand(hidden.shape[:-1])
        mask = as_mask(mask, hidden.shape[:-1], hidden.device)
        hidden = hidden.where(mask[..., None], 0.0)
    require_finite(hidden, "hidden", "mask out the tokens that are not real")
    if layer.cross_attention is None:
        if context is not None:
            raise ValueError("context must be None for a layer without cross-attention")
        return hidden, None, mask
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
    return hidden, context, mask


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


def _pairs(layers: Sequence[Layer], hidden: Sequence[Tensor]) -> list[tuple[Layer, Tensor]]:
    if not layers or len(layers) != len(hidden):
        raise ValueError(
            f"give one hidden state per layer, and at least one, got {len(hidden)} for "
            f"{len(layers)} layers"
        )
    return list(zip(layers, hidden, strict=True))


def _linearised(
    layer: Layer,
    hidden: Tensor,
    context: Tensor | None,
    mask: Tensor | None,
    tokens: slice,
    chunk: int | None,
) -> Linearisation:
    hidden, context, real = checked(layer, hidden, context, mask)
    frames = max(hidden.shape[-2], 0 if context is None else context.shape[-2])
    size = as_chunk(chunk, layer.width * (len(layer.ffn.in_bias) + frames), layer.device)
    seen = run(layer, hidden, context, real, tokens)
    real = None if real is None or bool(real[..., tokens].all()) else real[..., tokens].flatten()
    parts = sublayer_jacobians(seen, tokens, size)
    return Linearisation(
        layer, hidden[..., tokens, 0].shape, parts, seen.cross_attended, real, size
    )


def _summed_ways(points: Iterable[Linearisation], count: int, chunk: int | None) -> ContextJacobian:
    """J_L of ``count`` layers, the highest first: :func:`sensitivity`."""
    found: list[ContextJacobian] = []
    upper: Tensor | None = None  # W_L ... W_{l+1}, of every token
    for point in points:
        attention = _crossing(point.layer)
        assert point.crossed is not None
        below, crossing, ffn = point.parts
        if upper is None:
            like = ffn.direction
            one = torch.eye(point.layer.width, dtype=like.dtype, device=like.device)
            upper = one.repeat(len(like), 1, 1)
            if point.real is not None:
                upper *= point.real[:, None, None]
        point.append_to(upper, ffn)
        found.append(through_heads(attention, point.crossed, upper @ attention.out_weight))
        if len(found) < count:
            point.append_to(upper, crossing)
            point.append_to(upper, below)
    return joined(found[::-1], chunk)


def _crossing(layer: Layer) -> Attention:
    if layer.cross_attention is None:
        raise ValueError("a layer without cross-attention has no injection: leave it out")
    return layer.cross_attention


def _product(parts: tuple[SubLayerJacobian, ...]) -> Tensor:
    """W' = (I + A')(I + C')(I + F')."""
    result = parts[0].transposed()
    result.diagonal(dim1=-2, dim2=-1).add_(1)
    for part in parts[1:]:
        result = torch.baddbmm(result, result, part.transposed())
    return result


def _factor(index: int, parts: tuple[SubLayerJacobian, ...]) -> Tensor:
    return parts[index].transposed()

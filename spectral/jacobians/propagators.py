r"""Layers linearised at every token, and all that may be asked of their Jacobians.

Past keys and values are held fixed: the propagator W_l = I + df_l/dh_{l-1} at token t is block
(t, t) of the layer's whole Jacobian, and the injection G_l = df_l/dc the token's by the context. In
closed form, in the dtype of the layer, without gradients; masked tokens have Jacobians of zeros.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectral._validation import as_chunk, as_float64, as_mask, require_finite
from spectral.jacobians.context_jacobian import ContextJacobian, joined, through_heads
from spectral.jacobians.layers import ALL, Attended, Layer, run
from spectral.jacobians.sublayers import SubLayerJacobian, sublayer_jacobians, without_mean
from spectral.jacobians.triplets import LinearOperator, SingularTriplets, top_singular_triplets


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
        propagators = self.ffn + below + self.ffn @ below
        propagators.diagonal(dim1=-2, dim2=-1).add_(1)
        return propagators


@dataclass(frozen=True)
class Linearisation:
    """One layer's factored Jacobians at n tokens, those of a batch flattened."""

    layer: Layer
    shape: torch.Size  # (*batch, tokens)
    parts: tuple[SubLayerJacobian, ...]  # in the order in which the stream passes them
    crossed: Attended | None
    real: Tensor | None  # (n,) bool: false where a token is none, and has no Jacobian
    chunk: int  # tokens assembled at a time

    def assemble(self, part: int | None = None) -> Tensor:
        """W at every token, or the Jacobian of one of the parts: ``(*batch, tokens, D, D)``."""
        like, width = self.parts[0].direction, self.layer.width
        result = like.new_zeros(self.shape.numel(), width, width)
        index = None if self.real is None else self.real.nonzero()[:, 0]
        for start in range(0, len(like if index is None else index), self.chunk):
            where: Any = slice(start, start + self.chunk)
            where = where if index is None else index[where]
            if part is not None:
                result[where] = self.parts[part].at(where).transposed()
                continue
            transposed = self.parts[0].at(where).transposed()  # (I + A')(I + C')(I + F')
            transposed.diagonal(dim1=-2, dim2=-1).add_(1)
            for above in self.parts[1:]:
                factor = above.at(where).transposed()
                transposed = torch.baddbmm(transposed, transposed, factor)
            result[where] = transposed
        return torch.unflatten(result.mT, 0, self.shape)

    def operator(self) -> LinearOperator:
        """W as an operator of shape ``(*batch, tokens, D, D)``."""

        def product(parts: Sequence[SubLayerJacobian], name: str, columns: Tensor) -> Tensor:
            rows = columns.reshape(self.shape.numel(), *columns.shape[-2:]).mT.contiguous()
            if self.real is not None:
                rows = rows.where(self.real[:, None, None], 0.0)
            for part in parts:
                rows = rows + getattr(part, name)(rows)
            return rows.mT.reshape(columns.shape)

        return LinearOperator(
            torch.Size([*self.shape, self.layer.width, self.layer.width]),
            partial(product, self.parts, "apply"),
            partial(product, self.parts[::-1], "apply_transpose"),
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
            where = slice(start, start + self.chunk)
            upper[where] += upper[where] @ part.at(where).transposed().mT


@dataclass(frozen=True)
class LinearisedLayers:
    """One layer, or a stack of them, at T tokens: made by :func:`linearise`.

    Of a stack, tensors have the layers as their first dimension, (layers, *batch, T, ...).
    """

    points: tuple[Linearisation, ...]
    stacked: bool
    chunk: int | None

    def propagators(self) -> Tensor:
        r"""The exact propagator W at every token, past keys and values held fixed.

        .. math:: W = (I + F)(I + C)(I + A)

        of :meth:`sublayers`. 8 D^3 multiply-adds per token with an FFN of width 4 D, 6 without
        cross-attention. Memory beside the result: about 8 D^2 + S D numbers per token of a chunk.

        ``(*batch, T, D, D)``, W[..., i, j] = dh_l[i] / dh_{l-1}[j], in the layer's dtype, strided
        as a transpose; zeros where the mask is false.
        """
        return self._stack()

    def sublayers(self) -> SubLayerJacobians:
        """The factors of W less their identities; 6 D^3 multiply-adds per token.

        Raises ValueError for a stack of which some layers alone have cross-attention.
        """
        count = len(self.points[0].parts)
        if any(len(point.parts) != count for point in self.points):
            raise ValueError("some layers have cross-attention and others none: linearise apart")
        factors = [self._stack(i) for i in range(count)]
        return SubLayerJacobians(factors[0], factors[1] if count == 3 else None, factors[-1])

    def operator(self) -> LinearOperator:
        """W V and W' U at every token, without W: shape ``(*batch, T, D, D)``.

        13 D^2 + 2 d D multiply-adds per vector, 11 D^2 without cross-attention.
        """
        layers = [point.operator() for point in self.points]
        if not self.stacked:
            return layers[0]

        def product(name: str, columns: Tensor) -> Tensor:
            pairs = zip(layers, columns, strict=True)
            return torch.stack([getattr(layer, name)(part) for layer, part in pairs])

        products = partial(product, "matmat"), partial(product, "rmatmat")
        shape = torch.Size([len(layers), *layers[0].shape])
        return LinearOperator(shape, *products, layers[0].dtype, layers[0].device)

    def injection(self, layer: int = 0) -> ContextJacobian:
        """G_l = df_l/dc of one layer of the stack, from 0, ``(*batch, T)`` matrices of D x (S C).

        6 D^3 multiply-adds per token. Raises ValueError for a layer without cross-attention.
        """
        return self._summed_ways(self.points[layer : layer + 1])

    def sensitivity(self) -> ContextJacobian:
        r"""J_L, the fixed-past sensitivity of every token's last hidden state to the context.

        .. math:: J_L = \sum_{l=1}^{L} W_L \cdots W_{l+1} G_l

        In factors, ``(*batch, T)`` matrices of D x (S C), without what reaches a token through the
        keys and values of earlier ones. 10 D^3 multiply-adds per token and layer, the lowest 6; the
        result holds D^2 numbers per token and layer. Raises ValueError for a layer without
        cross-attention, or heads of several widths.
        """
        return self._summed_ways(self.points)

    def columns(self) -> dict[str, Tensor]:
        """Numbers per layer and token, each ``(layers, *batch, T)``, modulo the direction 1.

        sigma_1 and ratio (sigma_2 / sigma_1) of the propagator; alignment and gain, as
        :func:`layer_gains`, NaN for the last layer; unstable: eigenvalues of modulus above one;
        injection: Frobenius norm of G_l, NaN without cross-attention.
        """
        propagators = torch.stack([point.assemble() for point in self.points])
        matrices = without_mean(propagators)
        triplets = top_singular_triplets(matrices, tolerance=1e-9, limit=matrices.shape[-1])
        gains = layer_gains(triplets)
        last = torch.full_like(gains.singular_value_ratio[:1], torch.nan)
        return {
            "sigma_1": triplets.sigma[..., 0],
            "ratio": gains.singular_value_ratio,
            "alignment": torch.cat([gains.alignment, last]),
            "gain": torch.cat([gains.gain, last]),
            "unstable": unstable_dimensions(propagators),
            "injection": torch.stack([self._injected(i) for i in range(len(self.points))]),
        }

    def _injected(self, layer: int) -> Tensor:
        point = self.points[layer]
        if point.crossed is None:
            return point.parts[0].direction.new_full(point.shape, torch.nan)
        entering = self.injection(layer)
        return replace(entering, ways=without_mean(entering.ways)).frame_norms().norm(dim=-1)

    def to_frame(self) -> Any:
        """:meth:`columns` as a pandas.DataFrame: a row per layer, item of the batch and token."""
        import pandas

        columns = self.columns()
        sizes = columns["sigma_1"].shape
        names = ["layer", *(f"item_{i}" for i in range(len(sizes) - 2)), "token"]
        index = pandas.MultiIndex.from_product([range(size) for size in sizes], names=names)
        values = {name: column.flatten().tolist() for name, column in columns.items()}
        return pandas.DataFrame(values, index=index).reset_index()

    def _stack(self, part: int | None = None) -> Tensor:
        matrices = [point.assemble(part) for point in self.points]
        return torch.stack(matrices) if self.stacked else matrices[0]

    def _summed_ways(self, points: Sequence[Linearisation]) -> ContextJacobian:
        if any(point.crossed is None for point in points):
            raise ValueError("a layer without cross-attention has no injection: leave it out")
        injections: list[ContextJacobian] = []
        like = points[-1].parts[-1].direction
        upper = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
        upper = upper.repeat(len(like), 1, 1)  # W_L ... W_{l+1}, of every token
        if (real := points[-1].real) is not None:
            upper *= real[:, None, None]
        for point in reversed(points):
            attention, crossed = point.layer.cross_attention, point.crossed
            assert attention is not None
            assert crossed is not None
            below, crossing, ffn = point.parts
            point.append_to(upper, ffn)
            injections.append(through_heads(attention, crossed, upper @ attention.out_weight))
            for part in (crossing, below) if len(injections) < len(points) else ():
                point.append_to(upper, part)
        return joined(injections[::-1], self.chunk)


def linearise(
    layer: Layer | Sequence[Layer],
    hidden: Tensor | Sequence[Tensor],
    context: Tensor | None = None,
    mask: Tensor | None = None,
    tokens: slice = ALL,
    chunk: int | None = None,
) -> LinearisedLayers:
    """Linearise a layer, or a stack of them, at every token: all its Jacobians from one pass.

    S d D multiply-adds per token and attention. Holds about 4 D + hidden width + heads d^2 numbers
    per token and layer.

    Args:
        layer: The layer's weights, or those of layers from the lowest to the highest.
        hidden: The residual stream before it, ``(*batch, tokens, width)``, from the first token on;
            or one per layer of a stack.
        context: Shape ``(*batch, frames, source width)``, or one for all the batch; None for layers
            without cross-attention.
        mask: Bool, true where a token is real, of a shape that broadcasts to ``(*batch, tokens)``;
            all by default. What lies under a false entry does not matter, be it NaN.
        tokens: Which tokens to linearise at; keys and values come from all that are given.
        chunk: How many tokens are worked on at a time, in any number of utterances; by default as
            many as fit a CPU's caches, or take a GiB of another device in float32.

    Raises ValueError for hidden states, a context or a mask of another shape, dtype or device than
    the layer calls for, a context that is missing or not called for, NaN or infinity in a real
    token, a chunk below 1, no layers, or another number of hidden states.

    >>> point = linearise(layers, torch.ones(2, 5, 8), context=torch.ones(20, 8))
    >>> point.propagators().shape, point.sensitivity().shape
    (torch.Size([2, 5, 8, 8]), torch.Size([5]))
    """
    layers, stacked = ([layer], False) if isinstance(layer, Layer) else (layer, True)
    states: Sequence[Any] = list(hidden) if stacked else [hidden]
    if not layers or len(layers) != len(states):
        raise ValueError(
            f"give one hidden state per layer, and at least one, got {len(states)} for "
            f"{len(layers)} layers"
        )
    points = []
    for part, stream in zip(layers, states, strict=True):
        rows, source, real = checked(part, stream, context, mask)
        keys = max(rows.shape[-2], 0 if source is None else source.shape[-2])
        size = as_chunk(chunk, part.width * (len(part.ffn.in_bias) + keys), part.device)
        forward = run(part, rows, source, real, tokens)
        if real is not None:
            real = None if bool(real[..., tokens].all()) else real[..., tokens].flatten()
        parts, shape = sublayer_jacobians(forward, tokens, size), rows[..., tokens, 0].shape
        points.append(Linearisation(part, shape, parts, forward.cross_attended, real, size))
    return LinearisedLayers(tuple(points), stacked, chunk)


def autodiff_propagators(
    function: Callable[[Tensor], Tensor], hidden: Tensor, chunk: int | None = None
) -> Tensor:
    """Propagators of any layer by automatic differentiation, token by token.

    The reference of the closed forms, and the way for layers of another kind. Of a function on one
    utterance, ``(tokens, width) -> (tokens, width)``, at hidden states ``(tokens, width)``:
    ``(tokens, width, width)``, ``chunk`` rows of W differentiated at a time, all by default.
    Raises RuntimeError where torch cannot differentiate the function.

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


@dataclass(frozen=True)
class LayerGains:
    """How the top triplets of L successive propagators fit each other."""

    gain: Tensor  # (L - 1, *batch): rho_l = sigma_{1,l} |kappa_l|
    alignment: Tensor  # (L - 1, *batch): kappa_l = v_{l+1}' u_l, of arbitrary sign
    singular_value_ratio: Tensor  # (L, *batch): xi_l = sigma_{2,l} / sigma_{1,l}, NaN for 0 / 0


def layer_gains(triplets: SingularTriplets) -> LayerGains:
    r"""Gain, alignment and singular value ratio of successive layers.

    .. math:: \rho_l = \sigma_{1,l} |\kappa_l|, \quad \kappa_l = v_{1,l+1}' u_{1,l}, \quad
              \xi_l = \sigma_{2,l} / \sigma_{1,l}

    Of the triplets of a stack of square matrices, ``(layers, *batch)`` from the lowest layer to the
    highest, two or more each. Raises ValueError for no stack, or fewer than two triplets.

    >>> from spectral.jacobians.triplets import top_singular_triplets
    >>> layers = torch.tensor([[2.0, 1.0], [4.0, 3.0]]).diag_embed()
    >>> layer_gains(top_singular_triplets(layers)).singular_value_ratio
    tensor([0.5000, 0.7500])
    """
    sigma, u, v = triplets.sigma, triplets.u[..., 0], triplets.v[..., 0]
    if sigma.ndim < 2 or not len(sigma) or u.shape != v.shape:
        raise ValueError(
            "give the triplets of a stack of square matrices, a layer each, got shapes "
            f"{tuple(triplets.u.shape)} of u and {tuple(triplets.v.shape)} of v"
        )
    if sigma.shape[-1] < 2:
        raise ValueError("the gap takes two triplets of every layer: ask for k=2 or more")
    alignment = (v[1:] * u[:-1]).sum(-1)
    return LayerGains(
        sigma[:-1, ..., 0] * alignment.abs(), alignment, sigma[..., 1] / sigma[..., 0]
    )


def unstable_dimensions(matrix: Tensor) -> Tensor:
    """Number of eigenvalues of modulus above one; about 25 D^3 operations each.

    Of a matrix I + A with a small random A, chance alone puts about half of them there: compare
    with the randomly initialised control. A modulus counts from 1 + sqrt(eps) of the matrix's
    dtype, as the propagator of a pre-norm layer has an eigenvalue of exactly one, for LayerNorm
    does not see an equal change of all coordinates; matrices modulo that direction have a zero.

    Of matrices ``(*batch, width, width)``: ``(*batch,)``, int64. Raises ValueError for one that is
    not square, not real floating point, or not finite.

    >>> unstable_dimensions(torch.diag(torch.tensor([1.5, -1.1, 1.0, 0.2])))
    tensor(2)
    """
    edge = 1 + torch.finfo(matrix.dtype).eps ** 0.5
    return count_above(matrix, edge, lambda matrix: torch.linalg.eigvals(matrix).abs())


def count_above(matrix: Tensor, edge: float, values: Callable[[Tensor], Tensor]) -> Tensor:
    """How many values lie above the edge, in float32, and in float64 where that leaves a doubt.

    Of matrices and with errors as :func:`unstable_dimensions`.
    """
    matrix = as_float64(matrix, "matrix", "(*batch, width, width)")
    if matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix must be square, got {tuple(matrix.shape)}")
    require_finite(matrix, "matrix", "leave out the tokens that are not real")
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    single = values(flat.float())
    counts = (single > edge).sum(-1)
    doubt = 10 * torch.finfo(single.dtype).eps * torch.linalg.matrix_norm(flat)  # ten times as seen
    doubtful = ((single - edge).abs() <= doubt[:, None]).any(-1).nonzero()[:, 0]
    counts[doubtful] = (values(flat[doubtful]) > edge).sum(-1)
    return counts.reshape(matrix.shape[:-2])


def checked(
    layer: Layer, hidden: Tensor, context: Tensor | None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The arguments outside autograd, padding set to zero, one context per utterance."""
    hidden = _as_rows(hidden, "hidden", "(*batch, tokens, width)", layer, layer.width)
    if mask is not None:
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

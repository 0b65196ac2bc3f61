"""Layers linearised once, and all that may be asked of their Jacobians."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectral.jacobians.context_jacobian import ContextJacobian
from spectral.jacobians.injections import LayerPoint, summed_ways
from spectral.jacobians.layers import Layer
from spectral.jacobians.linearisation import (
    ALL,
    Linearisation,
    as_chunk,
    checked,
    record,
    sublayer_jacobians,
)
from spectral.jacobians.normalisation import without_mean
from spectral.jacobians.operators import LinearOperator
from spectral.jacobians.propagators import SubLayerJacobians, _product, _transposed
from spectral.jacobians.stability import layer_gains, unstable_dimensions
from spectral.jacobians.sublayers import SubLayerJacobian
from spectral.jacobians.triplets import SingularTriplets, top_singular_triplets

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class _Point(LayerPoint):
    """One layer at its tokens; ``parts`` of all of them, ``real`` or not."""

    whole: Linearisation


@dataclass(frozen=True)
class LinearisedLayers:
    """One layer, or a stack of them, at T tokens: made by :func:`linearise`.

    Of a stack, tensors have the layers as their first dimension, (layers, *batch, T, ...).
    """

    points: tuple[_Point, ...]
    stacked: bool

    def propagators(self) -> Tensor:
        """W, ``(*batch, T, D, D)``: :func:`spectral.propagators`."""
        return self._stack(_product_of)

    def sublayers(self) -> SubLayerJacobians:
        """The factors of W less their identities: :func:`spectral.sublayer_propagators`.

        Raises ValueError for a stack of which some layers alone have cross-attention.
        """
        count = len(self.points[0].parts)
        if any(len(point.parts) != count for point in self.points):
            raise ValueError("some layers have cross-attention and others none: linearise apart")
        found = [self._stack(_transposed(i)) for i in range(count)]
        return SubLayerJacobians(found[0], found[1] if count == 3 else None, found[-1])

    def operator(self) -> LinearOperator:
        """W V and W' U without W: :func:`spectral.propagator_operator`."""
        each = [point.whole.operator() for point in self.points]
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
        """G_l of one layer of the stack, from 0: :func:`spectral.injection`.

        Raises ValueError for a layer without cross-attention.
        """
        return LinearisedLayers((self.points[layer],), False).sensitivity()

    def sensitivity(self) -> ContextJacobian:
        """J_L of the stack, lowest layer first: :func:`spectral.sensitivity`.

        Raises ValueError for a layer without cross-attention.
        """
        return summed_ways(reversed(self.points), len(self.points))

    def columns(self) -> dict[str, Tensor]:
        """Numbers per layer and token, each ``(layers, *batch, T)``, modulo the direction 1.

        sigma_1 and ratio (sigma_2 / sigma_1) of the propagator; alignment with the layer above and
        gain, NaN for the last; unstable: eigenvalues of modulus above one; injection: Frobenius
        norm of G_l, NaN without cross-attention. See :func:`spectral.layer_gains`.
        """
        whole = torch.stack([point.whole.assemble(_product_of) for point in self.points])
        found = top_singular_triplets(
            without_mean(whole), tolerance=_TOLERANCE, limit=whole.shape[-1]
        )
        gains = layer_gains(
            [
                SingularTriplets(**{name: value[i] for name, value in vars(found).items()})
                for i in range(len(self.points))
            ]
        )
        last = torch.full_like(gains.gap[:1], torch.nan)
        return {
            "sigma_1": found.sigma[..., 0],
            "ratio": gains.gap,
            "alignment": torch.cat([gains.alignment, last]),
            "gain": torch.cat([gains.gain, last]),
            "unstable": unstable_dimensions(whole),
            "injection": torch.stack([self._injected(i) for i in range(len(self.points))]),
        }

    def to_frame(self) -> Any:
        """:meth:`columns` as a pandas.DataFrame with layer, item of the batch and token, from 0."""
        import pandas

        columns = self.columns()
        ratio = columns["ratio"]
        shape = ratio.reshape(len(ratio), -1, ratio.shape[-1]).shape
        index = torch.cartesian_prod(*map(torch.arange, shape))
        places = dict(zip(("layer", "item", "token"), index.T.tolist(), strict=True))
        return pandas.DataFrame(
            places | {name: value.flatten().tolist() for name, value in columns.items()}
        )

    def _injected(self, layer: int) -> Tensor:
        point = self.points[layer]
        if point.crossed is None:
            return torch.full(point.whole.shape, torch.nan, dtype=point.layer.dtype)
        grams = self.injection(layer).gram()
        diagonal = grams.diagonal(dim1=-2, dim2=-1).sum(-1)
        return (diagonal - grams.sum((-2, -1)) / grams.shape[-1]).clamp(min=0).sqrt()

    def _stack(self, transposed: Callable[[tuple[SubLayerJacobian, ...]], Tensor]) -> Tensor:
        found = [point.whole.assemble(transposed) for point in self.points]
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
        hidden: The residual stream before it, ``(*batch, tokens, width)``,
            or one per layer of a stack.
        context: Shape ``(*batch, frames, source width)``, or one for all the batch; None for layers
            without cross-attention.
        mask: Bool, true where a token is real, of a shape that broadcasts to ``(*batch, tokens)``;
            all of them by default.
        tokens: Which tokens to linearise at; keys and values come from all that are given.
        chunk: How many tokens are assembled at a time; by default as many as suit the device.

    Returns:
        A :class:`LinearisedLayers`.

    Raises:
        ValueError: As :func:`spectral.propagators`, for no layers, or another number of hidden
            states.

    Example:
        >>> from spectral.jacobians.testing import random_layer
        >>> layers = [random_layer(width=8, heads=2, seed=seed) for seed in (0, 1)]
        >>> point = linearise(layers, torch.ones(2, 5, 8), context=torch.ones(20, 8))
        >>> point.propagators().shape, point.sensitivity().shape
        (torch.Size([2, 5, 8, 8]), torch.Size([5]))
    """
    stacked = not isinstance(layer, Layer)
    layers = [layer] if isinstance(layer, Layer) else list(layer)
    streams = list(hidden) if stacked else [hidden]
    if not layers or len(layers) != len(streams):
        raise ValueError(
            f"give one hidden state per layer, and at least one, got {len(streams)} for "
            f"{len(layers)} layers"
        )
    points = [
        _point(each, stream, context, mask, tokens, chunk)  # type: ignore[arg-type]
        for each, stream in zip(layers, streams, strict=True)
    ]
    return LinearisedLayers(tuple(points), stacked)


def _point(
    layer: Layer,
    hidden: Tensor,
    context: Tensor | None,
    mask: Tensor | None,
    tokens: slice,
    chunk: int | None,
) -> _Point:
    if isinstance(mask, Tensor) and isinstance(hidden, Tensor) and hidden.ndim > 1:
        mask = _broadcast(mask, hidden.shape[:-1])
    hidden, context, real = checked(layer, hidden, context, mask)
    size = as_chunk(chunk, layer.width * len(layer.ffn.in_bias), layer.device)
    seen = record(layer, hidden, context, real, tokens)
    parts = some = sublayer_jacobians(layer, seen, tokens, size)
    index = shown = None
    if real is not None and not bool((chosen := real[..., tokens]).all()):
        index, shown = chosen.flatten().nonzero()[:, 0], chosen.reshape(-1, 1, 1)
        some = tuple(part.at(index) for part in parts)
    whole = Linearisation(hidden[..., tokens, 0].shape, index, some, size)
    return _Point(layer, parts, seen.cross_attended, shown, size, whole)


def _broadcast(mask: Tensor, shape: torch.Size) -> Tensor:
    try:
        return mask.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"mask must broadcast to {tuple(shape)}, one entry per token, got {tuple(mask.shape)}"
        ) from None


def _product_of(parts: tuple[SubLayerJacobian, ...]) -> Tensor:
    return _product([part.transposed() for part in parts])

"""The latent graph: tokens as nodes, attention or similarity as weights, and its Kirchhoff index.

All kernels are batched over any leading dimensions, stay on the device of their input, take any
floating dtype, compute in float64 and return float64 without gradients.
"""

import math

import torch
from torch import Tensor

from spectral._resistances import kirchhoff_indices
from spectral._validation import (
    as_float64,
    as_mask,
    power_of_two_near,
    require_finite,
    require_non_negative,
)

ASYMMETRY = 1e-6
"""Weights of the two directions may differ by this fraction of the graph's largest weight."""

SMALLEST_RATIO = 1e-280
"""Smallest positive weight of a graph, as a fraction of its largest, that float64 can carry."""

_STRIP = 128  # rows of a matrix that are compared with columns at a time


def attention_graph(attention: Tensor, mask: Tensor | None = None) -> Tensor:
    """Symmetrised attention, (A + A') / 2 with a zero diagonal: the weights of a graph on tokens.

    Heads are a batch dimension: keep it for a graph per head, or average over it first.

    Args:
        attention: Shape ``(*batch, tokens, tokens)``, non-negative, from query (row) to key.
        mask: Shape ``(*batch, tokens)``, bool, true where a token is real; all of them by default.

    Returns:
        Shape ``(*batch, tokens, tokens)``, float64, zero from and to tokens that are not real.

    Raises:
        ValueError: For attention that is not square or not floating, a mask of another shape, dtype
            or device, or NaN, infinity or a negative between real tokens.

    Example:
        >>> attention_graph(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        tensor([[0.0000, 0.2500],
                [0.2500, 0.0000]], dtype=torch.float64)
    """
    weights, _ = _between_real_nodes(attention, mask, "attention", "tokens")
    return _without_loops((weights + weights.mT) / 2)


def similarity_graph(hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Token similarity, max(0, cosine) with a zero diagonal: the weights of a graph on tokens.

    .. math:: w_{st} = \max\bigl(0, h_s \cdot h_t / (|h_s| |h_t|)\bigr), \qquad s \ne t

    A cosine within D 2^-51 of zero is rounding, and exactly zero: orthogonal tokens share no edge.
    T^2 D multiply-adds.

    Args:
        hidden_states: Shape ``(*batch, tokens, width)``, finite where the mask is true.
        mask: Shape ``(*batch, tokens)``, bool, true where a token is real; all of them by default.

    Returns:
        Shape ``(*batch, tokens, tokens)``, float64, without a unit. A hidden state of zeros has no
        direction and no edge, nor has a token that is not real.

    Raises:
        ValueError: For fewer than two dimensions, a dtype that is not floating, a mask of another
            shape, dtype or device, or NaN or infinity in a real row.

    Example:
        >>> similarity_graph(torch.tensor([[1.0, 0.0], [3.0, 4.0], [-1.0, 0.0]]))
        tensor([[0.0000, 0.6000, 0.0000],
                [0.6000, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.0000]], dtype=torch.float64)
    """
    rows = as_float64(hidden_states, "hidden_states", "(*batch, tokens, width)")
    mask = as_mask(mask, rows.shape[:-1], rows.device)
    rows = rows.where(mask[..., None], 0.0)
    require_finite(rows, "hidden_states", "mask out the tokens that are not real")
    if rows.numel() == 0:
        return rows.new_zeros(*mask.shape, mask.shape[-1])

    # Scaled row by row, so that no square leaves float64.
    rows = rows / power_of_two_near(rows.abs().amax(-1, keepdim=True))
    length = rows.norm(dim=-1, keepdim=True)
    rows = rows / length.where(length > 0, 1.0)
    cosine = rows @ rows.mT
    cosine = (cosine + cosine.mT) / 2
    rounding = 2 * rows.shape[-1] * torch.finfo(torch.float64).eps
    return _without_loops(cosine.where(cosine > rounding, 0.0).clamp(max=1.0))


def graph_kirchhoff_index(weights: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Kirchhoff index Kf of a weighted graph: the effective resistances of all pairs, summed.

    .. math:: Kf = \sum_{s<t} R_{st} = n \sum_{i=2}^{n} 1 / \mu_i

    with :math:`\mu_i` the eigenvalues of the Laplacian, weights as conductances (Klein & Randić
    1993, "Resistance distance"; the sum over eigenvalues: Gutman & Mohar 1996). Smaller for better
    connected graphs; in units of 1 / weight.

    No eigenvalue is computed: :math:`Kf = n\,\mathrm{tr} N - 1'N1` for N any symmetric generalised
    inverse of the Laplacian. Where the graph mixes well, N comes from one Cholesky factor of the
    Laplacian plus a matrix of rank one, n^3 / 3 multiply-adds, right to 1e-11 n at worst and to
    1e-12 as measured (``spectral._resistances.by_cholesky``, which also bounds its own error and so
    decides). Any other graph, disconnected ones among them, goes through an elimination that
    subtracts nothing, some ten times as long, and is right to n^2 2^-52 however far apart the
    weights are (``by_elimination``). Memory for two to four copies of the weights in float64, and
    for about six where graphs are eliminated.

    Args:
        weights: Shape ``(*batch, nodes, nodes)``, non-negative, symmetric to within 1e-6 of the
            graph's largest weight (the mean of the two directions is used). The diagonal does not
            matter, as a loop has no part in a Laplacian.
        mask: Shape ``(*batch, nodes)``, bool, true where a node is real; all of them by default.
            What lies in rows and columns of a false entry does not matter, be it NaN.

    Returns:
        Shape ``(*batch,)``, float64. Infinite where the real nodes are not connected (or where Kf
        exceeds float64, as for weights of 1e-310), 0 for one real node or none.

    Raises:
        ValueError: For weights that are not square, not floating or not symmetric, a mask of
            another shape, dtype or device, NaN, infinity or a negative between real nodes, or a
            positive weight below 1e-280 of its graph's largest.

    Example:
        >>> path = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        >>> graph_kirchhoff_index(path)
        tensor(4., dtype=torch.float64)
    """
    weights, mask = _between_real_nodes(weights, mask, "weights", "nodes")
    batch, nodes = mask.shape[:-1], mask.shape[-1]
    if weights.numel() == 0 or nodes == 1:
        return weights.new_zeros(batch)
    largest = _between_different_nodes(weights).amax((-2, -1))
    weights = _symmetrised(weights, largest)
    _require_ratio(weights, largest)
    index = kirchhoff_indices(
        weights.reshape(-1, nodes, nodes),
        mask.reshape(-1, nodes),
        power_of_two_near(largest).flatten(),
    )
    return index.reshape(batch)


def _between_real_nodes(
    weights: Tensor, mask: Tensor | None, name: str, nodes: str
) -> tuple[Tensor, Tensor]:
    """Checked non-negative weights in float64, zero unless both ends are real; and the mask."""
    layout = f"(*batch, {nodes}, {nodes})"
    weights = as_float64(weights, name, layout)
    if weights.shape[-1] != weights.shape[-2]:
        raise ValueError(f"{name} must have shape {layout}, got {tuple(weights.shape)}")
    if mask is not None:
        real = as_mask(mask, weights.shape[:-1], weights.device)
        weights = weights.where(real[..., :, None] & real[..., None, :], 0.0)
    if weights.numel() > 0:
        least, most = weights.aminmax()
        if not (least >= 0 and most < math.inf):  # NaN is neither
            require_finite(weights, name, f"mask out the {nodes} that are not real")
            require_non_negative(weights, name, "set negative ones to 0 with .clamp(min=0)")
    return weights, as_mask(mask, weights.shape[:-1], weights.device)


def _without_loops(weights: Tensor) -> Tensor:
    weights = weights.clone()
    weights.diagonal(dim1=-2, dim2=-1).zero_()
    return weights


def _between_different_nodes(weights: Tensor) -> Tensor:
    """All entries off the diagonal, ``(*batch, nodes - 1, nodes)``: a view of contiguous ones."""
    nodes = weights.shape[-1]
    return weights.flatten(-2)[..., 1:].unflatten(-1, (nodes - 1, nodes + 1))[..., :-1]  # type: ignore[no-untyped-call]


def _symmetrised(weights: Tensor, largest: Tensor) -> Tensor:
    """The mean of the two directions, once it is known that they hardly differ."""
    if _is_symmetric(weights):
        return weights
    difference = weights - weights.mT  # with its own negative, so its largest is the absolute one
    if (difference.amax((-2, -1)) > ASYMMETRY * largest).any():
        wrong = difference.abs() > ASYMMETRY * largest[..., None, None]
        index = tuple(wrong.nonzero()[0].tolist())
        back = (*index[:-2], index[-1], index[-2])
        raise ValueError(
            f"weights must be symmetric to within {ASYMMETRY} of the largest, got "
            f"{weights[index].item()} at {index} and {weights[back].item()} at {back}: "
            "symmetrise with (weights + weights.mT) / 2, as attention_graph does"
        )
    return torch.lerp(weights, weights.mT, 0.5, out=difference)


def _is_symmetric(weights: Tensor) -> bool:
    """Exactly; compared in strips from the diagonal on, as a whole transpose misses every cache."""
    return all(
        torch.equal(
            weights[..., start : start + _STRIP, start:],
            weights[..., start:, start : start + _STRIP].mT,
        )
        for start in range(0, weights.shape[-1], _STRIP)
    )


def _require_ratio(weights: Tensor, largest: Tensor) -> None:
    least = SMALLEST_RATIO * largest
    if (_between_different_nodes(weights).amin((-2, -1)) >= least).all():
        return  # at a glance, where no weight is zero
    wrong = _without_loops((weights > 0) & (weights < least[..., None, None]))
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"weights of one graph must be 0 or above {SMALLEST_RATIO} of its largest, got "
            f"{weights[index].item()} beside {largest[index[:-2]].item()}: set such weights to 0"
        )

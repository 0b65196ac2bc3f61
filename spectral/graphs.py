"""The latent graph: tokens as nodes, attention or similarity as weights, and its Kirchhoff index.

Of any floating dtype, computed in float64 and returned in float64 without gradients.
"""

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import one_hot

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

TRUSTED = 1e-11
"""Largest bound on the relative error of a Cholesky's index, for that index to be returned."""

_BLOCK = 64  # nodes eliminated one by one, before matrix products are worth their call
_STRIP = 128  # rows of a matrix that are compared with columns at a time


def attention_graph(attention: Tensor, mask: Tensor | None = None) -> Tensor:
    """Symmetrised attention, (A + A') / 2 with a zero diagonal: the weights of a graph on tokens.

    Heads are a batch dimension: keep it for a graph per head, or average over it first.

    Of attention ``(*batch, tokens, tokens)``, non-negative, from query (row) to key, and a mask
    ``(*batch, tokens)``, bool, true where a token is real: ``(*batch, tokens, tokens)``, float64,
    zero from and to tokens that are not real. Raises ValueError for attention that is not square or
    not floating, a mask of another shape, dtype or device, or NaN, infinity or a negative between
    real tokens.

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

    Of ``hidden_states`` ``(*batch, tokens, width)``, finite where the ``mask`` ``(*batch, tokens)``
    is true: ``(*batch, tokens, tokens)``, float64, without unit. A hidden state of zeros has no
    direction and no edge, nor has a token that is not real. Raises ValueError for fewer than two
    dimensions, a dtype that is not floating, a mask of another shape, dtype or device, or NaN or
    infinity in a real row.

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
    inverse of the Laplacian. Where the graph mixes well, by :func:`by_cholesky`, right to 1e-11 n
    at worst and to 1e-12 as measured, which bounds its own error and so decides; any other graph by
    :func:`by_elimination`, some ten times as long, right to n^2 2^-52. Memory for two to four
    copies of the weights in float64, and for about six where graphs are eliminated.

    Of weights ``(*batch, nodes, nodes)``, non-negative, symmetric to within 1e-6 of the graph's
    largest (the mean of the two directions is used), of any diagonal, and a mask ``(*batch,
    nodes)``, bool, true where a node is real, by default all; what lies in rows and columns of a
    false entry does not matter, be it NaN: ``(*batch,)``, float64, infinite where the real nodes
    are not connected (or where Kf exceeds float64, as for weights of 1e-310), 0 for one real node
    or none. Raises ValueError for weights that are not square, not floating or not symmetric, a
    mask of another shape, dtype or device, NaN, infinity or a negative between real nodes, or a
    positive weight below 1e-280 of its graph's largest.

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
    unit = power_of_two_near(largest).flatten()
    mask, weights = mask.reshape(-1, nodes), weights.reshape(-1, nodes, nodes)

    index, error = by_cholesky(_without_loops(weights / unit[:, None, None]), mask)
    doubtful = (~(error <= TRUSTED)).nonzero()[:, 0]  # NaN is not trusted either
    if len(doubtful):
        scaled = _without_loops(weights[doubtful] / unit[doubtful, None, None])
        index[doubtful] = by_elimination(scaled, mask[doubtful])
    return (index / unit).reshape(batch)


def _between_real_nodes(
    weights: Tensor, mask: Tensor | None, name: str, nodes: str
) -> tuple[Tensor, Tensor]:
    """Checked non-negative weights in float64, zero unless both ends are real; and the mask."""
    layout = f"(*batch, {nodes}, {nodes})"
    weights = as_float64(weights, name, layout)
    if weights.shape[-1] != weights.shape[-2]:
        raise ValueError(f"{name} must have shape {layout}, got {tuple(weights.shape)}")
    real = as_mask(mask, weights.shape[:-1], weights.device)
    if mask is not None:
        weights = weights.where(real[..., :, None] & real[..., None, :], 0.0)
    if weights.numel() > 0:
        least, most = weights.aminmax()
        if not (least >= 0 and most < math.inf):  # NaN is neither
            require_finite(weights, name, f"mask out the {nodes} that are not real")
            require_non_negative(weights, name, "set negative ones to 0 with .clamp(min=0)")
    return weights, real


def _without_loops(weights: Tensor) -> Tensor:
    weights.diagonal(dim1=-2, dim2=-1).zero_()  # in place
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


def by_cholesky(weights: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    r"""Kirchhoff index by one Cholesky factor, and a bound on its relative error; in place.

    .. math:: Kf = n\,\mathrm{tr}\,M^{-1} - 1'M^{-1}1, \qquad M = L + d d' / (1'd)

    with L the Laplacian and d its diagonal. What is factored is M scaled to :math:`H =
    \mathrm{diag}(d)^{-1/2} M \mathrm{diag}(d)^{-1/2}`, whose eigenvalues are 1 and, with
    :math:`\nu` those of a random walk on the graph less its largest, :math:`1 - \nu`: so that it is
    the walk's spectral gap that counts, and not how far apart the weights are. n^3 / 3
    multiply-adds.

    Rounding, of H, of the factor and of the inverse, is a relative change of H by some
    :math:`\gamma = n u` (u = 2^-53; Higham 2002, theorem 10.3; n^2 u at the very worst). It changes
    Kf by :math:`\gamma \|H^{-1}\|_2` of itself at most, times what the difference above loses; X
    being the inverse of the factor, :math:`\|H^{-1}\|_2 \le \|X\|_1 \|X\|_\infty`. Where the graph
    is not connected H is singular, and the bound exceeds 1.
    """
    unit = torch.finfo(torch.float64).eps / 2
    count, degree = mask.sum(-1), weights.sum(-1)
    scale = degree.where(degree > 0, math.inf).rsqrt()  # 0 for nodes apart
    part = (degree / degree.sum(-1, keepdim=True)).sqrt()
    matrix = weights.mul_(-scale[:, :, None]).mul_(scale[:, None])
    matrix.addcmul_(part[:, :, None], part[:, None]).diagonal(dim1=-2, dim2=-1).add_(1)
    # Its own transpose, which lies in memory column by column, as LAPACK wants it.
    factor = matrix.mT
    torch.linalg.cholesky_ex(factor, out=(factor, mask.new_empty(len(mask), dtype=torch.int32)))
    trace, ones, norm = _inverse_numbers(factor, scale)
    index = count * trace - ones
    error = count * unit * norm * (count * trace / index)
    apart = ((degree == 0) & mask).any(-1)  # a lone node among them: the elimination knows
    return index, error.masked_fill(apart | (index <= 0), math.inf)


def _inverse_numbers(factor: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Trace and sum of diag(scale) H^-1 diag(scale), and a bound on the 2-norm of H^-1 = X'X."""
    n = factor.shape[-1]
    # X, the inverse of the lower factor, some columns at a time, only from the diagonal down.
    trace, total, rows = (torch.zeros_like(part) for part in (scale[:, 0], scale, scale))
    columns = torch.zeros_like(scale[:, 0])
    width = max(_BLOCK, n // 6)
    for start in range(0, n, width):
        block = slice(start, start + width)
        unit = torch.eye(n - start, min(width, n - start), dtype=scale.dtype, device=scale.device)
        inverse = torch.linalg.solve_triangular(factor[:, start:, start:], unit, upper=False)
        total[:, start:] += (inverse @ scale[:, block, None])[..., 0]
        trace += (vector_norm(inverse, dim=-2) * scale[:, block]).square().sum(-1)
        rows[:, start:] += vector_norm(inverse, 1, dim=-1)
        columns = torch.maximum(columns, vector_norm(inverse, 1, dim=-2).amax(-1))
    return trace, total.square().sum(-1), rows.amax(-1) * columns


def by_elimination(weights: Tensor, mask: Tensor) -> Tensor:
    """Kirchhoff index by an elimination that subtracts nothing, however far apart the weights are.

    With one node grounded, N is the inverse of the Laplacian without it, by block elimination of
    weights between nodes and to ground, never of the Laplacian's diagonal (after Grassmann, Taksar
    & Heyman 1985; Alfa, Xue & Ye 2002). It adds, multiplies and divides non-negative numbers, so
    that every entry of N is right to about n 2^-52 of itself, the last difference loses a factor n
    at most, and a zero is met exactly where a component of the graph has no way to ground. 2/3 n^3
    multiply-adds, nearly all in matrix products.
    """
    # Any real node would do; the last difference cancels least for a central one, a heavy one.
    total = weights.sum(-1).masked_fill(~mask, -1.0)
    ground = one_hot(total.argmax(-1), weights.shape[-1]).bool()
    inner = mask & ~ground
    # Nodes that are not inner stay in the matrix, apart from the graph and tied to ground by 1.
    to_ground = (weights @ ground[..., None].double())[..., 0].where(inner, 1.0)
    weights = weights * (inner[..., :, None] & inner[..., None, :])
    inverse = _grounded_inverse(weights, to_ground)
    trace = inverse.diagonal(dim1=-2, dim2=-1).where(inner, 0.0).sum(-1)
    index = mask.sum(-1) * trace - inverse.sum(-1).where(inner, 0.0).sum(-1)
    # A zero pivot has left infinity or NaN in the trace.
    return index.where(index.isfinite(), math.inf)


def _grounded_inverse(weights: Tensor, to_ground: Tensor) -> Tensor:
    """Inverse of diag(to_ground + row sums of weights) - weights, by non-negative sums alone.

    Of weights ``(batch, n, n)``, read above the diagonal. Infinity or NaN on the diagonal of a node
    that no path of weights links to ground.
    """
    n = to_ground.shape[-1]
    if n <= _BLOCK:
        return _inverse_of_block(weights, to_ground)
    half = n // 2
    link = weights[:, :half, half:]
    first = _grounded_inverse(weights[:, :half, :half], to_ground[:, :half] + link.sum(-1))
    # jump[i, j]: probability that a walk from i, in the first half, leaves it at j. Eliminating
    # the first half replaces it by the links and the ways to ground that such walks provide.
    jump = first @ link
    second = _grounded_inverse(
        torch.baddbmm(weights[:, half:, half:], link.mT, jump),
        to_ground[:, half:] + (jump.mT @ to_ground[:, :half, None])[..., 0],
    )
    inverse = weights.new_empty(weights.shape)
    across = torch.bmm(jump, second)
    inverse[:, :half, :half] = torch.baddbmm(first, across, jump.mT)
    inverse[:, :half, half:] = across
    inverse[:, half:, :half] = across.mT
    inverse[:, half:, half:] = second
    return inverse


def _inverse_of_block(weights: Tensor, to_ground: Tensor) -> Tensor:
    """The same for a few nodes, eliminated one by one: N = (1 - J)^-1 P^-1 (1 - J')^-1.

    P are the pivots, J the probabilities to jump to a later node: strictly upper triangular, so
    that (1 - J)^-1 = (1 + J)(1 + J^2)(1 + J^4) ... is a finite product of non-negative factors.
    """
    n = to_ground.shape[-1]
    ways = torch.cat([weights.triu(1), to_ground[..., None]], -1)
    pivots = torch.empty_like(to_ground)
    for k in range(n):
        row = ways[:, k, k + 1 :]
        pivots[:, k] = row.sum(-1)
        jump = row / pivots[:, k, None]
        ways[:, k + 1 :, k + 1 :].addcmul_(row[:, :-1, None], jump[:, None])
        row.copy_(jump)
    power = ways[..., :n].triu(1)
    walks = power + torch.eye(n, dtype=power.dtype, device=power.device)
    reach = 2
    while reach < n:
        power = power @ power
        walks = torch.baddbmm(walks, walks, power)
        reach *= 2
    return (walks / pivots[:, None]) @ walks.mT

r"""The Kirchhoff index of checked weights: by Cholesky where that is safe, else by elimination.

For N a symmetric generalised inverse of the Laplacian of n connected nodes,
:math:`Kf = n\,\mathrm{tr} N - 1'N1`. Weights are ``(batch, n, n)`` in float64, symmetric,
non-negative, and zero wherever the mask is false; for either road, also zero on the diagonal and of
largest entry near 1.
"""

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import one_hot

TRUSTED = 1e-11
"""Largest bound on the relative error of a Cholesky's index, for that index to be returned."""

_BLOCK = 64  # nodes eliminated one by one, before matrix products are worth their call


def kirchhoff_indices(weights: Tensor, mask: Tensor, unit: Tensor) -> Tensor:
    """Kirchhoff index of every graph, ``(batch,)``; infinite where its nodes are not connected.

    ``unit``, ``(batch,)``: a power of two near each graph's largest weight.
    """
    index, error = by_cholesky(_without_loops(weights, unit), mask)
    rest = (~(error <= TRUSTED)).nonzero()[:, 0]  # NaN is not trusted either
    if len(rest):
        index[rest] = by_elimination(_without_loops(weights[rest], unit[rest]), mask[rest])
    return index / unit


def _without_loops(weights: Tensor, unit: Tensor) -> Tensor:
    weights = weights / unit[:, None, None]
    weights.diagonal(dim1=-2, dim2=-1).zero_()
    return weights


def by_cholesky(weights: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    r"""Kirchhoff index by one Cholesky factor, and a bound on its relative error.

    Works in the memory of ``weights``, for fresh pages cost time too.

    .. math:: Kf = n\,\mathrm{tr}\,M^{-1} - 1'M^{-1}1, \qquad M = L + d d' / (1'd)

    with L the Laplacian and d its diagonal. What is factored is M scaled to :math:`H =
    \mathrm{diag}(d)^{-1/2} M \mathrm{diag}(d)^{-1/2}`, whose eigenvalues are 1 and, with
    :math:`\nu` those of a random walk on the graph less its largest, :math:`1 - \nu`: so that it is
    the walk's spectral gap that counts, and not how far apart the weights are. n^3 / 3
    multiply-adds.

    Rounding, of H, of the factor and of the inverse, is a relative change of H by some
    :math:`\gamma = n u` (u = 2^-53; Higham 2002, theorem 10.3; n^2 u at the very worst). It changes
    Kf by :math:`\gamma \|H^{-1}\|_2` of itself at most, times what the difference above loses; X
    being the inverse of the factor, :math:`\|H^{-1}\|_2 \le \|X\|_1 \|X\|_\infty`. As H is singular
    where the graph is not connected, the inverse of what rounding makes of it is then so large
    that the bound exceeds 1.
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
    """Trace and sum of diag(scale) H^-1 diag(scale), and a bound on the 2-norm of H^-1 = X'X.

    X is the inverse of the lower factor, some columns at a time, only from the diagonal down.
    """
    n = factor.shape[-1]
    trace, total, rows = (torch.zeros_like(part) for part in (scale[:, 0], scale, scale))
    columns = torch.zeros_like(scale[:, 0])
    width = max(_BLOCK, n // 6)
    for start in range(0, n, width):
        some = slice(start, start + width)
        unit = torch.eye(n - start, min(width, n - start), dtype=scale.dtype, device=scale.device)
        inverse = torch.linalg.solve_triangular(factor[:, start:, start:], unit, upper=False)
        total[:, start:] += (inverse @ scale[:, some, None])[..., 0]
        trace += (vector_norm(inverse, dim=-2) * scale[:, some]).square().sum(-1)
        rows[:, start:] += vector_norm(inverse, 1, dim=-1)
        columns = torch.maximum(columns, vector_norm(inverse, 1, dim=-2).amax(-1))
    return trace, total.square().sum(-1), rows.amax(-1) * columns


def by_elimination(weights: Tensor, mask: Tensor) -> Tensor:
    r"""Kirchhoff index by an elimination that subtracts nothing, however far apart the weights are.

    With one node g grounded, N is the inverse of the Laplacian without g, and comes from block
    elimination in terms of weights between nodes and weights to ground alone, never of the
    Laplacian's diagonal (after Grassmann, Taksar & Heyman 1985; Alfa, Xue & Ye 2002). It adds,
    multiplies and divides non-negative numbers, so that every entry of N is right to about
    n 2^-52 of itself, and the last difference loses a factor n at the very most. For the same
    reason connectivity is decided by structure and not by rounding: the elimination meets a zero
    exactly where a component of the graph has no way to g. 2/3 n^3 multiply-adds, nearly all in
    matrix products.
    """
    ground = _ground(weights, mask)
    inner = mask & ~ground
    # Nodes that are not inner stay in the matrix, apart from the graph and tied to ground by 1.
    to_ground = (weights @ ground[..., None].double())[..., 0].where(inner, 1.0)
    weights = weights * (inner[..., :, None] & inner[..., None, :])
    inverse = _grounded_inverse(weights, to_ground)
    trace = inverse.diagonal(dim1=-2, dim2=-1).where(inner, 0.0).sum(-1)
    index = mask.sum(-1) * trace - inverse.sum(-1).where(inner, 0.0).sum(-1)
    # A zero pivot has left infinity or NaN in the trace.
    return index.where(index.isfinite(), math.inf)


def _ground(weights: Tensor, mask: Tensor) -> Tensor:
    """One real node per graph, where it has any, as a mask: that of the largest total weight.

    Any would do; n tr N - 1'N1 cancels least for a central one, as a heavy one tends to be.
    """
    total = weights.sum(-1).masked_fill(~mask, -1.0)
    return one_hot(total.argmax(-1), weights.shape[-1]).bool()


def _grounded_inverse(weights: Tensor, to_ground: Tensor) -> Tensor:
    """Inverse of diag(to_ground + row sums of weights) - weights, by non-negative sums alone.

    Args:
        weights: Shape ``(batch, n, n)``, of which the part above the diagonal is read.
        to_ground: Shape ``(batch, n)``: what each diagonal entry exceeds the row's weights by.

    Returns:
        Shape ``(batch, n, n)``, non-negative; infinity or NaN on the diagonal of a node that no
        path of weights links to ground.
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

    P are the pivots, and J, strictly upper triangular, the probabilities to jump to a later node,
    so that (1 - J)^-1 = (1 + J)(1 + J^2)(1 + J^4) ... is a finite product of non-negative factors.
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

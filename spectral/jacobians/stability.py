"""What propagators say about a stack of layers: gain, alignment, gap, and unstable dimensions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spectral._validation import as_float64, require_finite
from spectral.jacobians.triplets import SingularTriplets

_DOUBT = 10
"""So many eps |W| may an eigenvalue be off in float32: ten times what propagators show."""


@dataclass(frozen=True)
class LayerGains:
    """How the top triplets of L successive propagators fit each other."""

    gain: Tensor  # (L - 1, *batch): rho_l = sigma_{1,l} |kappa_l|
    alignment: Tensor  # (L - 1, *batch): kappa_l = v_{l+1}' u_l, of arbitrary sign
    singular_value_ratio: (
        Tensor  # (L, *batch): xi_l = sigma_{2,l} / sigma_{1,l}, NaN where sigma_1 is 0
    )


def layer_gains(triplets: Sequence[SingularTriplets]) -> LayerGains:
    r"""Gain, alignment and gap of successive layers.

    .. math:: \rho_l = \sigma_{1,l} |\kappa_l|, \quad \kappa_l = v_{1,l+1}' u_{1,l}, \quad
              \xi_l = \sigma_{2,l} / \sigma_{1,l}

    Args:
        triplets: One per layer, from the lowest to the highest, of two triplets or more each and
            of one batch shape and width.

    Returns:
        Gains and alignments, one fewer than layers, and gaps.

    Raises:
        ValueError: For no layers, fewer than two triplets, or shapes that differ.

    Example:
        >>> from spectral.jacobians.triplets import top_singular_triplets
        >>> layers = torch.tensor([[2.0, 1.0], [4.0, 3.0]]).diag_embed()
        >>> layer_gains([top_singular_triplets(one) for one in layers]).singular_value_ratio
        tensor([0.5000, 0.7500])
    """
    if not triplets:
        raise ValueError("give the triplets of at least one layer")
    shapes = {(one.u.shape[:-1], one.v.shape[:-1]) for one in triplets}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2 or any(a != b for a, b in shapes):
        raise ValueError(f"all layers must have one batch shape and width, got u and v of {shapes}")
    if any(one.sigma.shape[-1] < 2 for one in triplets):
        raise ValueError("the gap takes two triplets of every layer: ask for k=2 or more")
    sigma = torch.stack([one.sigma[..., :2] for one in triplets])
    u, v = (torch.stack([getattr(one, name)[..., 0] for one in triplets]) for name in "uv")
    alignment = (v[1:] * u[:-1]).sum(-1)
    return LayerGains(
        sigma[:-1, ..., 0] * alignment.abs(), alignment, sigma[..., 1] / sigma[..., 0]
    )


def unstable_dimensions(matrix: Tensor) -> Tensor:
    """Number of eigenvalues of modulus above one; about 25 D^3 operations each.

    Of a matrix I + A with a small random A, chance alone puts about half of them there: compare
    with the randomly initialised control. A modulus counts from 1 + sqrt(eps) of the matrix's
    dtype. The propagator of a pre-norm layer has an eigenvalue of exactly one, for LayerNorm does
    not see an equal change of all coordinates, and rounding would put it on either side of one.
    Matrices modulo that direction have a zero instead. In float32, and again in float64 where that
    leaves a doubt.

    Args:
        matrix: Shape ``(*batch, width, width)``.

    Returns:
        Shape ``(*batch,)``, int64.

    Raises:
        ValueError: For a matrix that is not square, not real floating point, or not finite.

    Example:
        >>> unstable_dimensions(torch.diag(torch.tensor([1.5, -1.1, 1.0, 0.2])))
        tensor(2)
    """
    edge = 1 + torch.finfo(matrix.dtype).eps ** 0.5
    return count_above(matrix, edge, lambda matrix: torch.linalg.eigvals(matrix).abs())


def count_above(matrix: Tensor, edge: float, values: Callable[[Tensor], Tensor]) -> Tensor:
    """How many values of matrices ``(*batch, width, width)`` lie above the edge, ``(*batch,)``.

    In float32, and again in float64 where that leaves a doubt. Raises ValueError as
    :func:`unstable_dimensions`.
    """
    matrix = as_float64(matrix, "matrix", "(*batch, width, width)")
    if matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix must be square, got {tuple(matrix.shape)}")
    require_finite(matrix, "matrix", "leave out the tokens that are not real")
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    found = values(flat.float())
    counts = (found > edge).sum(-1)
    doubt = _DOUBT * torch.finfo(found.dtype).eps * torch.linalg.matrix_norm(flat)
    doubtful = ((found - edge).abs() <= doubt[:, None]).any(-1).nonzero()[:, 0]
    counts[doubtful] = (values(flat[doubtful]) > edge).sum(-1)
    return counts.reshape(matrix.shape[:-2])

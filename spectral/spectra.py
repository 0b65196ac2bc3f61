"""Eigenvalue spectra of activations, and the numbers that are read off them.

Of any floating dtype, computed in float64 and returned in float64 without gradients.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from spectral._validation import (
    as_float64,
    as_mask,
    power_of_two_near,
    require_finite,
    require_non_negative,
    whole_number,
)

NOISE = 1e-9
"""Modes below this fraction of the largest eigenvalue are noise, and set to zero."""

SMALLEST_MAGNITUDE, LARGEST_MAGNITUDE = 1e-130, 1e150
"""Activations outside this range have eigenvalues, their squares, that float64 cannot hold."""


def eigenvalues(activations: Tensor, mask: Tensor | None = None, center: bool = True) -> Tensor:
    r"""Covariance eigenvalues of activations, descending, in units of activation^2.

    .. math:: \lambda_i = \sigma_i(A - \bar A)^2 / (T - 1)

    with :math:`\sigma_i` the singular values of one utterance's T real rows less their mean, from
    the smaller of the two Gram matrices: T D min(T, D) multiply-adds for it, some 2/3 min(T, D)^3
    for its eigenvalues, memory for about four copies of the activations in float64. Right to about
    1e-14 of the largest eigenvalue, to 1e-5 of each mode down to the noise, for T and D up to 1500.

    A mode is noise, and exactly zero, where :math:`\lambda_i` is below 1e-9 of the largest, or
    below :math:`T D / (T - 1)\,(4 \cdot 2^{-52} \max|A|)^2`, with the maximum over the real rows
    before centring: what rounding to float64 alone can make of constant rows.

    Of activations ``(*batch, tokens, width)``, and a mask ``(*batch, tokens)``, bool, true where a
    token is real, by default all; what lies under a false entry does not matter, be it NaN:
    ``(*batch, min(tokens, width))``, float64. Without ``center``, the mean row stays, and the
    divisor T - 1. All zeros for T = 0 or 1, and for constant rows with centring. Raises ValueError
    for another shape or dtype, a mask of another shape, dtype or device, NaN or infinity in a real
    row, or a largest magnitude outside 1e-130 .. 1e150, whose square leaves float64.

    >>> rows = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> eigenvalues(rows) * 3
    tensor([8., 2.], dtype=torch.float64)
    """
    rows = as_float64(activations, "activations", "(*batch, tokens, width)")
    real = None if mask is None else as_mask(mask, rows.shape[:-1], rows.device)
    tokens, width = rows.shape[-2:]
    if rows.numel() == 0:
        return rows.new_zeros(*rows.shape[:-2], min(tokens, width))
    if activations.dtype == torch.float64:
        rows = rows.clone()
    # In place from here on: a second copy's page faults may take longer than all that is computed.
    count = torch.tensor(tokens, device=rows.device) if real is None else real.sum(-1)
    if real is not None:
        rows.masked_fill_(~real[..., None], 0.0)

    largest = torch.maximum(-rows.amin((-2, -1)), rows.amax((-2, -1)))  # NaN stays NaN
    if not largest.isfinite().all():
        require_finite(rows, "activations", "mask out the tokens that are not real")
    outside = (largest > LARGEST_MAGNITUDE) | ((largest > 0) & (largest < SMALLEST_MAGNITUDE))
    if outside.any():
        raise ValueError(
            f"activations must have a largest magnitude of 0 or within {SMALLEST_MAGNITUDE} .. "
            f"{LARGEST_MAGNITUDE}, got {largest[outside][0].item()}: eigenvalues are squares and "
            "would leave float64, divide the activations first"
        )
    # Scaled, as the eigensolver may square the squares; by powers of two, to lose no digit.
    scale = power_of_two_near(largest)
    rows /= scale[..., None, None]
    if center:
        for _ in range(2):  # The second pass takes away the rounding of the first one's mean.
            rows -= rows.sum(-2, keepdim=True) / count.clamp(min=1)[..., None, None]
            if real is not None:
                rows *= real[..., None]
    gram = rows @ rows.mT if tokens < width else rows.mT @ rows
    squares: Tensor = torch.linalg.eigvalsh(gram).flip(-1)

    rounding = count * width * (4 * torch.finfo(torch.float64).eps * largest / scale).square()
    noise = torch.maximum(NOISE * squares[..., 0], rounding)[..., None]
    unit = torch.where(count > 1, scale.square() / (count - 1).clamp(min=1), 0.0)
    return squares.where(squares >= noise, 0.0) * unit[..., None]


def resolved_modes(eigenvalues: Tensor) -> Tensor:
    """Number of non-zero eigenvalues, those that :func:`eigenvalues` did not call noise.

    Of ``eigenvalues`` ``(*batch, modes)``, non-negative, in any order: ``(*batch,)``, int64.
    Raises ValueError for a spectrum of another shape, dtype or range.

    >>> resolved_modes(torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor([2, 0])
    """
    return (_descending(eigenvalues) > 0).sum(-1)


def effective_rank(
    eigenvalues: Tensor,
    k: int | None = None,
    of: Literal["eigenvalues", "singular_values"] = "eigenvalues",
) -> Tensor:
    r"""Effective rank N_eff: the number of equal modes with the same Shannon entropy.

    .. math:: N_{eff} = \exp\Bigl(-\sum_i p_i \log p_i\Bigr), \qquad
              p_i = \lambda_i \Big/ \sum_j \lambda_j

    Roy & Vetterli (2007), "The effective rank: a measure of effective dimensionality", eqs. 2-4,
    who take singular values for :math:`\lambda`: ``of="singular_values"``, that is
    :math:`p_i = \sqrt{\lambda_i} / \sum_j \sqrt{\lambda_j}`. Without a unit, unchanged by a factor
    on the activations, and between 1 and the number of resolved modes.

    Of ``eigenvalues`` ``(*batch, modes)``, non-negative, in any order: ``(*batch,)``, float64, 0
    for a spectrum of zeros. Of the ``k`` largest, p renormalised over them, or of all; a k above
    their number pads with zeros, which changes nothing. Raises ValueError for another spectrum, k
    below 1 or not whole, or an unknown ``of``.

    >>> effective_rank(torch.tensor([[5.0, 5.0, 5.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))
    tensor([3.0000, 1.0000], dtype=torch.float64)
    """
    if of not in ("eigenvalues", "singular_values"):
        raise ValueError(f"of must be 'eigenvalues' or 'singular_values', got {of!r}")
    kept = _descending(eigenvalues)
    if k is not None:
        kept = kept[..., : whole_number(k, "k", least=1)]
    largest = kept[..., :1]
    kept = kept / largest.where(largest > 0, 1.0)
    if of == "singular_values":
        kept = kept.sqrt()
    total = kept.sum(-1, keepdim=True)
    entropy = torch.special.entr(kept / total.where(total > 0, 1.0)).sum(-1)
    # The entropy of a flat spectrum may round to above log(modes); the minimum also makes a
    # spectrum of zeros, of entropy 0, have rank 0.
    return torch.minimum(entropy.exp(), (kept > 0).sum(-1).to(torch.float64))


def spectral_slope(eigenvalues: Tensor, first: int, last: int) -> Tensor:
    r"""Spectral slope alpha: minus the slope of log lambda_i against log i, by least squares.

    .. math:: \alpha = -\frac{\sum_i (x_i - \bar x) \log \lambda_i}{\sum_i (x_i - \bar x)^2},
              \qquad x_i = \log i, \quad i = first, \ldots, last

    Positive for a falling spectrum, and the exponent itself where :math:`\lambda_i \propto
    i^{-\alpha}`. Without a unit, unchanged by a factor on the activations.

    Of ``eigenvalues`` ``(*batch, modes)``, non-negative, in any order: ``(*batch,)``, float64,
    NaN where ``last``, inclusive, exceeds the number of resolved modes. The largest eigenvalue is
    mode 1. Raises ValueError for another spectrum, ``first`` below 1, or ``last`` not above it.

    >>> spectral_slope(torch.tensor([1.0, 1 / 4, 1 / 9, 1 / 16]).double(), first=1, last=4)
    tensor(2.0000, dtype=torch.float64)
    """
    first = whole_number(first, "first", least=1)
    last = whole_number(last, "last", least=1)
    if last <= first:
        raise ValueError(
            f"last must be above first, as a slope takes two modes, got first={first}, last={last}"
        )
    modes = _descending(eigenvalues)
    if last > modes.shape[-1]:
        return modes.new_full(modes.shape[:-1], math.nan)
    x = torch.arange(first, last + 1, dtype=torch.float64, device=modes.device).log()
    x = x - x.mean()
    slope = -(x * modes[..., first - 1 : last].log()).sum(-1) / x.square().sum()
    return slope.where((modes > 0).sum(-1) >= last, math.nan)


def kirchhoff_index(eigenvalues: Tensor, k: int, eps: float) -> Tensor:
    r"""Kirchhoff index Kf of a spectrum, padded: each missing mode adds 1 / eps to the sum.

    .. math:: Kf = K \sum_{i=1}^{K} \frac{1}{\lambda_i + \epsilon}, \qquad
              \lambda_i = 0 \text{ for } i > modes

    A literal reading of the paper (arXiv 2604.08591), after that of a graph (Klein & Randić 1993).
    In units of activation^-2; Kf(c lambda, c eps) = Kf(lambda, eps) / c.

    Of ``eigenvalues`` ``(*batch, modes)``, non-negative, in any order, over the ``k`` largest
    modes: ``(*batch,)``, float64, K^2 / eps for a spectrum of zeros. ``eps`` is in units of
    activation^2. Raises ValueError for another spectrum, k below 1 or not whole, or eps not above 0
    and finite.

    >>> kirchhoff_index(torch.tensor([1.0, 0.5]), k=3, eps=0.5)
    tensor(11., dtype=torch.float64)
    """
    k = whole_number(k, "k", least=1)
    if not 0 < eps < math.inf:
        raise ValueError(
            f"eps must be above 0 and finite, got {eps}: a missing mode adds 1 / eps; "
            "resolved_kirchhoff_index leaves those out and takes 0"
        )
    modes = _descending(eigenvalues)[..., :k]
    return k * (1 / (modes + eps)).sum(-1) + k * (k - modes.shape[-1]) / eps


def resolved_kirchhoff_index(eigenvalues: Tensor, k: int, eps: float) -> Tensor:
    r"""Kirchhoff index Kf of a spectrum over its resolved modes alone.

    :func:`kirchhoff_index` with :math:`K = \min(k, \text{resolved modes})`: nothing for those that
    are missing or zero, so that it does not jump where a spectrum falls short of k.

    Of ``eigenvalues`` ``(*batch, modes)``, non-negative, in any order: ``(*batch,)``, float64,
    0, the empty sum, for a spectrum of zeros: tell it apart by :func:`resolved_modes`. ``eps`` is
    in units of activation^2. Raises ValueError for another spectrum, k below 1 or not whole, or eps
    below 0 or not finite.

    >>> resolved_kirchhoff_index(torch.tensor([1.0, 0.5, 0.0]), k=3, eps=0.0)
    tensor(6., dtype=torch.float64)
    """
    k = whole_number(k, "k", least=1)
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be 0 or above and finite, got {eps}")
    modes = _descending(eigenvalues)[..., :k]
    return (modes > 0).sum(-1) * (1 / (modes + eps)).where(modes > 0, 0.0).sum(-1)


def observables(eigenvalues: Tensor, k: int, eps: float) -> dict[str, Tensor]:
    """All numbers of spectra ``(*batch, modes)`` at k modes by column's name, each ``(*batch,)``.

    Raises ValueError where one of the kernels does.
    """
    return {
        "resolved": resolved_modes(eigenvalues),
        "n_eff": effective_rank(eigenvalues, k),
        "n_eff_singular": effective_rank(eigenvalues, k, of="singular_values"),
        "alpha": spectral_slope(eigenvalues, 1, k),
        "kirchhoff": kirchhoff_index(eigenvalues, k, eps),
        "kirchhoff_resolved": resolved_kirchhoff_index(eigenvalues, k, eps),
    }


def slope_reason(resolved: int, k: int) -> str:
    """Why a spectrum with so many resolved modes has no slope over K of them; "" where it has."""
    return "" if resolved >= k else f"{resolved} resolved modes, the fit needs {k}"


def _descending(eigenvalues: Tensor) -> Tensor:
    """Checked eigenvalues in float64, largest first."""
    modes = as_float64(eigenvalues, "eigenvalues", "(*batch, modes)")
    require_finite(modes, "eigenvalues", "drop the utterances that have no spectrum")
    require_non_negative(modes, "eigenvalues", "set rounding noise to 0 with .clamp(min=0)")
    return modes.sort(-1, descending=True).values

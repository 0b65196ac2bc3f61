r"""What the gains, alignments and gaps of single layers prove of their product.

With :math:`W_l = U_l \Sigma_l V_l'` a product of layers is :math:`W_L \cdots W_1 = U_L \Sigma_L
Q_{L-1} \Sigma_{L-1} \cdots Q_1 \Sigma_1 V_1'`, where :math:`Q_l = V_{l+1}' U_l` is orthogonal with
first entry :math:`\kappa_l`. All bounds here follow from that entry and from
:math:`\sigma_{1,l}`, :math:`\sigma_{2,l}`. Proofs, and where the bounds are attained, are in
``notebooks/theory.ipynb``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spectral._validation import as_float64, power_of_two_near, require_finite, require_non_negative
from spectral.jacobians.propagators import count_above

_ROUNDING = 1e-9  # by so much may an alignment, computed from unit vectors, exceed one


def growing_dimensions(matrix: Tensor) -> Tensor:
    """Number of eigenvalues of (W + W') / 2 above one: dimensions in which |h| grows along W.

    matrix (*batch, width, width) -> (*batch,), int64. As :func:`spectral.unstable_dimensions`.
    """
    return count_above(matrix, 1.0, lambda matrix: torch.linalg.eigvalsh((matrix + matrix.mT) / 2))


@dataclass(frozen=True)
class ProductBounds:
    """Bounds on P = W_L ... W_1 from the layers' two largest singular values and alignments."""

    ceiling: Tensor  # (*batch,): sigma_1(P) is at most this
    floor: Tensor  # (*batch,): sigma_1(P) is at least this; zero where nothing is known
    rank_one_ratio: Tensor  # (*batch,): sigma_2(P) / sigma_1(P) is at most this; one: nothing known


@dataclass(frozen=True)
class StationaryRates:
    """Growth per layer of a long stack of layers that all have one gain, alignment and gap."""

    fastest: Tensor  # (*batch,): r_+; no stack grows faster, and some stack grows so fast
    slowest: Tensor  # (*batch,): r_-; none grows slower; zero where, for D >= 3, some vanish


def product_bounds(sigma_1: Tensor, sigma_2: Tensor, alignment: Tensor) -> ProductBounds:
    r"""Bounds on the norm of a product of L layers, and on how far from rank one it is.

    Ceiling, for L of two or more (for one layer it is its norm): with :math:`c = |\kappa_l|`,
    :math:`s = \sqrt{1 - c^2}`,

    .. math:: \|W_L \cdots W_1\| \le \prod_{l=1}^{L-1} \|B_l\|, \qquad
        B_l = \begin{pmatrix} p_{l+1} & 0 \\ 0 & q_{l+1} \end{pmatrix}
              \begin{pmatrix} c & s \\ s & -c \end{pmatrix}
              \begin{pmatrix} p_l & 0 \\ 0 & q_l \end{pmatrix}

    where :math:`(p_l, q_l) = (\sigma_{1,l}, \sigma_{2,l})` for the lowest and the highest layer and
    their roots for those between. Floor and ratio: the angle between the image of v_1 and the next
    layer's v_1 is at most :math:`t_{l+1}`, and as long as every :math:`t < \pi / 2`

    .. math:: t_{l+1} = \arccos c + \arctan(\xi_l \tan t_l), \quad t_1 = 0, \qquad
        f_{l+1} = c - s\, \xi_l \tan t_l

    .. math:: \sigma_1(P) \ge \sigma_{1,1} \prod_{l=2}^{L} \sigma_{1,l} f_l, \qquad
        \frac{\sigma_2(P)}{\sigma_1(P)} \le \prod_{l=1}^{L} \xi_l \prod_{l=2}^{L} f_l^{-2}.

    sigma_1 and sigma_2 are (L, *batch), from the lowest layer up, alignment (L - 1, *batch), of
    either sign and from float64 vectors, as its rounding counts near one. Raises ValueError for
    shapes that do not fit, NaN, infinity, a negative singular value, a second one above the first,
    or an alignment above one in magnitude.

    Example:
        >>> pair = torch.tensor([2.0, 2.0]), torch.tensor([1.9, 1.9])
        >>> product_bounds(*pair, torch.tensor([0.0])).ceiling
        tensor(3.8000, dtype=torch.float64)
    """
    sigma_1, sigma_2, cosine = _checked(sigma_1, sigma_2, alignment)
    scale = power_of_two_near(sigma_1)
    sigma_1, sigma_2, size = sigma_1 / scale, sigma_2 / scale, scale.log().sum(0)
    ceiling = sigma_1[0].log() + size
    if len(cosine):
        roots = torch.stack([sigma_1, sigma_2], -1).sqrt()
        below, above = roots[:-1].clone(), roots[1:].clone()
        below[0], above[-1] = below[0].square(), above[-1].square()
        ceiling = _step_norm(below, above, cosine).log().sum(0) + size
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    singular_value_ratio = torch.where(sigma_1 > 0, sigma_2 / sigma_1, 0.0)
    largest = torch.finfo(torch.float64).max
    slope = torch.zeros_like(size)  # tan t
    known, fractions = (sigma_1 > 0).all(0), torch.zeros_like(size)
    for i in range(len(cosine)):
        beside = singular_value_ratio[i] * slope
        fraction = (cosine[i] - sine[i] * beside).clamp(min=0)  # f; zero once an angle is lost
        known = known & (fraction > 0)
        fraction = fraction.where(known, 1.0)
        fractions = fractions + fraction.log()
        slope = ((sine[i] + cosine[i] * beside) / fraction).clamp(max=largest)
    floor = torch.where(known, (sigma_1.log().sum(0) + fractions + size).exp(), 0.0)
    ratio = torch.where(
        known, (singular_value_ratio.log().sum(0) - 2 * fractions).exp().clamp(max=1), 1.0
    )
    return ProductBounds(ceiling.exp(), floor, ratio)


def stationary_rates(
    sigma_1: Tensor, alignment: Tensor, singular_value_ratio: Tensor
) -> StationaryRates:
    r"""How fast the norm of W_L ... W_1 grows, if all layers have these three numbers.

    .. math:: \sigma_1 r_-^{L-1} \le \|W_L \cdots W_1\| \le \sigma_1 r_+^{L-1}, \qquad
        r_\pm = \tfrac12 \Bigl(\rho (1 \mp \xi) + \sqrt{\rho^2 (1 \mp \xi)^2 \pm 4 \sigma_1^2 \xi}
        \Bigr)

    with :math:`\rho = \sigma_1 |\kappa|`; the second exists for
    :math:`|\kappa| \ge 2 \sqrt\xi / (1 + \xi)` alone, jumping to zero there. Early injections are
    bound to decay where :math:`\rho (1 - \xi) + \sigma_1^2 \xi < 1` (Regime I); above that least
    alignment all but one direction is bound to lose against the first (Regime II). For a width of
    three or more, growth is certain where r_- is above one and nowhere else. All three broadcast;
    what is returned has their common shape. Raises ValueError as :func:`product_bounds`.

    Example:
        >>> stationary_rates(*torch.tensor([2.0, 0.0, 0.95])).fastest
        tensor(1.9494, dtype=torch.float64)
    """
    shape = (sigma_1 + alignment + singular_value_ratio).shape
    size, cosine, ratio = (
        values.double().expand(shape) for values in (sigma_1, alignment, singular_value_ratio)
    )
    ones = torch.ones_like(size)
    pairs = ones.expand(2, *shape), ratio.expand(2, *shape)
    _, second, cosine = _checked(*pairs, cosine[None])
    _checked(size[None], torch.zeros_like(size)[None], cosine[:0])
    cosine, root = cosine[0], second[0].sqrt()
    pair = torch.stack([ones, root], -1)
    total = cosine * (1 + second[0])
    rest = (total - 2 * root) * (total + 2 * root)
    slowest = torch.where(rest >= 0, (total + rest.clamp(min=0).sqrt()) / 2, 0.0)
    return StationaryRates(size * _step_norm(pair, pair, cosine), size * slowest)


def _step_norm(below: Tensor, above: Tensor, cosine: Tensor) -> Tensor:
    """|diag(above) [[c, s], [s, -c]] diag(below)|, pairs (*batch, 2), cosines (*batch,)."""
    (low_1, low_2), (high_1, high_2) = below.unbind(-1), above.unbind(-1)
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    first, last = high_1 * cosine * low_1, high_2 * cosine * low_2
    right, left = high_1 * sine * low_2, high_2 * sine * low_1
    # the singular values' sum and difference are lengths, so that nothing cancels
    return (torch.hypot(first + last, right + left) + torch.hypot(first - last, right - left)) / 2


def _checked(sigma_1: Tensor, sigma_2: Tensor, alignment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first, second = (
        as_float64(values, name, "(L, *batch)")
        for values, name in ((sigma_1, "sigma_1"), (sigma_2, "sigma_2"))
    )
    cosine = as_float64(alignment, "alignment", "(L - 1, *batch)").abs()
    if first.shape != second.shape or cosine.shape != (len(first) - 1, *first.shape[1:]):
        raise ValueError(
            "sigma_1 and sigma_2 must have shape (L, *batch) and alignment (L - 1, *batch), got "
            f"{tuple(first.shape)}, {tuple(second.shape)} and {tuple(cosine.shape)}"
        )
    for values, name in ((first, "sigma_1"), (second, "sigma_2"), (cosine, "alignment")):
        require_finite(values, name, "leave out the tokens that are not real")
    for values, name in ((second, "sigma_2"), (1 + _ROUNDING - cosine, "1 - |alignment|")):
        require_non_negative(values, name, "singular vectors must have length one")
    require_non_negative(first - second, "sigma_1 - sigma_2", "give the singular values descending")
    return first, second, cosine.clamp(max=1)

r"""What gain, alignment and gap alone say about a product of layers W_L ... W_1: sharp bounds.

With :math:`W_l = U_l \Sigma_l V_l'` the product is
:math:`U_L \Sigma_L Q_{L-1} \Sigma_{L-1} \cdots Q_1 \Sigma_1 V_1'`, where
:math:`Q_l = V_{l+1}' U_l` is orthogonal with first entry :math:`\kappa_l`. Everything here follows
from that entry and from :math:`\sigma_{1,l}`, :math:`\sigma_{2,l}`; proofs are in
``notebooks/theory.ipynb``. No bound uses more of the layers, so none can tell more than these
numbers do.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spectral._validation import as_float64, require_finite, require_non_negative

_ROUNDING = 1e-9  # by so much may an alignment, computed from unit vectors, exceed one


@dataclass(frozen=True)
class ProductBounds:
    """Bounds on P = W_L ... W_1 from the layers' two largest singular values and alignments."""

    ceiling: Tensor  # (*batch,): sigma_1(P) is at most this
    floor: Tensor  # (*batch,): sigma_1(P) is at least this; zero where nothing is known
    rank_one_ratio: Tensor  # (*batch,): sigma_2(P) / sigma_1(P) is at most this; one: nothing known


@dataclass(frozen=True)
class StationaryRates:
    r"""Growth per layer of a long stack of layers that all have one gain, alignment and gap."""

    fastest: Tensor  # (*batch,): the norm of no stack grows faster; some stack's does grow so fast
    slowest: Tensor  # (*batch,): no stack's grows slower; zero where nothing keeps it from that


def product_bounds(sigma_1: Tensor, sigma_2: Tensor, alignment: Tensor) -> ProductBounds:
    r"""Bounds on the norm of a product of L layers, and on how far from rank one it is.

    Ceiling: with :math:`c = |\kappa_l|`, :math:`s = \sqrt{1 - c^2}`,

    .. math:: \|W_L \cdots W_1\| \le \prod_{l=1}^{L-1} \|B_l\|, \qquad
        B_l = \begin{pmatrix} p_{l+1} & 0 \\ 0 & q_{l+1} \end{pmatrix}
              \begin{pmatrix} c & s \\ s & -c \end{pmatrix}
              \begin{pmatrix} p_l & 0 \\ 0 & q_l \end{pmatrix}

    where :math:`(p_l, q_l) = (\sigma_{1,l}, \sigma_{2,l})` for the lowest and the highest layer and
    :math:`(\sqrt{\sigma_{1,l}}, \sqrt{\sigma_{2,l}})` for those between. Two layers may attain it;
    for :math:`\xi = 0` it is :math:`\sigma_{1,L} \prod \rho_l`, attained. Floor and ratio: the
    angle between the image of v_1 and the next layer's v_1 is at most :math:`t_{l+1}`, with

    .. math:: t_{l+1} = \arccos c + \arctan(\xi_l \tan t_l), \quad t_1 = 0, \qquad
        f_{l+1} = c - s\, \xi_l \tan t_l

    and as long as every :math:`t < \pi / 2`

    .. math:: \sigma_1(P) \ge \sigma_{1,1} \prod_{l=2}^{L} \sigma_{1,l} f_l, \qquad
        \frac{\sigma_2(P)}{\sigma_1(P)} \le \prod_{l=1}^{L} \xi_l \prod_{l=2}^{L} f_l^{-2}.

    A dozen operations per layer. Numbers of many layers may leave float64's range: divide each
    layer's singular values by a constant first.

    Args:
        sigma_1: Shape ``(L, *batch)``, the largest singular values, from the lowest layer up.
        sigma_2: Shape ``(L, *batch)``, the second, at most the largest.
        alignment: Shape ``(L - 1, *batch)``, kappa of successive layers, of either sign.

    Returns:
        Three tensors ``(*batch,)``, float64.

    Raises:
        ValueError: For shapes that do not fit, NaN, infinity, a negative singular value, a second
            one above the first, or an alignment above one in magnitude.

    Example:
        >>> from torch import tensor
        >>> product_bounds(tensor([2.0, 2.0]), tensor([1.9, 1.9]), tensor([0.0])).ceiling
        tensor(3.8000, dtype=torch.float64)
    """
    sigma_1, sigma_2, cosine = _checked(sigma_1, sigma_2, alignment)
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    gap = torch.where(sigma_1 > 0, sigma_2 / sigma_1, 0.0)
    ceiling = _ceiling(sigma_1, sigma_2, cosine)
    largest = torch.finfo(torch.float64).max
    slope = torch.zeros_like(sigma_1[0])  # tan t
    floor, log_ratio = sigma_1[0], gap.log().sum(0)
    for i in range(len(cosine)):
        beside = gap[i] * slope
        share = (cosine[i] - sine[i] * beside).clamp(min=0)  # f; zero once an angle is lost
        share = share.where(floor > 0, 0.0)
        floor = floor * sigma_1[i + 1] * share
        log_ratio = log_ratio - 2 * share.log()
        slope = ((sine[i] + cosine[i] * beside) / share).clamp(max=largest).where(share > 0, 0.0)
    ratio = torch.where(floor > 0, log_ratio.exp().clamp(max=1), 1.0)
    return ProductBounds(ceiling, floor, ratio)


def stationary_rates(sigma_1: Tensor, alignment: Tensor, gap: Tensor) -> StationaryRates:
    r"""How fast the norm of W_L ... W_1 grows per layer, at most and at least, as L grows.

    .. math:: r_\pm: \quad
        r_+ = \tfrac12 \Bigl(\rho (1 - \xi) + \sqrt{\rho^2 (1 - \xi)^2 + 4 \sigma_1 \sigma_2}\Bigr),
        \quad
        r_- = \tfrac12 \Bigl(\rho (1 + \xi) + \sqrt{\rho^2 (1 + \xi)^2 - 4 \sigma_1 \sigma_2}\Bigr)

    with :math:`\rho = \sigma_1 |\kappa|` and :math:`\sigma_2 = \xi \sigma_1`; the second exists for
    :math:`|\kappa| \ge 2 \sqrt\xi / (1 + \xi)` alone. Stacks of 2 x 2 reflections attain the first,
    of rotations the second. So early injections are bound to decay where
    :math:`\rho (1 - \xi) + \sigma_1 \sigma_2 < 1` (Regime I), and every input is bound to be pulled
    into one growing direction where r_- is above one (Regime II); in between the three numbers
    decide nothing.

    Args:
        sigma_1: The largest singular value of every layer, of a shape that broadcasts with the
            others'.
        alignment: kappa of successive layers, of either sign.
        gap: xi of every layer.

    Returns:
        Two tensors of the common shape, float64.

    Raises:
        ValueError: As :func:`product_bounds`.

    Example:
        >>> from torch import tensor
        >>> stationary_rates(tensor(2.0), tensor(0.0), tensor(0.95)).fastest
        tensor(1.9494, dtype=torch.float64)
    """
    shape = (sigma_1 + alignment + gap).shape
    largest, next_one, between = (
        values.expand(shape) for values in (sigma_1, sigma_1 * gap, alignment)
    )
    pair = torch.stack([largest, largest]), torch.stack([next_one, next_one])
    first, second, cosine = (values[0] for values in _checked(*pair, between[None]))
    roots = torch.stack([first, second], -1).sqrt()
    fastest = _step_norm(roots, roots, cosine)
    total = cosine * (first + second)
    rest = total.square() - 4 * first * second
    slowest = torch.where(rest >= 0, (total + rest.clamp(min=0).sqrt()) / 2, 0.0)
    return StationaryRates(fastest, slowest)


def _ceiling(sigma_1: Tensor, sigma_2: Tensor, cosine: Tensor) -> Tensor:
    if not len(cosine):
        return sigma_1[0]
    roots = torch.stack([sigma_1, sigma_2], -1).sqrt()
    below, above = roots[:-1].clone(), roots[1:].clone()
    below[0], above[-1] = below[0].square(), above[-1].square()
    return _step_norm(below, above, cosine).prod(0)


def _step_norm(below: Tensor, above: Tensor, cosine: Tensor) -> Tensor:
    """|diag(above) [[c, s], [s, -c]] diag(below)|, pairs (*batch, 2), cosines (*batch,).

    The singular values' sum and difference are lengths, so that nothing cancels or overflows.
    """
    (low_1, low_2), (high_1, high_2) = below.unbind(-1), above.unbind(-1)
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    first, last = high_1 * cosine * low_1, high_2 * cosine * low_2
    right, left = high_1 * sine * low_2, high_2 * sine * low_1
    return (torch.hypot(first + last, right + left) + torch.hypot(first - last, right - left)) / 2


def _checked(sigma_1: Tensor, sigma_2: Tensor, alignment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first, second = (
        as_float64(values, name, "(L, *batch)")
        for values, name in ((sigma_1, "sigma_1"), (sigma_2, "sigma_2"))
    )
    cosine = as_float64(alignment, "alignment", "(L - 1, *batch)").abs()
    if first.shape != second.shape or len(cosine) != len(first) - 1:
        raise ValueError(
            "sigma_1 and sigma_2 must have shape (L, *batch) and alignment (L - 1, *batch), got "
            f"{tuple(first.shape)}, {tuple(second.shape)} and {tuple(cosine.shape)}"
        )
    if cosine.shape[1:] != first.shape[1:]:
        raise ValueError(
            f"alignment must have the batch of sigma_1, {tuple(first.shape[1:])}, got "
            f"{tuple(cosine.shape[1:])}"
        )
    for values, name in ((first, "sigma_1"), (second, "sigma_2"), (cosine, "alignment")):
        require_finite(values, name, "leave out the tokens that are not real")
    for values, name in ((second, "sigma_2"), (1 + _ROUNDING - cosine, "1 - |alignment|")):
        require_non_negative(values, name, "singular vectors must have length one")
    require_non_negative(first - second, "sigma_1 - sigma_2", "give the singular values descending")
    return first, second, cosine.clamp(max=1)

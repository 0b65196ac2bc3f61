"""How far two sequences of states are apart, in a measure that scale cannot change."""

import torch
from torch import Tensor

from spectral._validation import as_float64, require_finite


def relative_distances(first: Tensor, second: Tensor) -> Tensor:
    r"""Distance of two sequences of states at every position, over their own RMS norm.

    .. math:: d_t = |a_t - b_t| \Big/ \sqrt{\tfrac{1}{2T} \sum_s (|a_s|^2 + |b_s|^2)}

    The root mean square of d_t over positions is their distance as a whole: 0 where they are equal,
    :math:`\sqrt 2` where they are orthogonal, 2 where they are opposite. Unchanged by a common
    factor and by a common rotation; a common offset brings states closer, so subtract what all
    states share where that is not meant. O(T D).

    Args:
        first: Shape ``(*batch, positions, width)``, finite.
        second: The same shape.

    Returns:
        Shape ``(*batch, positions)``, float64. 0 where both sequences are zero.

    Raises:
        ValueError: For other shapes, a dtype that is not floating, NaN or infinity.

    Example:
        >>> relative_distances(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([1.4142], dtype=torch.float64)
    """
    shape = "(*batch, positions, width)"
    a, b = as_float64(first, "first", shape), as_float64(second, "second", shape)
    if a.shape != b.shape:
        raise ValueError(
            f"first and second must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}: cut "
            "both to the shorter"
        )
    for name, states in (("first", a), ("second", b)):
        require_finite(states, name, "leave out what is not real")
    square = (a.square().sum(-1) + b.square().sum(-1)).mean(-1) / 2
    apart = (a - b).norm(dim=-1)
    return torch.where(square[..., None] > 0, apart / square[..., None].sqrt(), 0.0)

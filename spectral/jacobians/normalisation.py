r"""What layer norms do not see: the direction 1, and a hidden state's own.

Every sub-layer of a pre-norm layer, and the logits, read the residual stream through a layer norm,
which takes no notice of an equal change of all coordinates. So a propagator has W 1 = 1 exactly,
whatever the layer does, and no product of propagators can have a norm below one. What a layer does
to anything that is ever read is the map it induces on the quotient by 1; with
:math:`P = I - 11'/D` this is :math:`P W = P W P`, and :math:`(P W_L) \cdots (P W_1) = P W_L \cdots
W_1`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spectral.jacobians.layers import LayerNorm
from spectral.jacobians.operators import LinearOperator


def without_mean(matrix: Tensor) -> Tensor:
    """P M, each column less its mean: matrices ``(*batch, width, columns)`` modulo 1.

    Example:
        >>> without_mean(torch.tensor([[3.0], [1.0]])).T
        tensor([[ 1., -1.]])
    """
    return matrix - matrix.mean(-2, keepdim=True)


@dataclass(frozen=True)
class LayerNormJacobian:
    """diag(gain) (I - B B') at hidden states ``(*batch, width)``."""

    gain: Tensor  # (*batch, width): r w
    blind: Tensor  # (*batch, width, 2): B, of the direction 1 and the hidden state's own

    def apply(self, matrix: Tensor) -> Tensor:
        """Products with matrices ``(*batch, width, columns)``; 5 width multiply-adds a column."""
        return self.gain[..., None] * self._projected(matrix)

    def operator(self) -> LinearOperator:
        """The same as an operator of shape ``(*batch, width, width)``."""
        return LinearOperator(
            torch.Size([*self.gain.shape, self.gain.shape[-1]]),
            self.apply,
            lambda columns: self._projected(self.gain[..., None] * columns),
            self.gain.dtype,
            self.gain.device,
            lambda index: LayerNormJacobian(
                self.gain.flatten(0, -2)[index], self.blind.flatten(0, -3)[index]
            ).operator(),
        )

    def __getitem__(self, index: int | slice) -> "LayerNormJacobian":
        """The same at some of the states, along their first dimension."""
        return LayerNormJacobian(self.gain[index], self.blind[index])

    def to(self, dtype: torch.dtype) -> "LayerNormJacobian":
        """The same in another dtype."""
        return LayerNormJacobian(self.gain.to(dtype), self.blind.to(dtype))

    def _projected(self, matrix: Tensor) -> Tensor:
        return matrix - self.blind @ (self.blind.mT @ matrix)


def layer_norm_jacobian(norm: LayerNorm, hidden: Tensor) -> LayerNormJacobian:
    r"""The Jacobian of a layer norm, :math:`r\,\mathrm{diag}(w)(I - 11'/D - \hat x \hat x'/D)`.

    As the inverse deviation r falls with the size of the hidden state, products with it on their
    left are relative to that size. Without eps the hidden state itself is a null direction too.

    Args:
        norm: Its weights.
        hidden: Hidden states ``(*batch, width)``.

    Returns:
        ``(*batch,)`` matrices of width x width, in factors.

    Raises:
        ValueError: For hidden states of another width than the norm's.

    Example:
        >>> norm = LayerNorm(torch.ones(2), torch.zeros(2), 0.0)
        >>> layer_norm_jacobian(norm, torch.tensor([1.0, -1.0])).apply(torch.eye(2)).norm() < 1e-6
        tensor(True)
    """
    width = len(norm.weight)
    if hidden.shape[-1] != width:
        raise ValueError(f"hidden must have width {width}, got shape {tuple(hidden.shape)}")
    centred = hidden - hidden.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    blind = torch.stack([torch.ones_like(hidden), centred * inverse], -1) / math.sqrt(width)
    return LayerNormJacobian(norm.weight * inverse, blind)

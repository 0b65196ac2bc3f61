"""Second moments of activations, which add: spectra of any union of rows from sums of them.

One covariance over thousands of utterances, over all of them but one speaker's, or over a resample
of speakers takes one pass over the activations and then sums of D x D matrices alone.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from spectral._validation import as_float64, require_finite
from spectral.spectra import NOISE


@dataclass(frozen=True)
class Moments:
    """Counts, sums and Gram matrices of rows, one set per entry of ``*batch``, in float64."""

    count: Tensor  # (*batch,), rows
    total: Tensor  # (*batch, width), their sum, in units of activation
    gram: Tensor  # (*batch, width, width), the sum of their outer products

    @classmethod
    def of(cls, rows: Tensor, group: Tensor, groups: int) -> "Moments":
        """The moments of every group of rows: T D^2 multiply-adds, groups D^2 numbers.

        Args:
            rows: Shape ``(tokens, width)``, finite.
            group: Shape ``(tokens,)``, whole numbers from 0: the group that each row belongs to.
            groups: How many groups there are; one without rows has zeros.

        Raises:
            ValueError: For another shape, a dtype that is not floating, NaN or infinity.
        """
        values = as_float64(rows, "rows", "(tokens, width)")
        if values.ndim != 2 or group.shape != values.shape[:1]:
            raise ValueError(
                f"rows must be (tokens, width) with a group per token, got {tuple(rows.shape)} and "
                f"{tuple(group.shape)}: flatten the batch and leave out what is not real"
            )
        require_finite(values, "rows", "leave out the rows that are not real")
        width = values.shape[1]
        count = torch.bincount(group, minlength=groups).to(values.dtype)
        total = values.new_zeros(groups, width).index_add_(0, group, values)
        gram = values.new_zeros(groups, width, width)
        order = group.argsort(stable=True)
        ends = count.long().cumsum(0).tolist()
        for i, (first, last) in enumerate(pairwise([0, *ends])):
            own = values[order[first:last]]
            torch.mm(own.mT, own, out=gram[i])
        return cls(count, total, gram)

    def summed(self, weights: Tensor) -> "Moments":
        """Weighted sums over the one batch dimension: weights (unions, groups) -> (unions,).

        A weight of 1 takes a group's rows, 0 leaves them out, 2 takes them twice.
        """
        weights = weights.to(self.gram)
        width = self.total.shape[-1]
        gram = (weights @ self.gram.flatten(-2)).reshape(-1, width, width)
        return Moments(weights @ self.count, weights @ self.total, gram)

    def eigenvalues(self) -> Tensor:
        r"""Covariance eigenvalues of the rows, centred, descending: ``(*batch, width)``, float64.

        .. math:: \lambda_i\Bigl(\frac{A'A - T \bar a \bar a'}{T - 1}\Bigr)

        Those of :func:`spectral.eigenvalues`, with the same modes below 1e-9 of the largest set to
        zero; all zeros for one row or none. Rows whose mean is far larger than what they differ by
        lose digits here, by the square of that ratio times 1e-16. O(D^3) each.
        """
        count = self.count.clamp(min=1)[..., None, None]
        outer = self.total[..., :, None] * self.total[..., None, :]
        covariance = (self.gram - outer / count) / (count - 1).clamp(min=1)
        modes: Tensor = torch.linalg.eigvalsh(covariance).flip(-1)
        real = (modes >= NOISE * modes[..., :1]) & (self.count[..., None] > 1)
        return modes.where(real & (modes > 0), 0.0)

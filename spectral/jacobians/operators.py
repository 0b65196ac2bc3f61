"""Linear operators known by their products with vectors, batched over any leading dimensions."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearOperator:
    """A batch of matrices A that nobody stores, through A V and A' U.

    ``matmat`` takes V of shape ``(*batch, columns, k)`` to ``(*batch, rows, k)``, ``rmatmat`` takes
    U of shape ``(*batch, rows, k)`` to ``(*batch, columns, k)``.
    """

    shape: torch.Size  # (*batch, rows, columns)
    matmat: Callable[[Tensor], Tensor]
    rmatmat: Callable[[Tensor], Tensor]
    dtype: torch.dtype
    device: torch.device
    select: Callable[[Tensor], "LinearOperator"] | None = None  # a cheaper way for ``at``, if any

    def transpose(self) -> "LinearOperator":
        """The operator of A'."""
        *batch, rows, columns = self.shape
        return replace(
            self,
            shape=torch.Size([*batch, columns, rows]),
            matmat=self.rmatmat,
            rmatmat=self.matmat,
            select=lambda index: self.at(index).transpose(),
        )

    def at(self, index: Tensor) -> "LinearOperator":
        """Those of the flattened batch that ``index`` (n,) names: ``(n, rows, columns)``."""
        if self.select is not None:
            return self.select(index)
        *batch, rows, columns = self.shape

        def product(of: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
            padded = vectors.new_zeros(math.prod(batch), *vectors.shape[1:])
            padded[index] = vectors
            result = of(padded.reshape(*batch, *vectors.shape[1:]))
            return result.reshape(len(padded), *result.shape[-2:])[index]

        both = {name: partial(product, getattr(self, name)) for name in ("matmat", "rmatmat")}
        return replace(self, shape=torch.Size([len(index), rows, columns]), **both)


def dense_operator(matrix: Tensor) -> LinearOperator:
    """The operator of matrices ``(*batch, rows, columns)`` that are stored."""
    if matrix.ndim < 2 or not matrix.is_floating_point():
        raise ValueError(
            "matrix must have shape (*batch, rows, columns) and be real floating point, got "
            f"{tuple(matrix.shape)} of {matrix.dtype}"
        )
    matrix = matrix.detach()
    return LinearOperator(
        matrix.shape,
        lambda columns: matrix @ columns,
        lambda columns: (columns.mT @ matrix).mT,  # BLAS is slow at matrix.mT @ rows.mT
        matrix.dtype,
        matrix.device,
        lambda index: dense_operator(matrix.reshape(-1, *matrix.shape[-2:])[index]),
    )

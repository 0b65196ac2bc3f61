"""Linear operators known by their products with vectors, batched over any leading dimensions."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectral._validation import whole_number


@dataclass(frozen=True)
class LinearOperator:
    """A batch of matrices A that nobody stores, through A V and A' U.

    ``matmat`` takes V of shape ``(*batch, columns, k)`` to ``(*batch, rows, k)``, ``rmatmat`` takes
    U of shape ``(*batch, rows, k)`` to ``(*batch, columns, k)``.

    Example:
        >>> twice = dense_operator(2 * torch.eye(3))
        >>> twice.matmat(torch.ones(3, 1)).T
        tensor([[2., 2., 2.]])
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
        shape = torch.Size([*batch, columns, rows])
        return LinearOperator(
            shape,
            self.rmatmat,
            self.matmat,
            self.dtype,
            self.device,
            lambda index: self.at(index).transpose(),
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

        return LinearOperator(
            torch.Size([len(index), rows, columns]),
            lambda vectors: product(self.matmat, vectors),
            lambda vectors: product(self.rmatmat, vectors),
            self.dtype,
            self.device,
        )


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


def function_operator(
    function: Callable[[Tensor], Tensor], point: Tensor, batch_dims: int = 0
) -> LinearOperator:
    """The Jacobian of a torch function at a point, through forward and reverse differentiation.

    A column costs one jvp of the function (about three calls of it) or one vjp (about two), in the
    memory of a single pass. Attention inside the function takes torch's plain path, which alone
    has forward derivatives.

    Args:
        function: From a tensor of ``point``'s shape to a tensor; twice the same for the same input
            (evaluation mode: no dropout).
        point: Where to differentiate.
        batch_dims: How many leading dimensions of both input and output are a batch, item by item
            independent of each other; the product is then taken for all items at once.

    Returns:
        Shape ``(*batch, outputs, inputs)``, all other dimensions flattened, in the point's dtype.

    Raises:
        ValueError: If the leading dimensions of the output are not those of the point.

    Example:
        >>> squares = function_operator(torch.square, torch.tensor([1.0, 2.0]))
        >>> squares.matmat(torch.ones(2, 1)).T
        tensor([[2., 4.]])
    """
    batch_dims = whole_number(batch_dims, "batch_dims", least=0)
    point = point.detach()
    with sdpa_kernel(SDPBackend.MATH):
        output, pull = torch.func.vjp(function, point)[:2]
    batch = point.shape[:batch_dims]
    if len(batch) < batch_dims or output.shape[:batch_dims] != batch:
        raise ValueError(
            f"the first {batch_dims} dimensions of input and output must be the same batch, got "
            f"{tuple(point.shape)} and {tuple(output.shape)}"
        )

    def push(tangent: Tensor) -> Tensor:
        result: Tensor = torch.func.jvp(function, (point,), (tangent,))[1]
        return result

    def each(columns: Tensor, product: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        rows = columns.movedim(-1, 0).reshape(-1, *like.shape)
        with sdpa_kernel(SDPBackend.MATH):
            products = torch.stack([product(row).detach() for row in rows])
        return products.reshape(len(rows), *batch, -1).movedim(0, -1)

    rows, inputs = (one[(0,) * batch_dims].numel() for one in (output, point))
    return LinearOperator(
        torch.Size([*batch, rows, inputs]),
        lambda columns: each(columns, push, point),
        lambda columns: each(columns, lambda column: pull(column)[0], output),
        point.dtype,
        point.device,
    )

"""Linear operators, known by their products alone, and their top singular triplets.

Block Golub-Kahan-Lanczos bidiagonalisation (Golub, Luk & Overton 1981, "A block Lanczos method for
computing the singular values and corresponding singular vectors of a matrix") with full
reorthogonalisation, no restarts, and blocks of k vectors, so that equal values are all found.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from spectral._validation import power_of_two_near, require_finite, whole_number


@dataclass(frozen=True)
class LinearOperator:
    """A batch of matrices A that nobody stores, through A V and A' U.

    ``matmat``: ``(*batch, columns, k)`` -> ``(*batch, rows, k)``, and ``rmatmat`` the way back.
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

        products = partial(product, self.matmat), partial(product, self.rmatmat)
        shape = torch.Size([len(index), rows, columns])
        return LinearOperator(shape, *products, self.dtype, self.device)


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


@dataclass(frozen=True)
class SingularTriplets:
    """The k largest singular values of a batch of matrices A, with vectors and residuals.

    The entry of largest magnitude in v is positive. Residuals are in units of sigma.
    """

    sigma: Tensor  # (*batch, k), descending
    u: Tensor  # (*batch, rows, k), orthonormal columns
    v: Tensor  # (*batch, columns, k), orthonormal columns
    left_residual: Tensor  # (*batch, k): |A v - sigma u|
    right_residual: Tensor  # (*batch, k): |A' u - sigma v|
    converged: Tensor  # (*batch,), bool: every residual at most tolerance times sigma_1


def top_singular_triplets(
    matrix: Tensor | LinearOperator,
    k: int = 2,
    tolerance: float | None = None,
    block: int | None = None,
    limit: int = 300,
) -> SingularTriplets:
    r"""The k largest singular values and their vectors, without forming the matrix.

    Each matrix of the batch leaves the iteration once, for every :math:`i \le k`,

    .. math:: |A' u_i - \sigma_i v_i| \le \tau \sigma_1 / 2

    by the estimate of the recurrence, or at ``limit`` basis vectors; ``converged`` is decided by
    residuals measured afterwards, against :math:`\tau \sigma_1`. Each sigma lies within its
    residual of a singular value of A. That a larger one was missed has probability zero by the
    random start, but no residual can exclude it; vectors are right to residual / gap.

    For m basis vectors: m products each way, 2 m^2 (rows + columns) multiply-adds beside, and at
    most 2 m (rows + columns) numbers of memory per matrix.

    Args:
        matrix: Matrices ``(*batch, rows, columns)`` or their operator, float32 or float64.
        k: How many triplets.
        tolerance: :math:`\tau`, by default eps^(2/3) of the dtype: 2.4e-5 in float32, 3.7e-11 in
            float64.
        block: Vectors per step, by default k. More take fewer steps, but more products in all.
        limit: Most basis vectors. At min(rows, columns) of them the result is exact.

    Raises ValueError for k below 1 or above min(rows, columns), a block below k, a limit below the
    block, a tolerance that is not positive, another dtype, or products that are not finite.

    >>> top_singular_triplets(torch.diag(torch.tensor([1.0, 3.0, 2.0])), k=2).sigma
    tensor([3.0000, 2.0000])
    """
    operator = dense_operator(matrix) if isinstance(matrix, Tensor) else matrix
    if operator.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"matrix must be float32 or float64, got {operator.dtype}: convert it")
    if tolerance is None:
        tolerance = torch.finfo(operator.dtype).eps ** (2 / 3)
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance}")
    *_, rows, columns = operator.shape
    smaller = min(rows, columns)
    k = whole_number(k, "k", least=1)
    if k > smaller:
        raise ValueError(
            f"k must be at most {smaller}, the smaller side of {tuple(operator.shape)}, got {k}"
        )
    block = min(whole_number(k if block is None else block, "block", least=k), smaller)
    limit = whole_number(limit, "limit", least=block)
    limit = smaller if limit >= smaller else limit - limit % block
    # The right basis may fill its whole space, so that it has to be the one of the smaller side.
    turned = rows < columns
    start = operator.transpose() if turned else operator
    left, sigma, right, scale = _iterate(start, k, tolerance / 2, block, limit)  # rounding adds
    u, v = (right, left) if turned else (left, right)
    largest = v.gather(-2, v.abs().argmax(-2, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(v.dtype)
    u, v = u * sign, v * sign
    left = (operator.matmat(v) / scale - u * sigma[..., None, :]).norm(dim=-2)
    right = (operator.rmatmat(u) / scale - v * sigma[..., None, :]).norm(dim=-2)
    converged = torch.maximum(left, right).amax(-1) <= tolerance * sigma[..., 0]
    unit = scale[..., 0]
    return SingularTriplets(sigma * unit, u, v, left * unit, right * unit, converged)


def _iterate(
    operator: LinearOperator, k: int, tolerance: float, block: int, limit: int
) -> tuple[Tensor, ...]:
    """U, sigma / scale, V and scale; what has converged leaves the batch."""
    *batch, rows, columns = operator.shape
    index = torch.arange(math.prod(batch), device=operator.device)
    results = [
        torch.empty(len(index), *shape, dtype=operator.dtype, device=operator.device)
        for shape in ((rows, k), (k,), (columns, k), (1, 1))
    ]
    process, check = _Bidiagonalisation(operator.at(index), block, limit), 0.0
    while len(index):
        process.step()
        full = process.size == limit
        if process.size < check and not full:
            continue
        check = 1.1 * process.size  # the small problem is solved again when it has grown so far
        ready = (process.estimate(k) <= tolerance) | full
        if bool(ready.any()):
            triplets = (*process.triplets(k, ready), process.scale[ready])
            for result, part in zip(results, triplets, strict=True):
                result[index[ready]] = part
            index = index[~ready]
            process.keep(~ready, operator.at(index))
    return tuple(result.reshape(*batch, *result.shape[1:]) for result in results)


class _Bidiagonalisation:
    """A V = U B of a growing size, U and V orthonormal, kept as rows; A divided by ``scale``."""

    def __init__(self, operator: LinearOperator, block: int, limit: int) -> None:
        count, rows, columns = operator.shape
        kind, device = operator.dtype, operator.device
        self.operator, self.block, self.limit, self.size = operator, block, limit, 0
        self.u = torch.zeros(count, 0, rows, dtype=kind, device=device)
        self.v = torch.zeros(count, 0, columns, dtype=kind, device=device)
        self.b = torch.zeros(count, 0, 0, dtype=torch.float64, device=device)
        self.scale = torch.ones(count, 1, 1, dtype=kind, device=device)
        # The same start for all matrices: no result depends on its place in the batch.
        generator = torch.Generator().manual_seed(0)
        self._noise_u, self._noise_v = (
            functional.normalize(
                torch.randn(limit, side, dtype=torch.float64, generator=generator), dim=-1
            ).to(device, kind)
            for side in (rows, columns)
        )
        self._floor = torch.zeros(count, 1, 1, dtype=kind, device=device)
        self._rest = torch.zeros(count, block, columns, dtype=kind, device=device)

    def step(self) -> None:
        """Extend both bases by a block: by what the last step left over, or noise if nothing."""
        first = self.size
        last = min(first + self.block, self.limit)
        if (room := self.v.shape[-2]) < last:
            more = min(2 * last, self.limit) - room
            self.u, self.v = (functional.pad(basis, (0, 0, 0, more)) for basis in (self.u, self.v))
            self.b = functional.pad(self.b, (0, more, 0, more))
        noise_u, noise_v = self._noise_u[first:last], self._noise_v[first:last]
        rest = self._rest[..., : last - first, :]
        fresh = _orthonormal(rest, self.v[..., :first, :], noise_v, self._floor)
        self.v[..., first:last, :] = fresh
        product = self.operator.matmat(fresh.mT).mT
        if first == 0:
            require_finite(product, "products of the matrix", "check its entries")
            self.scale = power_of_two_near(product.abs().amax((-2, -1), keepdim=True))
        product = product / self.scale
        # Rows below this length are rounding: any other direction will do as well.
        longest = product.norm(dim=-1, keepdim=True).amax(-2, keepdim=True)
        self._floor = self._floor.maximum(8 * torch.finfo(product.dtype).eps * longest)
        past = self.u[..., :first, :]
        fresh = _orthonormal(_project_out(product, past), past, noise_u, self._floor)
        self.u[..., first:last, :] = fresh
        self.b[..., :last, first:last] = (self.u[..., :last, :] @ product.mT).double()
        rest = self.operator.rmatmat(fresh.mT).mT / self.scale
        self._rest = _project_out(rest, self.v[..., :last, :])
        self.size = last

    def keep(self, kept: Tensor, operator: LinearOperator) -> None:
        """Go on with some matrices of the batch, ``(n,)`` bool, whose operator is given."""
        self.operator = operator
        for name in ("u", "v", "b", "scale", "_floor", "_rest"):
            setattr(self, name, getattr(self, name)[kept])

    def estimate(self, k: int) -> Tensor:
        """The largest |A' u - sigma v| / sigma_1 of k triplets, from what the last step left."""
        small = self.b[..., : self.size, : self.size]
        require_finite(small, "products of the matrix", "check its entries")
        squares, vectors = torch.linalg.eigh(small @ small.mT)
        tail = vectors[..., -self._rest.shape[-2] :, -k:]
        residual = (tail.mT @ self._rest.double()).norm(dim=-1).amax(-1)
        largest = squares[..., -1].clamp(min=0).sqrt()
        return residual / largest.where(largest > 0, 1.0)

    def triplets(self, k: int, ready: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """U, sigma / scale and V of the k largest, of some matrices of the batch, ``(n,)`` bool."""
        left, sigma, right = torch.linalg.svd(self.b[ready, : self.size, : self.size])
        kind = self.u.dtype
        return (
            self.u[ready, : self.size].mT @ left[..., :k].to(kind),
            sigma[..., :k].to(kind),
            self.v[ready, : self.size].mT @ right.mT[..., :k].to(kind),
        )


def _orthonormal(rows: Tensor, basis: Tensor, noise: Tensor, floor: Tensor) -> Tensor:
    """Orthonormal rows that span rows projected out of a basis once; noise for those too short."""
    rows, replaced = _gram_schmidt(rows, noise, floor)
    # Twice is enough (Parlett 1998, section 6.9); the third time is for the noise.
    for _ in range(2 if replaced else 1):
        rows, _ = _gram_schmidt(_project_out(rows, basis), noise, torch.zeros_like(floor))
    return rows


def _gram_schmidt(rows: Tensor, noise: Tensor, floor: Tensor) -> tuple[Tensor, bool]:
    """Normalised rows, each less its parts along those before it, noise if nothing remains."""
    done, replaced = rows[..., :0, :], torch.zeros_like(floor, dtype=torch.bool)
    for i in range(rows.shape[-2]):
        row = _project_out(_project_out(rows[..., i : i + 1, :], done), done)
        length = row.norm(dim=-1, keepdim=True)
        replaced = replaced | (length <= floor)
        row = torch.where(length <= floor, noise[i : i + 1], row / length)
        row = _project_out(_project_out(row, done), done)
        done = torch.cat([done, row / row.norm(dim=-1, keepdim=True)], -2)
    return done, bool(replaced.any())


def _project_out(rows: Tensor, basis: Tensor) -> Tensor:
    return rows - (rows @ basis.mT) @ basis if basis.shape[-2] else rows

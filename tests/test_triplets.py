"""Top singular triplets against torch.linalg.svd over easy and adversarial spectra."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from companion.measurement.bounds import growing_dimensions
from companion.models.random_layers import random_layer
from spectral.jacobians.propagators import layer_gains, linearise, unstable_dimensions
from spectral.jacobians.triplets import (
    LinearOperator,
    SingularTriplets,
    dense_operator,
    top_singular_triplets,
)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
law = settings(derandomize=True, deadline=None, max_examples=40)
FLOAT64 = torch.float64


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def with_singular_values(sigma: Tensor, rows: int, columns: int, seed: int = 0) -> Tensor:
    left = torch.linalg.qr(gaussian(rows, len(sigma), seed=seed)).Q
    right = torch.linalg.qr(gaussian(columns, len(sigma), seed=seed + 1)).Q
    return (left * sigma) @ right.T


def spectrum(top: list[float], rest: float, count: int = 50) -> Tensor:
    return torch.tensor(top + [rest] * (count - len(top)), dtype=FLOAT64)


LINEAR = torch.linspace(2, 0, 50, dtype=FLOAT64)
MATRICES = {
    "linear": with_singular_values(LINEAR, 50, 50),
    "tall": with_singular_values(LINEAR[:20], 70, 20),
    "wide": with_singular_values(LINEAR[:20], 20, 70),
    "equal": with_singular_values(spectrum([1, 1], 0.5), 50, 50),
    "equal beyond the block": with_singular_values(spectrum([1] * 9, 0.5), 50, 50),
    "nearly equal": with_singular_values(spectrum([1, 1 - 1e-9, 1 - 2e-9, 1 - 1e-5], 0.9), 50, 50),
    "gap of one in a hundred": with_singular_values(1 - LINEAR.flip(0) / 4, 50, 50),
    "rank one": with_singular_values(spectrum([3], 0), 50, 50),
    "rank one, outer product": torch.outer(gaussian(50), gaussian(50, seed=1)),
    "zero": torch.zeros(50, 50, dtype=FLOAT64),
    "identity": torch.eye(50, dtype=FLOAT64),
    "nilpotent": torch.diag(torch.arange(1, 50, dtype=FLOAT64), 1),
    "geometric": with_singular_values(10.0 ** -torch.arange(50, dtype=FLOAT64), 50, 50),
    "residual": torch.eye(50, dtype=FLOAT64) + gaussian(50, 50) / 50,
    "diagonal": torch.diag(LINEAR),
    "two by two": gaussian(2, 2),
    "one column": gaussian(7, 1),
    "one by one": -torch.ones(1, 1, dtype=FLOAT64),
}
matrices = pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)


def assert_triplets(actual: SingularTriplets, matrix: Tensor, k: int) -> None:
    """Converged, equal to the SVD, orthonormal, and with the residuals they claim."""
    eps = torch.finfo(matrix.dtype).eps
    expected = torch.linalg.svdvals(matrix.double())[..., :k]
    unit = expected[..., :1].clamp(min=torch.finfo(matrix.dtype).tiny)
    assert actual.converged.all()
    assert ((actual.sigma.double() - expected).abs() <= 40 * eps * unit).all()
    identity = torch.eye(k, dtype=matrix.dtype)
    for vectors in (actual.u, actual.v):
        assert ((vectors.mT @ vectors - identity).abs() <= 40 * eps).all()
    matrix, u, v, sigma = (x.double() for x in (matrix, actual.u, actual.v, actual.sigma))
    left = (matrix @ v - u * sigma[..., None, :]).norm(dim=-2)
    right = (matrix.mT @ u - v * sigma[..., None, :]).norm(dim=-2)
    for claimed, residual in ((actual.left_residual, left), (actual.right_residual, right)):
        assert ((claimed.double() - residual).abs() <= 40 * eps * unit).all()
        assert (residual <= 1.1 * eps ** (2 / 3) * unit).all()
    assert (actual.v.gather(-2, actual.v.abs().argmax(-2, keepdim=True)) > 0).all()


@matrices
@DEVICES
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_triplets_equal_svd(matrix: Tensor, dtype: torch.dtype, device: str) -> None:
    matrix = matrix.to(dtype)
    for k in {min(2, *matrix.shape), min(matrix.shape) if dtype == FLOAT64 else 1}:
        actual = top_singular_triplets(matrix.to(device), k)
        assert actual.sigma.device.type == device
        moved = SingularTriplets(*(tensor.cpu() for tensor in vars(actual).values()))
        assert_triplets(moved, matrix, k)


@pytest.mark.parametrize("power", [-250, -150, 150, 250])
def test_scale_does_not_matter(power: int) -> None:
    matrix = MATRICES["linear"]
    actual, unit = top_singular_triplets(matrix * 2.0**power), top_singular_triplets(matrix)
    assert torch.equal(actual.sigma, unit.sigma * 2.0**power)
    assert torch.equal(actual.left_residual, unit.left_residual * 2.0**power)
    assert torch.equal(actual.u, unit.u), "and no call is like another by chance"
    assert actual.converged.all()


@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,)])
def test_batches(batch: tuple[int, ...]) -> None:
    matrix = gaussian(*batch, 20, 15)
    actual = top_singular_triplets(matrix, k=3)
    assert actual.sigma.shape == (*batch, 3)
    assert actual.u.shape == (*batch, 20, 3)
    assert actual.v.shape == (*batch, 15, 3)
    assert actual.converged.shape == batch
    assert_triplets(actual, matrix, 3)


def test_matrices_of_a_batch_do_not_meet() -> None:
    names = ("zero", "identity", "linear", "rank one", "nilpotent")
    together = top_singular_triplets(torch.stack([MATRICES[name] for name in names]))
    for i, name in enumerate(names):
        alone = top_singular_triplets(MATRICES[name])
        torch.testing.assert_close(together.sigma[i], alone.sigma)
    assert_triplets(together, torch.stack([MATRICES[name] for name in names]), 2)


def test_what_has_not_converged_says_so() -> None:
    matrix = torch.stack([MATRICES["gap of one in a hundred"], MATRICES["rank one"]])
    actual = top_singular_triplets(matrix, limit=8)
    assert actual.converged.tolist() == [False, True]
    assert actual.right_residual[0].max() > 1e-6
    # A Ritz value errs below, and by less than its residual.
    expected = torch.linalg.svdvals(matrix[0])
    nearest = (actual.sigma[0][:, None] - expected).abs().amin(-1)
    assert (nearest <= actual.right_residual[0]).all()
    assert top_singular_triplets(matrix, limit=8, tolerance=0.5).converged.all()


def test_limit_at_the_smaller_side_is_exact() -> None:
    matrix = torch.eye(23, dtype=FLOAT64) + 1e-3 * gaussian(23, 23)
    actual = top_singular_triplets(matrix, k=2, tolerance=1e-13, block=4, limit=23)
    assert_triplets(actual, matrix, 2)


def test_products_alone() -> None:
    layer = random_layer(24, 4, dtype=FLOAT64)
    hidden, context = gaussian(2, 5, 24), gaussian(2, 9, 24, seed=1)
    mask = torch.tensor([True, True, True, True, False])
    actual = top_singular_triplets(linearise(layer, hidden, context, mask).operator(), k=3)
    assert_triplets(actual, linearise(layer, hidden, context, mask).propagators(), 3)
    assert not actual.sigma[:, 4].any(), "of tokens that are not real"


@law
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.data(),
    st.lists(st.sampled_from([0.0, 1e-12, 1e-3, 0.5, 1.0, 1.0, 1 + 1e-10, 3.0]), min_size=12),
)
def test_any_spectrum(rows: int, columns: int, data: st.DataObject, sigma: list[float]) -> None:
    k = data.draw(st.integers(1, min(rows, columns)))
    block = data.draw(st.integers(k, k + 3))
    values = torch.tensor(sigma[: min(rows, columns)], dtype=FLOAT64)
    matrix = with_singular_values(values, rows, columns, seed=data.draw(st.integers(0, 9)))
    assert_triplets(top_singular_triplets(matrix, k, block=block), matrix, k)


@law
@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 9))
def test_transposition_swaps_the_sides(rows: int, columns: int, seed: int) -> None:
    matrix = gaussian(rows, columns, seed=seed)
    actual, turned = top_singular_triplets(matrix, k=1), top_singular_triplets(matrix.T, k=1)
    torch.testing.assert_close(actual.sigma, turned.sigma)
    torch.testing.assert_close((actual.u * turned.v).sum().abs(), torch.ones((), dtype=FLOAT64))
    torch.testing.assert_close((actual.v * turned.u).sum().abs(), torch.ones((), dtype=FLOAT64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"k": 6}, "k must be at most 5"),
        ({"k": 3, "block": 2}, "block must be at least 3"),
        ({"limit": 1}, "limit must be at least 2"),
        ({"tolerance": 0.0}, "tolerance must be above 0"),
        ({"matrix": torch.ones(5)}, "must have shape"),
        ({"matrix": torch.ones(5, 5, dtype=torch.int64)}, "real floating point"),
        ({"matrix": torch.ones(5, 5).half()}, "must be float32 or float64"),
        ({"matrix": torch.full((5, 5), torch.nan)}, "must be finite"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        top_singular_triplets(**{"matrix": torch.ones(5, 6), **change})


def test_operators_that_cannot_be_divided() -> None:
    matrix = torch.stack([MATRICES["rank one"], MATRICES["linear"], MATRICES["identity"]])
    whole = dense_operator(matrix)
    operator = replace(whole, select=None)
    vectors = gaussian(2, 50, 2)
    some = operator.at(torch.tensor([2, 0]))
    assert torch.equal(some.matmat(vectors), matrix[[2, 0]] @ vectors)
    assert torch.equal(some.transpose().matmat(vectors), matrix[[2, 0]].mT @ vectors)
    assert_triplets(top_singular_triplets(operator), matrix, 2)
    assert_triplets(top_singular_triplets(operator.transpose()), matrix.mT, 2)


def test_products_that_stop_being_finite_are_refused() -> None:
    calls = []

    def matmat(columns: Tensor) -> Tensor:
        calls.append(columns)
        return LINEAR[:, None] * columns if len(calls) < 3 else columns * torch.nan

    operator = LinearOperator(torch.Size([50, 50]), matmat, matmat, FLOAT64, torch.device("cpu"))
    with pytest.raises(ValueError, match="products of the matrix must be finite"):
        top_singular_triplets(operator)


def test_gain_alignment_and_gap() -> None:
    first = torch.tensor([[2.0, 0.0], [0.0, 1.9]], dtype=FLOAT64)
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=FLOAT64)
    stack = torch.stack([first, first @ turn, torch.diag(torch.tensor([1.9, 2.0]).double())])
    # A batch of two: the layers in order, and the same layer thrice.
    batch = torch.stack([stack, first.expand(3, 2, 2)], 1)
    actual = layer_gains(top_singular_triplets(batch))
    # v of first @ turn is turn' e_1 = (0.8, -0.6); the last layer's v is e_2, and u stays e_1.
    expected = torch.tensor([[0.8, 1.0], [0.0, 1.0]], dtype=FLOAT64)
    torch.testing.assert_close(actual.alignment.abs(), expected)
    torch.testing.assert_close(actual.gain, 2 * expected)
    torch.testing.assert_close(actual.singular_value_ratio, torch.full((3, 2), 0.95, dtype=FLOAT64))


def test_gap_of_a_zero_matrix_is_nan() -> None:
    actual = layer_gains(top_singular_triplets(torch.zeros(1, 3, 3)))
    assert actual.singular_value_ratio.isnan().all()
    assert actual.gain.shape == (0,)


def test_layers_that_do_not_fit_are_refused() -> None:
    for matrices in (torch.eye(3), torch.zeros(0, 3, 3), torch.ones(2, 3, 4)):
        triplets = top_singular_triplets(matrices)
        with pytest.raises(ValueError, match="a stack of square matrices"):
            layer_gains(triplets)
    with pytest.raises(ValueError, match="ask for k=2"):
        layer_gains(top_singular_triplets(torch.eye(3)[None], k=1))


def test_unstable_dimensions() -> None:
    turn = 1.1 * torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    matrix = torch.block_diag(turn, torch.diag(torch.tensor([-2.0, 0.5, 0.9])))
    basis = gaussian(5, 5).float() + 3 * torch.eye(5)
    similar = torch.linalg.solve(basis, matrix @ basis)
    assert unstable_dimensions(torch.stack([matrix, similar, torch.eye(5)])).tolist() == [3, 3, 0]
    chance = torch.eye(60) + gaussian(8, 60, 60).float() / 60
    assert 20 < unstable_dimensions(chance).double().mean() < 40


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_the_eigenvalue_of_one_that_every_propagator_has_does_not_count(dtype: torch.dtype) -> None:
    width, tokens = 24, 9
    layer = random_layer(width, 4, dtype=dtype)
    rows, context = (gaussian(n, width, seed=n).to(dtype) for n in (tokens, 7))
    propagators = linearise(layer, rows, context).propagators()
    ones = torch.full((width, 1), width**-0.5, dtype=FLOAT64)
    rounding = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        propagators.double() @ ones, ones.expand(tokens, -1, -1), rtol=0, atol=rounding
    )
    rest = torch.linalg.svd(ones @ ones.T).U[:, 1:]  # all that is orthogonal to an equal change
    others = torch.linalg.eigvals(rest.T @ propagators.double() @ rest).abs()
    assert (unstable_dimensions(propagators) == (others > 1).sum(-1)).all()
    for nearly in (1 - 1e-9, 1 + 1e-9):  # as rounding might have it
        assert (unstable_dimensions(propagators * nearly) == (others > 1).sum(-1)).all()


def test_dimensions_grow_where_the_symmetric_part_stretches() -> None:
    matrix = gaussian(3, 6, 6)
    expected = (torch.linalg.eigvalsh((matrix + matrix.mT) / 2) > 1).sum(-1)
    assert (growing_dimensions(matrix) == expected).all()
    assert (growing_dimensions(matrix.float()) == expected).all()
    small = matrix / torch.linalg.matrix_norm(matrix, 2)[:, None, None]
    assert (growing_dimensions(small) == 0).all(), "none where the largest singular value is one"


def test_dimensions_next_to_the_edge_are_counted_in_float64() -> None:
    basis = torch.linalg.qr(gaussian(40, 40)).Q
    for above in range(41):
        near = torch.tensor([1.1] * above + [0.9] * (40 - above), dtype=FLOAT64)
        for distance in (1e-7, 1e-6, 1e-3):
            values = 1 + (near - 1) * 10 * distance
            matrix = basis @ values.diag() @ basis.T
            assert growing_dimensions(matrix) == above
            assert unstable_dimensions(matrix) == above
    assert growing_dimensions(torch.eye(3).expand(2, 3, 3)).tolist() == [0, 0]


@pytest.mark.parametrize("kernel", [unstable_dimensions, growing_dimensions])
def test_matrices_that_are_not_square_are_refused(kernel: object) -> None:
    assert callable(kernel)
    with pytest.raises(ValueError, match="must be square"):
        kernel(torch.ones(2, 3))
    with pytest.raises(ValueError, match="must be finite"):
        kernel(torch.full((2, 2), torch.inf))

"""The direction 1, which layer norms do not see, and the Jacobian of a layer norm."""

import functools

import pytest
import torch
from torch import Tensor

from companion.measurement.tangents import layer_norm_jacobian
from companion.models.random_layers import random_layer
from spectral.jacobians.layers import LayerNorm, normalised
from spectral.jacobians.propagators import linearise
from spectral.jacobians.sublayers import without_mean

FLOAT64, WIDTH = torch.float64, 12


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def stack(layers: int) -> list[Tensor]:
    return [
        linearise(
            random_layer(WIDTH, 3, seed=seed, dtype=FLOAT64),
            gaussian(5, WIDTH, seed=seed),
            gaussian(7, WIDTH, seed=seed + 50),
        ).propagators()
        for seed in range(layers)
    ]


def product(matrices: list[Tensor]) -> Tensor:
    return functools.reduce(lambda below, matrix: matrix @ below, matrices)


def test_a_propagator_leaves_the_direction_1_as_it_is_so_no_product_decays() -> None:
    ones = torch.ones(WIDTH, 1, dtype=FLOAT64)
    for matrix in stack(3):
        torch.testing.assert_close(matrix @ ones, ones.expand(5, -1, -1))
        assert not torch.allclose(ones.T @ matrix, ones.T.expand(5, 1, -1)), "not so on the left"
    assert (torch.linalg.matrix_norm(product(stack(3)), 2) >= 1 - 1e-12).all()


def test_products_modulo_1_are_products_of_what_is_modulo_1() -> None:
    matrices = stack(4)
    torch.testing.assert_close(
        without_mean(product(matrices)), product([without_mean(matrix) for matrix in matrices])
    )
    for matrix in matrices:
        on_both_sides = without_mean(without_mean(matrix).mT).mT
        torch.testing.assert_close(without_mean(matrix), on_both_sides)


def test_the_jacobian_of_a_layer_norm_is_that_of_automatic_differentiation() -> None:
    norm = LayerNorm(1 + 0.3 * gaussian(WIDTH), gaussian(WIDTH, seed=1), 1e-5)
    hidden = 3 + 2 * gaussian(2, 3, WIDTH, seed=2)
    identity = torch.eye(WIDTH, dtype=FLOAT64)
    jacobian = layer_norm_jacobian(norm, hidden)
    got = jacobian.apply(identity)
    expected = torch.func.jacrev(lambda rows: normalised(norm, rows))(hidden)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(got[i, j], expected[i, j, :, i, j])
    torch.testing.assert_close(got @ torch.ones(WIDTH, dtype=FLOAT64), torch.zeros_like(hidden))
    torch.testing.assert_close(
        layer_norm_jacobian(norm, 10 * hidden).apply(identity), got / 10, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(jacobian[..., None, :].cotangents(identity), got)
    assert jacobian[1].gain.shape == (3, WIDTH)


def test_a_norm_of_another_width_is_refused() -> None:
    norm = LayerNorm(torch.ones(4), torch.zeros(4), 1e-5)
    with pytest.raises(ValueError, match=r"width 4, got shape \(2, 3\)"):
        layer_norm_jacobian(norm, torch.ones(2, 3))

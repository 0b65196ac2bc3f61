"""Derivatives of layers and of layer norms against automatic differentiation; the direction 1."""

import functools

import pytest
import torch
from torch import Tensor

from companion.measurement.tangents import (
    forward,
    layer_cotangents,
    layer_norm_jacobian,
    layer_tangents,
)
from companion.models.random_layers import random_layer
from spectral import Layer, _validation
from spectral.jacobians.layers import LayerNorm, normalised, run
from spectral.jacobians.propagators import linearise
from spectral.jacobians.sublayers import without_mean

FLOAT64, WIDTH, HEADS, COUNT = torch.float64, 12, 3, 2


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def layer(decoder: bool) -> Layer:
    return random_layer(WIDTH, HEADS, cross_attention=decoder, causal=decoder, dtype=FLOAT64)


@pytest.fixture(params=[2**20, 1], ids=["whole", "token by token"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_validation, "CACHED", request.param)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("tokens", [3, 4, 7])
@pytest.mark.parametrize("decoder", [False, True])
def test_tangents_of_a_layer(decoder: bool, tokens: int) -> None:
    """Fewer tokens than a head is wide, as many, and more."""
    block, hidden = layer(decoder), gaussian(2, tokens, WIDTH)
    context = gaussian(2, 9, WIDTH, seed=1) if decoder else None
    seen = run(block, hidden, context)
    moved = gaussian(2, COUNT, tokens, WIDTH, seed=2)
    source = gaussian(2, COUNT, 9, WIDTH, seed=3) if decoder else None
    actual = layer_tangents(seen, moved, source)
    for i in range(COUNT):
        if context is None or source is None:
            pair = (hidden,), (moved[:, i],)
        else:
            pair = (hidden, context), (moved[:, i], source[:, i])
        expected = torch.func.jvp(lambda *inputs: forward(block, *inputs), *pair)[1]
        torch.testing.assert_close(actual[:, i], expected)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("causal", [False, True])
def test_cotangents_of_a_layer(causal: bool) -> None:
    block = random_layer(WIDTH, HEADS, cross_attention=False, causal=causal, dtype=FLOAT64)
    hidden, moved = gaussian(2, 7, WIDTH), gaussian(2, COUNT, 7, WIDTH, seed=1)
    seen = run(block, hidden)
    actual = layer_cotangents(seen, moved)
    pull = torch.func.vjp(lambda rows: forward(block, rows), hidden)[1]
    for i in range(COUNT):
        torch.testing.assert_close(actual[:, i], pull(moved[:, i])[0])


# --- layer norms, which do not see the direction 1 ------------------------------------------------


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
    actual = jacobian.apply(identity)
    expected = torch.func.jacrev(lambda rows: normalised(norm, rows))(hidden)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(actual[i, j], expected[i, j, :, i, j])
    torch.testing.assert_close(actual @ torch.ones(WIDTH, dtype=FLOAT64), torch.zeros_like(hidden))
    torch.testing.assert_close(
        layer_norm_jacobian(norm, 10 * hidden).apply(identity), actual / 10, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(jacobian[..., None, :].cotangents(identity), actual)
    assert jacobian[1].gain.shape == (3, WIDTH)


def test_a_norm_of_another_width_is_refused() -> None:
    norm = LayerNorm(torch.ones(4), torch.zeros(4), 1e-5)
    with pytest.raises(ValueError, match=r"width 4, got shape \(2, 3\)"):
        layer_norm_jacobian(norm, torch.ones(2, 3))

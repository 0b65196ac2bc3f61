"""Derivatives of whole layers, forward and reverse, against automatic differentiation."""

import pytest
import torch
from torch import Tensor

from companion.measurement.tangents import forward, layer_cotangents, layer_tangents
from companion.models.random_layers import random_layer
from spectral import Layer, _validation
from spectral.jacobians.layers import run

FLOAT64, WIDTH, HEADS, COUNT = torch.float64, 12, 3, 2


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def layer(decoder: bool) -> Layer:
    return random_layer(WIDTH, HEADS, cross_attention=decoder, causal=decoder, dtype=FLOAT64)


@pytest.fixture(params=[2**20, 1], ids=["whole", "token by token"], autouse=True)
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_validation, "CACHED", request.param)


@pytest.mark.parametrize("tokens", [3, 4, 7])
@pytest.mark.parametrize("decoder", [False, True])
def test_tangents_of_a_layer(decoder: bool, tokens: int) -> None:
    """Fewer tokens than a head is wide, as many, and more."""
    block, hidden = layer(decoder), gaussian(2, tokens, WIDTH)
    context = gaussian(2, 9, WIDTH, seed=1) if decoder else None
    seen = run(block, hidden, context)
    moved = gaussian(2, COUNT, tokens, WIDTH, seed=2)
    source = gaussian(2, COUNT, 9, WIDTH, seed=3) if decoder else None
    got = layer_tangents(seen, moved, source)
    for i in range(COUNT):
        if context is None or source is None:
            pair = (hidden,), (moved[:, i],)
        else:
            pair = (hidden, context), (moved[:, i], source[:, i])
        expected = torch.func.jvp(lambda *inputs: forward(block, *inputs), *pair)[1]
        torch.testing.assert_close(got[:, i], expected)


@pytest.mark.parametrize("causal", [False, True])
def test_cotangents_of_a_layer(causal: bool) -> None:
    block = random_layer(WIDTH, HEADS, cross_attention=False, causal=causal, dtype=FLOAT64)
    hidden, moved = gaussian(2, 7, WIDTH), gaussian(2, COUNT, 7, WIDTH, seed=1)
    seen = run(block, hidden)
    got = layer_cotangents(seen, moved)
    pull = torch.func.vjp(lambda rows: forward(block, rows), hidden)[1]
    for i in range(COUNT):
        torch.testing.assert_close(got[:, i], pull(moved[:, i])[0])

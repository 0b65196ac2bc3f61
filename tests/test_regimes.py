"""Regimes planted in stacks of matrices are found, and nothing is found where none is."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from companion.measurement.jacobians import Stack, jacobian_columns
from companion.measurement.tangents import forward
from companion.models.forcing import Streams
from companion.models.random_layers import random_layer
from companion.results import jacobians
from spectral.jacobians.layers import FeedForward, Layer, LayerNorm

WIDTH, LAYERS, SPEAKERS = 8, 4, 6


def _orthogonal(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]


def _stack(kind: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Layers W_1 to W_L."""
    if kind == "rotation":
        return [_orthogonal(rng) for _ in range(LAYERS)]
    if kind == "identity":
        return [np.eye(WIDTH) + 0.05 * rng.standard_normal((WIDTH, WIDTH)) for _ in range(LAYERS)]
    if kind == "random":
        return [rng.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH) for _ in range(LAYERS)]
    size, singular_value_ratio = {"dispersive": (0.6, 0.1), "attracting": (1.2, 0.1)}[kind]
    basis = _orthogonal(rng)  # u_l is nearly v_{l+1}: aligned
    values = size * np.array([1.0, *[singular_value_ratio] * (WIDTH - 1)])
    return [
        (basis * values) @ basis.T + 0.002 * rng.standard_normal((WIDTH, WIDTH))
        for _ in range(LAYERS)
    ]


def _rows(kind: str, rng: np.random.Generator, utterance: int) -> list[dict[str, object]]:
    layers = _stack(kind, rng)
    parts = [np.linalg.svd(w) for w in layers]
    product = np.linalg.multi_dot(layers[1:][::-1])
    injections = [rng.standard_normal((WIDTH, WIDTH)) / WIDTH for _ in layers]
    total = np.zeros((WIDTH, WIDTH))
    for w, g in zip(layers, injections, strict=True):
        total = w @ total + w @ g
    energies = np.linalg.svd(total)[1] ** 2
    return [
        {
            "parameters": 1, "model": kind, "network": "trained", "condition": "clean",
            "speaker": f"v{utterance % SPEAKERS}", "utterance": f"u{utterance}", "layer": i + 1,
            "sigma_1": s[0], "singular_value_ratio": s[1] / s[0],
            "alignment": parts[i + 1][2][0] @ u[:, 0] if i + 1 < LAYERS else np.nan,
            "product_norm": np.linalg.norm(product, 2), "state": 1.0, "position": 1,
            "normed_product_norm": np.linalg.norm(product, 2), "normed_direct": 1.0,
            "rank_one_fraction": energies[0] / sum(energies),
        }
        for i, (u, s, _) in enumerate(parts)
    ]  # fmt: skip


def planted_regimes(kinds: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [row for i in range(3 * SPEAKERS) for row in _rows(kinds[i % len(kinds)], rng, i)]
    return jacobians.regimes(pd.DataFrame(rows).assign(model="planted"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("dispersive", jacobians.DISPERSIVE),
        ("attracting", jacobians.ATTRACTING),
        ("rotation", jacobians.NEITHER),
        ("identity", jacobians.NEITHER),
        ("random", jacobians.NEITHER),
    ],
)
def test_planted_regimes_are_found(kind: str, expected: str) -> None:
    both = planted_regimes([kind])
    assert set(both.reading) == set(jacobians.READINGS)
    assert (both.regime == expected).all(), "of states of one size both readings are alike"


def test_speakers_that_disagree_decide_nothing() -> None:
    rng = np.random.default_rng(1)
    kinds = ["dispersive", "attracting"]
    rows = [row for i in range(SPEAKERS) for row in _rows(kinds[i % 2], rng, i)]
    table = jacobians.regimes(pd.DataFrame(rows).assign(model="planted"))
    assert (table.regime == jacobians.UNDECIDED).all()


def test_a_product_that_decays_despite_its_layers_room_to_grow_is_neither() -> None:
    unit = np.ones(1)
    assert jacobians.classify(0.1 * unit, -unit, -0.2 * unit, 0.9 * unit) == [jacobians.NEITHER]
    # certified by the measured norm
    assert jacobians.classify(0.1 * unit, unit, -0.2 * unit, 0.9 * unit) == [jacobians.NEITHER]


def test_what_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 coordinates are not finite"):
        jacobians.classify(np.array([np.nan]), np.ones(1), np.ones(1), np.ones(1))


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    rows = pd.DataFrame([row for i in range(SPEAKERS) for row in _rows("random", rng, i)])
    shuffled = rows.sample(frac=1, random_state=0)
    table, again = jacobians.regimes(rows), jacobians.regimes(shuffled)
    plain = [name for name in table if not name.endswith("_speakers")]
    pd.testing.assert_frame_equal(table[plain], again[plain])


def _planted_layer(kind: str, basis: Tensor, turn: Tensor, seed: int) -> Layer:
    """A pre-norm layer with little attention whose FFN, in gelu's linear range, is W_2 N(h) + b.

    "dispersive": W_2 = -0.8 I takes away what the norm sees, and b turns the state, as what lies
    along the state is what no norm sees. "attracting": W_2 grows one direction. "growing": the same
    as "dispersive" with W_2 = 0 and states of three times the size after every layer.
    """
    width = len(basis)
    layer = random_layer(width, 2, seed=seed, dtype=torch.float64)
    weight = {
        "dispersive": -0.8 * torch.eye(width, dtype=torch.float64),
        "attracting": 6 * torch.outer(basis[:, 0], basis[:, 0]),
        "growing": torch.zeros(width, width, dtype=torch.float64),
    }[kind]
    flat = LayerNorm(torch.ones(width).double(), torch.zeros(width).double(), 1e-5)
    above = torch.full((width,), 12.0, dtype=torch.float64)  # far right of gelu's bend
    self_attention, cross_attention = (
        replace(part, out_weight=size * part.out_weight, out_bias=0 * part.out_bias)
        for part, size in ((layer.self_attention, 0.02), (layer.cross_attention, 0.1))
    )
    identity = torch.eye(width, dtype=torch.float64)
    ffn = FeedForward(flat, identity, above, weight, turn - weight @ above)
    return replace(layer, self_attention=self_attention, cross_attention=cross_attention, ffn=ffn)


def _measured(kind: str, utterance: int) -> list[dict[str, object]]:
    """Rows of a planted stack, as the measurement makes them."""
    width, positions, generator = 16, 5, torch.Generator().manual_seed(utterance)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # A basis whose directions are seen by norms: off the direction 1. The first is grown, the next
    # is where the state stays, or to which it is turned, layer by layer.
    ones = torch.ones(width, 1, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([ones, normal(width, width - 1)], 1))[0][:, 1:]
    size = width**0.5
    hidden = [size * basis[:, 1] + 0.05 * normal(1, positions, width)]
    context, layers = normal(1, 7, width), []
    for i in range(LAYERS):
        turn = {
            "dispersive": size * basis[:, 2 + i],
            "attracting": 0 * basis[:, 0],
            "growing": 3.0 ** (i + 1) * size * basis[:, 2 + i],
        }[kind]
        layers.append(_planted_layer(kind, basis, turn, seed=10 * utterance + i))
        hidden.append(forward(layers[-1], hidden[-1], context))
    norm = LayerNorm(torch.ones(width).double(), torch.zeros(width).double(), 1e-5)
    streams = Streams(context, tuple(hidden[:-1]), hidden[-1], slice(2, positions))
    columns = jacobian_columns(Stack(layers, norm), streams, streams.text, probes=2, seed=0)
    return [
        {
            "parameters": 1, "model": kind, "network": "trained", "condition": "clean",
            "speaker": f"v{utterance % SPEAKERS}", "utterance": f"u{utterance}",
            "position": token, "layer": i + 1,
        }
        | {name: values[i, token].item() for name, values in columns.items()}
        for token in range(positions - 2)
        for i in range(LAYERS)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "modulo_1", "normed"),
    [
        ("dispersive", jacobians.DISPERSIVE, jacobians.DISPERSIVE),
        (
            "attracting",
            jacobians.ATTRACTING,
            None,
        ),  # some states are caught: no norm sees them move on
        ("growing", jacobians.NEITHER, jacobians.DISPERSIVE),
    ],
)
def test_regimes_of_pre_norm_layers_are_found(kind: str, modulo_1: str, normed: str | None) -> None:
    rows = pd.DataFrame([row for i in range(SPEAKERS) for row in _measured(kind, i)])
    table = jacobians.regimes(rows).set_index("reading")
    assert table.regime[jacobians.MODULO_1] == modulo_1
    assert normed in (None, table.regime[jacobians.NORMED])

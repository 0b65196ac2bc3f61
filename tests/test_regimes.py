"""Regimes planted in stacks of matrices are found, and nothing is found where none is."""

import numpy as np
import pandas as pd
import pytest

from spectral.results.regimes import ATTRACTING, DISPERSIVE, NEITHER, UNDECIDED, classify, regimes

WIDTH, LAYERS, VOICES = 8, 4, 6


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
    size, gap = {"dispersive": (0.6, 0.1), "attracting": (1.2, 0.1)}[kind]
    basis = _orthogonal(rng)  # u_l is nearly v_{l+1}: aligned
    values = size * np.array([1.0, *[gap] * (WIDTH - 1)])
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
            "speaker": f"v{utterance % VOICES}", "utterance": f"u{utterance}", "layer": i + 1,
            "sigma_1": s[0], "gap": s[1] / s[0],
            "alignment": parts[i + 1][2][0] @ u[:, 0] if i + 1 < LAYERS else np.nan,
            "product_norm": np.linalg.norm(product, 2),
            "rank_one_share": energies[0] / sum(energies),
        }
        for i, (u, s, _) in enumerate(parts)
    ]  # fmt: skip


def _found(kinds: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [row for i in range(3 * VOICES) for row in _rows(kinds[i % len(kinds)], rng, i)]
    return regimes(pd.DataFrame(rows).assign(model="planted"), 200, 0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("dispersive", DISPERSIVE),
        ("attracting", ATTRACTING),
        ("rotation", NEITHER),
        ("identity", NEITHER),
        ("random", NEITHER),
    ],
)
def test_planted_regimes_are_found(kind: str, expected: str) -> None:
    (found,) = _found([kind]).itertuples()
    assert found.regime == expected
    shares = [found.share_dispersive, found.share_attracting, found.share_neither]
    assert sum(shares) == pytest.approx(1)


def test_voices_that_disagree_decide_nothing() -> None:
    rng = np.random.default_rng(1)
    kinds = ["dispersive", "attracting"]
    rows = [row for i in range(VOICES) for row in _rows(kinds[i % 2], rng, i)]
    (found,) = regimes(pd.DataFrame(rows).assign(model="planted"), 200, 0).itertuples()
    assert found.regime == UNDECIDED


def test_a_product_that_decays_despite_its_layers_room_to_grow_is_neither() -> None:
    one = np.ones(1)
    assert classify(0.1 * one, -one, -0.2 * one, 0.9 * one) == [NEITHER]
    assert classify(0.1 * one, one, -0.2 * one, 0.9 * one) == [NEITHER]  # certified by the measured


def test_what_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 coordinates are not finite"):
        classify(np.array([np.nan]), np.ones(1), np.ones(1), np.ones(1))


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    rows = pd.DataFrame([row for i in range(VOICES) for row in _rows("random", rng, i)])
    shuffled = rows.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(regimes(rows, 50, 0), regimes(shuffled, 50, 0))

"""The chance level of alignment and of gain: closed form, bounds, and planted alignments."""

import numpy as np
import pandas as pd
import pytest

from companion.results.jacobians import PER_LAYER, chance_alignment, layer_summary, log10_chance

WIDTH = 57


def _cosines(count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """|cos| of pairs of random directions, both without a part along the direction 1."""
    pairs = rng.standard_normal((2, count, width))
    pairs -= pairs.mean(-1, keepdims=True)
    first, second = pairs / np.linalg.norm(pairs, axis=-1, keepdims=True)
    return np.asarray(np.abs((first * second).sum(-1)))


@pytest.mark.parametrize("width", [3, 17, WIDTH, 385])
def test_closed_forms_of_chance_are_what_random_directions_have(width: int) -> None:
    cosines = _cosines(40_000, width, np.random.default_rng(width))
    known = np.array([width])
    for values, expected in (
        (cosines, chance_alignment(known)), (np.log10(cosines), log10_chance(known))
    ):  # fmt: skip
        error = values.std() / np.sqrt(len(values))
        assert values.mean() == pytest.approx(expected.item(), abs=4 * error)


def test_chance_lies_between_its_bounds() -> None:
    width = np.arange(3, 2000)
    n = width - 1
    chance = chance_alignment(width)
    assert (np.sqrt(2 / (np.pi * n)) < chance).all()
    assert (chance < np.sqrt(2 / (np.pi * (n - 1)))).all()
    assert (10 ** log10_chance(width) < chance).all(), "the geometric mean is the smaller"


@pytest.mark.parametrize("times", [1.0, 2.0])
def test_a_gain_over_chance_is_alignments_alone_whatever_sigma_is(times: float) -> None:
    """Layers of sigma_1 ten times as large have ten times the gain, and are as near to chance."""
    rng = np.random.default_rng(0)
    count = 16 * 40
    table = pd.DataFrame({name: np.ones(2 * count) for name in _MEASURED})
    table["alignment"] = np.r_[times * _cosines(count, WIDTH, rng), np.full(count, np.nan)]
    table["sigma_1"] = np.r_[np.where(np.arange(count) % 2, 2.0, 20.0), np.ones(count)]
    table = table.assign(
        parameters=1, model="planted-0", network="trained", condition="hell", width=WIDTH,
        layer=np.repeat([1, 2], count), position=0, gain=table.sigma_1 * table.alignment,
        speaker=np.tile([f"s{i % 16}" for i in range(count)], 2),
        utterance=np.tile([f"u{i}" for i in range(count)], 2),
    )  # fmt: skip
    row = layer_summary(table).set_index("layer").loc[1]
    assert row.log10_over_chance_low <= np.log10(times) <= row.log10_over_chance_high
    assert (row.log10_over_chance_low > 0) == (times > 1)
    chance = np.log10(np.sqrt(2 * 20)) + log10_chance(np.array([WIDTH])).item()
    assert row.log10_chance_gain == pytest.approx(chance)
    assert row.log10_gain == pytest.approx(row.log10_chance_gain + row.log10_over_chance)


_MEASURED = (
    "singular_value_ratio", "unstable", "growing", "state", "injection", "arriving",
    "normed_injection",
    "normed_arriving", *(name for name in PER_LAYER if name.endswith("_singular_value_ratio")),
)  # fmt: skip

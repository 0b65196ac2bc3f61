"""Unstable dimensions within one stress: differences planted in rows, and rows without any."""

import numpy as np
import pandas as pd
import pytest

from companion.results import stresses
from companion.results.intervals import LEVEL

WIDTH, LAYERS, MILD = 100, 2, "noise-0.9"


def planted(
    *, trained: float = 0.0, both: float = 0.0, by_position: float = 0.0, longer: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Two transcripts of each of 16 speakers, half of them candidates under ``MILD``, two tokens
    each.

    A candidate has so many more unstable dimensions in the trained network, or in both, and is so
    much longer; each has so many more per position.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for speaker in range(16):
        level = rng.normal(0, 1)
        for i in range(2):
            candidate = bool(rng.random() < 0.5)
            length = 40 + longer * candidate + rng.normal(0, 6)
            for condition in ("clean", "hell", MILD):
                fallen = {"clean": False, "hell": True, MILD: candidate}[condition]
                for fraction in (0.25, 0.75):
                    position = round(fraction * length)
                    for network in (stresses.TRAINED, stresses.RANDOM):
                        for layer in range(1, LAYERS + 1):
                            count = 50 + level + rng.normal(0, 2) + by_position * position
                            count += fallen * (both + trained * (network == stresses.TRAINED))
                            rows.append(
                                {
                                    "parameters": 1, "model": "m-0", "width": WIDTH,
                                    "condition": condition, "network": network, "layer": layer,
                                    "speaker": f"{speaker}", "utterance": f"{speaker}-{i}",
                                    "candidate": fallen, "position": position,
                                    "unstable": count / WIDTH,
                                }
                            )  # fmt: skip
    return pd.DataFrame(rows)


def contrasts(rows: pd.DataFrame) -> pd.DataFrame:
    table = stresses.unstable_contrasts(rows, least=5)
    return table.set_index(["condition", "network", "layer"]).sort_index()


def mild(rows: pd.DataFrame, network: str) -> pd.Series:
    return contrasts(rows).loc[MILD, network, stresses.ALL_LAYERS]


def test_a_planted_difference_is_found_and_is_not_the_control_s() -> None:
    rows = planted(trained=5)
    for network in (stresses.TRAINED, stresses.BEYOND):
        row = mild(rows, network)
        assert row.verdict == stresses.DIFFERS
        assert row.difference_low <= 5 <= row.difference_high
        assert 0 < row.adjusted_low <= 5 <= row.adjusted_high
    assert mild(rows, stresses.RANDOM).verdict == stresses.ALIKE


def test_a_difference_that_the_control_has_as_well_is_not_beyond_it() -> None:
    rows = planted(both=5)
    assert mild(rows, stresses.TRAINED).verdict == stresses.DIFFERS
    row = mild(rows, stresses.BEYOND)
    assert row.difference_low <= 0 <= row.difference_high


def test_without_a_planted_difference_intervals_contain_zero_as_often_as_they_say() -> None:
    table = pd.concat(contrasts(planted(seed=seed)).loc[[MILD]] for seed in range(10))
    for name in ("difference", "adjusted"):
        inside = (table[f"{name}_low"] <= 0) & (table[f"{name}_high"] >= 0)
        assert inside.mean() > LEVEL - 0.1


def test_a_difference_of_position_alone_is_gone_at_equal_position() -> None:
    row = mild(planted(by_position=0.3, longer=20), stresses.TRAINED)
    assert row.difference_low > 0
    assert row.adjusted_low <= 0 <= row.adjusted_high
    assert row.verdict == stresses.BY_LENGTH


def test_there_is_no_contrast_where_all_or_none_is_hallucinated() -> None:
    table = contrasts(planted(trained=5))
    assert set(table.index.get_level_values("condition")) == {"hell", MILD}
    hell = table.loc["hell"]
    assert (hell.verdict == stresses.TOO_FEW).all()
    assert hell.difference.isna().all()


def test_the_mean_over_layers_is_the_mean_of_the_layers_in_dimensions() -> None:
    rows = planted(trained=3)
    differences = contrasts(rows).loc[MILD, stresses.TRAINED].difference
    assert differences[stresses.ALL_LAYERS] == pytest.approx(differences[["1", "2"]].mean())
    selected = rows[(rows.condition == MILD) & (rows.network == stresses.TRAINED)]
    means = selected.groupby("candidate").unstable.mean() * WIDTH
    assert differences[stresses.ALL_LAYERS] == pytest.approx(means[True] - means[False])

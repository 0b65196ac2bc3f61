"""Ratios of stressed to clean eigenvalues: closed forms, and tails planted in synthetic rows."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from planted import Plan, planted_rows

from companion.results.effects import MATCHED, RAW
from companion.results.tails import EIGENVALUE, FRACTION, HEAD, TAIL, mode_ratios, tail_ratios

PLANS = {
    "tail": Plan(steeper=-0.1),
    "shorter": Plan(fewer=14.0),
    "longer": Plan(fewer=-14.0),
    "nothing": Plan(),
}


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    keys = ["length", "measure", "part"]
    return {
        name: tail_ratios(planted_rows(plan, nulls=False)[0], "hell").set_index(keys)
        for name, plan in PLANS.items()
    }


def by_hand(spectra: Callable[[str, int, int], list[float]], utterances: int = 4) -> pd.DataFrame:
    """Raw rows of two layers, with the eigenvalues of (side, utterance, layer)."""
    return pd.DataFrame(
        [
            {
                "parameters": 1, "model": "m-0", "component": component, "modes": 50,
                "condition": side, "matched_with": partner, "speaker": f"{i % 2}",
                "utterance": f"{i}", "layer": layer, "eigenvalues": spectra(side, i, layer),
            }
            for component in ("self_attention", "cross_attention", "ffn")
            for side, other in (("clean", "hell"), ("hell", "clean"))
            for partner in ("", other)
            for i in range(utterances)
            for layer in (1, 2)
        ]
    )  # fmt: skip


def row_of(table: pd.DataFrame, *key: str) -> pd.Series:
    keys = ["component", "length", "measure", "part"]
    return table.set_index(keys).sort_index().loc[("ffn", *key)]


def test_a_planted_tail_rise_is_found(tables: dict[str, pd.DataFrame]) -> None:
    for length in (RAW, MATCHED):
        for measure in (EIGENVALUE, FRACTION):
            assert tables["tail"].loc[length, measure, TAIL].ratio_low > 1
    planted = np.exp(0.1 * np.log(np.arange(11, 51)).mean())
    row = tables["tail"].loc[MATCHED, EIGENVALUE, TAIL]
    assert row.ratio == pytest.approx(planted, rel=0.1), "sampled spectra are not their law"


def test_a_pure_change_of_length_moves_the_tail_raw_alone(tables: dict[str, pd.DataFrame]) -> None:
    for measure in (EIGENVALUE, FRACTION):
        assert tables["shorter"].loc[RAW, measure, TAIL].ratio_high < 1
        assert tables["longer"].loc[RAW, measure, TAIL].ratio_low > 1
        for plan in ("shorter", "longer"):
            row = tables[plan].loc[MATCHED, measure, TAIL]
            assert row.ratio_low <= 1 <= row.ratio_high


def test_nothing_planted_leaves_one_inside_every_interval(tables: dict[str, pd.DataFrame]) -> None:
    assert (tables["nothing"].ratio_low <= 1).all()
    assert (tables["nothing"].ratio_high >= 1).all()


def test_a_common_factor_changes_eigenvalues_and_no_fraction() -> None:
    rng = np.random.default_rng(0)
    drawn = {
        (i, layer): np.sort(rng.exponential(size=50))[::-1] for i in range(4) for layer in (1, 2)
    }
    rows = by_hand(lambda side, i, layer: list(drawn[i, layer] * (3 if side == "hell" else 1)))
    table = tail_ratios(rows, "hell")
    for part in (HEAD, TAIL):
        numbers = ["ratio", "ratio_low", "ratio_high"]
        np.testing.assert_allclose(row_of(table, RAW, EIGENVALUE, part)[numbers].astype(float), 3)
        np.testing.assert_allclose(row_of(table, RAW, FRACTION, part)[numbers].astype(float), 1)


def test_a_mode_counts_where_both_sides_resolve_it_in_every_layer() -> None:
    """Twelve modes everywhere but in one layer in Hell, which has eleven: modes 1 to 11 count."""

    def spectra(side: str, i: int, layer: int) -> list[float]:
        count = 11 if (side, layer) == ("hell", 2) else 12
        raised = {11: 8.0, 12: 1000.0} if side == "hell" and layer == 1 else {}
        return [raised.get(mode, 1.0) for mode in range(1, count + 1)]

    tail = row_of(tail_ratios(by_hand(spectra), "hell"), RAW, EIGENVALUE, TAIL)
    assert (tail.n, tail.modes) == (4, 1)
    assert tail.ratio == pytest.approx(8**0.5), "geometric mean over two layers"


def test_a_tail_that_nobody_resolves_has_no_number() -> None:
    table = tail_ratios(by_hand(lambda *_: [2.0] * 10), "hell")
    assert row_of(table, RAW, EIGENVALUE, TAIL).n == 0
    assert np.isnan(row_of(table, RAW, EIGENVALUE, TAIL).ratio)
    assert row_of(table, RAW, EIGENVALUE, HEAD).ratio == 1


def test_modes_of_fewer_than_half_of_the_utterances_are_left_out() -> None:
    rows = by_hand(lambda side, i, layer: [1.0] * (20 if i == 0 else 15))
    modes = mode_ratios(rows, "hell")
    assert modes["mode"].max() == 15
    assert (modes.n == 4).all()


def test_the_tail_is_the_geometric_mean_of_its_modes() -> None:
    rng = np.random.default_rng(1)
    rows = by_hand(lambda *_: list(np.sort(rng.exponential(size=50))[::-1]))
    modes = mode_ratios(rows, "hell")
    selected = modes[
        (modes.component == "ffn") & (modes.length == MATCHED) & (modes.measure == FRACTION)
    ]
    expected = np.exp(np.log(selected.ratio[selected["mode"] > 10]).mean())
    tail = row_of(tail_ratios(rows, "hell"), MATCHED, FRACTION, TAIL)
    assert tail.ratio == pytest.approx(expected)

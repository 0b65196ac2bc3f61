"""Permutation tests, Holm, pairs of equal length, seeds and verdicts, against plain counting."""

import itertools

import numpy as np
import pandas as pd
import pytest
from planted import spectra_row
from scipy import stats

from companion.results import intervals
from companion.results.effects import (
    OBSERVABLES,
    effects,
    pair_effects,
    pair_weights,
    pooled_effects,
    with_holm,
)
from companion.results.evidence import EXPLAINED, IN_PART, SURVIVES, UNDECIDED, verdict
from companion.results.intervals import Interval, deletions, holm, paired_p

SETS = 400


def speaker_names(count: int, utterances: int) -> np.ndarray:
    return np.repeat([f"{i:02d}" for i in range(count)], utterances)


def null_differences(rng: np.random.Generator, count: int, utterances: int) -> np.ndarray:
    """No effect, but speakers whose utterances react alike: half the variance is theirs."""
    return np.repeat(rng.normal(size=count), utterances) + rng.normal(size=count * utterances)


def test_p_counts_every_exchange_of_whole_speakers_for_differences_and_for_ratios() -> None:
    rng = np.random.default_rng(0)
    speakers = np.repeat(["a", "b", "c", "d", "e"], [3, 1, 4, 2, 2])
    clean = rng.uniform(5, 10, len(speakers))
    stressed = clean * np.repeat([0.9, 0.8, 1.1, 0.7, 0.9], [3, 1, 4, 2, 2])
    observed, counts = (stressed - clean).mean(), {"difference": 0, "ratio": 0}
    for swaps in itertools.product([False, True], repeat=5):
        swap = np.isin(speakers, np.array(list("abcde"))[list(swaps)])
        clean_side, stressed_side = np.where(swap, stressed, clean), np.where(swap, clean, stressed)
        difference = (stressed_side - clean_side).mean()
        counts["difference"] += abs(difference) >= abs(observed) - 1e-12
        ratio = abs(np.log(stressed_side.mean() / clean_side.mean()))
        counts["ratio"] += ratio >= abs(np.log(stressed.mean() / clean.mean())) - 1e-12
    assert counts["difference"] == counts["ratio"]
    assert paired_p(stressed - clean, speakers) == pytest.approx(counts["difference"] / 2**5)


def test_random_assignments_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    speakers = speaker_names(17, 2)
    differences = null_differences(rng, 17, 2) + 0.4
    drawn = paired_p(differences, speakers)
    monkeypatch.setattr(intervals, "EXACT_SPEAKERS", 17)
    intervals._signs.cache_clear()
    exact = paired_p(differences, speakers)
    intervals._signs.cache_clear()
    assert 0.001 < exact < 0.5
    error = np.sqrt(exact * (1 - exact) / intervals.DRAWS)
    assert drawn == pytest.approx(exact, abs=4 * error)


def test_random_assignments_never_give_zero() -> None:
    differences, speakers = np.full(40, -1.0), speaker_names(40, 1)
    assert paired_p(differences, speakers) == 1 / (intervals.DRAWS + 1)


def test_what_is_not_finite_is_left_out_of_p() -> None:
    differences = np.array([1.0, 2.0, np.nan, np.inf, -0.5, 3.0])
    speakers = np.array(["a", "a", "b", "c", "d", "e"])
    finite = np.isfinite(differences)
    assert paired_p(differences, speakers) == paired_p(differences[finite], speakers[finite])
    assert np.isnan(paired_p(np.full(3, np.nan), speakers[:3]))


@pytest.mark.parametrize("count", [10, 20])
def test_columns_that_are_tested_together_have_the_p_of_each_alone(count: int) -> None:
    rng = np.random.default_rng(4)
    columns = np.stack([null_differences(rng, count, 3) + shift for shift in (0, 0.3, 1)] * 2, 1)
    columns[:4, 1] = columns[5, 2] = columns[:, 3] = np.nan
    speakers = speaker_names(count, 3)
    expected = [paired_p(column, speakers) for column in columns.T]
    np.testing.assert_array_equal(paired_p(columns, speakers), expected)
    assert np.isfinite(expected).sum() == 5


@pytest.mark.parametrize("count", [10, 20])
def test_on_null_data_five_percent_are_significant_and_not_more(count: int) -> None:
    """Utterances taken for independent would give four times as many."""
    rng = np.random.default_rng(1)
    sets = [null_differences(rng, count, 6) for _ in range(SETS)]
    speakers = speaker_names(count, 6)
    fraction = np.mean([paired_p(drawn, speakers) < 0.05 for drawn in sets])
    low, high = stats.binom.ppf([0.001, 0.999], SETS, 0.05) / SETS
    assert low <= fraction <= high
    assert np.mean(stats.ttest_1samp(np.stack(sets), 0, axis=1).pvalue < 0.05) > 2 * high


def test_holm_is_the_step_down_by_hand() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    expected = [0.03, np.nan, 0.06, 0.06, 0.02]
    np.testing.assert_allclose(holm(p), expected)
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]


def test_a_strong_effect_in_each_of_sixteen_models_is_declared_with_sixteen_speakers() -> None:
    """Over all 16 x 3 x 2 x 4 tests of a length together no p could be below 0.01."""
    p = paired_p(np.full(32, 1.0), speaker_names(16, 2))
    assert p == 2**-15
    table = pd.DataFrame(
        [
            {"model": f"m-{model}", "component": component, "modes": modes, "length": "raw"}
            | {f"delta_{name}_p": p if name == "n_eff" else 0.5 for name in OBSERVABLES}
            for model in range(16)
            for component in ("self_attention", "cross_attention", "ffn")
            for modes in (10, 50)
        ]
    )
    corrected = with_holm(table)
    assert corrected.delta_n_eff_p_holm.to_numpy() == pytest.approx([16 * p] * len(table))
    assert (corrected.delta_n_eff_p_holm < 0.001).all()
    assert (corrected.delta_alpha_p_holm == 1).all()


def rows(
    models: list[str], shift: dict[str, float], lengths: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Rows of one component whose observable is T / 10, times 1 + ``shift`` under stress."""
    return pd.DataFrame(
        [
            spectra_row(
                model=model, utterance=f"{i:03d}", speaker=f"{i % 8}", condition=side,
                tokens=int(length[i]), n_eff=length[i] / 10 * (1 + shift[model] * (side == "hell")),
                alpha=1.0 + shift[model] * (side == "hell") + noise[i],
            )
            for model in models
            for side, length in lengths.items()
            for noise in [np.random.default_rng(len(model)).normal(0, 0.01, len(length))]
            for i in range(len(length))
        ]
    )  # fmt: skip


def lengths(fewer: int, count: int = 64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    clean = rng.integers(40, 60, count)
    return {"clean": clean, "hell": rng.permutation(clean) - fewer}


def test_pairs_of_equal_length_see_the_shift_and_not_the_length() -> None:
    measured = rows(["m-0"], {"m-0": -0.1}, lengths(fewer=8))
    raw = effects(measured, "hell").iloc[0]
    pairs = pair_effects(measured, "hell").iloc[0]
    assert raw.delta_n_eff < -20
    columns = [pairs.delta_n_eff, pairs.delta_n_eff_low, pairs.delta_n_eff_high]
    assert columns == pytest.approx([-10] * 3)
    assert pairs.tokens_clean == pytest.approx(pairs.tokens_stressed)
    assert pairs.delta_n_eff_n < 64


def test_pairs_are_those_of_two_loops() -> None:
    rng = np.random.default_rng(4)
    tokens = [rng.integers(10, 16, 12) for _ in range(2)]
    usable = [rng.random(12) < 0.8 for _ in range(2)]
    weights = deletions(speaker_names(4, 3))
    actual = pair_weights(weights, tokens, usable)
    expected = np.zeros((2, *weights.shape))
    for i, j in itertools.product(range(12), repeat=2):
        if usable[0][i] and usable[1][j] and tokens[0][i] == tokens[1][j]:
            expected[0, :, i] += weights[:, i] * weights[:, j]
            expected[1, :, j] += weights[:, i] * weights[:, j]
    np.testing.assert_allclose(actual, expected)


def test_without_any_pair_there_is_no_change() -> None:
    pairs = pair_effects(rows(["m-0"], {"m-0": 0.0}, lengths(30)), "hell").iloc[0]
    assert np.isnan([pairs.delta_n_eff, pairs.delta_n_eff_low, pairs.delta_n_eff_high]).all()
    assert pairs.delta_n_eff_n == 0


def test_seeds_that_disagree_widen_the_interval_of_their_size() -> None:
    alike = {"m-0": -0.10, "m-1": -0.10, "m-2": -0.10, "l-0": -0.1}
    apart = {"m-0": -0.05, "m-1": -0.10, "m-2": -0.15, "l-0": -0.1}
    pooled = {}
    for name, shift in (("alike", alike), ("apart", apart)):
        table = pooled_effects(effects(rows(list(shift), shift, lengths(0)), "hell"))
        assert list(table.model) == ["m"], "one seed says nothing of seeds"
        pooled[name] = table.iloc[0]
    assert pooled["alike"].delta_alpha == pytest.approx(-0.1)
    assert pooled["apart"].delta_alpha == pytest.approx(-0.1)
    reach = pooled["apart"].delta_alpha_high - pooled["apart"].delta_alpha
    t = stats.t.ppf(0.975, 2) * 0.05 / np.sqrt(3)
    assert reach == pytest.approx(t, rel=0.05)
    assert pooled["alike"].delta_alpha_high < -0.09
    assert pooled["apart"].seeds == 3


LOW, HIGH, ZERO = Interval(-5, -6, -4), Interval(5, 4, 6), Interval(0, -1, 1)
SMALL, WIDE = Interval(-1, -1.5, -0.5), Interval(-4, -9, 1)


@pytest.mark.parametrize(
    ("raw", "matched", "others", "initialised", "gaussian", "expected"),
    [
        (LOW, LOW, LOW, ZERO, ZERO, SURVIVES),
        (LOW, LOW, LOW, ZERO, LOW, SURVIVES),
        (HIGH, HIGH, HIGH, ZERO, ZERO, SURVIVES),
        (LOW, SMALL, LOW, Interval(0, -0.1, 0.1), LOW, IN_PART),
        (LOW, LOW, LOW, LOW, ZERO, UNDECIDED),
        (LOW, LOW, LOW, WIDE, ZERO, UNDECIDED),
        (LOW, LOW, ZERO, ZERO, LOW, UNDECIDED),
        (LOW, ZERO, ZERO, ZERO, LOW, EXPLAINED),
        (LOW, HIGH, HIGH, ZERO, LOW, EXPLAINED),
        (LOW, ZERO, ZERO, ZERO, ZERO, UNDECIDED),
        (LOW, WIDE, WIDE, ZERO, LOW, UNDECIDED),
        (ZERO, ZERO, ZERO, ZERO, ZERO, UNDECIDED),
        (ZERO, LOW, LOW, ZERO, ZERO, UNDECIDED),
        (LOW, LOW, Interval(-5, np.nan, np.nan), ZERO, ZERO, UNDECIDED),
    ],
)
def test_verdicts_follow_from_intervals(
    raw: Interval, matched: Interval, others: Interval, initialised: Interval, gaussian: Interval,
    expected: str,
) -> None:  # fmt: skip
    controls = {"first rows": matched, "random rows": matched, "equal pairs": others}
    name, reason = verdict(
        raw, controls, {"randomly initialised control": initialised}, gaussian, like="first rows"
    )
    assert name == expected
    assert reason


def test_nulls_are_compared_with_what_was_cut_as_they_were() -> None:
    """The first control is the headline: it says how much is left, not what is beyond a null."""
    controls = {"random rows": SMALL, "first rows": LOW, "equal pairs": LOW}
    nulls = {"randomly initialised control": Interval(-2, -3, -1)}
    assert verdict(LOW, controls, nulls, LOW, like="first rows")[0] == IN_PART
    alike = verdict(LOW, controls, nulls, LOW, like="random rows")
    assert alike[1] == "not beyond: randomly initialised control"

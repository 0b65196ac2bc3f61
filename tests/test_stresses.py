"""Stresses alone, together and in steps: names, effects that were planted, and shapes."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import spectra_row

from companion.results.intervals import adjusted_difference
from companion.results.shapes import FLAT, POWERS, SMOOTH, STEP, TOO_FEW, UNDECIDED, shape
from companion.results.stresses import (
    ALIKE,
    BY_LENGTH,
    CELLS,
    DIFFERS,
    EFFECTS,
    STRESSES,
    factorial,
    noise_width,
    speakers_means,
    within_conditions,
)
from companion.results.stresses import TOO_FEW as FEW
from companion.stress.conditions import CONDITIONS, GRADED, condition, split_severity

SPEAKERS = 16
COUNT = 4 * SPEAKERS  # utterances
X = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize("pair", list(combinations(STRESSES, 2)), ids="+".join)
def test_a_pair_is_its_parts_in_hell_s_order(pair: tuple[str, str]) -> None:
    parts = [CONDITIONS[name].perturbations[0] for name in pair]
    assert condition("+".join(pair)).perturbations == tuple(parts)
    assert [part for part in CONDITIONS["hell"].perturbations if part in parts] == parts


@given(st.sampled_from(GRADED), st.integers(1, 99))
def test_a_severity_in_a_name_is_that_severity(base: str, percent: int) -> None:
    severity = percent / 100
    name = f"{base}-{severity:g}"
    assert condition(name) == CONDITIONS[base].at_severity(severity)
    assert condition(name).name == name
    assert split_severity(name) == (base, severity)
    assert split_severity(base) == (base, 1.0)
    assert split_severity("noise-alone") == ("noise-alone", 1.0)


@pytest.mark.parametrize(
    "name", ["hell-0", "hell-1", "hell-1.5", "hell-nan", "hell-0.50", "clean-0.5", "silence-0.5",
             "noise+mix", "hell-", "-0.5"],
)  # fmt: skip
def test_other_names_are_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"'{name.replace('+', '.')}'; choose from clean.*hell-0.5"
    ):
        condition(name)


def _curve(curve: np.ndarray, noise: float = 0.2, seed: int = 0) -> np.ndarray:
    """Speakers (SPEAKERS, points) with levels of their own around one curve."""
    rng = np.random.default_rng(seed)
    levels = rng.normal(0, 3, (SPEAKERS, 1))
    return curve + levels + rng.normal(0, noise, (SPEAKERS, len(curve)))


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_a_planted_step_is_found_where_it_is(place: int) -> None:
    fit = shape(_curve((np.arange(5) >= place).astype(float)), X)
    assert (fit["verdict"], fit["step_after"]) == (STEP, X[place - 1])
    # a logistic nearly as steep costs one parameter more, log n: no step can lead by much more
    assert fit["margin"].estimate == pytest.approx(np.log(SPEAKERS * 4), abs=0.5)
    assert fit["bic_no_change"] - fit["bic_step"] > 50


@pytest.mark.parametrize(
    "curve", [X, X**2, -3 * X, np.sqrt(X)], ids=["line", "square", "fall", "root"]
)
def test_a_planted_drift_is_smooth(curve: np.ndarray) -> None:
    fit = shape(_curve(curve), X)
    assert fit["verdict"] == SMOOTH
    assert fit["margin"].high < -2


@pytest.mark.parametrize("slope", [3.0, 6.0, 12.0])
def test_a_steep_ramp_is_smooth_with_points_inside_and_a_step_without(slope: float) -> None:
    """Severities bisected into the transition decide; those on either side of it cannot."""
    x = np.array([0.0, 0.1, 0.3, 0.42, 0.5, 0.58, 0.7, 1.0])
    rise = np.zeros_like(x)
    rise[1:] = 1 / (1 + (0.5 / x[1:]) ** slope)
    assert shape(_curve(rise, noise=0.05), x)["verdict"] == SMOOTH
    ends = np.array([0.0, 0.05, 0.1, 0.9, 0.95, 1.0])
    outside = (ends > 0.5) * 1.0
    assert shape(_curve(outside, noise=0.05), ends)["verdict"] == STEP


@pytest.mark.parametrize(("size", "verdict", "least"), [(0.0, FLAT, 0.75), (0.15, UNDECIDED, 0.2)])
def test_no_change_is_flat_and_a_faint_one_open(size: float, verdict: str, least: float) -> None:
    """Half of the faint data cannot tell a step in the middle from a line."""
    verdicts = [shape(_curve(size * (X >= 0.5), seed=seed), X)["verdict"] for seed in range(200)]
    assert verdicts.count(verdict) > least * len(verdicts)
    assert size or verdicts.count(STEP) < 10


def test_three_points_two_speakers_and_missing_values_are_too_few() -> None:
    values = _curve(X)
    holes = values.copy()
    holes[:14, 1] = np.nan
    for given_values, x in ((values[:, :3], X[:3]), (values[:2], X), (holes, X)):
        assert shape(given_values, x)["verdict"] == TOO_FEW


@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 20))
def test_units_and_speakers_levels_decide_nothing(scale: float, shift: float, seed: int) -> None:
    values = _curve(X, seed=seed)
    moved = scale * values + shift * np.arange(SPEAKERS)[:, None]
    first, second = shape(values, X), shape(moved, X)
    assert second["verdict"] == first["verdict"]
    assert second["margin"].estimate == pytest.approx(first["margin"].estimate, abs=1e-4)


def test_bic_is_that_of_a_dense_least_squares_fit() -> None:
    values = _curve(X**2)
    y = (values - values.mean(1, keepdims=True)).ravel()
    n = SPEAKERS * (len(X) - 1)
    line = np.tile(X - X.mean(), SPEAKERS)
    square = np.tile(X**2 - (X**2).mean(), SPEAKERS)
    expected = []
    powers = [np.tile(X**p - (X**p).mean(), SPEAKERS) for p in POWERS]
    for columns, k in [([line], 1), ([line, square], 2), *(([power], 2) for power in powers)]:
        design = np.stack(columns, 1)
        left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        expected.append(n * np.log(left @ left / n) + (k + 1) * np.log(n))
    # a logistic is not so much better than the square itself that its third parameter pays
    assert shape(values, X)["bic_smooth"] == pytest.approx(min(expected))


def _rows(value: dict[str, np.ndarray], candidate: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    """Rows of one layer as `stresses` has them; N_eff and alpha by condition (utterances,)."""
    table = []
    for name, n_eff in value.items():
        for i in range(COUNT):
            shared = spectra_row(
                utterance=f"{i}", speaker=f"{i % SPEAKERS}", condition=name, modes=10,
                tokens=tokens[i], n_eff=n_eff[i], alpha=n_eff[i] / 10, transcript="c",
                wer=0.9 * candidate[i], candidate=bool(candidate[i]), outcome="invention",
            )  # fmt: skip
            partners = [p for p in value if p != "clean"] if name == "clean" else ["clean"]
            table += [shared | {"matched_with": partner} for partner in ("", *partners)]
    return pd.DataFrame(table)


def test_planted_main_effects_and_an_interaction_are_found() -> None:
    rng = np.random.default_rng(0)
    base = 20 + rng.normal(0, 2, COUNT)
    rise = {"stretch": 1.0, "mix": -2.0, "noise": 0.0}
    value = {"clean": base}
    for name in CELLS:
        stresses = STRESSES if name == "hell" else tuple(name.split("+"))
        together = 3.0 * ("stretch" in stresses and "mix" in stresses)
        change = sum(rise[stress] for stress in stresses) + together
        value[name] = base + change + rng.normal(0, 0.2, COUNT)
    table = factorial(_rows(value, np.ones(COUNT), np.full(COUNT, 40)))
    by_effect = table[(table.observable == "alpha") & (table.length == "raw")].set_index("effect")
    planted = {"stretch": 2.5, "mix": -0.5, "noise": 0.0, "stretch x mix": 1.5}
    for effect in EFFECTS:
        expected = planted.get(effect, 0.0) / 10
        assert by_effect.change[effect] == pytest.approx(expected, abs=0.02), effect
        assert by_effect.low[effect] <= expected <= by_effect.high[effect], effect
    assert by_effect.high["mix"] < 0 < by_effect.low["stretch x mix"]


def test_a_missing_cell_of_the_design_is_named() -> None:
    value = {name: np.ones(COUNT) for name in ("clean", *CELLS) if name != "mix+noise"}
    rows = _rows(value, np.ones(COUNT), np.full(COUNT, 40))
    with pytest.raises(ValueError, match="rows lack mix.noise"):
        factorial(rows)


@pytest.mark.parametrize(
    ("difference", "by_length", "verdict"),
    [(3.0, 0.0, DIFFERS), (0.0, 0.3, BY_LENGTH), (0.0, 0.0, ALIKE), (0.3, 0.3, None)],
)
def test_a_difference_within_a_condition_is_told_from_that_of_length(
    difference: float, by_length: float, verdict: str | None
) -> None:
    rng = np.random.default_rng(1)
    candidate = rng.random(COUNT) < 0.5
    tokens = 40 + 10 * candidate + rng.integers(-4, 5, len(candidate))
    value = 20 + difference * candidate + by_length * tokens + rng.normal(0, 0.8, len(candidate))
    rows = _rows({"clean": value, "noise": value}, candidate, tokens)
    table = within_conditions(rows, 8).set_index("observable")
    row = table.loc["n_eff"]
    if verdict:
        assert row.verdict == verdict
    assert row.adjusted_low <= difference <= row.adjusted_high
    assert table.verdict["tokens"] == DIFFERS


def test_few_on_one_side_are_not_compared() -> None:
    candidate = np.arange(COUNT) < 7
    values = np.arange(float(COUNT))
    rows = _rows({"clean": values, "noise": values}, candidate, np.arange(COUNT))
    table = within_conditions(rows, 8)
    assert set(table.verdict) == {FEW}
    assert table.auc.isna().all()
    assert (table.candidates == 7).all()


def test_adjusted_difference_is_a_weighted_least_squares_coefficient() -> None:
    rng = np.random.default_rng(2)
    weights = rng.integers(0, 3, (3, 30)).astype(float)
    values, tokens, group = rng.normal(size=30), rng.normal(40, 5, 30), rng.random(30) < 0.5
    design = np.stack([np.ones(30), group, tokens], 1)
    for w, actual in zip(weights, adjusted_difference(weights, values, group, tokens), strict=True):
        root = np.sqrt(w)[:, None]
        expected = np.linalg.lstsq(root * design, root[:, 0] * values, rcond=None)[0][1]
        assert actual == pytest.approx(expected)
    by_length_alone = adjusted_difference(weights, values, group, 30.0 + 10 * group)
    assert np.isnan(by_length_alone).all()


def test_curves_are_means_over_the_utterances_that_have_every_point() -> None:
    common = {"parameters": 1, "component": "ffn", "modes": 10, "length": "raw"}
    curves = pd.DataFrame(
        [
            common
            | {"model": model, "speaker": utterance // 2, "utterance": utterance}
            | {"observable": observable, "x": layer, "value": value}
            for model, depth in (("flat", 2), ("tall", 3))
            for utterance in range(4)
            for layer in range(1, depth + 1)
            for observable, value in (
                ("alpha", np.nan if (utterance, layer) == (1, 2) else 10.0 * utterance + layer),
                ("n_eff", np.nan if layer == 2 else 1.0),
            )
        ]
    )
    means = {(key[1], key[5]): by_speaker for key, by_speaker in speakers_means(curves)}
    assert means["flat", "alpha"].to_numpy().tolist() == [[1, 2], [26, 27]]
    assert means["tall", "alpha"].to_numpy().tolist() == [[1, 2, 3], [26, 27, 28]]
    assert means["flat", "n_eff"].shape == (0, 2), "known to have no speaker, not forgotten"
    assert means["tall", "n_eff"].shape == (0, 3)


# --- over how many decibels transcripts go wrong
# -----------------------------------------------------


def _noisy(fractions: dict[str, float]) -> pd.DataFrame:
    """Of every speaker's four transcripts, in each condition this fraction are candidates."""
    order = np.arange(COUNT) // SPEAKERS
    ones = np.ones(COUNT)
    return pd.concat(
        _rows({name: ones}, order < COUNT / SPEAKERS * fraction, ones.astype(int))
        for name, fraction in fractions.items()
    )


LEVELS = ("clean", "noise-0.5", "noise-0.75", "noise-0.9", "noise")


@pytest.mark.parametrize(
    ("fractions", "width", "whole"),
    [
        ((0, 0, 0.25, 0.75, 1), 12 - 1.2, True),  # 10 % at -12 dB, 90 % at -1.2 dB
        ((0, 0.25, 0, 0, 1), 15 - 3 + 3 * (0.65 / 0.75), False),  # what comes and goes stays
        ((0, 0, 0.25, 0.75), 12 - 3, False),
        ((0, 0.5, 0.75, None, 1), 15 - 3, False),
        ((0, 0, 0, None, 0), np.nan, False),
    ],
)
def test_the_width_is_that_of_straight_lines_or_a_least_one_where_the_levels_do_not_hold_it(
    fractions: tuple[float | None, ...], width: float, whole: bool
) -> None:
    levels = zip(LEVELS, fractions, strict=False)
    (row,) = noise_width(_noisy({n: f for n, f in levels if f is not None})).itertuples()
    assert row.width_db == pytest.approx(width, nan_ok=True)
    assert row.width_db_low == pytest.approx(width, nan_ok=True), "all speakers are alike"
    if not np.isnan(width):
        assert row.whole == whole
        assert row.width_db_high == (pytest.approx(width) if whole else np.inf)

"""Effects of random networks over their draws, where the effect and the variances are planted."""

import numpy as np
import pandas as pd
import pytest
from planted import spectra_row

from companion.measurement.schemas import INITIALISED, SPECTRUM
from companion.results import evidence
from companion.results.effects import changes_without, effects
from companion.results.intervals import Interval

SPEAKERS = np.repeat([f"s{i}" for i in range(12)], 2)


def crossed(
    draws: int, between: float, mean: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Clean and stressed (utterances, draws): changes that differ between draws, speakers and
    utterances, and by all of them together."""
    count = len(SPEAKERS)
    clean = rng.normal(0, 1, count) + rng.normal(0, 0.05, (draws, count))
    per_speaker = np.repeat(rng.normal(0, 0.3, count // 2), 2)
    between_draws = rng.normal(0, between, (draws, 1))
    moved = mean + between_draws + per_speaker + rng.normal(0, 0.2, (draws, count))
    return clean.T, (clean + moved).T


def interval_of(clean: np.ndarray, stressed: np.ndarray) -> Interval:
    return evidence.over_draws(changes_without("alpha", clean, stressed, SPEAKERS), SPEAKERS)


def coverage(draws: int, between: float, trials: int = 300) -> float:
    rng = np.random.default_rng(draws)
    intervals = [interval_of(*crossed(draws, between, 1.0, rng)) for _ in range(trials)]
    return float(np.mean([number.low <= 1.0 <= number.high for number in intervals]))


def test_an_interval_over_twenty_draws_holds_what_differs_between_them() -> None:
    assert 0.93 <= coverage(20, between=1.0) <= 0.98
    assert coverage(20, between=0.0) >= 0.93
    assert coverage(3, between=1.0) >= 0.93
    assert coverage(1, between=1.0) < 0.4, "one draw cannot know"


def test_draws_that_are_missing_leave_the_others() -> None:
    whole, stressed = crossed(5, 1.0, 1.0, np.random.default_rng(0))
    clean = whole.copy()
    clean[:, 2] = np.nan
    kept = [0, 1, 3, 4]
    others = interval_of(whole[:, kept], stressed[:, kept])
    assert interval_of(clean, stressed).estimate == pytest.approx(others.estimate)
    assert np.isnan(interval_of(np.full_like(clean, np.nan), stressed).estimate)


# --- from rows -----------------------------------------------------------------------------------


def rows(
    stressed: float, draw: int = 0, null: str = INITIALISED, utterances: int = 24
) -> pd.DataFrame:
    """Rows of one model: a rank of 10 to 11 and, in Hell, ``stressed`` times that."""
    ranks = np.random.default_rng(7).uniform(10, 11, len(SPEAKERS))[:utterances]
    return pd.DataFrame(
        [
            spectra_row(
                model="m", modes=10, utterance=f"u{i}", speaker=SPEAKERS[i], condition=condition,
                matched_with=partner, layer=layer, tokens=30, n_eff=rank * factor, null=null,
                alpha=1 / factor, kirchhoff=5 / factor, kirchhoff_resolved=5.0, draw=draw,
            )
            for i, rank in enumerate(ranks)
            for condition, other, factor in (
                ("clean", "hell", 1.0), ("hell", "clean", stressed * (1 + 0.05 * np.sin(i))),
            )
            for partner in ("", other)
            for layer in (1, 2)
        ]
    )  # fmt: skip


def test_equal_draws_are_as_one_network_and_one_draw_is_as_before() -> None:
    measured = rows(0.8)
    plain = effects(measured, "hell")
    single = evidence.control_effects(measured, "hell")
    pd.testing.assert_frame_equal(single.drop(columns="draws"), plain)
    several = pd.concat([rows(0.8, draw) for draw in range(4)])
    averaged = evidence.control_effects(several, "hell")
    assert averaged.modes.dtype == single.modes.dtype == int, "tables are named after K"
    assert set(averaged.draws) == {4}
    for name in ("delta_n_eff", "delta_alpha", "delta_log10_kf"):
        for part in (name, f"{name}_low", f"{name}_high"):
            np.testing.assert_allclose(averaged[part], plain[part], rtol=1e-9)
    assert averaged.delta_n_eff_p.isna().all()


def test_utterances_that_not_every_draw_was_fed_do_not_count() -> None:
    """The first draw of plain weights is of all utterances, the others of a sample."""
    sample = [rows(0.7, draw, utterances=10) for draw in (1, 2)]
    actual = evidence.control_effects(pd.concat([rows(0.7), *sample]), "hell")
    expected = evidence.control_effects(pd.concat([rows(0.7, utterances=10), *sample]), "hell")
    pd.testing.assert_frame_equal(actual, expected)
    assert set(actual.delta_n_eff_n) == {10}


def test_what_remains_is_the_trained_effect_less_that_of_the_draws() -> None:
    changes = np.array([0.95, 0.9, 0.85, 0.7])
    null = pd.concat([rows(change, draw, SPECTRUM) for draw, change in enumerate(changes)])
    table = evidence.remaining(rows(0.8), null, "hell")
    row = table.set_index(["observable", "length"]).loc[("n_eff", "raw")]
    trained = effects(rows(0.8), "hell").delta_n_eff[0]
    by_draw = [effects(rows(x), "hell").delta_n_eff[0] for x in changes]
    assert row.trained == pytest.approx(trained)
    assert row.random == pytest.approx(np.mean(by_draw))
    assert row.remaining == pytest.approx(trained - np.mean(by_draw))
    assert row.fraction == pytest.approx(np.mean(by_draw) / trained)
    assert row.draw_sd == pytest.approx(np.std(by_draw, ddof=1))
    assert (row.draws, row.n, row.as_large, row.control) == (4, 24, 1, SPECTRUM)
    assert row.remaining_low < row.remaining < row.remaining_high
    apart = (row.trained_high - row.trained_low) + (row.random_high - row.random_low)
    assert row.remaining_high - row.remaining_low < apart, "the speakers are the same"
    assert row.remaining_low < trained - by_draw[1] < row.remaining_high
    assert "4" in evidence.readable_remaining(table).to_markdown()


def test_no_fraction_is_taken_of_an_effect_that_may_be_none() -> None:
    table = evidence.remaining(rows(1.0), rows(0.9, 0, INITIALISED), "hell")
    ranks = table[table.observable == "n_eff"]
    assert (ranks.trained_low < 0).all()
    assert (ranks.trained_high > 0).all()
    assert ranks.fraction.isna().all()
    assert ranks.remaining.notna().all()

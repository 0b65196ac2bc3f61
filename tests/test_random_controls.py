"""Effects of random networks over their draws, where the effect and the variances are planted."""

import numpy as np
import pandas as pd
import pytest
from planted import Plan, planted_rows

from companion.measurement.schemas import INITIALISED, SPECTRUM
from companion.results.effects import changes_without, effects
from companion.results.evidence import (
    SURVIVES,
    UNDECIDED,
    control_effects,
    evidence,
    over_draws,
    readable_remaining,
    remaining,
    verdicts,
)
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
    return over_draws(changes_without("alpha", clean, stressed, SPEAKERS), SPEAKERS)


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
    rng = np.random.default_rng(7)
    table = []
    for i, own in enumerate(rng.uniform(10, 11, len(SPEAKERS))[:utterances]):
        for condition, factor in (("clean", 1.0), ("hell", stressed * (1 + 0.05 * np.sin(i)))):
            for partner in ("", "hell" if condition == "clean" else "clean"):
                for layer in (1, 2):
                    table.append(
                        {"model": "m", "parameters": 1, "component": "ffn", "modes": 10,
                         "utterance": f"u{i}", "speaker": SPEAKERS[i], "condition": condition,
                         "matched_with": partner, "layer": layer, "tokens": 30,
                         "n_eff": own * factor, "alpha": 1.0 / factor, "kirchhoff": 5.0 / factor,
                         "kirchhoff_resolved": 5.0, "null": null, "draw": draw}
                    )  # fmt: skip
    return pd.DataFrame(table)


def test_equal_draws_are_as_one_network_and_one_draw_is_as_before() -> None:
    one = rows(0.8)
    plain = effects(one, "hell")
    single = control_effects(one, "hell")
    pd.testing.assert_frame_equal(single.drop(columns="draws"), plain)
    several = pd.concat([rows(0.8, draw) for draw in range(4)])
    found = control_effects(several, "hell")
    assert found.modes.dtype == single.modes.dtype == int, "tables are named after K"
    assert set(found.draws) == {4}
    for name in ("delta_n_eff", "delta_alpha", "delta_log10_kf"):
        for part in (name, f"{name}_low", f"{name}_high"):
            np.testing.assert_allclose(found[part], plain[part], rtol=1e-9)
    assert found.delta_n_eff_p.isna().all()


def test_utterances_that_not_every_draw_was_fed_do_not_count() -> None:
    """The first draw of plain weights is of all utterances, the others of a sample."""
    sample = [rows(0.7, draw, utterances=10) for draw in (1, 2)]
    found = control_effects(pd.concat([rows(0.7), *sample]), "hell")
    wanted = control_effects(pd.concat([rows(0.7, utterances=10), *sample]), "hell")
    pd.testing.assert_frame_equal(found, wanted)
    assert set(found.delta_n_eff_n) == {10}


def test_what_remains_is_the_trained_effect_less_that_of_the_draws() -> None:
    changes = np.array([0.95, 0.9, 0.85, 0.7])
    null = pd.concat([rows(change, draw, SPECTRUM) for draw, change in enumerate(changes)])
    table = remaining(rows(0.8), null, "hell")
    found = table.set_index(["observable", "length"]).loc[("n_eff", "raw")]
    own = effects(rows(0.8), "hell").delta_n_eff[0]
    by_draw = [effects(rows(x), "hell").delta_n_eff[0] for x in changes]
    assert found.trained == pytest.approx(own)
    assert found.random == pytest.approx(np.mean(by_draw))
    assert found.remaining == pytest.approx(own - np.mean(by_draw))
    assert found.fraction == pytest.approx(np.mean(by_draw) / own)
    assert found.draw_sd == pytest.approx(np.std(by_draw, ddof=1))
    assert (found.draws, found.n, found.as_large, found.control) == (4, 24, 1, SPECTRUM)
    assert found.remaining_low < found.remaining < found.remaining_high
    apart = (found.trained_high - found.trained_low) + (found.random_high - found.random_low)
    assert found.remaining_high - found.remaining_low < apart, "the speakers are the same"
    assert found.remaining_low < own - by_draw[1] < found.remaining_high
    assert "4" in readable_remaining(table).to_markdown()


def test_no_fraction_is_taken_of_an_effect_that_may_be_none() -> None:
    table = remaining(rows(1.0), rows(0.9, 0, INITIALISED), "hell")
    found = table[table.observable == "n_eff"]
    assert (found.trained_low < 0).all()
    assert (found.trained_high > 0).all()
    assert found.fraction.isna().all()
    assert found.remaining.notna().all()


def test_an_effect_that_random_vectors_show_as_well_does_not_survive() -> None:
    measured, null_rows = planted_rows(Plan(steeper=0.1))

    def decided(nulls: pd.DataFrame) -> pd.Series:
        table = evidence(measured, nulls, "hell")
        found = verdicts(table).set_index(["observable", "modes"])
        return found.loc[("n_eff", 50)]

    assert decided(null_rows).verdict == SURVIVES
    alike = [measured.assign(null=SPECTRUM, draw=draw) for draw in range(3)]
    others = null_rows[null_rows.null != SPECTRUM]
    found = decided(pd.concat([others, *alike])[null_rows.columns])
    assert found.verdict == UNDECIDED
    assert found.reason == "not beyond: random vectors, first rows"
    assert decided(others).verdict == SURVIVES, "rows that have no such control"

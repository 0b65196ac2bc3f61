"""Effects planted in synthetic activations are found and attributed, from rows to verdict."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted import Plan, planted_rows

from companion.measurement.schemas import SHUFFLED, SPECTRUM
from companion.results import effects, evidence

PLANS = {
    "rank": Plan(steeper=0.1, layers=1, utterances=4),
    "length": Plan(fewer=14.0, layers=1, utterances=4),
    "nothing": Plan(layers=1, utterances=4),
    "both": Plan(steeper=0.1, fewer=14.0, layers=1, utterances=4),
}
SEEDS = (0, 1)
NULL_CONTROLS = [
    key for key in evidence.CONTROLS if key[0] not in (evidence.MODEL, "shuffled", "forced")
]


Rows = dict[str, tuple[pd.DataFrame, pd.DataFrame]]


@pytest.fixture(scope="module", params=SEEDS)
def rows(request: pytest.FixtureRequest) -> Rows:
    """The rows of every plan and of its nulls, all with the same random numbers."""
    return {name: planted_rows(replace(plan, seed=request.param)) for name, plan in PLANS.items()}


@pytest.fixture(scope="module")
def tables(rows: Rows) -> dict[str, pd.DataFrame]:
    """The evidence on every plan."""
    return {name: evidence.evidence(*pair, "hell") for name, pair in rows.items()}


def decided(table: pd.DataFrame, observable: str, modes: int = 50) -> str:
    decisions = evidence.verdicts(table).set_index(["observable", "modes"])
    return str(decisions.verdict[observable, modes])


def change(table: pd.DataFrame, observable: str, source: str, length: str) -> pd.Series:
    keys = ["observable", "modes", "source", "length"]
    return table.set_index(keys).sort_index().loc[observable, 50, source, length]


def covers(row: pd.Series, value: float) -> bool:
    """Within 99.7 % of it: 36 numbers are looked at."""
    return bool(abs(value - row.change) <= 1.6 * (row.high - row.low) / 2)


def test_a_rank_drop_at_equal_length_survives(tables: dict[str, pd.DataFrame]) -> None:
    for observable in ("n_eff", "alpha", "log10_kf_resolved"):
        assert decided(tables["rank"], observable) == evidence.SURVIVES
        assert decided(tables["rank"], observable, modes=10) == evidence.SURVIVES


def test_a_pure_length_drop_is_explained_by_length(tables: dict[str, pd.DataFrame]) -> None:
    assert change(tables["length"], "n_eff", evidence.MODEL, effects.RAW).high < -2
    assert change(tables["length"], "log10_kf", evidence.MODEL, effects.RAW).low > 0.5
    for observable in ("n_eff", "alpha", "log10_kf"):
        assert decided(tables["length"], observable) == evidence.EXPLAINED


def test_nothing_is_not_found(tables: dict[str, pd.DataFrame]) -> None:
    decisions = evidence.verdicts(tables["nothing"])
    assert (decisions.verdict == evidence.UNDECIDED).all()


def test_of_both_the_drop_survives_and_most_of_the_kirchhoff_jump_does_not(
    tables: dict[str, pd.DataFrame],
) -> None:
    both = tables["both"]
    assert decided(both, "n_eff") == evidence.SURVIVES
    assert decided(both, "log10_kf") == evidence.IN_PART
    raw, cut = (
        change(both, "n_eff", evidence.MODEL, length) for length in (effects.RAW, effects.MATCHED)
    )
    assert raw.high < cut.low, "length adds to the raw drop"


@pytest.mark.parametrize("rows", SEEDS[:1], indirect=True)
def test_an_effect_that_random_vectors_show_as_well_does_not_survive(rows: Rows) -> None:
    measured, nulls = rows["rank"]
    others = nulls[nulls.null != SPECTRUM]
    assert decided(evidence.evidence(measured, others, "hell"), "n_eff") == evidence.SURVIVES
    alike = [measured.assign(null=SPECTRUM, draw=draw) for draw in range(3)]
    every = pd.concat([others, *alike])[nulls.columns]
    table = evidence.verdicts(evidence.evidence(measured, every, "hell"))
    decision = table.set_index(["observable", "modes"]).loc["n_eff", 50]
    assert decision.verdict == evidence.UNDECIDED
    assert decision.reason == "not beyond: random vectors, first rows"


def test_nulls_without_the_law_are_zero_where_lengths_agree(
    tables: dict[str, pd.DataFrame],
) -> None:
    for source, length in NULL_CONTROLS:
        if length == effects.MATCHED:
            for plan in PLANS:
                row = change(tables[plan], "n_eff", source, length)
                assert abs(row.change) < 2.5, (plan, source)


def test_gaussian_rows_move_as_the_lengths_alone_do(tables: dict[str, pd.DataFrame]) -> None:
    for observable in ("n_eff", "log10_kf", "alpha"):
        alone, drawn = (
            change(tables["length"], observable, source, effects.RAW)
            for source in (evidence.MODEL, "gaussian")
        )
        error = np.hypot(alone.high - alone.low, drawn.high - drawn.low) / 2
        assert abs(alone.change - drawn.change) < error, "of either side, 95 %"


@pytest.mark.parametrize("seed", SEEDS)
def test_an_effect_of_first_rows_alone_is_none_of_random_rows(seed: int) -> None:
    """Stress makes texts shorter, and nothing else; rows differ by their place in every text.

    The first rows of the longer, clean text are its early ones alone, those of the stressed text
    all of it: that looks like a fall of rank. As many random rows are of all places on both sides.
    """
    rows, nulls = planted_rows(Plan(fewer=18.0, drift=0.8, seed=seed))
    table = evidence.evidence(rows, nulls, "hell")
    first = change(table, "n_eff", evidence.MODEL, effects.MATCHED)
    random = change(table, "n_eff", SHUFFLED, effects.MATCHED)
    assert first.high < -2
    assert abs(random.change) < 1
    assert random.low > first.high
    assert decided(table, "n_eff") != evidence.SURVIVES
    choices = effects.row_choices(rows, nulls, "hell", modes=50).set_index("rows").delta_n_eff
    assert choices[effects.FIRST_ROWS] == pytest.approx(first.change)
    assert choices[effects.RANDOM_ROWS] == pytest.approx(random.change)


def test_without_a_drift_random_rows_agree_with_first_rows(tables: dict[str, pd.DataFrame]) -> None:
    first, random = (
        change(tables["both"], "n_eff", of, effects.MATCHED) for of in (evidence.MODEL, SHUFFLED)
    )
    assert covers(random, first.change)
    decision = evidence.verdicts(tables["both"]).set_index(["observable", "modes"]).loc["n_eff", 50]
    assert (decision.matched, decision.first_rows) == (random.change, first.change)


@pytest.fixture(scope="module")
def truth() -> dict[str, pd.DataFrame]:
    """The effects of a population: many more speakers than any table has."""
    population = {}
    for name in ("rank", "both"):
        rows, _ = planted_rows(
            replace(PLANS[name], speakers=120, utterances=4, seed=99), nulls=False
        )
        table = effects.effects(rows, "hell")
        population[name] = table[table.modes == 50].set_index("length")
    return population


@pytest.mark.parametrize("plan", ["rank", "both"])
@pytest.mark.parametrize("observable", ["n_eff", "alpha", "log10_kf_resolved"])
def test_the_planted_drop_is_recovered_within_its_interval(
    plan: str, observable: str, tables: dict[str, pd.DataFrame], truth: dict[str, pd.DataFrame]
) -> None:
    for length in (effects.RAW, effects.MATCHED):
        row = change(tables[plan], observable, evidence.MODEL, length)
        assert covers(row, truth[plan][f"delta_{observable}"][length]), length
    if plan == "rank":
        pairs = change(tables[plan], observable, evidence.MODEL, effects.PAIRS)
        assert covers(pairs, truth[plan][f"delta_{observable}"][effects.RAW])

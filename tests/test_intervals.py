"""Intervals that leave out one speaker at a time, and joint ones, by simulated coverage."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from companion.claims.rules import ABOVE, FAILS, HOLDS, UNDECIDED, Part, Statement
from companion.results.intervals import (
    Interval,
    as_table,
    between,
    difference,
    exact,
    interval,
    jackknife,
    joint,
    larger_probability,
    mean,
    mean_over,
    reaches,
    weighted_mean,
)
from companion.results.tables import save_table, speakers_path, with_speakers

ALIKE = (0.0, 0.1, 0.3, 0.8)
"""Intraclass correlations by speaker: of changes under stress 0 to 0.3 in the committed rows of
tiny.en and the ladder, of word errors under noise alone up to 0.8."""
DESIGNS = {16: np.repeat(np.arange(16), 4), 51: np.repeat(np.arange(51), 1 + np.arange(51) % 15)}
"""Speakers of utterances as in the ladder's corpus, and about as in LibriSpeech's."""
T15 = 2.131450


def simulated(speakers: np.ndarray, alike: float, rng: np.random.Generator) -> np.ndarray:
    """Values of variance one and mean zero, by this much the speaker's."""
    own = rng.normal(0, math.sqrt(alike), speakers.max() + 1)[speakers]
    return np.asarray(own + rng.normal(0, math.sqrt(1 - alike), len(speakers)))


def of_mean(values: np.ndarray, speakers: np.ndarray) -> Interval:
    return interval(lambda weights: weighted_mean(weights, values), speakers.astype(str))


def covers(found: Interval, truth: float = 0.0) -> bool:
    return found.low <= truth <= found.high


@pytest.mark.parametrize("count", DESIGNS)
@pytest.mark.parametrize("alike", ALIKE)
def test_ninety_five_of_a_hundred_intervals_cover(count: int, alike: float) -> None:
    rng, speakers = np.random.default_rng(count), DESIGNS[count]
    found = [covers(of_mean(simulated(speakers, alike, rng), speakers)) for _ in range(800)]
    assert 0.93 <= np.mean(found) <= 0.97


def test_a_two_stage_bootstrap_covers_too_often() -> None:
    """Voices, then their utterances: the variance within speakers counts twice."""
    rng, speakers = np.random.default_rng(0), DESIGNS[16]
    covered = []
    for _ in range(1000):
        values = simulated(speakers, 0.0, rng).reshape(16, 4)
        drawn = values[rng.integers(16, size=(300, 16))]
        again = np.take_along_axis(drawn, rng.integers(4, size=drawn.shape), axis=2)
        low, high = np.quantile(again.mean((1, 2)), [0.025, 0.975])
        covered.append(low <= 0 <= high)
    assert np.mean(covered) > 0.97


def test_of_equal_speakers_it_is_students_interval_of_their_means() -> None:
    values = np.random.default_rng(0).normal(size=64)
    found = of_mean(values, DESIGNS[16])
    error = values.reshape(16, 4).mean(1).std(ddof=1) / 4
    assert found.high - found.estimate == pytest.approx(T15 * error)
    assert sum(d**2 for d in found.deviations.values()) == pytest.approx(error**2)
    columns = np.column_stack([values, values**2, np.full(64, 2.0)])
    left = weighted_mean(np.vstack([np.ones(64), np.arange(16)[:, None] != DESIGNS[16]]), columns)
    assert reaches(left)[[0, 2]] == pytest.approx([T15 * error, 0])


def test_speakers_without_a_value_do_not_count() -> None:
    values = np.random.default_rng(0).normal(size=64)
    few = np.where(DESIGNS[16] < 5, values, np.nan)
    known = of_mean(values[:20], DESIGNS[16][:20])
    found = of_mean(few, DESIGNS[16])
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    for without in ([1.0, 1.5], [1.0, math.nan, 2.0, 3.0]):
        assert math.isnan(jackknife(np.array(without), ["a", "b", "c"][: len(without) - 1]).low)


def test_pairs_are_left_out_with_either_end() -> None:
    """Of speakers in a ring, values of a pair being the sum of its ends: the variance is theirs."""
    rng, covered = np.random.default_rng(0), []
    ends = np.stack([np.arange(16), (np.arange(16) + 1) % 16], axis=1)
    one_side = []
    for _ in range(1000):
        own = rng.normal(size=16)
        values = own[ends].sum(1)
        covered.append(covers(of_mean(values, ends)))
        one_side.append(covers(of_mean(values, ends[:, 0])))
    assert np.mean(covered) >= 0.93
    assert np.mean(one_side) < 0.9


def test_shares_stay_within_their_bounds_and_none_of_them_is_exact() -> None:
    speakers, ones = DESIGNS[16].astype(str), np.ones(64)
    none, every = (mean_over(x * ones, speakers, 100) for x in (0, 100))
    assert (none.low, none.high) == (0, exact(0, 64).high)
    assert none.high == pytest.approx(100 * (1 - 0.025 ** (1 / 64)))  # Clopper and Pearson's
    assert (every.low, every.high) == (100 - none.high, 100)
    rng, covered = np.random.default_rng(0), []
    for _ in range(1500):
        found = mean_over(100 * (rng.random(64) < 0.15), speakers, 100)
        assert 0 <= found.low <= found.high <= 100
        covered.append(covers(found, 15.0))
    assert 0.93 <= np.mean(covered) <= 0.98


def test_an_auc_of_one_has_an_exact_interval() -> None:
    group = np.arange(64) % 2 == 0
    found = interval(lambda w: larger_probability(w, 1.0 * group, group), DESIGNS[16], 1.0, 32)
    assert found.high == 1
    assert found.low == pytest.approx(0.025 ** (1 / 32))


# --- several numbers of the same speakers --------------------------------------------------------


def crossed(
    networks: int, tau: float, alike: float, rng: np.random.Generator, effect: float = 0.0
) -> list[Interval]:
    """Numbers of standard error one, ``alike`` the part that every network shares by speaker."""
    own = rng.normal(0, math.sqrt(alike), 16) + rng.normal(0, math.sqrt(1 - alike), (networks, 16))
    values = effect + rng.normal(0, tau, (networks, 1)) + 4 * own
    return [of_mean(row, np.arange(16)) for row in values]


def test_a_difference_is_that_of_the_same_speakers() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 16))
    names = np.arange(16)
    found = difference(of_mean(one + other, names), of_mean(other, names))
    own = of_mean(one, names)
    assert (found.estimate, found.high) == pytest.approx((own.estimate, own.high))
    middle = mean([of_mean(one, names), of_mean(other, names)])
    assert middle.high == pytest.approx(of_mean((one + other) / 2, names).high)
    ends = difference(Interval(5, 2, 8), Interval(1, -3, 5))  # as if independent: 3, 4 -> 5
    assert (ends.low, ends.high) == (-1, 9)


@pytest.mark.parametrize("networks", [2, 3, 6])
@pytest.mark.parametrize("tau", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_joint_intervals_cover_whatever_networks_share(
    networks: int, tau: float, alike: float
) -> None:
    rng = np.random.default_rng(0)
    found = [covers(joint(crossed(networks, tau, alike, rng)).interval) for _ in range(500)]
    assert np.mean(found) >= 0.92
    if networks >= 6:
        assert np.mean(found) <= 0.995


@pytest.mark.parametrize("networks", [2, 6])
def test_estimates_that_lie_close_by_chance_narrow_nothing(networks: int) -> None:
    rows = np.random.default_rng(0).normal(size=(networks, 16))
    names = np.arange(16)
    alone = [of_mean(row - row.mean(), names) for row in rows]  # all of them exactly 0
    found = joint(alone).interval
    sampled = mean(alone)
    assert found.high >= 0.95 * sampled.high, "no narrower than what speakers alone make of it"


def test_the_heterogeneity_is_what_was_planted() -> None:
    rng = np.random.default_rng(0)
    for tau in (0.0, 3.0):
        found = [joint(crossed(8, tau, 0.5, rng)) for _ in range(150)]
        assert np.mean([one.tau**2 for one in found]) == pytest.approx(tau**2, abs=0.9)
        drawn = [covers(one.predicted, rng.normal(0, tau)) for one in found]
        assert np.mean(drawn) >= 0.92


def part(found: list[Interval], expected: float = 1.0) -> Part:
    """A part of so many models of as many sizes."""
    statements = [Statement(f"m{i}", one, ABOVE, 0.0) for i, one in enumerate(found)]
    return Part("it rises", "table", statements, expected)


def ends_alone(found: list[Interval]) -> list[Interval]:
    return [Interval(one.estimate, one.low, one.high) for one in found]


def test_what_votes_miss_is_found_jointly_where_errors_are_of_each_model() -> None:
    """0.3 standard errors in each of 200 models; not where all of the error may be shared."""
    rng = np.random.default_rng(0)
    found = [crossed(200, 0.0, 0.0, rng, 0.3) for _ in range(8)]
    parts, blind = ([part(f(one)) for one in found] for f in (list, ends_alone))
    assert np.mean([one.verdict == HOLDS for one in parts]) > 0.9
    assert all(one.by_votes == UNDECIDED for one in parts)
    assert all(one.verdict == UNDECIDED for one in blind), "nobody knows what they share"
    assert np.mean([one.power for one in blind]) < 0.3
    shared = [part(crossed(200, 0.0, 1.0, rng, 0.3)) for _ in range(8)]
    assert np.mean([one.verdict == HOLDS for one in shared]) < 0.3, "200 models, 16 speakers"


def test_of_no_effect_few_parts_decide_though_networks_differ() -> None:
    rng = np.random.default_rng(1)
    found = [part(crossed(6, 3.0, 0.5, rng)).verdict for _ in range(200)]
    assert found.count(HOLDS) <= 0.05 * 200
    assert found.count(FAILS) <= 0.05 * 200


def test_seeds_of_one_size_do_not_count_as_sizes() -> None:
    rng = np.random.default_rng(2)
    held = []
    for _ in range(100):
        sizes = rng.normal(0, 3, 4)
        statements = [
            Statement(f"s{i}-{seed}", of_mean(size + rng.normal(size=16), np.arange(16)), ABOVE, 0)
            for i, size in enumerate(sizes)
            for seed in range(4)
        ]
        one = Part("it rises", "table", statements, 1.0)
        assert one.joint.networks == 4
        held.append(one.verdict == HOLDS)
    assert np.mean(held) < 0.06


def test_zero_counts_of_every_model_decide_nothing_and_keep_their_interval() -> None:
    none = exact(0, 64)
    found = part([none] * 6, expected=20.0)
    assert (found.joint.interval.low, found.joint.interval.high) == pytest.approx((0, none.high))
    assert found.verdict == UNDECIDED
    assert found.power > 0.99
    some = of_mean(5 + np.random.default_rng(0).normal(size=16), np.arange(16))
    mixed = joint([none, some, some]).interval
    assert mixed.low < 0 < mixed.high, "the widest, where one is known by its ends alone"


def test_networks_without_an_interval_are_left_out() -> None:
    known = crossed(3, 1.0, 0.5, np.random.default_rng(0))
    lost = Interval(100.0, math.nan, math.nan)
    assert part([*known, lost]).joint == part(known).joint
    assert part([lost]).verdict == UNDECIDED


def test_power_is_how_often_the_claim_would_hold() -> None:
    rng = np.random.default_rng(0)
    found = [part(crossed(6, 1.0, 0.5, rng, 2.5), expected=2.5) for _ in range(200)]
    held = np.mean([one.verdict == HOLDS for one in found])
    assert np.mean([one.power for one in found]) == pytest.approx(held, abs=0.1)


def test_a_contrast_of_sizes_holds_what_seeds_differ_by() -> None:
    rng, covered, narrow = np.random.default_rng(0), [], []
    for _ in range(200):
        speakers = 4 * rng.normal(size=16)
        sizes = {
            size: [of_mean(rng.normal(0, 2) + speakers, np.arange(16)) for _ in range(seeds)]
            for size, seeds in (("xs", 4), ("m", 2), ("l", 2))
        }
        covered.append(covers(between(sizes, "l", "m")))
        narrow.append(covers(difference(mean(sizes["l"]), mean(sizes["m"]))))
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(narrow) < 0.2, "of these networks alone"
    single = {"a": [Interval(1, 0, 2)], "b": [Interval(2, 1, 3)]}
    assert math.isnan(between(single, "a", "b").low)


def test_what_speakers_contribute_is_saved_beside_a_table(tmp_path: Path) -> None:
    found = [of_mean(np.random.default_rng(i).normal(size=16), np.arange(16)) for i in range(3)]
    table = as_table({"model": "m", "x": number} for number in found)
    table.loc[1, "x_speakers"] = Interval(float(table.x[1]), 0, 0)
    save_table(table, table[["x"]], tmp_path, "t")
    path = tmp_path / "t.csv"
    plain = pd.read_csv(path)
    assert list(plain) == ["model", "x", "x_low", "x_high"]
    again = with_speakers(plain, speakers_path(path))
    assert again.x_speakers[0].deviations == pytest.approx(found[0].deviations)
    assert not isinstance(again.x_speakers[1], Interval), "only its ends are known"
    other = with_speakers(plain.assign(x=plain.x + 1), speakers_path(path))
    assert "x_speakers" not in other, "of another version of the table"

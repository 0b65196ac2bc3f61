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
SINGLE = np.arange(16)
"""Speakers of one value each."""
T15 = 2.131450


def simulated(speakers: np.ndarray, alike: float, rng: np.random.Generator) -> np.ndarray:
    """Values of variance one and mean zero, by this much the speaker's."""
    by_speaker = rng.normal(0, math.sqrt(alike), speakers.max() + 1)[speakers]
    return np.asarray(by_speaker + rng.normal(0, math.sqrt(1 - alike), len(speakers)))


def of_mean(values: np.ndarray, speakers: np.ndarray) -> Interval:
    return interval(lambda weights: weighted_mean(weights, values), speakers.astype(str))


def covers(estimate: Interval, truth: float = 0.0) -> bool:
    return estimate.low <= truth <= estimate.high


@pytest.mark.parametrize("count", DESIGNS)
@pytest.mark.parametrize("alike", ALIKE)
def test_ninety_five_of_a_hundred_intervals_cover(count: int, alike: float) -> None:
    rng, speakers = np.random.default_rng(count), DESIGNS[count]
    covered = [covers(of_mean(simulated(speakers, alike, rng), speakers)) for _ in range(800)]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_a_two_stage_bootstrap_covers_too_often() -> None:
    """Speakers, then their utterances: the variance within speakers counts twice."""
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
    estimate = of_mean(values, DESIGNS[16])
    error = values.reshape(16, 4).mean(1).std(ddof=1) / 4
    assert estimate.high - estimate.estimate == pytest.approx(T15 * error)
    assert sum(d**2 for d in estimate.deviations.values()) == pytest.approx(error**2)
    columns = np.column_stack([values, values**2, np.full(64, 2.0)])
    left = weighted_mean(np.vstack([np.ones(64), np.arange(16)[:, None] != DESIGNS[16]]), columns)
    assert reaches(left)[[0, 2]] == pytest.approx([T15 * error, 0])


def test_speakers_without_a_value_do_not_count() -> None:
    values = np.random.default_rng(0).normal(size=64)
    few = np.where(DESIGNS[16] < 5, values, np.nan)
    expected = of_mean(values[:20], DESIGNS[16][:20])
    actual = of_mean(few, DESIGNS[16])
    assert (actual.low, actual.high) == pytest.approx((expected.low, expected.high))
    for without in ([1.0, 1.5], [1.0, math.nan, 2.0, 3.0]):
        assert math.isnan(jackknife(np.array(without), ["a", "b", "c"][: len(without) - 1]).low)


def test_pairs_are_left_out_with_either_end() -> None:
    """Of speakers in a ring, values of a pair being the sum of its ends: the variance is theirs."""
    rng, covered, one_side = np.random.default_rng(0), [], []
    ends = np.stack([SINGLE, (SINGLE + 1) % 16], axis=1)
    for _ in range(1000):
        by_speaker = rng.normal(size=16)
        values = by_speaker[ends].sum(1)
        covered.append(covers(of_mean(values, ends)))
        one_side.append(covers(of_mean(values, ends[:, 0])))
    assert np.mean(covered) >= 0.93
    assert np.mean(one_side) < 0.9


def test_fractions_stay_within_their_bounds_and_none_of_them_is_exact() -> None:
    speakers, ones = DESIGNS[16].astype(str), np.ones(64)
    none, every = (mean_over(x * ones, speakers, 100) for x in (0, 100))
    assert (none.low, none.high) == (0, exact(0, 64).high)
    assert none.high == pytest.approx(100 * (1 - 0.025 ** (1 / 64)))  # Clopper and Pearson's
    assert (every.low, every.high) == (100 - none.high, 100)
    rng, covered = np.random.default_rng(0), []
    for _ in range(1500):
        estimate = mean_over(100 * (rng.random(64) < 0.15), speakers, 100)
        assert 0 <= estimate.low <= estimate.high <= 100
        covered.append(covers(estimate, 15.0))
    assert 0.93 <= np.mean(covered) <= 0.98


def test_an_auc_of_one_has_an_exact_interval() -> None:
    group = np.arange(64) % 2 == 0
    auc = interval(lambda w: larger_probability(w, 1.0 * group, group), DESIGNS[16], 1.0, 32)
    assert auc.high == 1
    assert auc.low == pytest.approx(0.025 ** (1 / 32))


# --- several numbers of the same speakers --------------------------------------------------------


def crossed(
    networks: int, tau: float, alike: float, rng: np.random.Generator, effect: float = 0.0
) -> list[Interval]:
    """Numbers of standard error one, ``alike`` the part that every network shares by speaker."""
    errors = rng.normal(0, math.sqrt(alike), 16) + rng.normal(
        0, math.sqrt(1 - alike), (networks, 16)
    )
    values = effect + rng.normal(0, tau, (networks, 1)) + 4 * errors
    return [of_mean(row, SINGLE) for row in values]


def test_a_difference_is_that_of_the_same_speakers() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 16))
    paired = difference(of_mean(first + second, SINGLE), of_mean(second, SINGLE))
    expected = of_mean(first, SINGLE)
    assert (paired.estimate, paired.high) == pytest.approx((expected.estimate, expected.high))
    middle = mean([of_mean(first, SINGLE), of_mean(second, SINGLE)])
    assert middle.high == pytest.approx(of_mean((first + second) / 2, SINGLE).high)
    ends = difference(Interval(5, 2, 8), Interval(1, -3, 5))  # as if independent: 3, 4 -> 5
    assert (ends.low, ends.high) == (-1, 9)


@pytest.mark.parametrize("networks", [2, 3, 6])
@pytest.mark.parametrize("tau", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_joint_intervals_cover_whatever_networks_share(
    networks: int, tau: float, alike: float
) -> None:
    rng = np.random.default_rng(0)
    covered = [covers(joint(crossed(networks, tau, alike, rng)).interval) for _ in range(500)]
    assert np.mean(covered) >= 0.92
    if networks >= 6:
        assert np.mean(covered) <= 0.995


@pytest.mark.parametrize("networks", [2, 6])
def test_estimates_that_lie_close_by_chance_narrow_nothing(networks: int) -> None:
    rows = np.random.default_rng(0).normal(size=(networks, 16))
    alone = [of_mean(row - row.mean(), SINGLE) for row in rows]  # all of them exactly 0
    estimate = joint(alone).interval
    sampled = mean(alone)
    assert estimate.high >= 0.95 * sampled.high, "no narrower than what speakers alone make of it"


def test_the_heterogeneity_is_what_was_planted() -> None:
    rng = np.random.default_rng(0)
    for tau in (0.0, 3.0):
        estimates = [joint(crossed(8, tau, 0.5, rng)) for _ in range(150)]
        assert np.mean([estimate.tau**2 for estimate in estimates]) == pytest.approx(
            tau**2, abs=0.9
        )
        drawn = [covers(estimate.predicted, rng.normal(0, tau)) for estimate in estimates]
        assert np.mean(drawn) >= 0.92


def part(intervals: list[Interval], expected: float = 1.0) -> Part:
    """A part of so many models of as many sizes."""
    statements = [Statement(f"m{i}", estimate, ABOVE, 0.0) for i, estimate in enumerate(intervals)]
    return Part("it rises", "table", statements, expected)


def test_what_votes_miss_is_found_jointly_where_errors_are_of_each_model() -> None:
    """0.3 standard errors in each of 200 models; not where all of the error may be shared."""
    rng = np.random.default_rng(0)
    samples = [crossed(200, 0.0, 0.0, rng, 0.3) for _ in range(8)]
    parts = [part(sample) for sample in samples]
    ends_alone = [[Interval(x.estimate, x.low, x.high) for x in sample] for sample in samples]
    blind = [part(sample) for sample in ends_alone]
    assert np.mean([weighed.verdict == HOLDS for weighed in parts]) > 0.9
    assert all(weighed.by_votes == UNDECIDED for weighed in parts)
    assert all(weighed.verdict == UNDECIDED for weighed in blind), "nobody knows what they share"
    assert np.mean([weighed.power for weighed in blind]) < 0.3
    shared = [part(crossed(200, 0.0, 1.0, rng, 0.3)) for _ in range(8)]
    held = [weighed.verdict == HOLDS for weighed in shared]
    assert np.mean(held) < 0.3, "200 models, 16 speakers"


def test_of_no_effect_few_parts_decide_though_networks_differ() -> None:
    rng = np.random.default_rng(1)
    verdicts = [part(crossed(6, 3.0, 0.5, rng)).verdict for _ in range(200)]
    assert verdicts.count(HOLDS) <= 0.05 * 200
    assert verdicts.count(FAILS) <= 0.05 * 200


def test_seeds_of_one_size_do_not_count_as_sizes() -> None:
    rng = np.random.default_rng(2)
    held = []
    for _ in range(100):
        sizes = rng.normal(0, 3, 4)
        statements = [
            Statement(f"s{i}-{seed}", of_mean(size + rng.normal(size=16), SINGLE), ABOVE, 0)
            for i, size in enumerate(sizes)
            for seed in range(4)
        ]
        weighed = Part("it rises", "table", statements, 1.0)
        assert weighed.joint.networks == 4
        held.append(weighed.verdict == HOLDS)
    assert np.mean(held) < 0.06


def test_zero_counts_of_every_model_decide_nothing_and_keep_their_interval() -> None:
    none = exact(0, 64)
    weighed = part([none] * 6, expected=20.0)
    assert (weighed.joint.interval.low, weighed.joint.interval.high) == pytest.approx(
        (0, none.high)
    )
    assert weighed.verdict == UNDECIDED
    assert weighed.power > 0.99
    known = of_mean(5 + np.random.default_rng(0).normal(size=16), SINGLE)
    mixed = joint([none, known, known]).interval
    assert mixed.low < 0 < mixed.high, "the widest, where one is known by its ends alone"


def test_networks_without_an_interval_are_left_out() -> None:
    known = crossed(3, 1.0, 0.5, np.random.default_rng(0))
    lost = Interval(100.0, math.nan, math.nan)
    assert part([*known, lost]).joint == part(known).joint
    assert part([lost]).verdict == UNDECIDED


def test_power_is_how_often_the_claim_would_hold() -> None:
    rng = np.random.default_rng(0)
    parts = [part(crossed(6, 1.0, 0.5, rng, 2.5), expected=2.5) for _ in range(200)]
    held = np.mean([weighed.verdict == HOLDS for weighed in parts])
    assert np.mean([weighed.power for weighed in parts]) == pytest.approx(held, abs=0.1)


def test_a_contrast_of_sizes_holds_what_seeds_differ_by() -> None:
    rng, covered, narrow = np.random.default_rng(0), [], []
    for _ in range(200):
        speakers = 4 * rng.normal(size=16)
        sizes = {
            size: [of_mean(rng.normal(0, 2) + speakers, SINGLE) for _ in range(seeds)]
            for size, seeds in (("xs", 4), ("m", 2), ("l", 2))
        }
        covered.append(covers(between(sizes, "l", "m")))
        narrow.append(covers(difference(mean(sizes["l"]), mean(sizes["m"]))))
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(narrow) < 0.2, "of these networks alone"
    single = {"a": [Interval(1, 0, 2)], "b": [Interval(2, 1, 3)]}
    assert math.isnan(between(single, "a", "b").low)


def test_what_speakers_contribute_is_saved_beside_a_table(tmp_path: Path) -> None:
    intervals = [of_mean(np.random.default_rng(i).normal(size=16), SINGLE) for i in range(3)]
    table = as_table({"model": "m", "x": estimate} for estimate in intervals)
    table.loc[1, "x_speakers"] = Interval(float(table.x[1]), 0, 0)
    save_table(table, table[["x"]], tmp_path, "t")
    path = tmp_path / "t.csv"
    plain = pd.read_csv(path)
    assert list(plain) == ["model", "x", "x_low", "x_high"]
    again = with_speakers(plain, speakers_path(path))
    assert again.x_speakers[0].deviations == pytest.approx(intervals[0].deviations)
    assert not isinstance(again.x_speakers[1], Interval), "only its ends are known"
    other = with_speakers(plain.assign(x=plain.x + 1), speakers_path(path))
    assert "x_speakers" not in other, "of another version of the table"

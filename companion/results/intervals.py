"""Intervals by leaving out one speaker at a time, and joint ones of networks of the same speakers.

Utterances of a speaker are not independent, speakers are: a statistic is taken again without each
of them, and the spread of these values gives its standard error (jackknife; Efron & Stein 1981).
Student's t with one degree of freedom less than there are speakers makes a 95 % interval of it
(cluster-t; Cameron & Miller 2015, sec. VI). Nothing is drawn, so nothing hangs on a seed. Beside it
two statistics of weighted utterances, and the permutation test of paired ones.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
_ROUNDING = 1e-10


@dataclass(frozen=True)
class Interval:
    """An estimate, its 95 % interval, and the speakers' parts in it.

    The squares of the ``deviations`` sum to the jackknife's variance, and their products, speaker
    by speaker, to the covariance with another number of the same speakers. Without them only the
    ends are known. ``besides`` is the square of what else is in half the interval, as of networks
    drawn at random.
    """

    estimate: float
    low: float
    high: float
    deviations: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)
    besides: float = field(default=0.0, compare=False, repr=False)


NOTHING = Interval(math.nan, math.nan, math.nan)
Columns = dict[str, Any]
Values: TypeAlias = pd.Series | pd.Index | np.ndarray


def as_table(rows: Iterable[Columns]) -> pd.DataFrame:
    """Rows as a table.

    An ``Interval`` is the columns name, name_low and name_high, and name_speakers: all of it.
    """
    made: list[Columns] = []
    for row in rows:
        cells: Columns = {}
        for name, value in row.items():
            cells[name] = value
            if isinstance(value, Interval):
                cells |= {name: value.estimate, f"{name}_low": value.low}
                cells |= {f"{name}_high": value.high, f"{name}_speakers": value}
        made.append(cells)
    return pd.DataFrame(made)


def rows_by(
    table: pd.DataFrame, keys: Sequence[str], describe: Callable[[pd.DataFrame], Columns]
) -> pd.DataFrame:
    """A row per group of ``keys``, in their order: the keys, and what ``describe`` makes of it."""
    return as_table(key | describe(group) for key, group in groups_by(table, keys))


def groups_by(table: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[Columns, pd.DataFrame]]:
    """The groups of ``keys``, in their order, each with the values of its keys by name."""
    for values, group in table.groupby(list(keys), sort=True):
        yield dict(zip(keys, values, strict=True)), group


def side(number: Interval) -> int:
    """1 above zero, -1 below, 0 where the interval covers it."""
    return int(number.low > 0) - int(number.high < 0)


def deletions(speakers: np.ndarray) -> np.ndarray:
    """Weights of utterances: speakers (utterances,) -> (speakers + 1, utterances).

    Row 0 is the data itself, every utterance once; each other row leaves out one speaker, in the
    order of ``np.unique``. Of pairs, speakers (pairs, 2), it leaves out those with either end.
    """
    ends = np.asarray(speakers).reshape(len(speakers), -1)
    kept = (ends != np.unique(ends)[:, None, None]).all(2)
    return np.vstack([np.ones(len(ends)), kept.astype(float)])


def interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    speakers: np.ndarray,
    bounded: float = 0.0,
    total: int = 0,
) -> Interval:
    """``jackknife`` of a statistic of weighted utterances: weights (rows, utterances) -> (rows,).

    Pairs of utterances are left out with a speaker at either end, as the jackknife of U statistics
    asks (Arvesen 1969): speakers are then (pairs, 2). It errs on the safe side, for what is a
    pair's own counts at both ends.
    """
    return jackknife(statistic(deletions(speakers)), np.unique(speakers), bounded, total)


def jackknife(
    values: np.ndarray, speakers: Sequence[str] | np.ndarray, bounded: float = 0.0, total: int = 0
) -> Interval:
    """The interval of values (speakers + 1,), that of all first, then without each speaker.

    A speaker who changes nothing, having no value, does not count. The interval is NaN where a
    value is, and where fewer than two speakers count, but for a number that none changes, which is
    its own interval. A number between 0 and ``bounded``, such as an AUC or a fraction in %, has its
    interval made on the scale of arcsin sqrt, which does not leave these bounds (Anscombe 1948);
    where no speaker changes it, being 0 or all, it is ``exact``, of ``total`` independent units.
    Statistics must be smooth in the weights: means, their ratios, ranks of spectra, no medians.
    """
    estimate, without = float(values[0]), np.asarray(values[1:], float)
    if not np.isfinite(values).all():
        return Interval(estimate, math.nan, math.nan)
    counts = _counting(np.asarray(values)[:, None])[:, 0]
    if not counts.any():
        if total:
            ends = exact(round(estimate / bounded * total), total)
            return Interval(estimate, bounded / 100 * ends.low, bounded / 100 * ends.high)
        return Interval(estimate, estimate, estimate, dict.fromkeys(map(str, speakers), 0.0))
    if counts.sum() < 2:
        return Interval(estimate, math.nan, math.nan)
    without = without[counts]
    names = np.array(speakers)[counts].tolist()
    deviations = dict(zip(names, _deviations(without).tolist(), strict=True))
    if not bounded:
        return _student(estimate, deviations)
    middle, scaled = (np.arcsin(np.sqrt(np.clip(x / bounded, 0, 1))) for x in (estimate, without))
    reach = _t(len(without) - 1) * math.sqrt(np.square(_deviations(scaled)).sum())
    low, high = bounded * np.sin(np.clip([middle - reach, middle + reach], 0, math.pi / 2)) ** 2
    return Interval(estimate, float(low), float(high), deviations)


def reaches(values: np.ndarray) -> np.ndarray:
    """Half the interval of ``jackknife``: values (speakers + 1, columns) -> (columns,)."""
    counts = _counting(values)
    number = counts.sum(0)
    without = np.where(counts, values[1:], 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        away = np.where(counts, without - without.sum(0) / number, 0.0)
        spread = np.sqrt((number - 1) / number * np.square(away).sum(0))
        reach = stats.t.ppf((1 + LEVEL) / 2, number - 1) * spread
    known = np.isfinite(values).all(0)
    return np.where(known & (number == 0), 0.0, np.where(known & (number > 1), reach, np.nan))


def _counting(values: np.ndarray) -> np.ndarray:
    """Which speakers change a value by more than rounding: (speakers, columns)."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(values[1:] - values[0]) > _ROUNDING * np.abs(values).max(0))


def _student(estimate: float, deviations: Mapping[str, float], besides: float = 0.0) -> Interval:
    """An estimate with Student's interval, from each speaker's part in it."""
    spread = float(np.square(list(deviations.values())).sum())
    reach = math.hypot(_t(len(deviations) - 1) * math.sqrt(spread), math.sqrt(besides))
    return Interval(estimate, estimate - reach, estimate + reach, deviations, besides)


def _deviations(without: np.ndarray) -> np.ndarray:
    count = len(without)
    return np.asarray(math.sqrt((count - 1) / count) * (without - without.mean()))


@lru_cache(maxsize=256)
def _t(freedom: float) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def ratio_over(parts: Values, wholes: Values, speakers: Values, bounded: float = 0.0) -> Interval:
    """The sum of parts (utterances,) by that of wholes; a fraction is ``bounded`` by 1 or by 100.

    Where none or all of a fraction is counted, the exact interval takes utterances as independent.
    """
    over, under = np.asarray(parts, float), np.asarray(wholes, float)
    total = int(np.count_nonzero(under)) if bounded else 0
    return interval(lambda weights: ratio(weights, over, under), np.array(speakers), bounded, total)


def mean_over(values: Values, speakers: Values, bounded: float = 0.0) -> Interval:
    """The mean of values (utterances,), those that are not finite left out; as ``ratio_over``."""
    finite = np.isfinite(np.asarray(values, float))
    return ratio_over(np.where(finite, values, 0.0), finite, speakers, bounded)


def exact(count: int, total: int) -> Interval:
    """A fraction in %, with the exact interval of Clopper and Pearson (1934)."""
    ends = stats.binomtest(count, total).proportion_ci(LEVEL, method="exact")
    return Interval(100 * count / total, 100 * float(ends.low), 100 * float(ends.high))


def ratio(weights: np.ndarray, parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Weighted sums by weighted sums: weights (rows, utterances) -> (rows,), NaN of nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((weights @ parts) / (weights @ wholes))


def weighted_mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means over utterances, those that are not finite left out.

    weights (rows, utterances); values (utterances,) or (utterances, columns), so (rows,) or
    (rows, columns).
    """
    finite = np.isfinite(values)
    return ratio(weights, np.where(finite, values, 0.0), finite)


def difference(first: Interval, other: Interval) -> Interval:
    """``first`` minus ``other``, numbers of the same speakers: speaker by speaker.

    Where only their ends are known, from these, as if of other speakers (Zou & Donner 2008), which
    errs on the safe side where they vary together.
    """
    estimate = first.estimate - other.estimate
    if first.deviations and other.deviations:
        away = np.subtract(*_matrix([first, other]).T)
        return _with(estimate, away, [first, other], first.besides + other.besides)
    low = math.hypot(first.estimate - first.low, other.high - other.estimate)
    high = math.hypot(first.high - first.estimate, other.estimate - other.low)
    return Interval(estimate, estimate - low, estimate + high)


def mean(numbers: Sequence[Interval]) -> Interval:
    """The mean of numbers of the same speakers: speaker by speaker.

    Where only their ends are known, the mean of these: the interval of numbers that vary together.
    """
    if all(number.deviations for number in numbers):
        estimate = float(np.mean([number.estimate for number in numbers]))
        besides = float(np.mean([number.besides for number in numbers]))
        return _with(estimate, _matrix(numbers).mean(1), numbers, besides)
    ends = np.mean([[number.estimate, number.low, number.high] for number in numbers], axis=0)
    return Interval(float(ends[0]), float(ends[1]), float(ends[2]))


def scaled(number: Interval, factor: float) -> Interval:
    """A number times a positive factor."""
    deviations = {name: factor * part for name, part in number.deviations.items()}
    estimate, low, high = (factor * x for x in (number.estimate, number.low, number.high))
    return Interval(estimate, low, high, deviations, factor**2 * number.besides)


def complement(number: Interval) -> Interval:
    """One minus a number, as of an AUC for the smaller values instead of the larger."""
    deviations = {name: -part for name, part in number.deviations.items()}
    ends = 1 - number.estimate, 1 - number.high, 1 - number.low
    return Interval(*ends, deviations, number.besides)


def _names(numbers: Sequence[Interval]) -> list[str]:
    return sorted(set().union(*(number.deviations for number in numbers)))


def _matrix(numbers: Sequence[Interval]) -> np.ndarray:
    """Deviations (speakers, numbers); 0 of speakers who do not count in one."""
    return np.array(
        [[number.deviations.get(name, 0.0) for number in numbers] for name in _names(numbers)]
    )


def _with(
    estimate: float, deviations: np.ndarray, numbers: Sequence[Interval], besides: float
) -> Interval:
    parts = dict(zip(_names(numbers), deviations.tolist(), strict=True))
    return _student(estimate, parts, besides)


@dataclass(frozen=True)
class Joint:
    """What several networks say together: their mean, and how far they differ."""

    interval: Interval
    error: float  # standard error of the mean
    networks: int
    tau: float  # standard deviation between networks, beyond what speakers make of it
    predicted: Interval  # where one more network would lie


def joint(numbers: Sequence[Interval]) -> Joint:
    """The mean over networks of numbers of the same speakers, networks and speakers being crossed.

    Of M networks the mean varies by s^2 / M + c: s^2 is the variance of their estimates, c the mean
    covariance between two networks over the speakers that both were given (Owen 2007, with an
    unbiased estimate of each part). Half the interval is sqrt(t_M^2 s^2 / M + t_V^2 c), each part
    with Student's t of its own degrees of freedom, M - 1 and speakers - 1, which covers 95 % or
    more down to two networks. Estimates that lie closer together than speakers make them by chance
    narrow nothing: the first part is at least t_V^2 v / M, where v is their mean sampling variance
    beyond c (as Knapp & Hartung 2003 bound theirs). Where the deviations of one are not known, all
    are taken to vary together, which is the widest that it can be. tau^2 is s^2 less what of it is
    sampling (moments; DerSimonian & Laird 1986). One network has its own interval.
    """
    count, normal = len(numbers), _t(math.inf)
    if count == 1:
        error = (numbers[0].high - numbers[0].low) / 2 / normal
        return Joint(numbers[0], error, 1, math.nan, NOTHING)
    together = mean(numbers)
    estimate, besides = together.estimate, together.besides
    low = float(np.mean([number.estimate - number.low for number in numbers]))
    high = float(np.mean([number.high - number.estimate for number in numbers]))
    shared, sampling, floor = ((low + high) / 2 / normal) ** 2, 0.0, 0.0
    if all(number.deviations for number in numbers):
        matrix = _matrix(numbers)
        single = float(np.square(matrix).sum() / count)
        shared = (count * float(np.square(matrix.mean(1)).sum()) - single) / (count - 1)
        shared = max(shared, 0.0)
        sampling = max(single - shared, 0.0)
        low = high = math.sqrt(_t(len(matrix) - 1) ** 2 * shared + besides)
        floor = _t(len(matrix) - 1) * math.sqrt(sampling / count)
        shared += besides / normal**2
    variance = float(np.var([number.estimate for number in numbers], ddof=1))
    tau = math.sqrt(max(variance - sampling, 0.0))

    def around(spread: float) -> Interval:
        reach = max(_t(count - 1) * math.sqrt(spread), floor)
        ends = estimate - math.hypot(reach, low), estimate + math.hypot(reach, high)
        return Interval(estimate, *ends, together.deviations, reach**2 + besides)

    error = math.sqrt(max(variance, sampling) / count + shared)
    return Joint(around(variance / count), error, count, tau, around(tau**2 + variance / count))


def between(sizes: Mapping[str, Sequence[Interval]], first: str, other: str) -> Interval:
    """The mean over one size's seeds minus that over another's, numbers of the same speakers.

    Seeds vary by s^2, pooled over all ``sizes`` with several (t: seeds less sizes), speakers by
    what leaving each out does to the difference; half the interval is the root of both parts, as
    in ``joint``. Without two seeds of any size there is no interval.
    """
    over_speakers = difference(mean(sizes[first]), mean(sizes[other]))
    seeds = [[number.estimate for number in size] for size in sizes.values()]
    freedom = sum(len(size) - 1 for size in seeds)
    if freedom == 0:
        return Interval(over_speakers.estimate, math.nan, math.nan)
    pooled = sum(len(size) * float(np.var(size)) for size in seeds) / freedom
    counts = 1 / len(sizes[first]) + 1 / len(sizes[other])
    reach = _t(freedom) * math.sqrt(pooled * counts)
    estimate = over_speakers.estimate
    low = math.hypot(reach, estimate - over_speakers.low)
    high = math.hypot(reach, over_speakers.high - estimate)
    return Interval(estimate, estimate - low, estimate + high)


def adjusted_difference(
    weights: np.ndarray, values: np.ndarray, group: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """The coefficient of ``group`` in a weighted least-squares fit of values on 1, group and T.

    weights (rows, utterances), the others (utterances,) -> (rows,); NaN where group and T cannot
    be told apart.
    """
    y, g, t = (x - x.mean() for x in (values, group.astype(float), tokens.astype(float)))

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        total = weights.sum(1)
        return np.asarray(weights @ (a * b) - (weights @ a) * (weights @ b) / total)

    gg, tt, gt = product(g, g), product(t, t), product(g, t)
    determinant = gg * tt - gt**2
    known = determinant > 1e-9 * gg * tt
    top = product(g, y) * tt - gt * product(t, y)
    return np.divide(top, determinant, out=np.full(len(weights), np.nan), where=known)


def larger_probability(weights: np.ndarray, values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The probability that a value of the group exceeds one outside it; ties count half.

    The area under the ROC curve (Mann & Whitney 1947): weights (rows, utterances) -> (rows,).
    """
    inside, outside = values[group], values[~group]
    wins = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    first, second = weights[:, group], weights[:, ~group]
    pairs = first.sum(1) * second.sum(1)
    won = ((first @ wins) * second).sum(1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def auc_over(values: Values, group: Values, speakers: Values) -> Interval:
    """``larger_probability`` of values (utterances,); NOTHING where one side of a group is empty.

    Where the group is told apart in every pair, or in none, the interval is exact.
    """
    inside = np.asarray(group, bool)
    fewest = int(min(inside.sum(), (~inside).sum()))
    if not fewest:
        return NOTHING
    statistic = partial(larger_probability, values=np.asarray(values, float), group=inside)
    return interval(statistic, np.asarray(speakers), 1.0, fewest)


EXACT_SPEAKERS, DRAWS = 16, 99_999
"""Up to so many speakers all 2^speakers assignments are looked at, for more so many random ones."""

_SLACK = 1e-9


def paired_p(differences: np.ndarray, speakers: np.ndarray) -> Any:
    """Two-sided p-value of paired differences (utterances,), stressed minus clean.

    Under the null hypothesis the two sides of a speaker may be exchanged, of all its utterances at
    once: utterances of one speaker are not independent. The statistic is the absolute sum of
    differences; as an exchange leaves the sum of both sides alone, it orders the assignments as a
    ratio of the two means does, so that p is that of a change in % as well. Exact up to
    ``EXACT_SPEAKERS`` speakers, else (count + 1) / (draws + 1) of seeded random assignments
    (Phipson & Smyth 2010). Differences that are not finite are left out; NaN where none is left.
    Of differences (utterances, columns), which see the same assignments, the p-values (columns,).
    """
    columns = differences.reshape(len(differences), -1)
    finite, p = np.isfinite(columns), np.full(columns.shape[1], np.nan)
    for pattern in np.unique(finite[:, finite.any(0)], axis=1).T:
        same = (finite == pattern[:, None]).all(0)
        _, speaker = np.unique(speakers[pattern], return_inverse=True)
        of = speaker == np.arange(speaker.max() + 1)[:, None]
        sums = of.astype(float) @ columns[pattern][:, same]
        observed = np.abs(sums.sum(0)) - _SLACK * np.abs(sums).sum(0)
        signs = _signs(len(sums))
        counts = (np.abs(signs @ sums) >= observed).sum(0)
        exact = len(sums) <= EXACT_SPEAKERS
        p[same] = counts / len(signs) if exact else (counts + 1) / (len(signs) + 1)
    return p if differences.ndim > 1 else float(p[0])


@lru_cache(maxsize=8)
def _signs(speakers: int) -> np.ndarray:
    """Signs (assignments, speakers): all, the first speaker's fixed by symmetry, or draws."""
    if speakers <= EXACT_SPEAKERS:
        bits = np.arange(2 ** (speakers - 1))[:, None] >> np.arange(speakers) & 1
    else:
        bits = np.random.default_rng(0).integers(2, size=(DRAWS, speakers))
    signs = 1.0 - 2.0 * bits  # as wide as what it multiplies, else each product converts it
    signs.setflags(write=False)  # it is shared between calls
    return signs


def holm(tests: pd.Series | np.ndarray) -> np.ndarray:
    """Holm's (1979) adjusted p-values of one family (tests,); NaN stays and does not count."""
    p = np.asarray(tests, float)
    adjusted = np.full(len(p), np.nan)
    order = np.flatnonzero(np.isfinite(p))
    order = order[np.argsort(p[order], kind="stable")]
    steps = (len(order) - np.arange(len(order))) * p[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted

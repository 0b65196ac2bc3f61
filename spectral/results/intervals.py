"""Intervals by leaving out one speaker at a time, and joint ones of networks of the same speakers.

Utterances of a speaker are not independent, speakers are: a statistic is taken again without each
of them, and the spread of these values gives its standard error (jackknife; Efron & Stein 1981).
Student's t with one degree of freedom less than there are speakers makes a 95 % interval of it
(cluster-t; Cameron & Miller 2015, sec. VI). Nothing is drawn, so nothing hangs on a seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy import stats

LEVEL = 0.95
_ROUNDING = 1e-10


@dataclass(frozen=True)
class Interval:
    """An estimate, its 95 % interval, and the speakers' parts in it.

    The squares of the ``deviations`` sum to the jackknife's variance, and their products, speaker
    by speaker, to the covariance with another number of the same speakers. Without them only the
    ends are known.
    """

    estimate: float
    low: float
    high: float
    deviations: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)


NOTHING = Interval(math.nan, math.nan, math.nan)


def deletions(speakers: np.ndarray) -> np.ndarray:
    """Weights of utterances: speakers (utterances,) -> (speakers + 1, utterances).

    Row 0 is the data itself, every utterance once; each other row leaves out one speaker, in the
    order of ``np.unique``.
    """
    return _deletions(tuple(speakers))


@lru_cache(maxsize=32)
def _deletions(speakers: tuple[str, ...]) -> np.ndarray:
    own = np.array(speakers)
    weights = np.vstack([np.ones(len(own)), (own != np.unique(own)[:, None]).astype(float)])
    weights.setflags(write=False)  # it is shared between calls
    return weights


def interval(
    statistic: Callable[[np.ndarray], np.ndarray], speakers: np.ndarray, bounded: float = 0.0
) -> Interval:
    """A statistic of weighted utterances: weights (rows, utterances) -> (rows,), by ``jackknife``.

    A statistic of pairs of utterances, a mean over those whose both ends count, is left without a
    speaker at both ends, as the jackknife of U statistics asks (Arvesen 1969).
    """
    return jackknife(statistic(deletions(speakers)), np.unique(speakers), bounded)


def jackknife(values: np.ndarray, speakers: Sequence[str], bounded: float = 0.0) -> Interval:
    """The interval of values (speakers + 1,), that of all first, then without each speaker.

    A speaker who changes nothing, having no value, does not count. The interval is NaN where a
    value is, and where fewer than two speakers count, but for a number that none changes, which is
    its own interval. A number between 0 and ``bounded``, such as an AUC or a share in %, has its
    interval made on the scale of arcsin sqrt, which does not leave these bounds (Anscombe 1948).
    Statistics must be smooth in the weights: means, their ratios and ranks of spectra, no medians.
    """
    estimate, without = float(values[0]), np.asarray(values[1:], float)
    if not np.isfinite(values).all():
        return Interval(estimate, math.nan, math.nan)
    counts = np.abs(without - estimate) > _ROUNDING * max(abs(estimate), np.abs(without).max())
    if not counts.any():
        return Interval(estimate, estimate, estimate)
    if counts.sum() < 2:
        return Interval(estimate, math.nan, math.nan)
    own = without[counts]
    deviations = dict(zip(np.array(speakers)[counts], _deviations(own).tolist(), strict=True))
    if not bounded:
        return from_deviations(estimate, deviations)
    middle, scaled = _arcsine(estimate / bounded), _arcsine(own / bounded)
    reach = _reach(float(np.square(_deviations(scaled)).sum()), len(own) - 1)
    low, high = np.clip([middle - reach, middle + reach], 0, math.pi / 2)
    ends = (bounded * float(np.sin(end) ** 2) for end in (low, high))
    return Interval(estimate, *ends, deviations)


def from_deviations(estimate: float, deviations: Mapping[str, float]) -> Interval:
    """An estimate with Student's interval, from each speaker's part in it."""
    spread = float(np.square(list(deviations.values())).sum())
    reach = _reach(spread, len(deviations) - 1)
    return Interval(estimate, estimate - reach, estimate + reach, deviations)


def _deviations(without: np.ndarray) -> np.ndarray:
    count = len(without)
    return np.asarray(math.sqrt((count - 1) / count) * (without - without.mean()))


def _arcsine(share: np.ndarray | float) -> np.ndarray:
    return np.asarray(np.arcsin(np.sqrt(np.clip(share, 0, 1))))


def _reach(variance: float, freedom: float) -> float:
    return _t(freedom) * math.sqrt(variance)


def share(parts: np.ndarray, wholes: np.ndarray, speakers: np.ndarray) -> Interval:
    """A share in %, the sum of parts (utterances,) by that of wholes, by ``jackknife``.

    Where none or all is counted no speaker differs, and ``exact`` takes every utterance that counts
    as independent (the smallest error there is).
    """
    found = interval(lambda weights: 100 * ratio(weights, parts, wholes), speakers, bounded=100)
    if math.isnan(found.estimate) or found.low < found.high:
        return found
    total = int(np.count_nonzero(wholes))
    return exact(round(found.estimate / 100 * total), total)


def exact(count: int, total: int) -> Interval:
    """A share in %, with the exact interval of Clopper and Pearson (1934)."""
    tail = (1 - LEVEL) / 2
    low = stats.beta.ppf(tail, count, total - count + 1) if count else 0.0
    high = stats.beta.ppf(1 - tail, count + 1, total - count) if count < total else 1.0
    return Interval(100 * count / total, 100 * float(low), 100 * float(high))


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


def difference(one: Interval, other: Interval) -> Interval:
    """``one`` minus ``other``, numbers of the same speakers: speaker by speaker.

    Where only their ends are known, from these, as if of other speakers (Zou & Donner 2008), which
    errs on the safe side where they vary together.
    """
    estimate = one.estimate - other.estimate
    if one.deviations and other.deviations:
        own, others = _matrix([one, other]).T
        return _with(estimate, own - others, [one, other])
    low = math.hypot(one.estimate - one.low, other.high - other.estimate)
    high = math.hypot(one.high - one.estimate, other.estimate - other.low)
    return Interval(estimate, estimate - low, estimate + high)


def mean(found: Sequence[Interval]) -> Interval:
    """The mean of numbers of the same speakers: speaker by speaker.

    Where only their ends are known, the mean of these: the interval of numbers that vary together.
    """
    if all(one.deviations for one in found):
        estimate = float(np.mean([one.estimate for one in found]))
        return _with(estimate, _matrix(found).mean(1), found)
    ends = np.mean([[one.estimate, one.low, one.high] for one in found], axis=0)
    return Interval(*ends.tolist())


def _names(found: Sequence[Interval]) -> list[str]:
    return sorted(set().union(*(one.deviations for one in found)))


def _matrix(found: Sequence[Interval]) -> np.ndarray:
    """Deviations (speakers, numbers); 0 of speakers who do not count in one."""
    return np.array([[one.deviations.get(name, 0.0) for one in found] for name in _names(found)])


def _with(estimate: float, deviations: np.ndarray, found: Sequence[Interval]) -> Interval:
    return from_deviations(estimate, dict(zip(_names(found), deviations.tolist(), strict=True)))


@dataclass(frozen=True)
class Joint:
    """What several networks say together: their mean, and how far they differ."""

    found: Interval
    error: float  # standard error of the mean
    networks: int
    tau: float  # standard deviation between networks, beyond what speakers make of it
    predicted: Interval  # where one more network would lie


def joint(found: Sequence[Interval]) -> Joint:
    """The mean over networks of numbers of the same speakers, networks and speakers being crossed.

    Of M networks the mean varies by s^2 / M + c: s^2 is the variance of their estimates, c the mean
    covariance between two networks over the speakers that both were given (Owen 2007, with an
    unbiased estimate of each part). Half the interval is sqrt(t_M^2 s^2 / M + t_V^2 c), each part
    with Student's t of its own degrees of freedom, M - 1 and speakers - 1, which covers 95 % or
    more down to two networks. Where the deviations of one are not known, all are taken to vary
    together, which is the widest that it can be. tau^2 is s^2 less what of it is sampling (moments;
    DerSimonian & Laird 1986). One network has its own interval.
    """
    count = len(found)
    estimate = float(np.mean([one.estimate for one in found]))
    if count == 1:
        error = (found[0].high - found[0].low) / 2 / _t(math.inf)
        return Joint(found[0], error, 1, math.nan, NOTHING)
    between = float(np.var([one.estimate for one in found], ddof=1))
    low = float(np.mean([one.estimate - one.low for one in found]))
    high = float(np.mean([one.high - one.estimate for one in found]))
    shared, own = ((low + high) / 2 / _t(math.inf)) ** 2, 0.0
    if all(one.deviations for one in found):
        matrix = _matrix(found)
        single = float(np.square(matrix).sum() / count)
        together = float(np.square(matrix.mean(1)).sum())
        shared = max((count * together - single) / (count - 1), 0.0)
        own = max(single - shared, 0.0)
        low = high = _t(len(matrix) - 1) * math.sqrt(shared)
    tau = math.sqrt(max(between - own, 0.0))

    def around(variance: float) -> Interval:
        reach = _t(count - 1) * math.sqrt(variance)
        ends = estimate - math.hypot(reach, low), estimate + math.hypot(reach, high)
        return Interval(estimate, *ends)

    error = math.sqrt(between / count + shared)
    return Joint(around(between / count), error, count, tau, around(tau**2 + between / count))


def _t(freedom: float) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def between(sizes: Mapping[str, Sequence[Interval]], one: str, other: str) -> Interval:
    """The mean over one size's seeds minus that over another's, numbers of the same speakers.

    Seeds vary by s^2, pooled over all ``sizes`` with several (t: seeds less sizes), speakers by what
    leaving each out does to the difference; half the interval is the root of both parts, as in
    ``joint``. Without two seeds of any size there is no interval.
    """
    over_speakers = difference(mean(sizes[one]), mean(sizes[other]))
    seeds = [[found.estimate for found in size] for size in sizes.values()]
    freedom = sum(len(size) - 1 for size in seeds)
    if freedom == 0:
        return Interval(over_speakers.estimate, math.nan, math.nan)
    pooled = sum(len(size) * float(np.var(size)) for size in seeds) / freedom
    counts = 1 / len(sizes[one]) + 1 / len(sizes[other])
    reach = _t(freedom) * math.sqrt(pooled * counts)
    estimate = over_speakers.estimate
    low = math.hypot(reach, estimate - over_speakers.low)
    high = math.hypot(reach, over_speakers.high - estimate)
    return Interval(estimate, estimate - low, estimate + high)

"""Hierarchical bootstrap: voices are resampled, then the utterances of each voice drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % percentile interval."""

    estimate: float
    low: float
    high: float


def resampling_weights(speakers: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each utterance is drawn: speakers (utterances,) -> (resamples + 1, utterances).

    Row 0 is the data itself, every utterance once. In each other row as many voices are drawn with
    replacement as there are, and from each draw as many of its utterances as it has (two-stage
    bootstrap; Davison & Hinkley 1997, sec. 3.8).
    """
    return _weights(tuple(speakers), resamples, seed)


@lru_cache(maxsize=32)
def _weights(speakers: tuple[str, ...], resamples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    _, voice = np.unique(speakers, return_inverse=True)
    members = [np.flatnonzero(voice == v) for v in range(voice.max() + 1)]
    weights = np.ones((resamples + 1, len(speakers)))
    drawn = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    for own, times in zip(members, drawn.T, strict=True):
        alike = np.full(len(own), 1 / len(own))
        weights[1:, own] = rng.multinomial(times * len(own), alike)
    weights.setflags(write=False)  # it is shared between calls
    return weights


def interval(
    statistic: Callable[[np.ndarray], np.ndarray], speakers: np.ndarray, resamples: int, seed: int
) -> Interval:
    """A statistic of weighted utterances with its interval.

    ``statistic`` maps weights (resamples + 1, utterances) to values (resamples + 1,). Values that
    are not finite for the data itself give an interval of NaN.
    """
    return percentile_interval(statistic(resampling_weights(speakers, resamples, seed)))


def percentile_interval(values: np.ndarray) -> Interval:
    """The interval of a statistic: values (resamples + 1,), the first that of the data itself."""
    estimate, drawn = float(values[0]), values[1:]
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(estimate) or len(drawn) == 0:
        return Interval(estimate, float("nan"), float("nan"))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))


def weighted_mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means over utterances, those that are not finite left out.

    weights (rows, utterances); values (utterances,) or (utterances, columns), so (rows,) or
    (rows, columns).
    """
    finite = np.isfinite(values)
    total = weights @ finite
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weights @ np.where(finite, values, 0.0) / total)

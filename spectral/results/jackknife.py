"""Jackknife over voices, for numbers that an utterance drawn twice would change: ranks."""

import numpy as np

from spectral.results.bootstrap import Interval

_NORMAL = 1.959964
"""Standard deviations on either side of the middle that hold 95 % of a normal law."""


def jackknife_interval(estimate: float, without: np.ndarray) -> Interval:
    """An estimate with its 95 % interval, from the estimates without each voice: (voices,).

    The variance is (V - 1) / V times the sum of squared deviations from their mean (Efron & Stein
    1981). Drawing with replacement, as a bootstrap does, repeats rows and so lowers a rank.
    """
    voices = len(without)
    if voices < 2:
        return Interval(estimate, float("nan"), float("nan"))
    half = _NORMAL * float(np.sqrt((voices - 1) * np.var(without)))
    return Interval(estimate, estimate - half, estimate + half)

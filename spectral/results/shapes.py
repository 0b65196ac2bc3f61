"""A step or a drift: which shape an observable takes over an ordered axis, by the BIC."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

STEP, SMOOTH, FLAT = "step", "smooth", "no change"
UNDECIDED, TOO_FEW = "undecided", "too few"
LEAST_POINTS, LEAST_VOICES = 4, 3
POWERS = (0.25, 0.5, 2.0, 4.0)
LEAST_MARGIN = 2.0
"""BIC units by which the best shape must lead (Kass & Raftery 1995, JASA 90, 773)."""


@dataclass(frozen=True)
class Shape:
    """What was decided, and on what grounds.

    ``bic`` by shape; ``margin`` is BIC smooth minus BIC step, above 0 for a step; ``place`` the
    number of points below the best step; ``support`` the share of resampled voices that decide the
    same.
    """

    verdict: str
    bic: dict[str, float]
    margin: float
    place: int
    support: float


def shape(values: np.ndarray, x: np.ndarray, resamples: int, seed: int) -> Shape:
    """Decide between a step, a smooth course and none: values (voices, points) at x (points,).

    Each voice has a level of its own, so it gives points - 1 independent contrasts; on all of them
    the residuals of a course common to all voices are taken as independent and normal, and
    BIC = n log(RSS / n) + k log n with n = voices (points - 1). Smooth is the best of a straight
    line (k = 1 + 1), a parabola and the powers of ``POWERS`` over the axis from 0 to 1, which
    saturate or set in late (2 + 1); a step has a height and a place (2 + 1); no change has
    the variance alone (1). Undecided where the best does not lead by ``LEAST_MARGIN``; too few
    below four points, as a parabola passes through three, or below three voices. Voices with a
    missing value are left out.
    """
    values = values[np.isfinite(values).all(1)]
    voices, points = values.shape
    if points < LEAST_POINTS or voices < LEAST_VOICES:
        return Shape(TOO_FEW, {}, np.nan, 0, np.nan)
    bic, places = _criteria(_weights(voices, resamples, seed), values, x)
    verdicts = _decided(bic)
    own = {name: float(column[0]) for name, column in bic.items()}
    return Shape(
        str(verdicts[0]),
        own,
        own[SMOOTH] - own[STEP],
        int(places[0]),
        float((verdicts[1:] == verdicts[0]).mean()),
    )


@lru_cache(maxsize=8)
def _weights(voices: int, resamples: int, seed: int) -> np.ndarray:
    """How often each voice is drawn (resamples + 1, voices), the first row once each."""
    drawn = np.random.default_rng(seed).integers(voices, size=(resamples, voices))
    counted = [np.bincount(row, minlength=voices) for row in drawn]
    weights = np.stack([np.ones(voices), *counted])
    weights.setflags(write=False)  # it is shared between calls
    return weights


def _criteria(
    weights: np.ndarray, values: np.ndarray, x: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """BIC by shape (rows,) and the best step's place, for every row of weights (rows, voices)."""
    voices, points = values.shape
    inner = values - values.mean(1, keepdims=True)
    course = weights @ inner / voices  # (rows, points), each of mean zero
    scatter = weights @ (inner**2).sum(1) - voices * (course**2).sum(1)
    x = (x - x.min()) / (x.max() - x.min())
    line = _left_over(course, np.stack([x], 1))
    bent = [np.stack([x, x**2], 1), *(np.stack([x**power], 1) for power in POWERS)]
    curve = np.min([_left_over(course, regressors) for regressors in bent], axis=0)
    steps = np.stack(
        [_left_over(course, (np.arange(points) >= j)[:, None].astype(float))
         for j in range(1, points)], axis=1,
    )  # fmt: skip
    n = voices * (points - 1)

    def criterion(left: np.ndarray, parameters: int) -> np.ndarray:
        total = scatter + voices * left
        floor = np.finfo(float).eps * np.maximum((weights @ inner**2).sum(1), 1e-300)
        return np.asarray(n * np.log(np.maximum(total, floor) / n) + (parameters + 1) * np.log(n))

    bic = {
        FLAT: criterion((course**2).sum(1), 0),
        SMOOTH: np.minimum(criterion(line, 1), criterion(curve, 2)),
        STEP: criterion(steps.min(1), 2),
    }
    return bic, steps.argmin(1) + 1


def _left_over(course: np.ndarray, regressors: np.ndarray) -> np.ndarray:
    """Squares that a fit leaves: course (rows, points), regressors (points, k) -> (rows,)."""
    basis, _ = np.linalg.qr(regressors - regressors.mean(0))
    return np.asarray((course**2).sum(1) - ((course @ basis) ** 2).sum(1)).clip(0)


def _decided(bic: dict[str, np.ndarray]) -> np.ndarray:
    names, table = np.array([*bic]), np.stack([*bic.values()], axis=1)
    order = np.sort(table, axis=1)
    best = names[table.argmin(1)]
    return np.where(order[:, 1] - order[:, 0] > LEAST_MARGIN, best, UNDECIDED)

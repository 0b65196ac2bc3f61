"""A step or a drift: which shape an observable takes over an ordered axis, by the BIC."""

import numpy as np

from companion.results.intervals import NOTHING, Columns, deletions, jackknife

STEP, SMOOTH, FLAT = "step", "smooth", "no change"
UNDECIDED, TOO_FEW = "undecided", "too few"
LEAST_POINTS, LEAST_SPEAKERS = 4, 3
POWERS = (0.25, 0.5, 2.0, 4.0)
SLOPES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Of a logistic in the logarithm of the axis, in logits per factor e: up to as steep as a step."""
LEAST_MARGIN = 2.0
"""BIC units by which the best shape must lead (Kass & Raftery 1995, JASA 90, 773)."""


def shape(values: np.ndarray, x: np.ndarray) -> Columns:
    """Decide between a step, a smooth curve and none: values (speakers, points) at x (points,).

    ``verdict``, and on what grounds: the BIC of each; ``step_after``, the point below the best
    step; ``margin``, over speakers, the BIC of the better of the other two minus that of a step,
    above 0 for a step.

    Each speaker has a level of its own, so it gives points - 1 independent contrasts; on all of
    them the residuals of a curve common to all speakers are taken as independent and normal, and
    BIC = n log(RSS / n) + k log n with n = speakers (points - 1). Smooth is the best of a straight
    line (k = 1 + 1), a parabola and the powers of ``POWERS`` over the axis from 0 to 1, which
    saturate or set in late (2 + 1), and a logistic in its logarithm, with a height, a place and a
    slope of ``SLOPES`` (3 + 1), which may be as steep as it likes: a step wins only where nothing
    lies inside the rise. A step has a height and a place (2 + 1); no change has
    the variance alone (1). Undecided where the best does not lead by ``LEAST_MARGIN``; too few
    below four points, as a parabola passes through three, or below three speakers. Speakers with a
    missing value are left out.
    """
    bic_of = {name: f"bic_{name.replace(' ', '_')}" for name in (FLAT, SMOOTH, STEP)}
    row: Columns = {"verdict": TOO_FEW, **dict.fromkeys(bic_of.values())}
    row |= {"step_after": np.nan, "margin": NOTHING}
    values = values[np.isfinite(values).all(1)]
    speakers, points = values.shape
    if points < LEAST_POINTS or speakers < LEAST_SPEAKERS:
        return row
    names = np.arange(speakers)
    bic, places = _criteria(deletions(names), values, x)
    margin = jackknife(np.minimum(bic[FLAT], bic[SMOOTH]) - bic[STEP], names)
    whole = {name: float(column[0]) for name, column in bic.items()}
    first, second, *_ = sorted(whole, key=whole.__getitem__)
    row["verdict"] = first if whole[second] - whole[first] > LEAST_MARGIN else UNDECIDED
    row |= {bic_of[name]: value for name, value in whole.items()}
    return row | {"step_after": x[places[0] - 1], "margin": margin}


def _criteria(
    weights: np.ndarray, values: np.ndarray, x: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """BIC by shape (rows,) and the best step's place, for every row of weights (rows, speakers)."""
    points = values.shape[1]
    inner = values - values.mean(1, keepdims=True)
    speakers = weights.sum(1)  # (rows,)
    profile = weights @ inner / speakers[:, None]  # (rows, points), each of mean zero
    scatter = weights @ (inner**2).sum(1) - speakers * (profile**2).sum(1)
    x = (x - x.min()) / (x.max() - x.min())
    line = _left_over(profile, np.stack([x], 1))
    bent = [np.stack([x, x**2], 1), *(np.stack([x**power], 1) for power in POWERS)]
    curve = np.min([_left_over(profile, regressors) for regressors in bent], axis=0)
    steep = np.min([_left_over(profile, rise[:, None]) for rise in _logistics(x)], axis=0)
    steps = np.stack(
        [_left_over(profile, (np.arange(points) >= j)[:, None].astype(float))
         for j in range(1, points)], axis=1,
    )  # fmt: skip
    n = speakers * (points - 1)

    def criterion(left: np.ndarray, parameters: int) -> np.ndarray:
        total = scatter + speakers * left
        floor = np.finfo(float).eps * np.maximum((weights @ inner**2).sum(1), 1e-300)
        return np.asarray(n * np.log(np.maximum(total, floor) / n) + (parameters + 1) * np.log(n))

    bic = {
        FLAT: criterion((profile**2).sum(1), 0),
        SMOOTH: np.min([criterion(line, 1), criterion(curve, 2), criterion(steep, 3)], axis=0),
        STEP: criterion(steps.min(1), 2),
    }
    return bic, steps.argmin(1) + 1


def _logistics(x: np.ndarray) -> list[np.ndarray]:
    """1 / (1 + (c / x)^slope) over an axis from 0 to 1: centres c at its points and between."""
    inner = x[x > 0]
    between = np.sqrt(inner[1:] * inner[:-1])
    centres = np.concatenate([[inner[0] / 4, inner[0] / 2], inner, between])
    ratio = centres[:, None] / np.where(x > 0, x, np.nan)
    return [np.nan_to_num(1 / (1 + centre**slope)) for slope in SLOPES for centre in ratio]


def _left_over(profile: np.ndarray, regressors: np.ndarray) -> np.ndarray:
    """Squares that a fit leaves: curve (rows, points), regressors (points, k) -> (rows,)."""
    basis, _ = np.linalg.qr(regressors - regressors.mean(0))
    return np.asarray((profile**2).sum(1) - ((profile @ basis) ** 2).sum(1)).clip(0)

"""A logistic regression with a ridge, of standardised features."""

from dataclasses import dataclass

import numpy as np

RIDGE = 1.0
"""What half the squared weights count beside the sum of the losses, as scikit-learn's C = 1."""

_STEPS = 50
_CLOSE = 1e-9


@dataclass(frozen=True)
class Logistic:
    """Log-odds ``bias + (x - means) @ weights`` of features x (texts, features).

    weights: by unit of the feature. A text with a NaN has NaN log-odds.
    """

    means: np.ndarray
    weights: np.ndarray
    bias: float

    @classmethod
    def fit(cls, values: np.ndarray, target: np.ndarray) -> "Logistic":
        """Of values (texts, features) and a target (texts,); texts with a NaN are left out.

        Raises ValueError where either side of the target has no text left.
        """
        there = np.isfinite(values).all(1)
        values, wanted = values[there], target[there].astype(float)
        if not 0 < wanted.sum() < len(wanted):
            raise ValueError(
                f"{int(wanted.sum())} of {len(wanted)} texts are invented; fit on texts of both "
                "kinds, more stress or less of it"
            )
        means, spread = values.mean(0), values.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        x = np.column_stack([(values - means) / spread, np.ones(len(values))])
        ridge = np.diag([RIDGE] * values.shape[1] + [0.0])
        found = np.zeros(x.shape[1])
        for _ in range(_STEPS):  # Newton's
            fraction = _sigmoid(x @ found)
            slope = x.T @ (fraction - wanted) + ridge @ found
            curve = (x * (fraction * (1 - fraction))[:, None]).T @ x + ridge
            step = np.linalg.solve(curve + 1e-10 * np.eye(len(curve)), slope)
            found -= step
            if np.abs(step).max() < _CLOSE:
                break
        return cls(means, found[:-1] / spread, float(found[-1]))

    def log_odds(self, values: np.ndarray) -> np.ndarray:
        """Of values (texts, features): (texts,)."""
        return np.asarray((values - self.means) @ self.weights + self.bias)


def probabilities(log_odds: np.ndarray) -> np.ndarray:
    """What log-odds say."""
    return _sigmoid(log_odds)


def best_threshold(values: np.ndarray, target: np.ndarray) -> float:
    """The value from which on F1 is the largest; texts without one are wrong anyway."""
    there = np.isfinite(values)
    order = np.argsort(-values[there], kind="stable")
    hits = np.cumsum(target[there][order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + target.sum())
    ends = np.append(np.diff(values[there][order]) < 0, True)  # equal values go together
    best = int(np.argmax(np.where(ends, f1, -1)))
    return float(values[there][order][best])


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -500, 500))))

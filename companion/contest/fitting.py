"""A logistic regression with a ridge, of standardised features: scikit-learn's, by unit."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

_STEPS = 10_000
_CLOSE = 1e-8


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

        Of standardised features with C = 1. Raises ValueError where either side of the target has
        no text left.
        """
        there = np.isfinite(values).all(1)
        values, wanted = values[there], target[there]
        if not 0 < wanted.sum() < len(wanted):
            raise ValueError(
                f"{int(wanted.sum())} of {len(wanted)} texts are invented; fit on texts of both "
                "kinds, more stress or less of it"
            )
        scaler = StandardScaler().fit(values)
        found = LogisticRegression(tol=_CLOSE, max_iter=_STEPS)
        found.fit(scaler.transform(values), wanted)
        return cls(scaler.mean_, found.coef_[0] / scaler.scale_, float(found.intercept_[0]))

    def log_odds(self, values: np.ndarray) -> np.ndarray:
        """Of values (texts, features): (texts,)."""
        return np.asarray((values - self.means) @ self.weights + self.bias)


def probabilities(log_odds: np.ndarray) -> np.ndarray:
    """What log-odds say."""
    return np.asarray(expit(log_odds))


def best_threshold(values: np.ndarray, target: np.ndarray) -> float:
    """The value from which on F1 is the largest; texts without one are wrong anyway."""
    there = np.isfinite(values)
    order = np.argsort(-values[there], kind="stable")
    hits = np.cumsum(target[there][order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + target.sum())
    ends = np.append(np.diff(values[there][order]) < 0, True)  # equal values go together
    best = int(np.argmax(np.where(ends, f1, -1)))
    return float(values[there][order][best])

"""Effects of a size, over the seeds that it was trained with."""

import numpy as np
import pandas as pd
from scipy import stats

from spectral.results.bootstrap import LEVEL, Interval, resampling_weights, weighted_mean
from spectral.results.effects import (
    GROUP,
    OBSERVABLES,
    change,
    interval_columns,
    layer_means,
)
from spectral.results.scale import size_of


def pooled_effects(rows: pd.DataFrame, condition: str, resamples: int, seed: int) -> pd.DataFrame:
    """``effects`` averaged over the seeds of each size (``size_of``).

    Networks and voices both vary, and every network hears the same utterances. So the variance of
    the mean over S networks is that of the bootstrap over voices, of the mean, plus the variance
    between networks over S (which holds some of the former again, so errs on the safe side); the
    interval is Student's with Satterthwaite's (1946) degrees of freedom. With few seeds it is
    wide: that is what few seeds say. ``model`` is the size, ``seeds`` their number; sizes of one
    seed have no row. No p-value: networks are not exchangeable pairs.
    """
    means = layer_means(rows, condition)
    means = means.assign(size=means.model.map(size_of))
    table = []
    keys = ["parameters", "size", *GROUP[2:], "length"]
    for key, group in means.groupby(keys, sort=True):
        if group.model.nunique() > 1:
            tokens = {f"tokens_{s}": group[f"tokens_{s}"].mean() for s in ("clean", "stressed")}
            row = dict(zip(keys, key, strict=True)) | {"seeds": group.model.nunique()} | tokens
            for name in OBSERVABLES:
                if f"{name}_clean" in group:
                    row |= _pooled(group, name, resamples, seed)
            table.append(row)
    return pd.DataFrame(table).rename(columns={"size": "model"})


def _pooled(group: pd.DataFrame, name: str, resamples: int, seed: int) -> dict[str, float]:
    wide = group.pivot(index=["utterance", "speaker"], columns="model")
    clean, stressed = (wide[f"{name}_{side}"].to_numpy() for side in ("clean", "stressed"))
    both = np.isfinite(clean) & np.isfinite(stressed)
    clean, stressed = np.where(both, clean, np.nan), np.where(both, stressed, np.nan)
    speakers = wide.index.get_level_values("speaker").to_numpy()
    weights = resampling_weights(speakers, resamples, seed)
    networks = np.stack(
        [
            change(name, weighted_mean(weights, one), weighted_mean(weights, other))
            for one, other in zip(clean.T, stressed.T, strict=True)
        ]
    )
    found = _interval(networks[:, 0], networks[:, 1:].mean(0), len(set(speakers)))
    return interval_columns(f"delta_{name}", found) | {
        f"delta_{name}_p": np.nan,
        f"delta_{name}_n": int(both.any(axis=1).sum()),
    }


def _interval(networks: np.ndarray, resampled: np.ndarray, voices: int) -> Interval:
    """From each network's effect (S,), and the mean's in every resample."""
    estimate = float(networks.mean())
    between = networks.var(ddof=1) / len(networks)
    if not np.isfinite(estimate):
        return Interval(estimate, float("nan"), float("nan"))
    within = resampled[np.isfinite(resampled)].var()
    if between + within == 0:
        return Interval(estimate, estimate, estimate)
    freedom = (between + within) ** 2 / (
        between**2 / (len(networks) - 1) + within**2 / max(voices - 1, 1)
    )
    reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(between + within)
    return Interval(estimate, float(estimate - reach), float(estimate + reach))

"""Which regime a model is in, by the theorem's condition and its measured conclusion together."""

from functools import partial

import numpy as np
import pandas as pd
import torch

from spectral.jacobians.products import stationary_rates
from spectral.results.bootstrap import LEVEL, interval, resampling_weights, weighted_mean
from spectral.results.effects import interval_columns
from spectral.results.jacobians import SETTING

DISPERSIVE, ATTRACTING, NEITHER, UNDECIDED = "dispersive", "attracting", "neither", "undecided"
REGIMES = (DISPERSIVE, ATTRACTING, NEITHER)
COORDINATES = ("log10_rate", "alignment_margin", "log10_product", "rank_one_share")
"""Means over layers and tokens: the fastest growth per layer that gain, alignment and gap allow
(r_+ of ``stationary_rates``), |kappa| above the least that singles out a direction,
2 sqrt(xi) / (1 + xi), the measured norm of the product of layers above the first, and the share of
J's squared norm in its first direction."""

_MOST = 0.5


def regimes(rows: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """The regime of every setting, with the share of resampled voices and utterances in each.

    Columns of ``SETTING``, every coordinate with its interval, ``share_<regime>``, and ``regime``:
    the one with at least 95 % of the resamples, else "undecided".
    """
    table = []
    for key, group in coordinates(rows).groupby(SETTING, sort=True):
        speakers = group.speaker.to_numpy()
        weights = resampling_weights(speakers, resamples, seed)
        values = {name: weighted_mean(weights, group[name].to_numpy()) for name in COORDINATES}
        row = dict(zip(SETTING, key, strict=True)) | {"n": len(group)}
        for name in COORDINATES:
            mean = partial(weighted_mean, values=group[name].to_numpy())
            found = interval(mean, speakers, resamples, seed)
            row |= interval_columns(name, found)
        drawn = classify(**{name: one[1:] for name, one in values.items()})
        shares = {name: float((drawn == name).mean()) for name in REGIMES}
        best = max(shares, key=lambda name: shares[name])
        row |= {f"share_{name}": value for name, value in shares.items()}
        table.append(row | {"regime": best if shares[best] >= LEVEL else UNDECIDED})
    return pd.DataFrame(table)


def classify(
    log10_rate: np.ndarray,
    alignment_margin: np.ndarray,
    log10_product: np.ndarray,
    rank_one_share: np.ndarray,
) -> np.ndarray:
    """The regime at each point (n,) of the ``COORDINATES``; ValueError for what is not finite.

    Dispersive: the layers' numbers leave no room for growth, and the measured product decays.
    Attracting: one direction is singled out, the product does not decay, and most of the
    sensitivity to the audio is in one direction. Neither: all else.
    """
    points = np.stack([log10_rate, alignment_margin, log10_product, rank_one_share])
    if not np.isfinite(points).all():
        raise ValueError(
            f"{(~np.isfinite(points)).sum()} coordinates are not finite; a layer vanishes or is "
            "missing: leave out models of one layer"
        )
    dispersive = (log10_rate < 0) & (log10_product < 0)
    attracting = (alignment_margin > 0) & (log10_product >= 0) & (rank_one_share > _MOST)
    return np.where(dispersive, DISPERSIVE, np.where(attracting, ATTRACTING, NEITHER))


def coordinates(rows: pd.DataFrame) -> pd.DataFrame:
    """``COORDINATES`` of every utterance: the mean over its tokens."""
    utterance = [*SETTING, "speaker", "utterance"]
    inner = rows[rows.alignment.notna()]  # the last layer is aligned with none
    sigma, kappa, gap = (
        torch.tensor(inner[name].to_numpy(float)) for name in ("sigma_1", "alignment", "gap")
    )
    least = 2 * gap.sqrt() / (1 + gap)
    layers = inner[utterance].assign(
        log10_rate=stationary_rates(sigma, kappa, gap).fastest.log10().numpy(),
        alignment_margin=(kappa.abs() - least).numpy(),
    )
    with np.errstate(divide="ignore"):
        products = rows[rows.layer == 2].assign(log10_product=lambda r: np.log10(r.product_norm))
    parts = [
        layers.groupby(utterance)[["log10_rate", "alignment_margin"]].mean(),
        products.groupby(utterance)[["log10_product"]].mean(),
        rows[rows.layer == 1].groupby(utterance)[["rank_one_share"]].mean(),
    ]
    return pd.concat(parts, axis=1).reset_index()

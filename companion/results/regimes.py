"""Which regime a model is in, by the theorem's condition and its measured conclusion together.

Read twice. Modulo the direction 1, which no layer norm sees (in the whole space nothing can decay);
and after the final layer norm, as fractions of the hidden state's size, which is how the logits see
it: states that grow with depth make an injection that does not grow count for less.
"""

from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch

from companion.measurement.bounds import stationary_rates
from companion.results.effects import interval_columns
from companion.results.intervals import interval, weighted_mean
from companion.results.jacobians import SETTING, TOKEN

DISPERSIVE, ATTRACTING, NEITHER, UNDECIDED = "dispersive", "attracting", "neither", "undecided"
COORDINATES = ("log10_rate", "alignment_margin", "log10_product", "rank_one_fraction")
"""Means over layers and tokens: the fastest growth per layer that gain, alignment and gap allow
(r_+ of ``stationary_rates``), |kappa| above the least that singles out a direction,
2 sqrt(xi) / (1 + xi), the measured norm of the product of layers above the first, and the fraction
of J's squared norm in its first direction. After the final norm the rate is less the growth of the
hidden state per layer, and the product's norm is over that of the final norm alone, at the state
that the product starts from."""

MODULO_1, NORMED = "modulo 1", "after the final norm"
READINGS = (MODULO_1, NORMED)

_MOST = 0.5


def regimes(rows: pd.DataFrame) -> pd.DataFrame:
    """The regime of every setting: the one that the intervals of all coordinates leave.

    Columns of ``SETTING``, ``reading``, every coordinate with its interval, and ``regime``. With
    every corner of the intervals in one regime it is that, else "undecided": each condition of a
    regime is decided by its own interval, which errs on the safe side.
    """
    table = []
    keys = [*SETTING, "reading"]
    for key, group in coordinates(rows).groupby(keys, sort=True):
        speakers = group.speaker.to_numpy()
        row = dict(zip(keys, key, strict=True)) | {"n": len(group)}
        ends = []
        for name in COORDINATES:
            bounds = (1.0, len(group)) if name == "rank_one_fraction" else (0.0, 0)
            mean = partial(weighted_mean, values=group[name].to_numpy())
            found = interval(mean, speakers, *bounds)
            row |= interval_columns(name, found)
            ends.append((found.low, found.high))
        corners = np.unique(classify(*np.array(list(product(*ends))).T))
        table.append(row | {"regime": corners[0] if len(corners) == 1 else UNDECIDED})
    return pd.DataFrame(table)


def classify(
    log10_rate: np.ndarray,
    alignment_margin: np.ndarray,
    log10_product: np.ndarray,
    rank_one_fraction: np.ndarray,
) -> np.ndarray:
    """The regime at each point (n,) of the ``COORDINATES``; ValueError for what is not finite.

    Dispersive: the layers' numbers leave no room for growth, and the measured product decays.
    Attracting: one direction is singled out, the product does not decay, and most of the
    sensitivity to the audio is in one direction. Neither: all else.
    """
    points = np.stack([log10_rate, alignment_margin, log10_product, rank_one_fraction])
    if not np.isfinite(points).all():
        raise ValueError(
            f"{(~np.isfinite(points)).sum()} coordinates are not finite; a layer vanishes or is "
            "missing: leave out models of one layer"
        )
    dispersive = (log10_rate < 0) & (log10_product < 0)
    attracting = (alignment_margin > 0) & (log10_product >= 0) & (rank_one_fraction > _MOST)
    return np.where(dispersive, DISPERSIVE, np.where(attracting, ATTRACTING, NEITHER))


def coordinates(rows: pd.DataFrame) -> pd.DataFrame:
    """``COORDINATES`` of every utterance by either reading: the mean over its tokens."""
    utterance = [*SETTING, "speaker", "utterance"]
    above = rows.sort_values("layer").groupby(TOKEN).state.shift(-1).reindex(rows.index)
    with np.errstate(divide="ignore"):
        growth = np.log10(above / rows.state)
        products = rows.assign(
            log10_product=np.log10(rows.product_norm),
            log10_normed=np.log10(rows.normed_product_norm / rows.normed_direct),
        )
    inner = rows[rows.alignment.notna()]  # the last layer is aligned with none
    sigma, kappa, singular_value_ratio = (
        torch.tensor(inner[name].to_numpy(float))
        for name in ("sigma_1", "alignment", "singular_value_ratio")
    )
    least = 2 * singular_value_ratio.sqrt() / (1 + singular_value_ratio)
    layers = inner[utterance].assign(
        log10_rate=stationary_rates(sigma, kappa, singular_value_ratio).fastest.log10().numpy(),
        growth=growth[inner.index],
        alignment_margin=(kappa.abs() - least).numpy(),
    )
    names = ["log10_product", "log10_normed"]
    parts = [
        layers.groupby(utterance)[["log10_rate", "growth", "alignment_margin"]].mean(),
        products[rows.layer == 2].groupby(utterance)[names].mean(),
        rows[rows.layer == 1].groupby(utterance)[["rank_one_fraction"]].mean(),
    ]
    found = pd.concat(parts, axis=1).reset_index()
    normed = found.assign(
        log10_rate=found.log10_rate - found.growth, log10_product=found.log10_normed
    )
    both = [found.assign(reading=MODULO_1), normed.assign(reading=NORMED)]
    return pd.concat(both, ignore_index=True)[[*utterance, "reading", *COORDINATES]]

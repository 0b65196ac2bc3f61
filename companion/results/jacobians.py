"""What the measured Jacobians say: per layer, of the theorem's hypotheses, and of its regimes.

Regimes are read twice. Modulo the direction 1, which no layer norm sees (in the whole space nothing
can decay); and after the final layer norm, as fractions of the hidden state's size, which is how
the logits see it: states that grow with depth make an injection that does not grow count for less.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from scipy.special import digamma, gammaln

from companion.measurement.bounds import stationary_rates
from companion.models.capture import COMPONENTS
from companion.results.intervals import Columns, mean_over, rows_by

SETTING = ["parameters", "model", "network", "condition"]
_UTTERANCE = [*SETTING, "speaker", "utterance"]
TOKEN = [*_UTTERANCE, "position"]
PER_LAYER = (
    "log10_sigma_1", "singular_value_ratio", "alignment", "log10_gain", "log10_over_chance",
    "unstable", "growing", "log10_state", "log10_injection", "log10_survival",
    "log10_relative_survival", "log10_normed_survival",
    *(f"{component}_singular_value_ratio" for component in COMPONENTS),
)  # fmt: skip
"""Per layer: alignments in magnitude, over chance as ratios of geometric means; by as much a gain
exceeds what sigma_1 alone makes of it. Survival is what arrives of an injection, of what entered;
relative, each as a fraction of the hidden state's size there; normed, each after the final norm."""

HYPOTHESES = {
    "gain_below_one": "every gain below 1",
    "decay_certain": "decay certain",
    "product_decays": "product decays",
    "normed_product_decays": "product decays after the final norm",
    "injection_decays": "first injection decays",
    "relative_injection_decays": "first injection decays relative to the state",
    "normed_injection_decays": "first injection decays after the final norm",
    "growth_certain": "growth certain",
    "rank_one_certain": "rank one certain",
    "product_rank_one": "product of rank one",
}
"""Fractions of tokens, of the layers above the first; rank one: the second singular value below
half the first."""

PER_TOKEN = (*HYPOTHESES, "rank_one_fraction", "explained")
_FRACTIONS = (*HYPOTHESES, "rank_one_fraction")
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
_HALF = 0.5


def _means(table: pd.DataFrame, keys: list[str], columns: Sequence[str]) -> pd.DataFrame:
    """Means over tokens, then utterances, with intervals."""

    def describe(group: pd.DataFrame) -> Columns:
        utterances = group.groupby(["speaker", "utterance"])[[*columns]].mean().reset_index()
        row: Columns = {"n": len(utterances), "tokens": len(group)}
        for name in columns:
            bounded = 1.0 if name in _FRACTIONS else 0.0
            row[name] = mean_over(utterances[name], utterances.speaker, bounded)
        return row

    return rows_by(table, keys, describe)


def layer_summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means of ``PER_LAYER`` over tokens, then utterances; a row per setting and layer.

    ``chance``: the mean alignment of directions drawn at random. ``log10_chance_gain``: the gain of
    the same sigma_1 at such an alignment, so that ``log10_gain`` is it plus ``log10_over_chance``.
    """
    arriving = rows.arriving / rows.injection
    positive = {
        "sigma_1": rows.sigma_1,
        "gain": rows.gain,
        "over_chance": rows.alignment.abs() / 10 ** log10_chance(rows.width.to_numpy()),
        "injection": rows.injection,
        "state": rows.state,
        "survival": arriving,
        "relative_survival": arriving * rows.state / last_state(rows),
        "normed_survival": rows.normed_arriving / rows.normed_injection,
    }
    with np.errstate(divide="ignore"):
        logarithms = {f"log10_{name}": np.log10(values) for name, values in positive.items()}
    table = rows.assign(alignment=rows.alignment.abs(), **logarithms)
    means = _means(table, [*SETTING, "width", "layer"], PER_LAYER)
    return means.assign(
        chance=chance_alignment(means.width.to_numpy()),
        log10_chance_gain=means.log10_gain - means.log10_over_chance,
    )


def chance_alignment(width: np.ndarray) -> np.ndarray:
    """E|cos| of independent random directions among the n = ``width`` - 1 that layer norms see.

    As cos^2 is Beta(1/2, (n - 1)/2) distributed (Cai, Fan & Jiang 2013), it is Gamma(n/2) /
    (sqrt(pi) Gamma((n + 1)/2)), between sqrt(2 / (pi n)) and sqrt(2 / (pi (n - 1))) by Gautschi's
    inequality (1959). (widths,) -> (widths,).
    """
    half = (width - 1) / 2
    return np.asarray(np.exp(gammaln(half) - gammaln(half + 0.5)) / np.sqrt(np.pi))


def log10_chance(width: np.ndarray) -> np.ndarray:
    """E log10|cos| of the same: (psi(1/2) - psi(n/2)) / (2 ln 10). (widths,) -> (widths,)."""
    return np.asarray((digamma(0.5) - digamma((width - 1) / 2)) / (2 * np.log(10)))


def last_state(rows: pd.DataFrame) -> "pd.Series[float]":
    """The size of the hidden state after the last layer, at the token of every row."""
    return rows.sort_values("layer").groupby(TOKEN).state.transform("last").reindex(rows.index)


def hypotheses(rows: pd.DataFrame) -> pd.DataFrame:
    """How often the theorem's hypotheses and its conclusions hold; a row per setting.

    All is modulo the direction 1. Certain is what ``product_bounds`` proves from gains, alignments
    and gaps. ``rank_one_fraction``: of the Frobenius norm of J_L, squared, in its first singular
    value; ``explained``: of the total derivative's, by J_L.
    """
    below = rows.groupby(TOKEN).gain.max() < 1  # NaN at the last layer is left out
    rows = rows.assign(relative=rows.arriving / rows.injection * rows.state / last_state(rows))
    first, second = (rows[rows.layer == layer].set_index(TOKEN) for layer in (1, 2))
    table = pd.DataFrame(
        {
            "gain_below_one": below,
            "decay_certain": second.ceiling < 1,
            "product_decays": second.product_norm < 1,
            "normed_product_decays": second.normed_product_norm < second.normed_direct,
            "injection_decays": first.arriving < first.injection,
            "relative_injection_decays": first.relative < 1,
            "normed_injection_decays": first.normed_arriving < first.normed_injection,
            "growth_certain": second.floor > 1,
            "rank_one_certain": second.rank_one_bound < _HALF,
            "product_rank_one": second.product_ratio < _HALF,
            "rank_one_fraction": first.rank_one_fraction,
            "explained": first.explained,
        }
    ).astype(float)
    return _means(table.reset_index(), SETTING, PER_TOKEN)


def regimes(rows: pd.DataFrame) -> pd.DataFrame:
    """The regime of every setting: the one that the intervals of all coordinates leave.

    Columns of ``SETTING``, ``reading``, every coordinate with its interval, and ``regime``. With
    every corner of the intervals in one regime it is that, else "undecided": each condition of a
    regime is decided by its own interval, which errs on the safe side.
    """

    def describe(group: pd.DataFrame) -> Columns:
        numbers = {
            name: mean_over(group[name], group.speaker, float(name == "rank_one_fraction"))
            for name in COORDINATES
        }
        ends = product(*((number.low, number.high) for number in numbers.values()))
        corners = np.unique(classify(*np.array(list(ends)).T))
        regime = corners[0] if len(corners) == 1 else UNDECIDED
        return {"n": len(group), **numbers, "regime": regime}

    return rows_by(coordinates(rows), [*SETTING, "reading"], describe)


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
    attracting = (alignment_margin > 0) & (log10_product >= 0) & (rank_one_fraction > _HALF)
    return np.where(dispersive, DISPERSIVE, np.where(attracting, ATTRACTING, NEITHER))


def coordinates(rows: pd.DataFrame) -> pd.DataFrame:
    """``COORDINATES`` of every utterance by either reading: the mean over its tokens."""
    above = rows.sort_values("layer").groupby(TOKEN).state.shift(-1).reindex(rows.index)
    inner = rows[rows.alignment.notna()]  # the last layer is aligned with none
    sigma, kappa, xi = (
        torch.tensor(inner[name].to_numpy(float))
        for name in ("sigma_1", "alignment", "singular_value_ratio")
    )
    with np.errstate(divide="ignore"):
        layers = inner[_UTTERANCE].assign(
            log10_rate=stationary_rates(sigma, kappa, xi).fastest.log10().numpy(),
            growth=np.log10(above / rows.state)[inner.index],
            alignment_margin=(kappa.abs() - 2 * xi.sqrt() / (1 + xi)).numpy(),
        )
        products = rows[rows.layer == 2]
        products = products[_UTTERANCE].assign(
            log10_product=np.log10(products.product_norm),
            log10_normed=np.log10(products.normed_product_norm / products.normed_direct),
        )
    fractions = rows.loc[rows.layer == 1, [*_UTTERANCE, "rank_one_fraction"]]
    parts = [table.groupby(_UTTERANCE).mean() for table in (layers, products, fractions)]
    means = pd.concat(parts, axis=1).reset_index()
    normed = means.assign(
        log10_rate=means.log10_rate - means.growth, log10_product=means.log10_normed
    )
    both = [means.assign(reading=MODULO_1), normed.assign(reading=NORMED)]
    return pd.concat(both, ignore_index=True)[[*_UTTERANCE, "reading", *COORDINATES]]

"""What the measured Jacobians say: per layer, and of the theorem's hypotheses, with intervals."""

from functools import partial

import numpy as np
import pandas as pd
from scipy.special import digamma, gammaln

from companion.models.capture import COMPONENTS
from companion.results.effects import interval_columns
from companion.results.intervals import interval, weighted_mean

SETTING = ["parameters", "model", "network", "condition"]
TOKEN = [*SETTING, "speaker", "utterance", "position"]
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
"""Shares of tokens, of the layers above the first; rank one: the second singular value below half
the first."""

PER_TOKEN = (*HYPOTHESES, "rank_one_fraction", "explained")
_FRACTIONS = (*HYPOTHESES, "rank_one_fraction")
_RANK_ONE = 0.5


def layer_summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means of ``PER_LAYER`` over tokens, then utterances; a row per setting and layer.

    ``chance``: the mean alignment of directions drawn at random. ``log10_chance_gain``: the gain of
    the same sigma_1 at such an alignment, so that ``log10_gain`` is it plus ``log10_over_chance``.
    """
    last = last_state(rows)
    with np.errstate(divide="ignore"):
        table = rows.assign(
            alignment=rows.alignment.abs(),
            log10_sigma_1=np.log10(rows.sigma_1),
            log10_gain=np.log10(rows.gain),
            log10_over_chance=np.log10(rows.alignment.abs()) - log10_chance(rows.width.to_numpy()),
            log10_injection=np.log10(rows.injection),
            log10_state=np.log10(rows.state),
            log10_survival=np.log10(rows.arriving / rows.injection),
            log10_relative_survival=np.log10(rows.arriving / rows.injection * rows.state / last),
            log10_normed_survival=np.log10(rows.normed_arriving / rows.normed_injection),
        )
    found = _means(table, [*SETTING, "width", "layer"], PER_LAYER)
    return found.assign(
        chance=chance_alignment(found.width.to_numpy()),
        log10_chance_gain=found.log10_gain - found.log10_over_chance,
    )


def chance_alignment(width: np.ndarray) -> np.ndarray:
    """E|cos| of independent random directions among the n = ``width`` - 1 that layer norms see.

    As cos^2 is Beta(1/2, (n - 1)/2) distributed (Cai, Fan & Jiang 2013), it is Gamma(n/2) /
    (sqrt(pi) Gamma((n + 1)/2)), between sqrt(2 / (pi n)) and sqrt(2 / (pi (n - 1))) by Gautschi's
    inequality (1959). (widths,) -> (widths,).
    """
    half = (width - 1) / 2
    found: np.ndarray = np.exp(gammaln(half) - gammaln(half + 0.5)) / np.sqrt(np.pi)
    return found


def log10_chance(width: np.ndarray) -> np.ndarray:
    """E log10|cos| of the same: (psi(1/2) - psi(n/2)) / (2 ln 10). (widths,) -> (widths,)."""
    found: np.ndarray = (digamma(0.5) - digamma((width - 1) / 2)) / (2 * np.log(10))
    return found


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
    second = rows[rows.layer == 2].set_index(TOKEN)
    first = rows[rows.layer == 1].set_index(TOKEN)
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
            "rank_one_certain": second.rank_one_bound < _RANK_ONE,
            "product_rank_one": second.product_ratio < _RANK_ONE,
            "rank_one_fraction": first.rank_one_fraction,
            "explained": first.explained,
        }
    ).astype(float)
    return _means(table.reset_index(), SETTING, PER_TOKEN)


def _means(table: pd.DataFrame, keys: list[str], columns: tuple[str, ...]) -> pd.DataFrame:
    summary = []
    for key, group in table.groupby(keys, sort=True):
        utterances = group.groupby(["speaker", "utterance"])[[*columns]].mean().reset_index()
        row = dict(zip(keys, key, strict=True)) | {"n": len(utterances), "tokens": len(group)}
        for name in columns:
            mean = partial(weighted_mean, values=utterances[name].to_numpy())
            bounds = (1.0, len(utterances)) if name in _FRACTIONS else (0.0, 0)
            found = interval(mean, utterances.speaker.to_numpy(), *bounds)
            row |= interval_columns(name, found)
        summary.append(row)
    return pd.DataFrame(summary)

"""What the measured Jacobians say: per layer, and of the theorem's hypotheses, with intervals."""

from functools import partial

import numpy as np
import pandas as pd

from spectral.models.capture import COMPONENTS
from spectral.results.bootstrap import interval, weighted_mean

SETTING = ["parameters", "model", "network", "condition"]
PER_LAYER = (
    "log10_sigma_1", "gap", "alignment", "log10_gain", "unstable", "growing", "log10_injection",
    "log10_survival", *(f"{component}_gap" for component in COMPONENTS),
)  # fmt: skip
"""Per layer: alignments in magnitude; survival is what arrives of an injection, of what entered."""

HYPOTHESES = {
    "gain_below_one": "every gain below 1",
    "decay_certain": "decay certain",
    "product_decays": "product decays",
    "injection_decays": "first injection decays",
    "growth_certain": "growth certain",
    "rank_one_certain": "rank one certain",
    "product_rank_one": "product of rank one",
}
"""Shares of tokens, of the layers above the first; rank one: the second singular value below half
the first."""

PER_TOKEN = (*HYPOTHESES, "rank_one_share", "explained")
_RANK_ONE = 0.5


def layer_summary(rows: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Means of ``PER_LAYER`` over tokens, then utterances; a row per setting and layer."""
    with np.errstate(divide="ignore"):
        table = rows.assign(
            alignment=rows.alignment.abs(),
            log10_sigma_1=np.log10(rows.sigma_1),
            log10_gain=np.log10(rows.gain),
            log10_injection=np.log10(rows.injection),
            log10_survival=np.log10(rows.arriving / rows.injection),
        )
    return _means(table, [*SETTING, "width", "layer"], PER_LAYER, resamples, seed)


def hypotheses(rows: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """How often the theorem's hypotheses and its conclusions hold; a row per setting.

    Certain is what ``product_bounds`` proves from gains, alignments and gaps. ``rank_one_share``:
    of the Frobenius norm of J_L, squared, in its first singular value; ``explained``: of the total
    derivative's, by J_L.
    """
    token = [*SETTING, "speaker", "utterance", "position"]
    below = rows.groupby(token).gain.max() < 1  # NaN at the last layer is left out
    second = rows[rows.layer == 2].set_index(token)
    first = rows[rows.layer == 1].set_index(token)
    table = pd.DataFrame(
        {
            "gain_below_one": below,
            "decay_certain": second.ceiling < 1,
            "product_decays": second.product_norm < 1,
            "injection_decays": first.arriving < first.injection,
            "growth_certain": second.floor > 1,
            "rank_one_certain": second.rank_one_bound < _RANK_ONE,
            "product_rank_one": second.product_ratio < _RANK_ONE,
            "rank_one_share": first.rank_one_share,
            "explained": first.explained,
        }
    ).astype(float)
    return _means(table.reset_index(), SETTING, PER_TOKEN, resamples, seed)


def _means(
    table: pd.DataFrame, keys: list[str], columns: tuple[str, ...], resamples: int, seed: int
) -> pd.DataFrame:
    summary = []
    for key, group in table.groupby(keys, sort=True):
        utterances = group.groupby(["speaker", "utterance"])[[*columns]].mean().reset_index()
        row = dict(zip(keys, key, strict=True)) | {"n": len(utterances), "tokens": len(group)}
        for name in columns:
            mean = partial(weighted_mean, values=utterances[name].to_numpy())
            found = interval(mean, utterances.speaker.to_numpy(), resamples, seed)
            row |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
        summary.append(row)
    return pd.DataFrame(summary)

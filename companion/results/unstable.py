"""Unstable dimensions of hallucinated transcripts against the others', under the same stress."""

import pandas as pd

from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results.within import contrast

TRAINED, RANDOM, BEYOND = "trained", "random", "trained minus random"
"""A network; its randomly initialised control, which hears and writes the same; the difference of
the two."""

ALL_LAYERS = "mean"

_TEXT = ["parameters", "model", "width", "condition", "speaker", "utterance", "candidate"]
_MEANS = ["unstable", "position"]


def unstable_contrasts(rows: pd.DataFrame, least: int) -> pd.DataFrame:
    """Candidates minus others in the number of eigenvalues of W_l of modulus above one, of D.

    A row per model, stressed condition, network and layer, "mean" being that of all layers. An
    answer counts with the mean over its tokens, and ``adjusted`` is the difference at equal mean
    position of these tokens: as they are spread evenly over the text, at equal T. The other columns
    are those of ``contrast``.
    """
    layers = _answers(rows)
    keys = ["parameters", "model", "width", "condition", "network", "layer"]
    every = layers.groupby([*_TEXT, "network"], sort=True)[_MEANS].mean().reset_index()
    layers = pd.concat([every.assign(layer=ALL_LAYERS), layers.astype({"layer": str})])
    return pd.DataFrame(
        [
            dict(zip(keys, key, strict=True)) | contrast(group, "unstable", "position", least)
            for key, group in layers.groupby(keys, sort=True)
        ]
    )


def _answers(rows: pd.DataFrame) -> pd.DataFrame:
    """Numbers of unstable dimensions, mean over tokens: a row per transcript, layer and network."""
    stressed = rows[rows.condition != REFERENCE_CONDITION]
    stressed = stressed.assign(unstable=stressed.unstable * stressed.width)
    means = stressed.groupby([*_TEXT, "layer", "network"])[_MEANS].mean().reset_index()
    trained, random = (
        means[means.network == name].set_index([*_TEXT, "layer"]) for name in (TRAINED, RANDOM)
    )
    beyond = trained.assign(unstable=trained.unstable - random.unstable, network=BEYOND)
    return pd.concat([means, beyond.reset_index()], ignore_index=True)

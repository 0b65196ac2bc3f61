"""What a linear linear probe finds of the reference, and how much of it the audio adds."""

from functools import partial

import pandas as pd

from companion.measurement.dynamics_schemas import CHANCE, OWN, READOUT, SWAPPED_AUDIO
from companion.results.attraction import NETWORK
from companion.results.effects import interval_columns
from companion.results.intervals import interval, ratio


def linear_probes(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of next tokens read rightly, in %, over all tokens of speakers that were left out.

    One row per model, network, condition, stage and layer: ``own`` with the own audio,
    ``swapped`` with the partner's (the text alone, as it were), ``added`` the difference in
    percentage points, and ``chance``, the most frequent token.
    """
    table = []
    read = rows[rows.quantity == READOUT]
    keys = [*NETWORK, "condition", "stage", "layer"]
    chance = read[read.stage == CHANCE].groupby([*NETWORK, "condition"])
    rates = {key: _rate(part) for key, part in chance}
    for key, group in read[read.stage != CHANCE].groupby(keys, sort=True):
        wide = group.pivot(
            index=["utterance", "speaker", "count"], columns="audio", values="value"
        ).reset_index()
        counts, speakers = wide["count"].to_numpy(float), wide.speaker.to_numpy()
        own, swapped = (100 * counts * wide[name].to_numpy() for name in (OWN, SWAPPED_AUDIO))
        row = dict(zip(keys, key, strict=True)) | {"n": len(wide), "chance": rates[key[:4]]}
        for name, right in (("own", own), ("swapped", swapped), ("added", own - swapped)):
            fraction = partial(ratio, parts=right, wholes=counts)
            row |= interval_columns(name, interval(fraction, speakers))
        table.append(row)
    return pd.DataFrame(table)


def _rate(part: pd.DataFrame) -> float:
    return float(100 * (part["count"] * part.value).sum() / part["count"].sum())

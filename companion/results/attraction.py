"""Do different inputs converge? Distances through depth and steps, and ranks across utterances."""

from functools import partial

import numpy as np
import pandas as pd

from companion.measurement.dynamics_schemas import CENTRED_DISTANCE, DECODER, DISTANCE, INPUT, RANK
from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results.effects import interval_columns
from companion.results.intervals import interval, jackknife, weighted_mean

NETWORK = ["parameters", "model", "network"]
_PLACE = ["stage", "layer", "step"]
_ENDS = ["speaker", "other"]


def distances(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean distance of an utterance and its partner, with its interval over speakers at both ends.

    One row per model, network, condition, quantity, stage, layer and step.
    """
    table = []
    keys = [*NETWORK, "condition", "quantity", *_PLACE]
    kept = _pairs(rows)
    for key, group in kept.groupby(keys, sort=True):
        mean = partial(weighted_mean, values=group.value.to_numpy())
        found = interval(mean, group[_ENDS].to_numpy(str))
        row = dict(zip(keys, key, strict=True)) | {"n": len(group)}
        table.append(row | interval_columns("distance", found))
    return pd.DataFrame(table)


def convergence(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Distance at the last decoder layer over that of the input, clean and stressed, and change.

    One row per model, network and quantity. ``ratio_clean`` and ``ratio_stressed`` are ratios of
    means over pairs; ``change`` is the stressed distance at the last layer over the clean one, of
    the same pairs, less one, in %.
    """
    table = []
    keys = [*NETWORK, "quantity"]
    whole = _pairs(rows[rows.step == 0])
    for key, group in whole.groupby(keys, sort=True):
        decoder = group[group.stage == DECODER]  # which may be shallower than the encoder
        last = decoder[decoder.layer == decoder.layer.max()]
        ends = {
            side: _by_utterance(part, name)
            for name, side in ((REFERENCE_CONDITION, "clean"), (condition, "stressed"))
            for part in [pd.concat([group[group.stage == INPUT], last])]
        }
        both = pd.concat([part.add_suffix(f"_{side}") for side, part in ends.items()], axis=1)
        both = both.dropna().reset_index()
        ratios = {
            "ratio_clean": ("decoder_clean", "input_clean", 1.0, 0.0),
            "ratio_stressed": ("decoder_stressed", "input_stressed", 1.0, 0.0),
            "change": ("decoder_stressed", "decoder_clean", 100.0, -100.0),
        }
        row = dict(zip(keys, key, strict=True)) | {"n": len(both)}
        for name, (upper, lower, factor, offset) in ratios.items():
            statistic = partial(
                _ratio, upper=both[upper].to_numpy(), lower=both[lower].to_numpy(),
                factor=factor, offset=offset,
            )  # fmt: skip
            row |= interval_columns(name, interval(statistic, both[_ENDS].to_numpy(str)))
        table.append(row)
    return pd.DataFrame(table)


def ranks(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Effective rank across utterances, clean and stressed, and its change in %.

    One row per model, network, stage, layer and step, each number with its jackknife interval.
    Where the two sides are of other numbers of utterances ValueError is raised.
    """
    table = []
    keys = [*NETWORK, *_PLACE]
    found = rows[rows.quantity == RANK].drop_duplicates([*keys, "condition", "speaker"])
    for key, group in found.groupby(keys, sort=True):
        sides = {
            side: group[group.condition == name].set_index("speaker")
            for name, side in ((REFERENCE_CONDITION, "clean"), (condition, "stressed"))
        }
        clean, stressed = sides["clean"], sides["stressed"].loc[sides["clean"].index]
        if set(clean["count"]) != set(stressed["count"]):
            raise ValueError(f"{key}: ranks of other numbers of utterances; measure them again")
        row = dict(zip(keys, key, strict=True)) | {"n": int(clean["count"].iloc[0])}
        speakers = clean.index.to_numpy()
        whole = {side: float(part.value.iloc[0]) for side, part in sides.items()}
        for side, part in (("clean", clean), ("stressed", stressed)):
            values = np.array([whole[side], *part.without])
            row |= interval_columns(f"rank_{side}", jackknife(values, speakers))
        without = [whole["stressed"], *stressed.without], [whole["clean"], *clean.without]
        changes = 100 * (np.divide(*without) - 1)
        table.append(row | interval_columns("change", jackknife(changes, speakers)))
    return pd.DataFrame(table)


def _by_utterance(part: pd.DataFrame, condition: str) -> pd.DataFrame:
    chosen = part[part.condition == condition]
    return chosen.pivot(index=["utterance", *_ENDS], columns="stage", values="value")


def _pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Distances, with the speakers of both ends."""
    speakers = rows.drop_duplicates("utterance").set_index("utterance").speaker
    kept = rows[rows.quantity.isin([DISTANCE, CENTRED_DISTANCE])]
    return kept.assign(other=kept.partner.map(speakers))


def _ratio(
    weights: np.ndarray, upper: np.ndarray, lower: np.ndarray, factor: float, offset: float
) -> np.ndarray:
    return factor * weighted_mean(weights, upper) / weighted_mean(weights, lower) + offset

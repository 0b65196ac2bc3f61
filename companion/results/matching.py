"""Changes between utterances that are equally long by nature, instead of cut to be."""

import numpy as np
import pandas as pd

from companion.results.effects import (
    GROUP,
    OBSERVABLES,
    RAW,
    Columns,
    change,
    interval_columns,
    layer_means,
)
from companion.results.intervals import interval

PAIRS = "length-matched pairs"
_SIDES = ("clean", "stressed")


def pair_effects(rows: pd.DataFrame, condition: str, tolerance: int) -> pd.DataFrame:
    """``effects`` from pairs of a clean and a stressed utterance whose T differ by ``tolerance``.

    All such pairs of a model count alike, whoever speaks, and nothing is cut. A speaker is left out
    at both ends. _n is the number
    of utterances that have a partner, of the side that has fewer. There is no p-value: the two
    sides of a pair are other utterances, and exchanging them would exchange these as well.
    """
    means = layer_means(rows, condition)
    table = []
    for key, group in means[means.length == RAW].groupby(GROUP, sort=True):
        row: dict[str, object] = dict(zip(GROUP, key, strict=True)) | {"length": PAIRS}
        row |= _tokens(group, tolerance)
        for name in OBSERVABLES:
            if f"{name}_clean" in group:
                row |= _change(group, name, tolerance)
        table.append(row)
    return pd.DataFrame(table)


def pair_weights(
    weights: np.ndarray, tokens: list[np.ndarray], usable: list[np.ndarray], tolerance: int
) -> list[np.ndarray]:
    """In how many pairs each utterance's clean and its stressed side are, in every row of weights.

    weights (rows, utterances); tokens and usable hold (utterances,) of both sides. Lengths are
    whole, so pairs are counted by length: rows x utterances x lengths, not utterances^2.
    """
    lengths = np.unique(np.concatenate(tokens))
    close = np.abs(lengths[:, None] - lengths) <= tolerance
    hot = [
        (own[:, None] == lengths) & use[:, None] for own, use in zip(tokens, usable, strict=True)
    ]
    drawn = [weights @ side for side in hot]
    return [weights * (drawn[1 - i] @ close @ hot[i].T) for i in range(2)]


def _tokens(group: pd.DataFrame, tolerance: int) -> dict[str, float]:
    once = np.ones((1, len(group)))
    tokens = [group[f"tokens_{side}"].to_numpy(int) for side in _SIDES]
    everyone = [np.ones(len(group), bool)] * 2
    pairs = pair_weights(once, tokens, everyone, tolerance)
    return {
        f"tokens_{side}": float(_mean(own, length)[0])
        for side, own, length in zip(_SIDES, pairs, tokens, strict=True)
    }


def _change(group: pd.DataFrame, name: str, tolerance: int) -> Columns:
    tokens = [group[f"tokens_{side}"].to_numpy(int) for side in _SIDES]
    values = [group[f"{name}_{side}"].to_numpy() for side in _SIDES]
    usable = [np.isfinite(side) for side in values]
    values = [np.where(use, side, 0.0) for use, side in zip(usable, values, strict=True)]

    def statistic(weights: np.ndarray) -> np.ndarray:
        pairs = pair_weights(weights, tokens, usable, tolerance)
        means = [_mean(own, side) for own, side in zip(pairs, values, strict=True)]
        return change(name, *means)

    found = interval(statistic, group.speaker.to_numpy())
    partners = pair_weights(np.ones((1, len(group))), tokens, usable, tolerance)
    count = min(int((side > 0).sum()) for side in partners)
    return interval_columns(f"delta_{name}", found) | {
        f"delta_{name}_n": count,
        f"delta_{name}_p": np.nan,
    }


def _mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # without any pair there is no mean
        return np.asarray((weights @ values) / weights.sum(1))

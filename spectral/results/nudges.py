"""What small changes of the log-mel do: to texts, to errors, and to states layer by layer."""

from functools import partial

import numpy as np
import pandas as pd

from spectral.results.bootstrap import Interval, interval
from spectral.results.effects import interval_columns

SETTING = ["parameters", "model", "condition", "direction", "level_db"]


def nudged_texts(rows: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Of all nudged versions, by model, condition, direction and level, with intervals.

    ``changed``: share of texts that are not the unmoved one, in %; ``edits``: characters to change
    per token written; ``word_error`` in %, and ``added_error`` what it has more than unmoved;
    ``candidates``: share with a word error above 0.5, in %, and ``new_candidates``: those that
    were none unmoved.
    """
    words, tokens = rows.reference_words, rows.tokens
    parts = pd.DataFrame(
        {
            "changed": 100.0 * ~rows.unchanged,
            "edits": rows.character_edits.astype(float),
            "word_error": 100 * words * rows.word_error,
            "added_error": 100 * words * (rows.word_error - rows.word_error_before),
            "candidates": 100.0 * rows.candidate,
            "new_candidates": 100.0 * (rows.candidate & ~rows.candidate_before),
        }
    )
    ones = pd.Series(1.0, index=rows.index)
    wholes = {"edits": tokens.astype(float), "word_error": words, "added_error": words}
    table = []
    for key, group in rows.groupby(SETTING, sort=True):
        row = dict(zip(SETTING, key, strict=True)) | {
            "n": len(group), "utterances": group.utterance.nunique()
        }  # fmt: skip
        for name in parts:
            found = _interval(
                group, parts[name], wholes.get(str(name), ones).astype(float), resamples, seed
            )
            row |= interval_columns(str(name), found)
        table.append(row)
    return pd.DataFrame(table)


def growths(rows: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Decades by which a relative change of the log-mel has grown in each decoder layer's states.

    One row per model, network, condition, direction, level and layer; ``growth`` is the mean log10
    of the states' relative change over that of the log-mel.
    """
    table = []
    for network, column in (("trained", "growth"), ("random", "twin_growth")):
        for key, group in rows.groupby(SETTING, sort=True):
            grown = np.log10(np.stack(group[column].to_list()))
            for i in range(grown.shape[1]):
                values = pd.Series(grown[:, i], index=group.index)
                ones = pd.Series(1.0, index=group.index)
                found = _interval(group, values, ones, resamples, seed)
                row = dict(zip(SETTING, key, strict=True))
                row |= {"network": network, "layer": i + 1, "n": len(group)}
                table.append(row | interval_columns("growth", found))
    return pd.DataFrame(table)


def _interval(
    group: pd.DataFrame, parts: pd.Series, wholes: pd.Series, resamples: int, seed: int
) -> Interval:
    """A ratio of sums; an utterance's versions are drawn together."""
    keys = [group.speaker, group.utterance]
    sums = pd.DataFrame({"parts": parts[group.index], "wholes": wholes[group.index]})
    sums = sums.groupby(keys).sum().reset_index()
    share = partial(_share, parts=sums.parts.to_numpy(), wholes=sums.wholes.to_numpy())
    return interval(share, sums.speaker.to_numpy(), resamples, seed)


def _share(weights: np.ndarray, parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    return np.asarray((weights @ parts) / (weights @ wholes))

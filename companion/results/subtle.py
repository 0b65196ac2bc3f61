"""What small changes of the log-mel do: to texts, to errors, and to states layer by layer."""

import numpy as np
import pandas as pd

from companion.results.effects import interval_columns
from companion.results.intervals import Interval, interval, ratio

SETTING = ["parameters", "model", "condition", "direction", "level_db"]


def perturbed_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """Of all perturbed versions, by model, condition, direction and level, with intervals.

    ``changed``: fraction of texts that are not the unmoved one, in %; ``edits``: characters to
    change per token written; ``wer`` in %, and ``added_error`` what it has more than unmoved;
    ``candidates``: share with a word error above 0.5, in %, and ``new_candidates``: those that
    were none unmoved.
    """
    words, tokens = rows.reference_words.astype(float), rows.tokens.astype(float)
    parts = pd.DataFrame(
        {
            "changed": 100.0 * ~rows.unchanged,
            "edits": rows.character_edits.astype(float),
            "wer": 100 * words * rows.wer,
            "added_error": 100 * words * (rows.wer - rows.wer_before),
            "candidates": 100.0 * rows.candidate,
            "new_candidates": 100.0 * (rows.candidate & ~rows.candidate_before),
        }
    )
    wholes = {"edits": "tokens", "wer": "words", "added_error": "words"}
    names = list(parts)
    parts = parts.assign(versions=1.0, tokens=tokens, words=words)
    table = []
    for key, group in rows.groupby(SETTING, sort=True):
        row = dict(zip(SETTING, key, strict=True)) | {
            "n": len(group), "utterances": group.utterance.nunique()
        }  # fmt: skip
        sums = _by_utterance(group, parts)
        for name in names:
            bounds = (0.0, 0) if name in wholes else (100.0, len(sums))
            found = _interval(sums, name, wholes.get(name, "versions"), *bounds)
            row |= interval_columns(name, found)
        table.append(row)
    return pd.DataFrame(table)


def growths(rows: pd.DataFrame) -> pd.DataFrame:
    """Decades by which a relative change of the log-mel has grown in each decoder layer's states.

    One row per model, network, condition, direction, level and layer; ``growth`` is the mean log10
    of the states' relative change over that of the log-mel.
    """
    table = []
    for network, column in (("trained", "growth"), ("random", "control_growth")):
        for key, group in rows.groupby(SETTING, sort=True):
            grown = pd.DataFrame(np.log10(np.stack(group[column].to_list())), group.index)
            sums = _by_utterance(group, grown.assign(versions=1.0))
            for i in grown:
                found = _interval(sums, i, "versions")
                row = dict(zip(SETTING, key, strict=True))
                row |= {"network": network, "layer": i + 1, "n": len(group)}
                table.append(row | interval_columns("growth", found))
    return pd.DataFrame(table)


def _by_utterance(group: pd.DataFrame, parts: pd.DataFrame) -> pd.DataFrame:
    """Sums over an utterance's versions, which are drawn together."""
    return parts.loc[group.index].groupby([group.speaker, group.utterance]).sum()


def _interval(
    sums: pd.DataFrame, part: str | int, whole: str, bounded: float = 0, total: int = 0
) -> Interval:
    """A fraction of versions is bounded, and exact where none counts, of independent utterances."""
    parts, wholes = sums[part].to_numpy(), sums[whole].to_numpy()
    speakers = sums.index.get_level_values("speaker").to_numpy()
    return interval(lambda weights: ratio(weights, parts, wholes), speakers, bounded, total)

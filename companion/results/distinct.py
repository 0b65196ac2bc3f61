"""How many different texts there are: of what was said, and of what was written of it."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results.effects import interval_columns
from companion.results.intervals import interval
from companion.speech.text import normalise

SAID = "said"
"""The references, which any count of written texts is held against."""

WHOLE = 0
"""The number of words that stands for all of them."""

PREFIXES = (1, 3, WHOLE)


def distinct_texts(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Distinct texts by model, side (said, clean, stress) and number of first words compared.

    ``distinct`` is the fraction of distinct ones among n texts in %, ``entropy`` that of their
    distribution in bits (at most log2 n), and ``alike`` the fraction of pairs of utterances with
    the same text in %, the last alone with an interval: without a speaker there are fewer distinct
    texts, but the fraction of pairs is a mean. Of no pair it is exact, of pairs without a common
    end.
    """
    table = []
    texts = rows.drop_duplicates(["parameters", "model", "condition", "utterance"])
    for (parameters, model), group in texts.groupby(["parameters", "model"], sort=True):
        clean, stressed = (
            group[group.condition == name] for name in (REFERENCE_CONDITION, condition)
        )
        sides = {
            SAID: clean.reference, REFERENCE_CONDITION: clean.transcript,
            condition: stressed.transcript,
        }  # fmt: skip
        for side, column in sides.items():
            speakers = group.loc[column.index, "speaker"].to_numpy()
            for words in PREFIXES:
                kept = [first_words(text, words) for text in column]
                row = {"parameters": parameters, "model": model, "side": side, "words": words}
                pairs = partial(_alike, texts=np.unique(kept, return_inverse=True)[1])
                found = interval(pairs, speakers, 100, len(kept) // 2)
                row |= {"n": len(kept), "distinct": 100 * distinct_fraction(kept)}
                row |= {"entropy": entropy_bits(kept)} | interval_columns("alike", found)
                table.append(row)
    return pd.DataFrame(table)


def first_words(text: str, count: int) -> str:
    """The first words of a text, normalised; all of them for ``WHOLE``."""
    words = normalise(text).split()
    return " ".join(words if count == WHOLE else words[:count])


def distinct_fraction(texts: Sequence[str]) -> float:
    """Distinct texts over texts."""
    return len(set(texts)) / len(texts)


def entropy_bits(texts: Sequence[str]) -> float:
    """Shannon entropy of the distribution of texts, as counted."""
    fractions = np.array(list(Counter(texts).values())) / len(texts)
    return float(-(fractions * np.log2(fractions)).sum() + 0.0)


def _alike(weights: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Share of pairs with the same text in %, pairs of an utterance with itself left out."""
    itself = np.square(weights).sum(1)
    groups = np.zeros((len(weights), texts.max() + 1))
    for i, text in enumerate(texts):
        groups[:, text] += weights[:, i]
    pairs = np.square(weights.sum(1)) - itself
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * (np.square(groups).sum(1) - itself) / pairs

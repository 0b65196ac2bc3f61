"""Whether confidence separates inventions from right transcripts."""

from functools import partial

import numpy as np
import pandas as pd

from companion.results.confidence import CONFIDENCES
from companion.results.effects import interval_columns
from companion.results.intervals import NOTHING, interval
from companion.results.within import larger_probability
from companion.stress.scoring import Outcome


def separation(said: pd.DataFrame) -> pd.DataFrame:
    """How well log-probabilities tell inventions from right transcripts, wherever they were
    written.

    One row per model: the numbers of ``inventions`` and of ``right`` transcripts, whose word error
    is at most 0.5, and under the name of each of ``CONFIDENCES`` the probability that the right one
    of the two is the more confident (the area under the ROC curve), with its interval over
    speakers.
    """
    table = []
    kept = said[said.outcome.isin([Outcome.INVENTION, Outcome.CORRECT])]
    for key, group in kept.groupby(["parameters", "model"], sort=True):
        right = (group.outcome == Outcome.CORRECT).to_numpy()
        counts = {"inventions": int((~right).sum()), "right": int(right.sum())}
        row: dict[str, object] = dict(zip(["parameters", "model"], key, strict=True)) | counts
        for name in CONFIDENCES:
            values, found = group[name].to_numpy(float), NOTHING
            if min(counts.values()) and np.isfinite(values).all():
                auc = partial(larger_probability, values=values, group=right)
                found = interval(auc, group.speaker.to_numpy(), 1.0, min(counts.values()))
            row |= interval_columns(f"auc_{name}", found)
        table.append(row)
    return pd.DataFrame(table)

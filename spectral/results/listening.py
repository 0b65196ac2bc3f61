"""Whether a model listens, and what it writes where there is nothing to hear."""

from functools import partial

import numpy as np
import pandas as pd

from spectral.measurement.listening import OWN, SWAPPED
from spectral.results.bootstrap import interval, weighted_mean
from spectral.speech.nothing import NO_SPEECH
from spectral.speech.text import normalise

HEARD = (OWN, SWAPPED)


def listening_summary(rows: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Free-running word error in %, and teacher-forced loss and token error in %, by audio.

    One row per model and audio with speech (own, swapped), each number with its interval.
    """
    table = []
    keys = ["parameters", "model", "audio"]
    for key, group in rows[rows.audio.isin(HEARD)].groupby(keys, sort=True):
        words = group.reference.map(lambda text: len(normalise(text).split())).to_numpy(float)
        edits = words * group.word_error.to_numpy()
        columns = {
            "word_error": partial(_percent, parts=edits, wholes=words),
            "forced_loss": partial(weighted_mean, values=group.forced_loss.to_numpy()),
            "forced_token_error": partial(
                weighted_mean, values=100 * group.forced_token_error.to_numpy()
            ),
        }
        row = dict(zip(keys, key, strict=True)) | {"n": len(group)}
        for name, statistic in columns.items():
            found = interval(statistic, group.speaker.to_numpy(), resamples, seed)
            row |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
        table.append(row)
    return pd.DataFrame(table)


def answers_to_nothing(rows: pd.DataFrame) -> pd.DataFrame:
    """The share of each kind of answer, in %, and the median no-speech probability, by audio."""
    nothing = rows[rows.audio.isin(NO_SPEECH)]
    keys = ["parameters", "model", "audio"]
    counts = nothing.groupby(keys).outcome.value_counts()
    shares = 100 * counts / counts.groupby(level=[0, 1, 2]).transform("sum")
    silence = nothing.groupby(keys).no_speech_probability.median()
    return shares.unstack(fill_value=0.0).assign(no_speech_probability=silence).reset_index()


def _percent(weights: np.ndarray, parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    return np.asarray(100 * (weights @ parts) / (weights @ wholes))

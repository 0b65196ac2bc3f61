"""Whether a model listens, and what it writes where there is nothing to hear."""

from functools import partial

import pandas as pd

from companion.measurement.schemas import NONSPEECH, REFERENCE_CONDITION
from companion.results.effects import interval_columns
from companion.results.intervals import interval, ratio
from companion.speech.text import normalise

HEARD = (REFERENCE_CONDITION, "swapped")
"""The own audio, and another speaker's."""

FORCED = ("forced_loss", "forced_token_error")

NOTHING = ("silence", "noise-alone", "tones")
"""Conditions in which nobody speaks, made for every utterance; clips are ``NONSPEECH``."""


def listening_summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Free-running word error in %, and teacher-forced loss and token error in %, by condition.

    One row per model and condition of ``HEARD``, each number with its interval.
    """
    table = []
    keys = ["parameters", "model", "condition"]
    for key, group in rows[rows.condition.isin(HEARD)].groupby(keys, sort=True):
        words = group.reference.map(lambda text: len(normalise(text).split())).to_numpy(float)
        edits = words * group.wer.to_numpy()
        scored = group.forced_loss.notna().to_numpy(float)  # texts too long for the model are not
        loss, token_error = (group[name].fillna(0.0).to_numpy() for name in FORCED)
        columns = {
            "wer": (100 * edits, words),
            "forced_loss": (loss, scored),
            "forced_token_error": (100 * token_error, scored),
        }
        row = dict(zip(keys, key, strict=True)) | {
            "n": len(group), "n_forced": int(scored.sum())
        }  # fmt: skip
        for name, (parts, wholes) in columns.items():
            statistic = partial(ratio, parts=parts, wholes=wholes)
            found = interval(statistic, group.speaker.to_numpy())
            row |= interval_columns(name, found)
        table.append(row)
    return pd.DataFrame(table)


def nonspeech_transcripts(rows: pd.DataFrame) -> pd.DataFrame:
    """The fraction of each kind of transcript in %, and the median no-speech probability, by
    condition."""
    nothing = rows[rows.condition.isin([*NOTHING, NONSPEECH])]
    keys = ["parameters", "model", "condition"]
    counts = nothing.groupby(keys).outcome.value_counts()
    fractions = 100 * counts / counts.groupby(level=[0, 1, 2]).transform("sum")
    silence = nothing.groupby(keys).no_speech_probability.median()
    return fractions.unstack(fill_value=0.0).assign(no_speech_probability=silence).reset_index()

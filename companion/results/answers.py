"""What every utterance was answered with, as numbers that stresses move."""

import pandas as pd

from companion.results.confidence import PER_CHARACTER, PER_WORD_PIECE
from companion.results.wers import transcripts

ANSWER = "transcript"
"""In the place of a component, for what is no spectrum but read off the transcript itself."""

ANSWERS = {
    "wer": "wer",
    "candidate_fraction": "candidate",
    PER_WORD_PIECE: PER_WORD_PIECE,
    PER_CHARACTER: PER_CHARACTER,
    "tokens": "tokens",
}
"""What is read off a transcript, and its column; word error and candidates are in %, and of the two
log-probabilities a model has that of its own tokens."""

PERCENT = ("wer", "candidate_fraction")


def answers(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per model, condition and utterance: the columns of ``ANSWERS``, and the candidate."""
    said = transcripts(rows)
    said[PER_CHARACTER] = said[PER_CHARACTER].where(said[PER_WORD_PIECE].isna())
    values = {
        name: (100.0 if name in PERCENT else 1.0) * said[column].astype(float)
        for name, column in ANSWERS.items()
    }
    keys = ["parameters", "model", "condition", "utterance", "speaker", "candidate"]
    return said[keys].assign(**values)


def drawn(table: pd.DataFrame) -> pd.DataFrame:
    """The rows to draw: alpha over the fewest modes measured, all else over the most.

    Short texts do not resolve as many modes as the slope over the most of them needs.
    """
    spectra = table.component != ANSWER
    modes = table.modes[spectra]
    wanted = table.observable.eq("alpha").map({True: modes.min(), False: modes.max()})
    return table[~spectra | (table.modes == wanted)]

"""How sure a model was of what it wrote: per word piece, or per character.

OpenAI's models write word pieces, the ladder's characters. A word piece is several characters, so
an average per character lies nearer to zero than one per word piece of the same text, and the
threshold of openai-whisper is one per word piece.
"""

import pandas as pd

PER_CHARACTER = "log_probability_per_character"
PER_WORD_PIECE = "log_probability_per_word_piece"
CONFIDENCES = {
    PER_WORD_PIECE: "log-probability per word piece",
    PER_CHARACTER: "log-probability per character",
}
"""Averages in nats, as they read."""

LEAST_LOG_PROBABILITY = -1.0
"""openai-whisper's logprob_threshold, per word piece: below it decoding failed."""

_LONGEST = 1.5
"""Tokens of a character each are no longer than this, in characters; word pieces are about four."""


def writes_characters(rows: pd.DataFrame) -> pd.Series:
    """Whether the model of each row writes characters, by its transcripts and their tokens."""
    long = rows.transcript.str.len() / rows.tokens.clip(lower=1)
    found: pd.Series = long.groupby(rows.model).transform("median") < _LONGEST
    return found


def with_confidence(said: pd.DataFrame) -> pd.DataFrame:
    """``said`` with the columns ``CONFIDENCES``, from the averages over tokens that it holds.

    An average is over the text's tokens and the end of each window. Per character it is the same
    sum over characters and ends. Per word piece it is NaN for a model that writes characters.
    Rows from before there were decoding rules hold the average among text tokens alone.
    """
    sure = said.average_log_probability.fillna(said.text_log_probability)
    ends = said.windows.fillna(1)
    per_token = (said.tokens + ends) / (said.transcript.str.len() + ends)
    characters = writes_characters(said)
    return said.assign(
        **{
            PER_CHARACTER: sure.where(characters, sure * per_token),
            PER_WORD_PIECE: sure.where(~characters),
        }
    )

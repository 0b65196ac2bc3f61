"""What models write for each input, side by side."""

import pandas as pd

from companion.speech.grammar import vocabulary
from companion.speech.text import normalise, without_annotations
from companion.stress.scoring import outcome

SHOWN = 40
"""Characters of a text in a table to read; the whole texts are in its CSV."""


def with_outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with what kind of transcript each transcript is; judged here, as it needs no
    model."""
    words = vocabulary()
    texts = zip(rows.reference, rows.transcript, strict=True)
    return rows.assign(outcome=[str(outcome([said], text, words)) for said, text in texts])


def written(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per input: each model's first-step probabilities, and its text under every rule.

    Texts are shortened; the no-speech probability and the forbidden mass do not depend on the rule.
    """
    table = pd.DataFrame({"input": rows.input.unique()}).set_index("input")
    for model, own in rows.groupby("model", sort=False):
        first = own.drop_duplicates("input").set_index("input")
        table[f"{model}: no-speech, forbidden"] = [
            f"{silence:.2f}, {mass:.2f}"
            for silence, mass in zip(first.no_speech_probability, first.forbidden_mass, strict=True)
        ]
        for decoding, one in own.groupby("decoding", sort=False):
            table[f"{model}: {decoding}"] = one.set_index("input").transcript.map(shortened)
    return table.reset_index()


def kinds_of_transcript(rows: pd.DataFrame) -> pd.DataFrame:
    """How many inputs without and with speech get each outcome, by model and decoding rule."""
    spoken = rows.reference.map(bool).map({False: "no speech", True: "speech"})
    counts = rows.assign(inputs=spoken).groupby(["inputs", "outcome", "model", "decoding"]).size()
    order = list(rows[["model", "decoding"]].drop_duplicates().itertuples(index=False, name=None))
    table = counts.unstack(["model", "decoding"], fill_value=0)[order]
    table.columns = [": ".join(column) for column in table.columns]
    return table.reset_index()


def words_from_nonspeech(rows: pd.DataFrame) -> pd.DataFrame:
    """Of how many clips without speech words come out, by model and decoding rule.

    Brackets ("[Music]") and punctuation are no words. Columns ``clips`` and ``with_words``.
    """
    silent = rows[rows.reference == ""]
    words = silent.transcript.map(lambda text: bool(normalise(without_annotations(text))))
    counts = silent.assign(words=words).groupby(["parameters", "model", "decoding"]).words
    return counts.agg(clips="size", with_words="sum").reset_index()


def shortened(text: str) -> str:
    """A text on one line of at most ``SHOWN`` characters, in quotation marks; "" is empty."""
    line = " ".join(text.split()).replace("|", "\\|")
    return f'"{line}"' if len(line) <= SHOWN else f'"{line[: SHOWN - 1].rstrip()}…"'

"""What was written: word errors, kinds of transcripts, how sure a model was, how many texts differ.

OpenAI's models write word pieces, the ladder's characters. A word piece is several characters, so
an average log-probability per character lies nearer to zero than one per word piece of the same
text, and the threshold of openai-whisper is one per word piece.
"""

import json
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import entropy

from companion.measurement.schemas import NONSPEECH, REFERENCE_CONDITION
from companion.results import intervals
from companion.results.intervals import Columns, mean_over, ratio_over, rows_by
from companion.speech.grammar import vocabulary
from companion.speech.text import normalise, without_annotations
from companion.stress.scoring import Outcome, outcome

MODEL = ["parameters", "model"]
SIDE = [*MODEL, "condition"]
PER_CHARACTER = "log_probability_per_character"
PER_WORD_PIECE = "log_probability_per_word_piece"
CONFIDENCES = {
    PER_WORD_PIECE: "log-probability per word piece",
    PER_CHARACTER: "log-probability per character",
}
"""Averages in nats, as they read."""

LEAST_LOG_PROBABILITY = -1.0
"""openai-whisper's logprob_threshold, per word piece: below it decoding failed."""

TRANSCRIPT = "transcript"
"""In the place of a component, for what is no spectrum but read off the transcript itself."""

PERCENT = {"wer": "wer", "candidate_fraction": "candidate"}
TRANSCRIPT_VALUES = (*PERCENT, PER_WORD_PIECE, PER_CHARACTER, "tokens")
"""What is read off a transcript; word error and candidates are in %, and of the two
log-probabilities a model has that of its own tokens."""

UNSEEN = ("unseen_construction", "unseen_pair", "unseen_voice", "unseen_accent")
HEARD = (REFERENCE_CONDITION, "swapped")
"""The own audio, and another speaker's."""

NOTHING_SAID = ("silence", "noise-alone", "tones")
"""Conditions in which nobody speaks, made for every utterance; clips are ``NONSPEECH``."""

REFERENCES, WHOLE = "said", 0
"""The references, which any count of written texts is held against; all words of a text."""

PREFIXES = (1, 3, WHOLE)
SHOWN = 40
"""Characters of a text in a table to read; the whole texts are in its CSV."""

_LONGEST = 1.5
"""Tokens of a character each are no longer than this, in characters; word pieces are about four."""


def writes_characters(rows: pd.DataFrame) -> pd.Series:
    """Whether the model of each row writes characters, by its transcripts and their tokens."""
    long = rows.transcript.str.len() / rows.tokens.clip(lower=1)
    return pd.Series(long.groupby(rows.model).transform("median") < _LONGEST)


def with_confidence(texts: pd.DataFrame) -> pd.DataFrame:
    """``texts`` with the columns ``CONFIDENCES``, from the averages over tokens that it holds.

    An average is over the text's tokens and the end of each window. Per character it is the same
    sum over characters and ends. Per word piece it is NaN for a model that writes characters.
    Rows from before there were decoding rules hold the average among text tokens alone.
    """
    average = texts.average_log_probability.fillna(texts.text_log_probability)
    ends = texts.windows.fillna(1)
    per_token = (texts.tokens + ends) / (texts.transcript.str.len() + ends)
    characters = writes_characters(texts)
    per_character = average.where(characters, average * per_token)
    per_piece = average.where(~characters)
    return texts.assign(**{PER_CHARACTER: per_character, PER_WORD_PIECE: per_piece})


def transcripts(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per model, condition and utterance: what was said, ``with_confidence``."""
    columns = [
        "model", "parameters", "condition", "utterance", "speaker", "reference", "transcript",
        "wer", "candidate", "outcome", "average_log_probability", "text_log_probability",
        "compression_ratio", "no_speech_probability", "tokens", "finished", "windows",
    ]  # fmt: skip
    raw = rows[rows.matched_with == ""]
    texts = raw.drop_duplicates(["model", "condition", "utterance"])[columns].reset_index(drop=True)
    return with_confidence(texts)


def transcript_values(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per model, condition and utterance: ``TRANSCRIPT_VALUES``, and the candidate."""
    texts = transcripts(rows)
    texts[PER_CHARACTER] = texts[PER_CHARACTER].where(texts[PER_WORD_PIECE].isna())
    values = {name: 100.0 * texts[column] for name, column in PERCENT.items()}
    values |= {name: texts[name].astype(float) for name in TRANSCRIPT_VALUES if name not in PERCENT}
    return texts[[*SIDE, "utterance", "speaker", "candidate"]].assign(**values)


def word_counts(references: pd.Series) -> pd.Series:
    """How many words were said."""
    return references.map(lambda text: len(normalise(text).split())).astype(float)


def wers(texts: pd.DataFrame) -> pd.DataFrame:
    """Corpus word error in % by model and condition: all word edits over all reference words.

    Also the fraction of hallucination candidates in %, and the means of ``CONFIDENCES``; each with
    its interval. Takes rows of ``transcripts``.
    """

    def describe(group: pd.DataFrame) -> Columns:
        words, speakers = word_counts(group.reference), group.speaker
        return {
            "n": len(group),
            "wer": ratio_over(100 * words * group.wer, words, speakers),
            "candidates": mean_over(100 * group.candidate, speakers, 100),
            **{name: mean_over(group[name], speakers) for name in CONFIDENCES},
        }

    return rows_by(texts, SIDE, describe)


def outcome_fractions(texts: pd.DataFrame) -> pd.DataFrame:
    """The fraction of each outcome, in %, by model and condition."""
    fractions = 100 * texts.groupby(SIDE).outcome.value_counts(normalize=True)
    return fractions.unstack(fill_value=0.0).reset_index()


def outcome_confidence(texts: pd.DataFrame) -> pd.DataFrame:
    """What kinds of transcripts there are, and how many of each kind Whisper itself would trust.

    One row per model, condition and outcome: ``n`` transcripts; ``fraction`` of all in %;
    ``passing``, those of the kind whose log-probability per word piece is -1 or more, which Whisper
    keeps, in %, NaN of models that write characters. Intervals are over speakers.
    """
    table = []
    for key, group in intervals.groups_by(texts, SIDE):
        known = group[PER_WORD_PIECE].notna()
        for kind in Outcome:
            of_kind = group.outcome == kind
            confident = of_kind & (group[PER_WORD_PIECE] >= LEAST_LOG_PROBABILITY)
            table.append(key | {
                "outcome": str(kind),
                "n": int(of_kind.sum()),
                "fraction": mean_over(100 * of_kind, group.speaker, 100),
                "passing": ratio_over(100 * confident, of_kind & known, group.speaker, 100),
            })  # fmt: skip
    return intervals.as_table(table)


def separation(texts: pd.DataFrame) -> pd.DataFrame:
    """How well log-probabilities tell inventions from right transcripts, wherever they are.

    One row per model: the numbers of ``inventions`` and of ``right`` ones, whose word error is at
    most 0.5, and under the name of each of ``CONFIDENCES`` the probability that the right one of
    the two is the more confident (the area under the ROC curve), with its interval over speakers.
    """

    def describe(group: pd.DataFrame) -> Columns:
        right = (group.outcome == Outcome.CORRECT).to_numpy()
        row: Columns = {"inventions": int((~right).sum()), "right": int(right.sum())}
        for name in CONFIDENCES:
            known = np.isfinite(group[name].to_numpy(float)).all()
            auc = intervals.auc_over(group[name], right, group.speaker)
            row[f"auc_{name}"] = auc if known else intervals.NOTHING
        return row

    return rows_by(texts[texts.outcome.isin([Outcome.INVENTION, Outcome.CORRECT])], MODEL, describe)


def by_novelty(texts: pd.DataFrame, table: Path) -> pd.DataFrame:
    """``wers`` of clean speech on all utterances, the familiar ones, and each unseen kind.

    ``table`` is the embedded corpus's own, which says what training has never met.
    """
    flags = pd.read_csv(table).set_index("id")[list(UNSEEN)]
    clean = texts[texts.condition == "clean"].join(flags, on="utterance")
    missing = clean[clean[UNSEEN[0]].isna()].utterance.unique()
    if len(missing):
        raise ValueError(f"{table}: no row for {', '.join(missing[:3])}; make the corpus again")
    unseen = clean[list(UNSEEN)].astype(bool)
    subsets = {"all": clean, "familiar": clean[~unseen.any(axis=1)]}
    subsets |= {name.replace("_", " "): clean[unseen[name]] for name in UNSEEN}
    tables = [wers(subset).assign(material=name) for name, subset in subsets.items()]
    return pd.concat(tables, ignore_index=True)


def listening_summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Free-running word error in %, and teacher-forced loss and token error in %, by condition.

    One row per model and condition of ``HEARD``, each number with its interval.
    """

    def describe(group: pd.DataFrame) -> Columns:
        words, speakers = word_counts(group.reference), group.speaker
        return {
            "n": len(group),
            "n_forced": group.forced_loss.notna().sum(),  # not of texts too long for the model
            "wer": ratio_over(100 * words * group.wer, words, speakers),
            "forced_loss": mean_over(group.forced_loss, speakers),
            "forced_token_error": mean_over(100 * group.forced_token_error, speakers),
        }

    return rows_by(rows[rows.condition.isin(HEARD)], SIDE, describe)


def nonspeech_transcripts(rows: pd.DataFrame) -> pd.DataFrame:
    """The fraction of each kind of transcript in %, and the median no-speech probability."""
    nothing = rows[rows.condition.isin([*NOTHING_SAID, NONSPEECH])]
    silence = nothing.groupby(SIDE).no_speech_probability.median().reset_index()
    return outcome_fractions(nothing).merge(silence)


def distinct_texts(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Distinct texts by model, side (said, clean, stress) and number of first words compared.

    ``distinct`` is the fraction of distinct ones among n texts in %, ``entropy`` that of their
    distribution in bits (at most log2 n), and ``alike`` the fraction of pairs of utterances with
    the same text in %, the last alone with an interval: without a speaker there are fewer distinct
    texts, but the fraction of pairs is a mean. Of no pair it is exact, of pairs without a common
    end.
    """
    table = []
    texts = rows.drop_duplicates([*SIDE, "utterance"])
    for key, group in intervals.groups_by(texts, MODEL):
        clean, stressed = (
            group[group.condition == name] for name in (REFERENCE_CONDITION, condition)
        )
        sides = {
            REFERENCES: (clean, "reference"),
            REFERENCE_CONDITION: (clean, "transcript"),
            condition: (stressed, "transcript"),
        }
        for (side, (utterances, column)), words in product(sides.items(), PREFIXES):
            kept = utterances[column].map(partial(first_words, count=words))
            pairs = partial(_alike, texts=pd.factorize(kept)[0])
            counts, speakers = kept.value_counts(), utterances.speaker.to_numpy()
            table.append(key | {
                "side": side, "words": words, "n": len(kept),
                "distinct": 100 * len(counts) / len(kept),
                "entropy": entropy(counts, base=2) + 0.0,  # never minus zero
                "alike": intervals.interval(pairs, speakers, 100, len(kept) // 2),
            })  # fmt: skip
    return intervals.as_table(table)


def first_words(text: str, count: int) -> str:
    """The first words of a text, normalised; all of them for ``WHOLE``."""
    words = normalise(text).split()
    return " ".join(words if count == WHOLE else words[:count])


def _alike(weights: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Fraction of pairs with the same text in %, pairs of an utterance with itself left out."""
    itself = np.square(weights).sum(1)
    groups = weights @ (texts[:, None] == np.unique(texts))
    pairs = np.square(weights.sum(1)) - itself
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(100 * (np.square(groups).sum(1) - itself) / pairs)


def with_outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with what kind of transcript each transcript is; judged here, as it needs no
    model."""
    words = vocabulary()
    pairs = zip(rows.reference, rows.transcript, strict=True)
    return rows.assign(outcome=[str(outcome([spoken], text, words)) for spoken, text in pairs])


def written(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per input: each model's first-step probabilities, and its text under every rule.

    Texts are shortened; the no-speech probability and the forbidden mass do not depend on the rule.
    """
    table = pd.DataFrame({"input": rows.input.unique()}).set_index("input")
    for model, group in rows.groupby("model", sort=False):
        first = group.drop_duplicates("input").set_index("input")
        silence, mass = (
            first[name].map("{:.2f}".format) for name in ("no_speech_probability", "forbidden_mass")
        )
        table[f"{model}: no-speech, forbidden"] = silence + ", " + mass
        for decoding, texts in group.groupby("decoding", sort=False):
            table[f"{model}: {decoding}"] = texts.set_index("input").transcript.map(shortened)
    return table.reset_index()


def kinds_of_transcript(rows: pd.DataFrame) -> pd.DataFrame:
    """How many inputs without and with speech get each outcome, by model and decoding rule."""
    spoken = rows.reference.map(bool).map({False: "no speech", True: "speech"}).rename("inputs")
    columns = rows.model + ": " + rows.decoding
    counts = pd.crosstab([spoken, rows.outcome], columns)[columns.unique()]
    return counts.rename_axis(columns=None).reset_index()


def words_from_nonspeech(rows: pd.DataFrame) -> pd.DataFrame:
    """Of how many clips without speech words come out, by model and decoding rule.

    Brackets ("[Music]") and punctuation are no words. Columns ``clips`` and ``with_words``.
    """
    silent = rows[rows.reference == ""]
    words = silent.transcript.map(lambda text: bool(normalise(without_annotations(text))))
    counts = silent.assign(words=words).groupby([*MODEL, "decoding"]).words
    return counts.agg(clips="size", with_words="sum").reset_index()


def shortened(text: str) -> str:
    """A text on one line of at most ``SHOWN`` characters, in quotation marks; "" is empty."""
    line = " ".join(text.split()).replace("|", "\\|")
    return f'"{line}"' if len(line) <= SHOWN else f'"{line[: SHOWN - 1].rstrip()}…"'


def training_records(folders: Sequence[Path]) -> pd.DataFrame:
    """Loss and development word error of each model's training, a row per checkpoint.

    ``total_step`` runs on from one stage to the next; ``step`` starts again.
    """
    tables = []
    for folder in folders:
        training = json.loads((folder / "training.json").read_text())
        record = pd.DataFrame(training["record"])
        last = record.groupby("stage", sort=False).step.last()
        before = record.stage.map(last.cumsum() - last)
        about = {"model": folder.name, "parameters": training["parameters"]}
        tables.append(record.assign(**about, total_step=record.step + before))
    return pd.concat(tables, ignore_index=True)

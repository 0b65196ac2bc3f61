"""Word error and outcomes per model and condition, on all utterances and on the unseen ones."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from companion.results.confidence import (
    CONFIDENCES,
    LEAST_LOG_PROBABILITY,
    PER_WORD_PIECE,
    with_confidence,
)
from companion.results.effects import interval_columns
from companion.results.intervals import fraction, interval, ratio, weighted_mean
from companion.speech.text import normalise
from companion.stress.scoring import Outcome

UNSEEN = ("unseen_construction", "unseen_pair", "unseen_voice", "unseen_accent")


def transcripts(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per model, condition and utterance: what was said, ``with_confidence``."""
    columns = [
        "model", "parameters", "condition", "utterance", "speaker", "reference", "transcript",
        "wer", "candidate", "outcome", "average_log_probability", "text_log_probability",
        "compression_ratio", "no_speech_probability", "tokens", "finished", "windows",
    ]  # fmt: skip
    raw = rows[rows.matched_with == ""]
    said = raw.drop_duplicates(["model", "condition", "utterance"])[columns].reset_index(drop=True)
    return with_confidence(said)


def wers(said: pd.DataFrame) -> pd.DataFrame:
    """Corpus word error in % by model and condition: all word edits over all reference words.

    Also the fraction of hallucination candidates in %, and the means of ``CONFIDENCES``; each with
    its interval. Takes rows of ``transcripts``.
    """
    table = []
    keys = ["parameters", "model", "condition"]
    for key, group in said.groupby(keys, sort=True):
        words = group.reference.map(lambda text: len(normalise(text).split())).to_numpy(float)
        edits = words * group.wer.to_numpy()
        candidates, speakers = group.candidate.to_numpy(float), group.speaker.to_numpy()
        columns = {
            "wer": interval(partial(ratio, parts=100 * edits, wholes=words), speakers),
            "candidates": fraction(candidates, np.ones(len(group)), speakers),
        }
        for name in CONFIDENCES:
            sure = group[name].to_numpy(float)
            columns[name] = interval(partial(weighted_mean, values=sure), speakers)
        row = dict(zip(keys, key, strict=True)) | {"n": len(group)}
        for name, found in columns.items():
            row |= interval_columns(name, found)
        table.append(row)
    return pd.DataFrame(table)


def outcome_fractions(said: pd.DataFrame) -> pd.DataFrame:
    """The fraction of each outcome, in %, by model and condition."""
    counts = said.groupby(["parameters", "model", "condition"]).outcome.value_counts()
    fractions = 100 * counts / counts.groupby(level=[0, 1, 2]).transform("sum")
    return fractions.unstack(fill_value=0.0).reset_index()


def outcome_confidence(said: pd.DataFrame) -> pd.DataFrame:
    """What kinds of transcripts there are, and how many of each kind Whisper itself would trust.

    One row per model, condition and outcome: ``n`` transcripts; ``fraction`` of all in %;
    ``passing``, those of the kind whose log-probability per word piece is -1 or more, which Whisper
    keeps, in %, NaN of models that write characters. Intervals are over speakers.
    """
    table = []
    keys = ["parameters", "model", "condition"]
    for key, group in said.groupby(keys, sort=True):
        confident = (group[PER_WORD_PIECE] >= LEAST_LOG_PROBABILITY).to_numpy(float)
        known = group[PER_WORD_PIECE].notna().to_numpy(float)
        for kind in Outcome:
            own = (group.outcome == kind).to_numpy(float)
            row = dict(zip(keys, key, strict=True)) | {"outcome": str(kind), "n": int(own.sum())}
            speakers = group.speaker.to_numpy()
            row |= interval_columns("fraction", fraction(own, np.ones(len(group)), speakers))
            row |= interval_columns("passing", fraction(own * confident, own * known, speakers))
            table.append(row)
    return pd.DataFrame(table)


def by_novelty(said: pd.DataFrame, table: Path) -> pd.DataFrame:
    """``wers`` of clean speech on all utterances, the familiar ones, and each unseen kind.

    ``table`` is the embedded corpus's own, which says what training has never met.
    """
    flags = pd.read_csv(table).set_index("id")[list(UNSEEN)]
    clean = said[said.condition == "clean"].join(flags, on="utterance")
    missing = clean[clean[UNSEEN[0]].isna()].utterance.unique()
    if len(missing):
        raise ValueError(f"{table}: no row for {', '.join(missing[:3])}; make the corpus again")
    unseen = clean[list(UNSEEN)].astype(bool)
    subsets = {"all": clean, "familiar": clean[~unseen.any(axis=1)]}
    subsets |= {name: clean[unseen[name]] for name in UNSEEN}
    return pd.concat(
        [wers(subset).assign(material=name.replace("_", " ")) for name, subset in subsets.items()],
        ignore_index=True,
    )


def training_records(folders: Sequence[Path]) -> pd.DataFrame:
    """Loss and development word error of each model's training, a row per checkpoint.

    ``total_step`` runs on from one stage to the next; ``step`` starts again.
    """
    table = []
    for folder in folders:
        training = json.loads((folder / "training.json").read_text())
        before, stage = 0, ""
        last = 0
        for row in training["record"]:
            if row["stage"] != stage:
                before, stage = before + last, row["stage"]
            last = row["step"]
            table.append(
                {"model": folder.name, "parameters": training["parameters"]}
                | row
                | {"total_step": before + last}
            )
    return pd.DataFrame(table)

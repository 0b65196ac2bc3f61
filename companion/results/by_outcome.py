"""Effects of stress by what was written: loops, inventions and the rest apart."""

import pandas as pd

from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results.effects import effects
from companion.stress.scoring import Outcome

ALL, WITHOUT_LOOPS = "all", "without loops"
LEAST = 8
"""Utterances, and half as many speakers, without which a kind of transcript has no row."""


def outcomes_of(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """One row per model and utterance: the outcome under stress, and whether either side loops."""
    raw = rows[rows.matched_with == ""]
    sides = raw.drop_duplicates(["model", "condition", "utterance"])
    wide = sides.pivot(index=["model", "utterance", "speaker"], columns="condition").outcome
    found = wide[[condition]].rename(columns={condition: "outcome"})
    loops = (wide[[REFERENCE_CONDITION, condition]] == Outcome.LOOP).any(axis=1)
    return found.assign(loops=loops).reset_index()


def effects_by_outcome(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """``effects`` of the utterances of each outcome under stress, with their ``outcome``.

    ``all`` of them are there too, and those that loop on neither side. An outcome of fewer than
    ``LEAST`` utterances, or of fewer than half as many speakers, has no row.
    """
    found = []
    for model, answers in outcomes_of(rows, condition).groupby("model", sort=False):
        own = rows[rows.model == model]
        kinds = {ALL: answers, WITHOUT_LOOPS: answers[~answers.loops]}
        kinds |= dict(list(answers.groupby("outcome")))
        for name, chosen in kinds.items():
            if len(chosen) < LEAST or chosen.speaker.nunique() < LEAST / 2:
                continue
            kept = own[own.utterance.isin(chosen.utterance)]
            table = effects(kept, condition)
            found.append(table.assign(outcome=str(name), utterances=len(chosen)))
    return pd.concat(found, ignore_index=True)

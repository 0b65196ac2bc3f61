"""What the decoder's Jacobians say of invented texts, from the rows of `jacobians`."""

from collections.abc import Iterator

import pandas as pd

from companion.contest.contest import LEAST
from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results.intervals import Columns, as_table, auc_over, groups_by
from companion.stress.outcomes import INVENTED, kind_of

SCORES = (
    "gain",
    "alignment",
    "injection",
    "singular_value_ratio",
    "unstable",
    "sensitivity",
    "rank_one_fraction",
)
"""Columns of the rows; of the alignment its size counts."""


def jacobian_scores(rows: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
    """A row per model and score: invented texts in Hell against right ones of clean speech.

    Scores are means over layers and the tokens that were linearised at, of the trained network;
    ``auroc``: the probability that the invented text has the larger one, with its interval over
    speakers. texts: rows of `measure`, which have the transcripts. Both sides differ in the sound
    too: under one stress hardly any Jacobians were measured.
    """
    trained = rows[rows.network == "trained"].assign(alignment=rows.alignment.abs())
    keys = ["parameters", "model", "speaker", "utterance", "condition"]
    means = trained.groupby(keys)[list(SCORES)].mean().reset_index()
    reference_words = texts.drop_duplicates(["model", "utterance", "condition"])
    wanted = [*keys, "reference", "transcript", "average_log_probability"]
    means = means.merge(reference_words[wanted], on=keys, validate="one_to_one")
    means["target"] = [
        kind_of([a], b) in INVENTED for a, b in zip(means.reference, means.transcript, strict=True)
    ]
    stressed = means.condition != REFERENCE_CONDITION
    return as_table(_rows(means[means.target == stressed]))


def _rows(means: pd.DataFrame) -> Iterator[Columns]:
    for key, group in groups_by(means, ["parameters", "model"]):
        counts = {"invented": int(group.target.sum()), "others": int((~group.target).sum())}
        if min(counts.values()) >= LEAST:
            for name in (*SCORES, "average_log_probability"):
                auroc = auc_over(group[name], group.target, group.speaker)
                yield key | {"score": name, **counts, "auroc": auroc}

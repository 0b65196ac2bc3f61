"""Do different inputs converge, and near ones part? Distances, ranks, linear probes, small changes.

Distances of two utterances run through depth and steps, ranks are across utterances, a probe reads
the next token off states, and small changes of the log-mel move texts and states.
"""

import numpy as np
import pandas as pd

from companion.measurement import schemas
from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results import intervals
from companion.results.intervals import Columns, mean_over, ratio_over, rows_by

NETWORK = ["parameters", "model", "network"]
PERTURBED = ["parameters", "model", "condition", "direction", "level_db"]
_PLACE = ["stage", "layer", "step"]
_ENDS = ["speaker", "other"]


def distances(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean distance of an utterance and its partner, with its interval over speakers at both ends.

    One row per model, network, condition, quantity, stage, layer and step.
    """

    return rows_by(
        _pairs(rows), [*NETWORK, "condition", "quantity", *_PLACE],
        lambda group: {
            "n": len(group), "distance": mean_over(group.value, group[_ENDS].to_numpy(str))
        },
    )  # fmt: skip


def convergence(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Distance at the last decoder layer over that of the input, clean and stressed, and change.

    One row per model, network and quantity. ``ratio_clean`` and ``ratio_stressed`` are ratios of
    means over pairs; ``change`` is the stressed distance at the last layer over the clean one, of
    the same pairs, less one, in %.
    """

    def describe(group: pd.DataFrame) -> Columns:
        decoder = group[group.stage == schemas.DECODER]  # which may be shallower than the encoder
        last = decoder[decoder.layer == decoder.layer.max()]
        both = pd.concat([group[group.stage == schemas.INPUT], last]).pivot(
            index=["utterance", *_ENDS], columns=["stage", "condition"], values="value"
        )
        both = both.loc[:, both.columns.isin([REFERENCE_CONDITION, condition], level=1)].dropna()
        speakers = both.index.to_frame()[_ENDS].to_numpy(str)
        first, last = both[schemas.INPUT], both[schemas.DECODER]
        change = 100 * (last[condition] - last[REFERENCE_CONDITION])
        clean = ratio_over(last[REFERENCE_CONDITION], first[REFERENCE_CONDITION], speakers)
        return {
            "n": len(both),
            "ratio_clean": clean,
            "ratio_stressed": ratio_over(last[condition], first[condition], speakers),
            "change": ratio_over(change, last[REFERENCE_CONDITION], speakers),
        }

    return rows_by(_pairs(rows[rows.step == 0]), [*NETWORK, "quantity"], describe)


def ranks(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Effective rank across utterances, clean and stressed, and its change in %.

    One row per model, network, stage, layer and step, each number with its jackknife interval.
    Where the two sides are of other numbers of utterances ValueError is raised.
    """

    def describe(group: pd.DataFrame) -> Columns:
        wide = dict(iter(group.set_index("speaker").groupby("condition")))
        clean, stressed = (wide[name].sort_index() for name in sides)
        if not clean["count"].equals(stressed["count"]):
            about = group[keys].iloc[0].tolist()
            raise ValueError(f"{about}: ranks of other numbers of utterances; measure them again")
        before, after = (np.array([s.value.iloc[0], *s.without]) for s in (clean, stressed))
        values = {
            "rank_clean": before,
            "rank_stressed": after,
            "change": 100 * (after / before - 1),
        }
        row: Columns = {"n": int(clean["count"].iloc[0])}
        return row | {name: intervals.jackknife(values[name], clean.index) for name in values}

    keys, sides = [*NETWORK, *_PLACE], [REFERENCE_CONDITION, condition]
    kept = rows[(rows.quantity == schemas.RANK) & rows.condition.isin(sides)]
    return rows_by(kept.drop_duplicates([*keys, "condition", "speaker"]), keys, describe)


def _pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Distances, with the speakers of both ends."""
    speakers = rows.drop_duplicates("utterance").set_index("utterance").speaker
    kept = rows[rows.quantity.isin([schemas.DISTANCE, schemas.CENTRED_DISTANCE])]
    return kept.assign(other=kept.partner.map(speakers))


def linear_probes(rows: pd.DataFrame) -> pd.DataFrame:
    """Fraction of next tokens read rightly, in %, over all tokens of speakers that were left out.

    One row per model, network, condition, stage and layer: ``own`` with the own audio,
    ``swapped`` with the partner's (the text alone, as it were), ``added`` the difference in
    percentage points, and ``chance``, the most frequent token.
    """
    read = rows[rows.quantity == schemas.READOUT]
    keys = [*NETWORK, "condition"]
    weighed = read[read.stage == schemas.CHANCE].assign(right=read.value * read["count"])
    sums = weighed.groupby(keys)[["right", "count"]].sum()
    chance = (100 * sums.right / sums["count"]).to_dict()

    def describe(group: pd.DataFrame) -> Columns:
        wide = group.pivot(index=["utterance", "speaker", "count"], columns="audio", values="value")
        counts = wide.index.get_level_values("count").to_numpy(float)
        speakers = wide.index.get_level_values("speaker").to_numpy()
        with_own, swapped = (
            100 * counts * wide[audio] for audio in (schemas.OWN, schemas.SWAPPED_AUDIO)
        )
        return {
            "n": len(wide),
            "chance": chance[tuple(group[keys].iloc[0])],
            "own": ratio_over(with_own, counts, speakers),
            "swapped": ratio_over(swapped, counts, speakers),
            "added": ratio_over(with_own - swapped, counts, speakers),
        }

    return rows_by(read[read.stage != schemas.CHANCE], [*keys, "stage", "layer"], describe)


def perturbed_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """Of all perturbed versions, by model, condition, direction and level, with intervals.

    ``changed``: fraction of texts that are not the unmoved one, in %; ``edits``: characters to
    change per token written; ``wer`` in %, and ``added_error`` what it has more than unmoved;
    ``candidates``: those with a word error above 0.5, in %, and ``new_candidates``: those that were
    none unmoved.
    """
    words, tokens = rows.reference_words.astype(float), rows.tokens.astype(float)
    parts = {
        "changed": 100.0 * ~rows.unchanged,
        "edits": rows.character_edits.astype(float),
        "wer": 100 * words * rows.wer,
        "added_error": 100 * words * (rows.wer - rows.wer_before),
        "candidates": 100.0 * rows.candidate,
        "new_candidates": 100.0 * (rows.candidate & ~rows.candidate_before),
    }
    sums = pd.DataFrame(parts | {"of tokens": tokens, "of words": words, "of versions": 1.0})
    wholes = {"edits": "of tokens", "wer": "of words", "added_error": "of words"}

    def describe(group: pd.DataFrame) -> Columns:
        row: Columns = {"n": len(group), "utterances": group.utterance.nunique()}
        # an utterance's versions are drawn together
        together = sums.loc[group.index].groupby([group.speaker, group.utterance]).sum()
        speakers = together.index.get_level_values("speaker")
        for name in parts:
            whole, bounded = wholes.get(name, "of versions"), 0.0 if name in wholes else 100.0
            row[name] = ratio_over(together[name], together[whole], speakers, bounded)
        return row

    return rows_by(rows, PERTURBED, describe)


def growths(rows: pd.DataFrame) -> pd.DataFrame:
    """Decades by which a relative change of the log-mel has grown in each decoder layer's states.

    One row per model, network, condition, direction, level and layer; ``growth`` is the mean log10
    of the states' relative change over that of the log-mel.
    """
    table = []
    for network, column in (("trained", "growth"), ("random", "control_growth")):
        for key, group in intervals.groups_by(rows, PERTURBED):
            grown = np.log10(np.stack(group[column].to_list()))
            for layer, values in enumerate(grown.T, 1):
                place = {"network": network, "layer": layer, "n": len(group)}
                table.append(key | place | {"growth": mean_over(values, group.speaker)})
    return intervals.as_table(table)

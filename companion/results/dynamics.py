"""Do different inputs converge, and near ones part? Distances, ranks, linear probes, small changes.

Distances of two utterances run through depth and steps, ranks are across utterances, a probe reads
the next token off states, and small changes of the log-mel move texts and states.
"""

import numpy as np
import pandas as pd

from companion.measurement.schemas import (
    CENTRED_DISTANCE,
    CHANCE,
    DECODER,
    DISTANCE,
    INPUT,
    OWN,
    RANK,
    READOUT,
    REFERENCE_CONDITION,
    SWAPPED_AUDIO,
)
from companion.results.intervals import (
    Columns,
    interval_columns,
    jackknife,
    mean_over,
    ratio_over,
    rows_by,
)

NETWORK = ["parameters", "model", "network"]
NUDGED = ["parameters", "model", "condition", "direction", "level_db"]
_PLACE = ["stage", "layer", "step"]
_ENDS = ["speaker", "other"]


def distances(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean distance of an utterance and its partner, with its interval over speakers at both ends.

    One row per model, network, condition, quantity, stage, layer and step.
    """

    def describe(group: pd.DataFrame) -> Columns:
        mean = mean_over(group.value, group[_ENDS].to_numpy(str))
        return {"n": len(group)} | interval_columns("distance", mean)

    return rows_by(_pairs(rows), [*NETWORK, "condition", "quantity", *_PLACE], describe)


def convergence(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Distance at the last decoder layer over that of the input, clean and stressed, and change.

    One row per model, network and quantity. ``ratio_clean`` and ``ratio_stressed`` are ratios of
    means over pairs; ``change`` is the stressed distance at the last layer over the clean one, of
    the same pairs, less one, in %.
    """

    def describe(group: pd.DataFrame) -> Columns:
        decoder = group[group.stage == DECODER]  # which may be shallower than the encoder
        last = decoder[decoder.layer == decoder.layer.max()]
        both = pd.concat([group[group.stage == INPUT], last]).pivot(
            index=["utterance", *_ENDS], columns=["stage", "condition"], values="value"
        )
        both = both.loc[:, both.columns.isin([REFERENCE_CONDITION, condition], level=1)].dropna()
        speakers = both.index.to_frame()[_ENDS].to_numpy(str)
        clean, stressed = (DECODER, REFERENCE_CONDITION), (DECODER, condition)
        ratios = {
            "ratio_clean": (both[clean], both[INPUT, REFERENCE_CONDITION]),
            "ratio_stressed": (both[stressed], both[INPUT, condition]),
            "change": (100 * (both[stressed] - both[clean]), both[clean]),
        }
        row: Columns = {"n": len(both)}
        for name, (parts, wholes) in ratios.items():
            row |= interval_columns(name, ratio_over(parts, wholes, speakers))
        return row

    return rows_by(_pairs(rows[rows.step == 0]), [*NETWORK, "quantity"], describe)


def ranks(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Effective rank across utterances, clean and stressed, and its change in %.

    One row per model, network, stage, layer and step, each number with its jackknife interval.
    Where the two sides are of other numbers of utterances ValueError is raised.
    """

    def describe(group: pd.DataFrame) -> Columns:
        wide = group.pivot(
            index="speaker", columns="condition", values=["value", "without", "count"]
        )
        clean, stressed = (
            wide.xs(name, axis=1, level=1) for name in (REFERENCE_CONDITION, condition)
        )
        if set(clean["count"]) != set(stressed["count"]):
            about = group[[*NETWORK, *_PLACE]].iloc[0].tolist()
            raise ValueError(f"{about}: ranks of other numbers of utterances; measure them again")
        sides = [np.array([s.value.iloc[0], *s.without], float) for s in (clean, stressed)]
        changes = 100 * (sides[1] / sides[0] - 1)
        row: Columns = {"n": int(clean["count"].iloc[0])}
        names = ("rank_clean", "rank_stressed", "change")
        for name, values in zip(names, (*sides, changes), strict=True):
            row |= interval_columns(name, jackknife(values, clean.index.to_numpy()))
        return row

    keys = [*NETWORK, *_PLACE]
    kept = rows[(rows.quantity == RANK) & rows.condition.isin([REFERENCE_CONDITION, condition])]
    return rows_by(kept.drop_duplicates([*keys, "condition", "speaker"]), keys, describe)


def _pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Distances, with the speakers of both ends."""
    speakers = rows.drop_duplicates("utterance").set_index("utterance").speaker
    kept = rows[rows.quantity.isin([DISTANCE, CENTRED_DISTANCE])]
    return kept.assign(other=kept.partner.map(speakers))


def linear_probes(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of next tokens read rightly, in %, over all tokens of speakers that were left out.

    One row per model, network, condition, stage and layer: ``own`` with the own audio,
    ``swapped`` with the partner's (the text alone, as it were), ``added`` the difference in
    percentage points, and ``chance``, the most frequent token.
    """
    read = rows[rows.quantity == READOUT]
    keys = [*NETWORK, "condition"]
    weighed = read[read.stage == CHANCE].assign(right=read.value * read["count"])
    sums = weighed.groupby(keys)[["right", "count"]].sum()
    chance = (100 * sums.right / sums["count"]).to_dict()

    def describe(group: pd.DataFrame) -> Columns:
        wide = group.pivot(index=["utterance", "speaker", "count"], columns="audio", values="value")
        counts = wide.index.get_level_values("count").to_numpy(float)
        speakers = wide.index.get_level_values("speaker").to_numpy()
        row: Columns = {"n": len(wide), "chance": chance[tuple(group[keys].iloc[0])]}
        own, swapped = (100 * counts * wide[audio] for audio in (OWN, SWAPPED_AUDIO))
        for name, right in (("own", own), ("swapped", swapped), ("added", own - swapped)):
            row |= interval_columns(name, ratio_over(right, counts, speakers))
        return row

    return rows_by(read[read.stage != CHANCE], [*keys, "stage", "layer"], describe)


def perturbed_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """Of all perturbed versions, by model, condition, direction and level, with intervals.

    ``changed``: fraction of texts that are not the unmoved one, in %; ``edits``: characters to
    change per token written; ``wer`` in %, and ``added_error`` what it has more than unmoved;
    ``candidates``: share with a word error above 0.5, in %, and ``new_candidates``: those that
    were none unmoved.
    """
    words, tokens, one = rows.reference_words.astype(float), rows.tokens.astype(float), 1.0
    numbers = {
        "changed": (100.0 * ~rows.unchanged, one),
        "edits": (rows.character_edits.astype(float), tokens),
        "wer": (100 * words * rows.wer, words),
        "added_error": (100 * words * (rows.wer - rows.wer_before), words),
        "candidates": (100.0 * rows.candidate, one),
        "new_candidates": (100.0 * (rows.candidate & ~rows.candidate_before), one),
    }
    sums = pd.DataFrame({(name, end): values for name, ends in numbers.items()
                         for end, values in zip(("part", "whole"), ends, strict=True)})  # fmt: skip

    def describe(group: pd.DataFrame) -> Columns:
        row: Columns = {"n": len(group), "utterances": group.utterance.nunique()}
        # an utterance's versions are drawn together
        together = sums.loc[group.index].groupby([group.speaker, group.utterance]).sum()
        speakers = together.index.get_level_values("speaker")
        for name, (_, whole) in numbers.items():
            bounded = 100.0 if whole is one else 0.0
            part, wholes = (together[name, end] for end in ("part", "whole"))
            row |= interval_columns(name, ratio_over(part, wholes, speakers, bounded))
        return row

    return rows_by(rows, NUDGED, describe)


def growths(rows: pd.DataFrame) -> pd.DataFrame:
    """Decades by which a relative change of the log-mel has grown in each decoder layer's states.

    One row per model, network, condition, direction, level and layer; ``growth`` is the mean log10
    of the states' relative change over that of the log-mel.
    """
    table = []
    for network, column in (("trained", "growth"), ("random", "control_growth")):
        for key, group in rows.groupby(NUDGED, sort=True):
            grown = np.log10(np.stack(group[column].to_list()))
            for layer, values in enumerate(grown.T, 1):
                row = dict(zip(NUDGED, key, strict=True))
                row |= {"network": network, "layer": layer, "n": len(group)}
                table.append(row | interval_columns("growth", mean_over(values, group.speaker)))
    return pd.DataFrame(table)

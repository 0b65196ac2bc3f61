"""Whether the first tokens of a text tell which transcripts will be hallucinated.

Within one condition, so under the same stress, and at one number of tokens: the sound is of one
kind, the length is the same, and only what becomes of the transcript differs.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from companion.results import intervals, transcripts
from companion.results.intervals import Columns
from companion.results.transcripts import SIDE, TRANSCRIPT

ANY, BEFORE = "any", "before"
"""Which beginnings count: all of n tokens, or those in which no wrong word has begun."""

SPECTRAL = ("n_eff", "alpha", "log10_kf_resolved", "log10_variance")
CONFIDENCE, LEAST_CONFIDENCE = "log_probability", "least_log_probability"
"""Columns of the rows: of what, characters or word pieces, the table says."""

_LEAST = {
    transcripts.PER_CHARACTER: "of_a_character",
    transcripts.PER_WORD_PIECE: "of_a_word_piece",
}
MEAN = 0
"""In the place of a number of tokens: the mean over all of them with enough transcripts."""

CHANCE = 0.5


def early_warnings(rows: pd.DataFrame, least: int) -> pd.DataFrame:
    """Candidates against others by model, condition, beginnings, n, component, observable.

    ``auc`` is the probability that a candidate's value is the larger of the two (0.5 for no
    warning, below it where candidates have the smaller values); ``gain`` how much farther from 0.5
    it is than that of the mean log-probability of the same tokens in the same transcripts. Each has
    its interval over speakers; both are NaN, with the ``reason``, where either side has fewer than
    ``least`` transcripts. Log-probabilities have "transcript" as component, and say whether they
    are of characters or of word pieces. The numbers of transcripts beside a mean over n are the
    fewest that any of these n has, 0 of none.
    """
    rows = rows.assign(characters=transcripts.writes_characters(rows))
    table = []
    for key, group in intervals.groups_by(rows, SIDE):
        unit = transcripts.PER_CHARACTER if group.characters.iloc[0] else transcripts.PER_WORD_PIECE
        names = {CONFIDENCE: unit, LEAST_CONFIDENCE: f"{LEAST_CONFIDENCE}_{_LEAST[unit]}"}
        for when in (ANY, BEFORE):
            for row in _rows(group, when, least):
                row["observable"] = names.get(row["observable"], row["observable"])
                table.append(key | {"when": when} | row)
    return intervals.as_table(table)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Of the means over n: in how many models and conditions intervals lie on a side of chance.

    ``better`` and ``worse``: than the mean log-probability.
    """
    means = table[(table.prefix == MEAN) & table.auc.notna()]
    marked = means.assign(
        above=means.auc_low > CHANCE,
        below=means.auc_high < CHANCE,
        better=means.gain_low > 0,
        worse=means.gain_high < 0,
    )
    groups = marked.groupby(["when", "component", "observable"], sort=False)
    counts = groups[["above", "below", "better", "worse"]].sum()
    counts.insert(0, "of", groups.size())
    counts.insert(1, "median auc", groups.auc.median().round(2))
    return counts.reset_index()


def _rows(group: pd.DataFrame, when: str, least: int) -> Iterator[Columns]:
    texts = group.drop_duplicates("utterance").set_index("utterance").sort_index()
    speakers, candidates = texts.speaker.to_numpy(), texts.candidate.to_numpy(bool)
    weights = intervals.deletions(speakers)
    prefixes = sorted(group.prefix.unique())
    tables = _tables(group, when, texts.index, prefixes)
    confidence = tables[TRANSCRIPT, CONFIDENCE]
    rivals: dict[tuple[int, bytes], np.ndarray] = {}
    for (component, observable), values in tables.items():
        about: Columns = {"component": component, "observable": observable}
        aucs, gains, counted = [], [], []
        for i, prefix in enumerate(prefixes):
            there = np.isfinite(values[:, i]) & np.isfinite(confidence[:, i])
            candidate, kept = candidates[there], weights[:, there]
            sizes = {"candidates": int(candidate.sum()), "others": int((~candidate).sum())}
            row = about | {"prefix": prefix} | sizes
            if min(sizes.values()) < least:
                enough = " and ".join(f"{count} {name}" for name, count in sizes.items())
                yield row | _numbers([], [], f"{enough}, {least} of each are needed", speakers)
                continue
            same = i, there.tobytes()  # as for most other observables
            if same not in rivals:
                rivals[same] = intervals.larger_probability(kept, confidence[there, i], candidate)
            aucs.append(intervals.larger_probability(kept, values[there, i], candidate))
            gains.append(np.abs(aucs[-1] - CHANCE) - np.abs(rivals[same] - CHANCE))
            counted.append(sizes)
            yield row | _numbers(aucs[-1:], gains[-1:], "", speakers)
        reason = "" if aucs else f"at no n are there {least} transcripts on both sides"
        fewest = {name: min((count[name] for count in counted), default=0) for name in sizes}
        yield about | {"prefix": MEAN} | fewest | _numbers(aucs, gains, reason, speakers)


def _tables(
    group: pd.DataFrame, when: str, utterances: pd.Index, prefixes: Sequence[int]
) -> dict[tuple[str, str], np.ndarray]:
    """Values (utterances, prefixes) by component and observable; NaN where they do not count."""
    names = [*SPECTRAL, CONFIDENCE, LEAST_CONFIDENCE]
    right = group.first_wrong.isna() | (group.prefix <= group.first_wrong)
    known = group if when == ANY else group.assign(**group[names].where(right))
    tables = {}
    for component in known.component.unique():
        wide = known[known.component == component].pivot(index="utterance", columns="prefix")
        for name in names:
            of = component if name in SPECTRAL else TRANSCRIPT  # the same beside every component
            tables[of, name] = wide[name].reindex(utterances, columns=prefixes).to_numpy(float)
    return tables


def _numbers(
    aucs: list[np.ndarray], gains: list[np.ndarray], reason: str, speakers: np.ndarray
) -> Columns:
    """Means over some n; of none, NaN and the reason."""
    if not aucs:
        return {"reason": reason, "auc": intervals.NOTHING, "gain": intervals.NOTHING}
    names = np.unique(speakers)
    auc, gain = np.mean(aucs, axis=0), np.mean(gains, axis=0)
    numbers = {
        "auc": intervals.jackknife(auc, names, 1.0),
        "gain": intervals.jackknife(gain, names),
    }
    return {"reason": reason} | numbers

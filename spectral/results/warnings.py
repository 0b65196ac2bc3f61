"""Whether the first tokens of a text tell which answers will be hallucinated.

Within one condition, so under the same stress, and at one number of tokens: the sound is of one
kind, the length is the same, and only what becomes of the answer differs.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from spectral.measurement.schemas import REFERENCE_CONDITION
from spectral.results.answers import ANSWER
from spectral.results.bootstrap import Interval, percentile_interval, resampling_weights
from spectral.results.effects import interval_columns
from spectral.results.within import larger_probability

ANY, BEFORE = "any", "before"
"""Which beginnings count: all of n tokens, or those in which no wrong word has begun."""

SPECTRAL = ("n_eff", "alpha", "log10_kf_resolved")
CONFIDENCE, LEAST_CONFIDENCE = "log_probability", "least_log_probability"
MEAN = 0
"""In the place of a number of tokens: the mean over all of them with enough answers."""

CHANCE = 0.5
_KEYS = ["parameters", "model", "condition"]
_NOTHING = Interval(np.nan, np.nan, np.nan)
Draws = Mapping[str, np.ndarray]


def early_warnings(rows: pd.DataFrame, least: int, resamples: int, seed: int) -> pd.DataFrame:
    """Candidates against other answers by model, condition, beginnings, n, component, observable.

    ``auc`` is the probability that a candidate's value is the larger of the two (0.5 for no
    warning, below it where candidates have the smaller values); ``gain`` how much farther from 0.5
    it is than that of the mean log-probability of the same tokens in the same answers. Each has
    its interval from resampled voices and utterances; both are NaN, with the ``reason``, where
    either side has fewer than ``least`` answers. Log-probabilities have "answer" as component.
    """
    found = rows[rows.condition != REFERENCE_CONDITION]
    return pd.DataFrame(
        dict(zip(_KEYS, key, strict=True)) | {"when": when} | row
        for key, group in found.groupby(_KEYS, sort=True)
        for when in (ANY, BEFORE)
        for row in _rows(group, when, least, resamples, seed)
    )


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


def _rows(
    group: pd.DataFrame, when: str, least: int, resamples: int, seed: int
) -> Iterator[dict[str, object]]:
    answers = group.drop_duplicates("utterance").set_index("utterance").sort_index()
    weights = resampling_weights(answers.speaker.to_numpy(), resamples, seed)
    right = group.first_wrong.isna() | (group.prefix <= group.first_wrong)
    prefixes = sorted(group.prefix.unique())
    for component, observable, own in _observables(group if when == ANY else group[right]):
        about = {"component": component, "observable": observable}
        drawn: list[Draws] = []
        for prefix in prefixes:
            cell = own[own.prefix == prefix].set_index("utterance")[[observable, CONFIDENCE]]
            known = cell.reindex(answers.index).astype(float).to_numpy()
            there = np.isfinite(known).all(1)
            candidate = answers.candidate.to_numpy(bool)[there]
            sizes = {"candidates": int(candidate.sum()), "others": int((~candidate).sum())}
            enough = min(sizes.values()) >= least
            if enough:
                drawn.append(_draws(weights[:, there], *known[there].T, candidate))
            lacking = f"{sizes['candidates']} candidates and {sizes['others']} others"
            reason = "" if enough else f"{lacking}, {least} of each are needed"
            yield about | {"prefix": prefix} | sizes | _columns(drawn[-1:] if enough else [], reason)
        reason = "" if drawn else f"at no n are there {least} answers on either side"
        sizes = {"candidates": int(answers.candidate.sum()), "others": int((~answers.candidate).sum())}
        yield about | {"prefix": MEAN} | sizes | _columns(drawn, reason)


def _observables(kept: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    components = {component: own for component, own in kept.groupby("component", sort=False)}
    for component, own in components.items():
        for observable in SPECTRAL:
            yield str(component), observable, own
    for own in list(components.values())[:1]:  # the same beside every component
        for observable in (CONFIDENCE, LEAST_CONFIDENCE):
            yield ANSWER, observable, own


def _draws(
    weights: np.ndarray, values: np.ndarray, confidence: np.ndarray, candidate: np.ndarray
) -> Draws:
    auc, rival = (larger_probability(weights, each, candidate) for each in (values, confidence))
    return {"auc": auc, "gain": np.abs(auc - CHANCE) - np.abs(rival - CHANCE)}


def _columns(drawn: Sequence[Draws], reason: str) -> dict[str, object]:
    """Means over some n with their intervals; of none, NaN and the reason."""
    columns: dict[str, object] = {"reason": reason}
    for name in ("auc", "gain"):
        means = np.mean([each[name] for each in drawn], axis=0) if drawn else None
        found = _NOTHING if means is None else percentile_interval(means)
        columns |= interval_columns(name, found)
    return columns

"""Stressed over clean eigenvalues, mode by mode, in the tail of the spectrum and in its head.

The tail are the modes from 11 to 50, the head the ten before: the two K of the paper. A mode counts
in an utterance where both sides resolve it in every layer, and means over modes, layers and
utterances are of logarithms, so geometric.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from companion.results import intervals
from companion.results.effects import both_sides
from companion.results.intervals import Interval

HEAD, TAIL = "head", "tail"
PARTS = {HEAD: slice(0, 10), TAIL: slice(10, 50)}
EIGENVALUE, FRACTION = "eigenvalue", "fraction of the sum"
"""What the ratio is of: lambda_i, or lambda_i / sum lambda, which no common factor changes."""

_KEY = ["parameters", "model", "component", "length"]
_MOST = 0.5


def tail_ratios(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Geometric mean of stressed over clean, of head and tail, with intervals.

    A row per model, component, length, measure (``EIGENVALUE``, ``FRACTION``) and part; ``n``
    counts the utterances of which both sides resolve a mode of it, ``modes`` how many they do on
    average.
    """
    table = []
    for about, speakers, logs in _log_ratios(rows, condition):
        for part, modes in PARTS.items():
            of_part = pd.DataFrame(logs[:, modes])
            counts = of_part.count(axis=1)
            (ratio,) = _ratios(of_part.mean(axis=1).to_numpy()[:, None], speakers)
            n = int((counts > 0).sum())
            place = {"part": part, "n": n, "modes": counts.sum() / max(n, 1)}
            table.append(about | place | {"ratio": ratio})
    return intervals.as_table(table)


def mode_ratios(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Geometric mean of stressed over clean at every mode, with intervals.

    A row per model, component, length, measure and mode; modes that fewer than half of the
    utterances resolve are left out, for the others are the longer ones.
    """
    table = []
    for about, speakers, logs in _log_ratios(rows, condition):
        counts = np.isfinite(logs).sum(0)
        kept = np.flatnonzero(counts >= _MOST * len(logs)).tolist()
        for i, ratio in zip(kept, _ratios(logs[:, kept], speakers), strict=True):
            table.append(about | {"mode": i + 1, "n": int(counts[i]), "ratio": ratio})
    return intervals.as_table(table)


def _log_ratios(
    rows: pd.DataFrame, condition: str
) -> Iterator[tuple[intervals.Columns, np.ndarray, np.ndarray]]:
    """What a table's rows are about, speakers (utterances,), and log ratios (utterances, modes)."""
    kept = both_sides(rows[rows.modes == rows.modes.max()], condition)
    for about, group in intervals.groups_by(kept, _KEY):
        pairs = group.pivot(
            index=["speaker", "utterance", "layer"], columns="side", values="eigenvalues"
        ).dropna()
        sides = (_padded(pairs[side], int(kept.modes.max())) for side in ("stressed", "clean"))
        logs = [np.log(np.where(side > 0, side, np.nan)) for side in sides]  # NaN: not resolved
        for measure, (stressed, clean) in (
            (EIGENVALUE, logs), (FRACTION, [_fractions(side) for side in logs])
        ):  # fmt: skip
            groups = pd.DataFrame(stressed - clean, pairs.index).groupby(["speaker", "utterance"])
            means = groups.mean(skipna=False)
            speakers = means.index.get_level_values("speaker").to_numpy()
            yield about | {"measure": measure}, speakers, means.to_numpy()


def _padded(spectra: "pd.Series[object]", count: int) -> np.ndarray:
    """Eigenvalues (rows, count), zero beyond those that are stored."""
    return np.array([np.pad(spectrum, (0, count - len(spectrum))) for spectrum in spectra])


def _fractions(logs: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # of a spectrum without any mode there is none
        return np.asarray(logs - np.log(np.nansum(np.exp(logs), axis=1, keepdims=True)))


def _ratios(logs: np.ndarray, speakers: np.ndarray) -> Iterator[Interval]:
    """Geometric means of every column of logs (utterances, columns); intervals of logarithms."""
    for column in intervals.weighted_mean(intervals.deletions(speakers), logs).T:
        log = intervals.jackknife(column, np.unique(speakers))
        estimate, low, high = np.exp([log.estimate, log.low, log.high]).tolist()
        # to first order, on the scale of ratios
        deviations = {name: estimate * deviation for name, deviation in log.deviations.items()}
        yield Interval(estimate, low, high, deviations)


def spectrum_summary(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Median and quartiles of each eigenvalue over utterances and layers, length-matched.

    Both sides keep the same number of tokens. A mode that a spectrum does not resolve counts as
    zero; modes whose lower quartile is zero are left out. Columns model, parameters, component,
    condition, mode, low, median, high.
    """
    matched = rows[rows.matched_with.isin(["clean", condition]) & (rows.modes == rows.modes.max())]
    table = []
    for key, group in intervals.groups_by(matched, [*_KEY[:-1], "condition"]):
        spectra = _padded(group.eigenvalues, int(rows.modes.max()))
        low, median, high = np.quantile(spectra, [0.25, 0.5, 0.75], axis=0)
        modes = {"mode": np.arange(len(low)) + 1, "low": low, "median": median, "high": high}
        table.append(pd.DataFrame(key | modes)[low > 0])
    return pd.concat(table, ignore_index=True)

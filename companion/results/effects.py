"""Effects of stress: Hell against clean, paired by utterance, with intervals over speakers."""

from functools import partial

import numpy as np
import pandas as pd

from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results.intervals import Interval, interval, weighted_mean
from companion.results.permutation import paired_p

RAW, MATCHED = "raw", "length-matched"
"""All rows of a text; as many of its first rows as the shorter of the two texts has."""
OBSERVABLES = {
    "n_eff": "n_eff",
    "alpha": "alpha",
    "log10_kf": "kirchhoff",
    "log10_kf_resolved": "kirchhoff_resolved",
    "log10_attention_kf": "attention_kirchhoff",
    "log10_attention_kf_heads": "attention_kirchhoff_heads",
    "log10_similarity_kf": "similarity_kirchhoff",
}
"""What is read off a spectrum or graph, and its column in the measured rows."""

GROUP = ["parameters", "model", "component", "modes"]
"""What a row of a table is about, whatever the length."""

_KEY = [*GROUP, "length"]
Columns = dict[str, float | Interval]


def layer_means(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """One row per model, component, K, utterance and length; columns <observable>_<side>.

    The sides are clean and stressed. Observables are averaged over layers. ``length`` is "raw", or
    "length-matched" where both sides keep as many of their first tokens as the shorter has. What is
    not finite in some layer (alpha where K modes are not resolved, Kf of a disconnected graph) is
    NaN.
    """
    kept = both_sides(rows, condition)
    present = [name for name, column in OBSERVABLES.items() if column in rows]
    kept = kept.assign(**{name: observed(kept, name) for name in present})
    groups = kept.groupby([*_KEY, "utterance", "speaker", "side"])[[*present, "tokens"]]
    averages = groups.mean().where(groups.count().eq(groups.size(), axis=0))
    wide = averages.unstack("side")
    wide.columns = [f"{observable}_{side}" for observable, side in wide.columns]
    return wide.reset_index()


def both_sides(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """The rows to compare, with their ``length``, raw or matched, and ``side``: clean, stressed."""
    kept = rows[rows.condition.isin([REFERENCE_CONDITION, condition])]
    partner = kept.condition.map({REFERENCE_CONDITION: condition, condition: REFERENCE_CONDITION})
    kept = kept[(kept.matched_with == "") | (kept.matched_with == partner)]
    return kept.assign(
        length=np.where(kept.matched_with == "", RAW, MATCHED),
        side=np.where(kept.condition == REFERENCE_CONDITION, "clean", "stressed"),
    )


def effects(rows: pd.DataFrame, condition: str, seed: int = 0) -> pd.DataFrame:
    """Changes under ``condition``: of N_eff in %, of alpha and of each log10 Kf by difference.

    One row per model, component, K and length. A change ``delta_<observable>`` stands beside its
    interval (_low, _high), the two-sided p-value of ``paired_p`` (_p; where speakers are too many
    for all assignments, those of ``seed`` are tried), and the number of utterances
    whose value exists on both sides (_n); the mean numbers of tokens on both sides are given too.
    """
    table = []
    for key, group in layer_means(rows, condition).groupby(_KEY, sort=True):
        row = dict(zip(_KEY, key, strict=True)) | {
            "tokens_clean": group.tokens_clean.mean(),
            "tokens_stressed": group.tokens_stressed.mean(),
        }
        for name in OBSERVABLES:
            if f"{name}_clean" in group:
                row |= _change_columns(group, name, seed)
        table.append(row)
    return pd.DataFrame(table)


def observable_rows(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """One observable of a table of ``effects``, under names that all observables share.

    Columns ``observable``, ``change``, ``low``, ``high``, ``p``, ``n`` beside those of the row.
    """
    column = f"delta_{name}"
    names = {column: "change", f"{column}_speakers": "change_speakers"}
    names |= {f"{column}_{part}": part for part in ("low", "high", "p", "n")}
    kept = [other for other in table.columns if not str(other).startswith("delta_")]
    return table[[*kept, *names]].rename(columns=names).assign(observable=name)


def change(name: str, clean: np.ndarray, stressed: np.ndarray) -> np.ndarray:
    """From a mean of an observable to another: of N_eff in %, of all others the difference."""
    return 100 * (stressed / clean - 1) if name == "n_eff" else stressed - clean


def sides(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Mean N_eff and alpha of each side with intervals; one row per model, component, K, length.

    Only utterances whose alpha exists on both sides count, so that the two means are of the same.
    """
    table = []
    for key, group in layer_means(rows, condition).groupby(_KEY, sort=True):
        paired = group[group.alpha_clean.notna() & group.alpha_stressed.notna()]
        for side in ("clean", "stressed"):
            row = dict(zip(_KEY, key, strict=True)) | {"side": side, "n": len(paired)}
            for name in ("n_eff", "alpha"):
                mean = partial(weighted_mean, values=paired[f"{name}_{side}"].to_numpy())
                if len(paired):
                    row |= interval_columns(name, interval(mean, paired.speaker.to_numpy()))
            table.append(row)
    return pd.DataFrame(table)


def observed(rows: pd.DataFrame, name: str) -> pd.Series:
    """An observable of every row; NaN where a logarithm or an index is not finite."""
    column = rows[OBSERVABLES[name]]
    if not name.startswith("log10"):
        return column
    positive = column.where((column > 0) & np.isfinite(column))
    return np.log10(positive)


def interval_columns(name: str, found: Interval) -> Columns:
    """An interval as the columns name, name_low and name_high, and name_speakers: all of it."""
    ends = {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
    return ends | {f"{name}_speakers": found}


def _change_columns(group: pd.DataFrame, name: str, seed: int) -> Columns:
    clean, stressed = (group[f"{name}_{side}"].to_numpy() for side in ("clean", "stressed"))
    both = np.isfinite(clean) & np.isfinite(stressed)
    clean, stressed = np.where(both, clean, np.nan), np.where(both, stressed, np.nan)
    speakers = group.speaker.to_numpy()

    def statistic(weights: np.ndarray) -> np.ndarray:
        return change(name, weighted_mean(weights, clean), weighted_mean(weights, stressed))

    found = interval(statistic, speakers)
    return interval_columns(f"delta_{name}", found) | {
        f"delta_{name}_p": paired_p(stressed - clean, speakers, seed),
        f"delta_{name}_n": int(both.sum()),
    }

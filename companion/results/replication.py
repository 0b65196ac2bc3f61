"""The paper's table under the pooled convention: changes with their jackknife over speakers."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from companion.measurement.pooling import ALL, FIRST, HALVES, SECOND, UNSEEN
from companion.measurement.schemas import REFERENCE_CONDITION, TRAINED
from companion.results import intervals
from companion.results.intervals import Columns, Interval
from companion.results.tables import with_interval

KEYS = ["parameters", "model", "decoding", "sample", "loops", "component", "modes"]
OBSERVABLES = ("n_eff", "alpha", "difference", "log10_ratio")
"""Change of N_eff in %; of alpha; of the index of fractions; and of its log10."""


def changes(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Every pooled change from clean speech, mean over layers, with its interval over speakers.

    The statistic is taken without each speaker in turn, by ``jackknife``. ``log10_difference`` is
    log10 of the difference of the index, with the interval of the difference: minus infinity where
    that reaches zero, NaN where the index did not rise.
    """
    kept = rows[(rows["sample"] != HALVES) & (rows.layer == 0) & (rows.network == TRAINED)]
    table = []
    for keys, clean, stressed in _sides(kept, (REFERENCE_CONDITION, condition), "without"):
        row = keys | {
            "utterances": clean.at["", "utterances"], "speakers": clean.at["", "speakers"],
            "tokens_clean": clean.at["", "tokens"], "tokens_stressed": stressed.at["", "tokens"],
        }  # fmt: skip
        for name, values in _values(clean, stressed.loc[clean.index]).items():
            row[name] = intervals.jackknife(values.to_numpy(), values.index[1:])
        table.append(_with_logarithm(row))
    return intervals.as_table(table)


def controls(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """The same changes in random networks that keep the weights' spectra: their mean over draws.

    The interval is where one more draw would lie, 95 % of the time (Student's t, so it takes three
    draws or more); it holds the variance between draws, and that is by far the larger part of it.
    """
    kept = rows[(rows.network != TRAINED) & (rows.layer == 0)]
    table = []
    for keys, clean, stressed in _sides(kept, (REFERENCE_CONDITION, condition), "network"):
        row = keys | {"draws": len(clean)}
        for name, values in _values(clean, stressed).items():
            row[name] = next_draw(values.to_numpy())
        table.append(_with_logarithm(row))
    if table:
        return intervals.as_table(table)
    changed = (*OBSERVABLES, "log10_difference")
    numbers = [f"{name}{end}" for name in changed for end in ("", "_low", "_high")]
    return pd.DataFrame(columns=[*KEYS, *numbers]).astype(
        {**dict.fromkeys(numbers, float), "modes": float}
    )


def next_draw(values: np.ndarray) -> Interval:
    """The mean of draws (draws,), and where the next one lies 95 % of the time; NaN below three."""
    count, mean = len(values), float(values.mean())
    if count < 3 or not np.isfinite(values).all():
        return Interval(mean, math.nan, math.nan)
    reach = float(stats.t.ppf((1 + intervals.LEVEL) / 2, count - 1) * values.std(ddof=1))
    reach *= math.sqrt(1 + 1 / count)
    return Interval(mean, mean - reach, mean + reach)


def halves(rows: pd.DataFrame) -> pd.DataFrame:
    """The same changes between random halves of clean speech, a row per draw."""
    kept = rows[(rows["sample"] == HALVES) & (rows.layer == 0)]
    draws = [
        pd.DataFrame(_values(first, second)).rename_axis("draw").reset_index().assign(**keys)
        for keys, first, second in _sides(kept, (FIRST, SECOND), "without")
    ]
    return pd.concat(draws, ignore_index=True) if draws else pd.DataFrame(columns=KEYS)


def spread_of_halves(drawn: pd.DataFrame) -> pd.DataFrame:
    """Of ``halves``: medians, and where 95 % of the draws lie.

    ``difference`` is taken without its sign: which half is called the first is a coin's toss.
    """
    table = []
    for keys, group in drawn.groupby(KEYS, sort=False):
        values = group.assign(difference=group.difference.abs())[["alpha_stressed", *OBSERVABLES]]
        spread = values.quantile([0.5, (1 - intervals.LEVEL) / 2, (1 + intervals.LEVEL) / 2])
        row = dict(zip(KEYS, keys, strict=True)) | {"draws": len(group)}
        table.append(_with_logarithm(row | {name: Interval(*spread[name]) for name in values}))
    return intervals.as_table(table)


def _sides(
    rows: pd.DataFrame, names: tuple[str, str], index: str
) -> Iterator[tuple[Columns, pd.DataFrame, pd.DataFrame]]:
    """What a change is of, and the rows of both conditions by what they are without, or of."""
    for keys, group in rows.groupby(KEYS, sort=False):
        first, second = (
            group[group.condition == name].set_index(index).sort_index() for name in names
        )
        yield dict(zip(KEYS, keys, strict=True)), first, second


def _with_logarithm(row: Columns) -> Columns:
    """A row and log10 of the difference of the index, which a change of log10 Kf may have meant."""
    change = row["difference"]
    if not change.estimate > 0:
        return row | {"log10_difference": intervals.NOTHING}
    low = -math.inf if change.low <= 0 else math.log10(change.low)
    # to first order, on the scale of logarithms
    deviations = {name: d / change.estimate / math.log(10) for name, d in change.deviations.items()}
    estimate, high = (math.log10(end) for end in (change.estimate, change.high))
    number = Interval(estimate, low, high, deviations if change.low > 0 else {})
    return row | {"log10_difference": number}


def readable_replication(
    table: pd.DataFrame, random: pd.DataFrame, chance: pd.DataFrame, known: pd.DataFrame
) -> pd.DataFrame:
    """The paper's table to read: published rows, ours row by row, then controls and chance."""
    theirs = pd.DataFrame(
        {
            "source": "published", "component": known.component, "model": known.model, "K": 50,
            "N_eff (%)": known.delta_n_eff.map("{:+.2f}".format),
            "alpha": known.delta_alpha.map("{:+.3f}".format),
            "log10 of the difference": known.delta_log10_kf.map("{:.2f}".format),
        }
    )  # fmt: skip
    first = [UNSEEN, ALL]
    order = [*first, *sorted(set(table["sample"]) - set(first))]
    ours = table.assign(place=table["sample"].map(order.index), few=-table.modes).sort_values(
        ["component", "few", "place", "parameters", "decoding"], kind="stable"
    )
    sources = {"measured": ours, "random networks, spectra kept": random,
               "chance: halves of clean speech": chance}  # fmt: skip
    parts = [theirs, *(_readable(table, source) for source, table in sources.items())]
    return pd.concat(parts, ignore_index=True).fillna("")


def _readable(table: pd.DataFrame, source: str) -> pd.DataFrame:
    columns = {
        "source": source, "component": table.component, "model": table.model, "K": table.modes,
        "rule": table.decoding, "sample": table["sample"], "loops": table.loops,
        "N_eff (%)": with_interval(table, "n_eff", 1, sign=True),
        "alpha": with_interval(table, "alpha", 2, sign=True),
        "log10 of the difference": with_interval(table, "log10_difference", 2),
        "difference of log10": with_interval(table, "log10_ratio", 2, sign=True),
    }  # fmt: skip
    if "utterances" in table:
        columns |= {"utterances": table.utterances, "rows, clean": table.tokens_clean,
                    "rows, stressed": table.tokens_stressed}  # fmt: skip
    return pd.DataFrame(columns)


def _values(clean: pd.DataFrame, stressed: pd.DataFrame) -> dict[str, "pd.Series[float]"]:
    return {
        "alpha_stressed": stressed.alpha,
        "n_eff": 100 * (stressed.n_eff / clean.n_eff - 1),
        "alpha": stressed.alpha - clean.alpha,
        "difference": stressed.kirchhoff_of_fractions - clean.kirchhoff_of_fractions,
        "log10_ratio": np.log10(stressed.kirchhoff_of_fractions / clean.kirchhoff_of_fractions),
    }

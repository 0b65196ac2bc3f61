"""Intervals of tables, and of differences between rows of them."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from spectral.results.bootstrap import LEVEL, Interval

MODEL_KEYS = ["parameters", "model"]


class MissingTable(Exception):
    """A table that no notebook has written yet; the message is its name."""


def read_table(folder: Path, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """The table name.csv; MissingTable where there is none, ValueError where a column lacks."""
    path = folder / f"{name}.csv"
    if not path.exists():
        raise MissingTable(path.name)
    table = pd.read_csv(path)
    lacking = [column for column in columns if column not in table]
    if lacking:
        raise ValueError(f"{path}: no column {lacking[0]!r}; draw the notebook that writes it")
    return table


def of(row: pd.Series, name: str) -> Interval:
    """The interval in the columns name, name_low and name_high."""
    return Interval(float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"]))


def difference(one: Interval, other: Interval) -> Interval:
    """``one`` minus ``other`` from their own intervals, which may be lopsided (Zou & Donner 2008).

    Numbers of the same voices vary together, so that the true interval is narrower as a rule: this
    one errs on the safe side.
    """
    estimate = one.estimate - other.estimate
    low = math.hypot(one.estimate - one.low, other.high - other.estimate)
    high = math.hypot(one.high - one.estimate, other.estimate - other.low)
    return Interval(estimate, estimate - low, estimate + high)


def between_sizes(ones: Sequence[float], others: Sequence[float]) -> Interval:
    """The mean of one size's networks minus that of another's: Welch's interval over seeds.

    A size of one network shows no spread between networks; then there is no interval.
    """
    estimate = float(np.mean(ones) - np.mean(others))
    if min(len(ones), len(others)) < 2:
        return Interval(estimate, math.nan, math.nan)
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (ones, others)]
    if sum(parts) == 0:
        return Interval(estimate, estimate, estimate)
    freedom = sum(parts) ** 2 / (
        parts[0] ** 2 / (len(ones) - 1) + parts[1] ** 2 / (len(others) - 1)
    )
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(sum(parts))
    return Interval(estimate, estimate - reach, estimate + reach)


def share(count: int, total: int) -> Interval:
    """A share in %, with the exact interval of Clopper and Pearson (1934)."""
    tail = (1 - LEVEL) / 2
    low = stats.beta.ppf(tail, count, total - count + 1) if count else 0.0
    high = stats.beta.ppf(1 - tail, count + 1, total - count) if count < total else 1.0
    return Interval(100 * count / total, 100 * float(low), 100 * float(high))


def sizes(table: pd.DataFrame) -> list[list[str]]:
    """The models of a table by size, from the smallest; a name is size-seed."""
    models = table[MODEL_KEYS].drop_duplicates().sort_values(MODEL_KEYS)
    groups = models.groupby(models.model.str.rpartition("-")[0], sort=False).model
    return [list(group) for _, group in groups]

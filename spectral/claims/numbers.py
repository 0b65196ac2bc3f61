"""Intervals of tables, and of differences between rows of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from spectral.results.bootstrap import LEVEL, Interval

MODEL_KEYS = ["parameters", "model"]
POOLED, HALVES, NONSPEECH = "pooled", "halves", "words_from_nonspeech"
"""The pooled table, that of halves of clean speech, and that of clips: beside the other tables."""


class NotMeasured(Exception):
    """What keeps a number from being known; the message says it."""


@dataclass(frozen=True)
class Tables:
    """The tables of one group of models: ``folder`` has all but the pooled one, a CSV file."""

    folder: Path
    pooled: Path

    def path(self, name: str) -> Path:
        """Where a table is."""
        elsewhere = {
            POOLED: self.pooled,
            HALVES: self.pooled.with_name(f"{self.pooled.stem}_halves.csv"),
            NONSPEECH: self.pooled.with_name(f"{NONSPEECH}.csv"),
        }
        return elsewhere.get(name, self.folder / f"{name}.csv")

    def read(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """A table; NotMeasured where there is none, ValueError where a column lacks."""
        path = self.path(name)
        if not path.exists():
            raise NotMeasured(f"there is no {path.name} yet")
        table = pd.read_csv(path)
        lacking = [column for column in columns if column not in table]
        if lacking:
            raise ValueError(f"{path}: no column {lacking[0]!r}; draw the notebook that writes it")
        return table


def only(table: pd.DataFrame, chosen: Mapping[str, object]) -> pd.Series:
    """The one row that has these values; NotMeasured where there is none, or more than one."""
    rows = table
    for name, value in chosen.items():
        rows = rows[rows[name] == value]
    if len(rows) != 1:
        said = ", ".join(map(str, chosen.values()))
        raise NotMeasured(f"there are {len(rows)} rows of {said}")
    return rows.iloc[0]


def with_bounds(*names: str) -> list[str]:
    """The columns of numbers and of their intervals."""
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


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

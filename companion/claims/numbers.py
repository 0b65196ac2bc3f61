"""Intervals of tables, and of differences between rows of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from companion.results.intervals import Interval, mean
from companion.results.tables import SPEAKERS, SUPPLEMENT, speakers_path, with_speakers

MODEL_KEYS = ["parameters", "model"]
POOLED, HALVES, NONSPEECH = "pooled", "halves", "words_from_nonspeech"
"""The pooled table, that of halves of clean speech beside it, and that of clips."""


class NotMeasured(Exception):
    """What keeps a number from being known; the message says it."""


@dataclass(frozen=True)
class Tables:
    """The tables of one group of models: ``folder`` has all but the pooled one, a CSV file."""

    folder: Path
    pooled: Path

    def path(self, name: str) -> Path:
        """Where a table is: in ``folder``, or in the supplement where it has hundreds of rows."""
        if name == POOLED:
            return self.pooled
        folder, known = self.folder, name
        if name == HALVES:
            folder, known = self.pooled.parent, f"{self.pooled.stem}_halves"
        beside = folder / SUPPLEMENT / f"{known}.csv"
        return beside if beside.exists() else folder / f"{known}.csv"

    def read(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """A table; NotMeasured where there is none, ValueError where a column lacks."""
        path = self.path(name)
        if not path.exists():
            raise NotMeasured(f"there is no {path.name} yet")
        table = _read(path, path.stat().st_mtime_ns)
        lacking = [column for column in columns if column not in table]
        if lacking:
            raise ValueError(f"{path}: no column {lacking[0]!r}; draw the notebook that writes it")
        return table


@lru_cache(maxsize=32)
def _read(path: Path, changed: int) -> pd.DataFrame:
    """A table, and what speakers contribute to its numbers where a file beside it says so."""
    table, beside = pd.read_csv(path), speakers_path(path)
    return with_speakers(table, beside) if beside.exists() else table


def only(table: pd.DataFrame, chosen: Mapping[str, object]) -> pd.Series:
    """The one row that has these values; NotMeasured where there is none, or more than one."""
    rows = table
    for name, value in chosen.items():
        rows = rows[rows[name] == value]
    if len(rows) != 1:
        said = ", ".join(map(str, chosen.values()))
        raise NotMeasured(f"there are {len(rows)} rows of {said}")
    return rows.iloc[0]


def by_model(rows: pd.DataFrame, name: str) -> Iterator[tuple[str, Interval]]:
    """Each model's mean over the rows that have the number."""
    known = rows.dropna(subset=name).sort_values(MODEL_KEYS)
    for model, own in known.groupby("model", sort=False):
        yield str(model), mean([of(row, name) for _, row in own.iterrows()])


def with_bounds(*names: str) -> list[str]:
    """The columns of numbers and of their intervals."""
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def of(row: pd.Series, name: str, ends: Sequence[str] = ("", "_low", "_high")) -> Interval:
    """The interval in the columns name, name_low and name_high, with the speakers' parts in it."""
    estimate, low, high = (float(row[end if end in row else f"{name}{end}"]) for end in ends)
    found = row.get(f"{name}{SPEAKERS}")
    if not isinstance(found, Interval):
        return Interval(estimate, low, high)
    return Interval(estimate, low, high, found.deviations, found.besides)

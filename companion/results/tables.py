"""Tables as files: CSV with six digits, Markdown to read; beside them what speakers contribute."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from companion.measurement.store import whole_or_absent
from companion.results.intervals import Interval

SPEAKERS = "_speakers"
SUPPLEMENT = "supplement"
"""The folder, beside main figures and tables, of other figures and tables of hundreds of rows."""
_PADDED = 60  # rows up to which columns are padded to one width
_BEFORE = ["row", "number", "estimate", "besides"]  # the columns before those of speakers


def save_table(table: pd.DataFrame, shown: pd.DataFrame, folder: Path, name: str) -> None:
    """Write ``table`` to name.csv and what is ``shown`` of it to name.md, each whole or not at all.

    The intervals in columns <number>_speakers go to name.speakers.parquet: ``row`` and ``number``
    of the table, its ``estimate``, ``besides``, and the deviation of every speaker (``Interval``).
    """
    plain = without_speakers(table)
    whole = table.columns.difference(plain.columns, sort=False)
    csv = plain.to_csv(index=False, lineterminator="\n", float_format="%.6g")
    write_text(folder / f"{name}.csv", csv)
    if len(whole):
        _save_speakers(table[whole], speakers_path(folder / f"{name}.csv"))
    text = shown.to_markdown(index=False) + "\n"
    if len(shown) > _PADDED:  # else every clone would hold blanks
        text = re.sub(r" {2,}", " ", re.sub(r"-{3,}", "---", text))
    write_text(folder / f"{name}.md", text)


def save_readable(
    table: pd.DataFrame,
    folder: Path,
    name: str,
    keys: str,
    numbers: Mapping[str, str],
    shown: pd.Series | None = None,
) -> pd.DataFrame:
    """Save a table with its ``readable`` version, of the rows ``shown``, and give that back."""
    text = readable(table if shown is None else table[shown], keys, numbers)
    save_table(table, text, folder, name)
    return text


def readable(table: pd.DataFrame, keys: str, numbers: Mapping[str, str]) -> pd.DataFrame:
    """The columns named in ``keys`` as they are, then numbers by label: a column and its format.

    ``{"WER (%)": "wer .1f"}`` is the column wer with its interval, in one digit;
    ``+.2f`` writes signs. A number that no row has is left out.
    """
    made = table[keys.split()].copy()
    for label, source in numbers.items():
        column, style = source.split()
        if f"{column}_low" not in table:
            made[label] = table[column].map(lambda value, style=style: f"{value:{style}}")
        elif table[column].notna().any():
            digits, sign = int(style.strip("+.f")), style.startswith("+")
            made[label] = with_interval(table, column, digits, sign)
    return made


def save_rounded(table: pd.DataFrame, folder: Path, name: str, digits: int = 1) -> pd.DataFrame:
    """Save a table without what speakers contribute, to read rounded, and give that back."""
    plain = without_speakers(table)
    save_table(plain, rounded := plain.round(digits), folder, name)
    return rounded


def without_speakers(table: pd.DataFrame) -> pd.DataFrame:
    """A table without the columns <number>_speakers."""
    return table[[column for column in table if not str(column).endswith(SPEAKERS)]]


def speakers_path(table: Path) -> Path:
    """Where the speakers' parts in the numbers of a table are."""
    return table.with_suffix(".speakers.parquet")


def _save_speakers(columns: pd.DataFrame, path: Path) -> None:
    rows = [
        {"row": i, "number": str(column).removesuffix(SPEAKERS), "estimate": interval.estimate,
         "besides": interval.besides} | dict(interval.deviations)
        for column in columns
        for i, interval in enumerate(columns[column])
        if isinstance(interval, Interval) and interval.deviations
    ]  # fmt: skip
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=_BEFORE)
    with whole_or_absent(path) as part:
        table.to_parquet(part, index=False)


def with_speakers(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """A table as it was saved, with the columns <number>_speakers again, their ends NaN.

    Numbers of another version of the table are left out: then only the ends are known of them.
    """
    saved = pd.read_parquet(path)
    table = table.copy()
    for number, rows in saved.groupby("number"):
        known = table.get(number, pd.Series(dtype=float)).reindex(rows.row).to_numpy(float)
        if not np.allclose(known, rows.estimate, rtol=1e-5, atol=1e-12):
            continue
        column = pd.Series([None] * len(table), table.index, dtype=object)
        parts = rows.drop(columns=_BEFORE).to_dict("records")
        for i, row in enumerate(rows.itertuples()):
            deviations = {name: part for name, part in parts[i].items() if np.isfinite(part)}
            ends = row.estimate, np.nan, np.nan
            column[row.row] = Interval(*ends, deviations, row.besides)
        table[f"{number}{SPEAKERS}"] = column
    return table


def with_interval(table: pd.DataFrame, name: str, digits: int, sign: bool = False) -> list[str]:
    """``estimate [low, high]`` from the columns name, name_low and name_high; "n/a" for NaN.

    Where there is no interval there is the estimate alone.
    """
    style = f"{'+' if sign else ''}.{digits}f"
    texts = []
    for value, low, high in table[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False):
        interval = f" [{low:{style}}, {high:{style}}]" if low <= high else ""
        texts.append("n/a" if pd.isna(value) else f"{value:{style}}{interval}")
    return texts


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, and its folder where there is none."""
    with whole_or_absent(path) as part:
        part.write_text(text, encoding="utf-8")

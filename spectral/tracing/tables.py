"""Columns by name, and a pandas frame of them for those who have pandas."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of results, column by column, all of one length."""

    columns: dict[str, list[Any]]

    @classmethod
    def of(cls, names: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> "Table":
        """From rows that have all these names; without any row, the names alone."""
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for row in rows:
            for name, column in columns.items():
                column.append(row[name])
        return cls(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def to_frame(self) -> Any:
        """A pandas.DataFrame; pandas is imported here alone."""
        import pandas

        return pandas.DataFrame(self.columns)

"""Tidy Parquet files, written atomically, and the parts that let a killed run continue."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from companion.measurement.keys import META, read_meta
from companion.measurement.schemas import ABSENT, SPECTRA

__all__ = ["merge", "read", "read_meta", "write"]


def write(
    rows: Sequence[Mapping[str, object]],
    path: Path,
    meta: Mapping[str, object],
    schema: pa.Schema = SPECTRA,
) -> None:
    """Write rows with provenance ``meta`` to a Parquet file that is either whole or absent.

    Raises OSError naming the file and the remedy where it cannot be written, ValueError for a row
    that does not fit the schema.
    """
    unknown = {key for row in rows[:1] for key in row} ^ set(schema.names) if rows else set()
    if unknown:
        raise ValueError(f"{path}: columns {sorted(unknown)} are missing or not in the schema")
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    _write_table(table, path, meta)


def merge(parts: Sequence[Path], path: Path, meta: Mapping[str, object]) -> None:
    """Write the rows of several files, in their order, as one."""
    _write_table(pa.concat_tables([pq.read_table(part) for part in parts]), path, meta)


def read(paths: Sequence[Path], schema: pa.Schema = SPECTRA) -> pd.DataFrame:
    """The rows of several files; raises ValueError for one that is missing or of another schema."""
    frames = []
    for path in paths:
        if not path.exists():
            raise ValueError(
                f"{path}: not measured yet; run `make figures`, for rows in data/ `make evidence`"
            )
        read_meta(path)  # raises for a file that is cut short
        table = _completed(pq.read_table(path), schema)
        if not table.schema.remove_metadata().equals(schema):
            raise ValueError(f"{path}: columns of another version; remove it and measure again")
        frames.append(table.to_pandas())
    return pd.concat(frames, ignore_index=True)


def _completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns that its rows are too old to have."""
    for i, field in enumerate(schema):
        if field.name in ABSENT and field.name not in table.column_names:
            column = pa.array([ABSENT[field.name]] * len(table), field.type)
            table = table.add_column(min(i, table.num_columns), field, column)
    return table


def _write_table(table: pa.Table, path: Path, meta: Mapping[str, object]) -> None:
    unfinished = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            table.replace_schema_metadata({META: json.dumps(meta).encode()}),
            unfinished,
            compression="zstd",
        )
        os.replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise OSError(
            f"{path}: cannot be written ({error}); free some space and run the same command again, "
            "it continues after the parts that are done"
        ) from error

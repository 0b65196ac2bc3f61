"""Tidy Parquet files, whole or absent, and how precisely those that come with the project are kept.

Numbers of rows in data/ keep 12 significant bits, so that none moves by more than 1.2e-4 of itself,
those of the kinds with most rows 7 to 10 (4e-3, where utterances differ by tenths), and pooled ones
24, of which only small differences are read. They are stored by the places of their bytes
(Parquet's BYTE_STREAM_SPLIT): signs and exponents stand together when they are compressed, and what
was rounded away takes no space.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from companion.measurement.keys import META
from companion.measurement.keys import read_meta as read_meta
from companion.measurement.schemas import ABSENT, SPECTRA

BITS = 12
OTHERS: Mapping[str, int] = {
    "choices": 7, "nulls": 7, "stresses": 7, "warnings": 10, "contest": 10, "fitting": 10,
    "recordings": 10, "guards": 10, "alarms": 10, "doubts": 10,
    "talks": 10,
    "pooling": 24,
}  # fmt: skip
"""Bits of the kinds with thousands of spectra: read as means over utterances, warnings and the
contest as ranks; of pooled ones a jackknife reads how little they change without a speaker."""


@contextmanager
def whole_or_absent(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its place as a whole; what fails leaves nothing behind."""
    unfinished = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        unfinished.replace(path)
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write(
    rows: Sequence[Mapping[str, object]], path: Path, meta: Mapping[str, object],
    schema: pa.Schema = SPECTRA,
) -> None:  # fmt: skip
    """Write rows with provenance ``meta`` to a Parquet file that is either whole or absent.

    Raises OSError naming the file and the remedy where it cannot be written, ValueError for a row
    that does not fit the schema.
    """
    if rows and (unknown := {*rows[0]} ^ {*schema.names}):
        raise ValueError(f"{path}: columns {sorted(unknown)} are missing or not in the schema")
    _write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), path, meta)


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
        table = pq.read_table(path)
        for i, field in enumerate(schema):  # what rows are too old to have
            if field.name in ABSENT and field.name not in table.column_names:
                column = pa.array([ABSENT[field.name]] * len(table), field.type)
                table = table.add_column(min(i, table.num_columns), field, column)
        if not table.schema.remove_metadata().equals(schema):
            raise ValueError(f"{path}: columns of another version; remove it and measure again")
        frames.append(table.to_pandas())
    return pd.concat(frames, ignore_index=True)


def _write_table(table: pa.Table, path: Path, meta: Mapping[str, object]) -> None:
    try:
        with whole_or_absent(path) as unfinished:
            named = table.replace_schema_metadata({META: json.dumps(meta).encode()})
            pq.write_table(named, unfinished, compression="zstd")
    except OSError as error:
        raise OSError(
            f"{path}: cannot be written ({error}); free some space and run the same command again, "
            "it continues after the parts that are done"
        ) from error


def bits_of(kind: str) -> int:
    """How many significant bits the rows of a kind of measurement keep."""
    return OTHERS.get(kind, BITS)


def rounded(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Floating-point numbers to ``bits`` significant bits; what is not finite stays."""
    finite = np.isfinite(numbers)
    fraction, exponent = np.frexp(np.where(finite, numbers, 0))
    near = np.ldexp(np.round(fraction * 2**bits), exponent - bits)
    return np.where(finite, near, numbers)


def pack(rows: Path, bits: int) -> None:
    """Round the numbers of a Parquet file and encode it again, whole or not at all."""
    table = pq.read_table(rows)
    floats: dict[str, str] = {}  # where their bytes are, by column
    for i, field in enumerate(table.schema):
        listed = pa.types.is_list(field.type)
        if pa.types.is_floating(field.type.value_type if listed else field.type):
            floats[field.name] = f"{field.name}.list.element" if listed else field.name
            column = _rounded_column(table.column(i).combine_chunks(), bits)
            table = table.set_column(i, field, column)
    with whole_or_absent(rows) as part:
        pq.write_table(
            table, part, compression="brotli", compression_level=11,
            use_dictionary=[name for name in table.column_names if floats.get(name) != name],
            use_byte_stream_split=[*floats.values()],
        )  # fmt: skip


def _rounded_column(values: pa.Array, bits: int) -> pa.Array:
    """A column of floating-point numbers, or of lists of them, as it is kept."""
    if pa.types.is_list(values.type):
        inner = _rounded_column(values.values, bits)
        return pa.ListArray.from_arrays(values.offsets, inner, values.type, mask=values.is_null())
    missing = pc.is_null(values).to_numpy(zero_copy_only=False)
    return pa.array(rounded(values.to_numpy(zero_copy_only=False), bits), values.type, mask=missing)

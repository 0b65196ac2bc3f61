"""Put shards of a measurement together: ``python -m companion.measurement.merging KIND OUT SHARD``.

What must hold of the kind's rows is checked where there are several shards. Rows in data/ are made
small, as every clone holds them. Numbers keep 12 significant bits, so that none moves by more than
1.2e-4 of itself, those of the kinds with most rows 7 to 10 (4e-3, where utterances differ by
tenths), and pooled ones 24, of which only small differences are read. They are stored by the places
of their bytes (Parquet's BYTE_STREAM_SPLIT): signs and exponents stand together when they are
compressed, and what was rounded away takes no space.
"""

import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from companion.measurement.rounding import bits_of, rounded
from companion.measurement.store import merge, read, read_meta

PARTS = ("device", "threads", "packages")
"""What shards have in common beside their key."""


def pack(rows: Path, bits: int) -> None:
    """Round the numbers of a Parquet file and encode it again, whole or not at all."""
    table = pq.read_table(rows)
    for i, field in enumerate(table.schema):
        if is_number(field.type) or is_numbers(field.type):
            table = table.set_column(i, field, kept(table.column(i).combine_chunks(), bits))
    flat = [field.name for field in table.schema if is_number(field.type)]
    inner = [f"{each.name}.list.element" for each in table.schema if is_numbers(each.type)]
    part = rows.with_name(rows.name + ".part")
    pq.write_table(
        table,
        part,
        compression="brotli",
        compression_level=11,
        use_dictionary=[field.name for field in table.schema if field.name not in flat],
        use_byte_stream_split=flat + inner,
    )
    part.replace(rows)


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds floating-point numbers."""
    return pa.types.is_floating(kind)


def is_numbers(kind: pa.DataType) -> bool:
    """Whether a column holds lists of floating-point numbers."""
    return pa.types.is_list(kind) and is_number(kind.value_type)


def kept(values: pa.Array, bits: int) -> pa.Array:
    """A column of floating-point numbers, or of lists of them, as it is kept."""
    if is_numbers(values.type):
        inner = kept(values.values, bits)
        return pa.ListArray.from_arrays(values.offsets, inner, values.type, mask=values.is_null())
    missing = pc.is_null(values).to_numpy(zero_copy_only=False)
    return pa.array(rounded(values.to_numpy(zero_copy_only=False), bits), values.type, mask=missing)


def merge_shards(kind: str, shards: Sequence[Path], output: Path) -> None:
    """Write the rows of all shards of a measurement, in their order, as ``output``, or nothing.

    Raises ValueError for a shard that is broken, which is removed, or that was measured otherwise
    than the first, and for rows of which something does not hold that must.
    """
    metas = [_meta_of(shard) for shard in shards]
    for shard, meta in zip(shards, metas, strict=True):
        for name in ("key", *PARTS):
            if meta[name] != metas[0][name]:
                raise ValueError(
                    f"{shard}: its {name} is not that of {shards[0]} ({meta[name]}, "
                    f"{metas[0][name]}); remove one of them and run the same command again"
                )
    skipped = {name: why for meta in metas for name, why in meta["skipped"].items()}
    unchecked = output.with_name(output.name + ".part")
    try:
        merge(shards, unchecked, {**metas[0], "skipped": skipped})
        if len(shards) > 1:  # the notebook checks what is whole
            print(f"{output}: {_checked(kind, unchecked)}")
        if output.parts[0] == "data":
            pack(unchecked, bits_of(kind))
        unchecked.replace(output)
    finally:
        unchecked.unlink(missing_ok=True)


def _meta_of(shard: Path) -> dict[str, Any]:
    try:
        pq.read_table(shard)
        return read_meta(shard)
    except (ValueError, OSError) as error:
        shard.unlink()
        raise ValueError(
            f"{shard}: broken ({' '.join(str(error).split())}), and removed; run the same command "
            "again, it goes on with what was measured"
        ) from error


def _checked(kind: str, rows: Path) -> str:
    from companion.measurement.kinds import KINDS  # here: it loads torch

    try:
        return KINDS[kind].check(read([rows], KINDS[kind].schema))
    except AssertionError as error:
        line = traceback.extract_tb(error.__traceback__)[-1].line
        raise ValueError(f"{rows}: of its rows this must hold and does not: {line}") from error


def main(kind: str, output: Path, shards: Sequence[Path]) -> None:
    """Merge, and remove what was kept for it; without shards the rows are there already."""
    if not shards:
        output.touch()
        return
    merge_shards(kind, shards, output)
    shutil.rmtree(shards[0].parent / "parts", ignore_errors=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), [Path(shard) for shard in sys.argv[3:]])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

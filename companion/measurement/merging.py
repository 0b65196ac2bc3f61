"""Put the shards of a measurement together: ``python -m companion.measurement.merging OUT SHARDS``.

Rows in data/ are made small, as every clone holds them. Numbers keep 12 significant bits, so that
none moves by more than 1.2e-4 of itself, those of the kinds with most rows 7 to 10 (4e-3, where
utterances differ by tenths), and pooled ones 24, of which only small differences are read. They are
stored by the places of their bytes (Parquet's BYTE_STREAM_SPLIT): signs and exponents stand
together when they are compressed, and what was rounded away takes no space.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from companion.measurement.rounding import bits_of, rounded
from companion.measurement.store import merge, read_meta


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


def merge_shards(shards: Sequence[Path], output: Path) -> None:
    """Write the rows of all shards of a measurement, in their order, as ``output``.

    Raises ValueError for shards that were not measured with the same key.
    """
    metas = [read_meta(shard) for shard in shards]
    for shard, meta in zip(shards, metas, strict=True):
        if meta["key"] != metas[0]["key"]:
            raise ValueError(f"{shard}: other than {shards[0]}; remove both and measure again")
    skipped = {name: why for meta in metas for name, why in meta["skipped"].items()}
    merge(shards, output, {**metas[0], "skipped": skipped})


def main(output: Path, shards: Sequence[Path]) -> None:
    """Write ``output`` whole or not at all, packed where it lies in data/."""
    unchecked = output.with_name(output.name + ".part")
    merge_shards(shards, unchecked)
    if output.parts[0] == "data":
        pack(unchecked, bits_of(output.parent.name))
    unchecked.replace(output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(shard) for shard in sys.argv[2:]])

"""Make rows that will be committed small: ``python scripts/pack.py data/results/nulls/s-0.parquet``

Every clone holds them. They stay equal to the last bit, in two thirds of the space: numbers are
stored by the places of their bytes (Parquet's BYTE_STREAM_SPLIT), so that the regular bytes of sign
and exponent stand together when they are compressed.
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def pack(rows: Path) -> None:
    """Encode a Parquet file again, whole or not at all."""
    table = pq.read_table(rows)
    numbers = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    part = rows.with_name(rows.name + ".part")
    pq.write_table(
        table,
        part,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in table.column_names if name not in numbers],
        use_byte_stream_split=numbers,
    )
    part.replace(rows)


if __name__ == "__main__":
    pack(Path(sys.argv[1]))

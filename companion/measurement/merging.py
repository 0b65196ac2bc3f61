"""Put shards of a measurement together: ``python -m companion.measurement.merging KIND OUT SHARD``.

What must hold of the kind's rows is checked where there are several shards. Rows in data/ are made
small, as every clone holds them.
"""

import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from companion.measurement.store import bits_of, merge, pack, read, read_meta, whole_or_absent

PARTS = ("device", "threads", "packages")
"""What shards have in common beside their key."""


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
    with whole_or_absent(output) as unchecked:
        merge(shards, unchecked, {**metas[0], "skipped": skipped})
        if len(shards) > 1:  # the notebook checks what is whole
            print(f"{output}: {_checked(kind, unchecked)}")
        if output.parts[0] == "data":
            pack(unchecked, bits_of(kind))


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
    from companion.measurement.kinds import KINDS  # here: it loads models' libraries

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

"""Rows that come with the project are small, and what was measured."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pack import pack

from spectral.measurement.schemas import NULLS
from spectral.measurement.store import read, write

SMOKE = Path(__file__).parents[1] / "data" / "smoke" / "nulls" / "xs-0.parquet"


def test_rows_stay_equal_to_the_last_bit_and_keep_their_provenance(tmp_path: Path) -> None:
    odd = np.array([0.1, -0.0, np.inf, 5e-324, np.nan])
    table = pa.table(
        {
            "name": ["a", "b", None, "b", ""],
            "number": pa.array(odd),
            "single": pa.array(odd.astype(np.float32)),
            "missing": pa.array([1.0, None, 2.0, None, 3.0]),
            "list": [["x"], [], None, ["x", "y"], ["z"]],
            "flag": [True, None, False, True, False],
        }
    ).replace_schema_metadata({"spectral": "{}"})
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path)
    table = pq.read_table(path)
    pack(path)
    found = pq.read_table(path)
    assert found.schema.equals(table.schema, check_metadata=True)
    for name in ("number", "single"):
        assert found[name].to_numpy().tobytes() == table[name].to_numpy().tobytes()
    for name in ("name", "missing", "list", "flag"):
        assert found[name].equals(table[name])
    assert [file.name for file in tmp_path.iterdir()] == ["rows.parquet"]


def test_rows_become_smaller(tmp_path: Path) -> None:
    rows = read([SMOKE], NULLS).to_dict("records")
    path = tmp_path / "rows.parquet"
    write(rows, path, {}, NULLS)
    before = path.stat().st_size
    pack(path)
    assert path.stat().st_size < 0.9 * before
    assert len(read([path], NULLS)) == len(rows)

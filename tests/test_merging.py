"""Rows that come with the project are small, and to so many bits what was measured."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from companion.measurement.keys import META
from companion.measurement.merging import main, merge_shards, pack
from companion.measurement.schemas import NULLS
from companion.measurement.store import read, read_meta, write

SMOKE = Path(__file__).parents[1] / "data" / "smoke" / "nulls" / "xs-0.parquet"


def test_numbers_keep_twelve_bits_and_all_else_stays(tmp_path: Path) -> None:
    odd = np.array([0.1, -1234.56789, 0.5, -0.0, np.inf, np.nan, 1e-300, 1.0 - 2**-20])
    near = np.array([0.1, -1234.5, 0.5, -0.0, np.inf, np.nan, 1e-300, 1.0])
    few = pa.array([[0.1, np.nan], [], None, [1234.56789], [0.25], [], [], []])
    table = pa.table(
        {
            "name": ["a", "b", None, "b", "", "", "", ""],
            "number": pa.array(odd),
            "single": pa.array(odd.astype(np.float32)),
            "missing": pa.array([1.0, None, 2.0, None, 3.0, None, None, 0.5]),
            "list": [["x"], [], None, ["x", "y"], ["z"], [], [], []],
            "numbers": few,
            "flag": [True, None, False, True, False, None, None, None],
            "count": [1, 2, 3, 4, 123456789, 6, 7, None],
        }
    ).replace_schema_metadata({"spectral": "{}"})
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path)
    table = pq.read_table(path)
    pack(path, 12)
    found = pq.read_table(path)
    assert found.schema.equals(table.schema, check_metadata=True)
    for name in ("number", "single"):
        packed = found[name].to_numpy()
        np.testing.assert_allclose(packed, near.astype(packed.dtype), rtol=2**-13)
        assert np.signbit(packed[3])
        share, _ = np.frexp(packed[np.isfinite(packed)])
        assert (share * 2**12 == np.round(share * 2**12)).all()
    for name in ("name", "missing", "list", "flag", "count"):
        assert found[name].equals(table[name])
    numbers = found["numbers"].to_pylist()
    assert numbers[0][0] == pytest.approx(0.1, rel=2**-13)
    assert np.isnan(numbers[0][1])
    assert numbers[1:3] == [[], None]
    assert numbers[3] == [1234.5]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize(("kind", "bits"), [("stresses", 7), ("nulls", 7), ("jacobians", 12)])
def test_rows_in_data_are_packed_and_the_kinds_with_most_rows_keep_fewer_bits(
    kind: str, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).uniform(0.5, 1, 100)
    shards = [Path(f"{which}.parquet") for which in range(2)]
    for which, shard in enumerate(shards):
        meta = {META: json.dumps({"key": 0, "skipped": {str(which): "deaf"}}).encode()}
        table = pa.table({"number": values[50 * which : 50 * which + 50]})
        pq.write_table(table.replace_schema_metadata(meta), shard)
    for folder, wanted in (("build", values), ("data", np.round(values * 2**bits) / 2**bits)):
        rows = Path(folder) / kind / "rows.parquet"
        rows.parent.mkdir(parents=True)
        main(rows, shards)
        np.testing.assert_array_equal(pq.read_table(rows)["number"].to_numpy(), wanted)
        assert read_meta(rows)["skipped"] == {"0": "deaf", "1": "deaf"}
        assert [file.name for file in rows.parent.iterdir()] == ["rows.parquet"]


def test_shards_of_other_measurements_are_refused(tmp_path: Path) -> None:
    shards = [tmp_path / f"{which}.parquet" for which in range(2)]
    for which, shard in enumerate(shards):
        meta = {META: json.dumps({"key": which, "skipped": {}}).encode()}
        pq.write_table(pa.table({"number": [1.0]}).replace_schema_metadata(meta), shard)
    with pytest.raises(ValueError, match=r"1.parquet: other than .*0.parquet; remove both"):
        merge_shards(shards, tmp_path / "rows.parquet")
    shards[1].write_bytes(shards[0].read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"1.parquet: no measurement"):
        merge_shards(shards, tmp_path / "rows.parquet")
    assert not (tmp_path / "rows.parquet").exists()


def test_packing_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write(read([SMOKE], NULLS).to_dict("records"), path, {}, NULLS)
    pack(path, 12)
    once = path.read_bytes()
    pack(path, 12)
    assert path.read_bytes() == once


def test_rows_become_smaller(tmp_path: Path) -> None:
    rows = read([SMOKE], NULLS).to_dict("records")
    path = tmp_path / "rows.parquet"
    write(rows, path, {}, NULLS)
    before = path.stat().st_size
    pack(path, 12)
    assert path.stat().st_size < 0.9 * before
    assert len(read([path], NULLS)) == len(rows)

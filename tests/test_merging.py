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
    stored = pq.read_table(path)
    assert stored.schema.equals(table.schema, check_metadata=True)
    for name in ("number", "single"):
        packed = stored[name].to_numpy()
        np.testing.assert_allclose(packed, near.astype(packed.dtype), rtol=2**-13)
        assert np.signbit(packed[3])
        fraction, _ = np.frexp(packed[np.isfinite(packed)])
        assert (fraction * 2**12 == np.round(fraction * 2**12)).all()
    for name in ("name", "missing", "list", "flag", "count"):
        assert stored[name].equals(table[name])
    numbers = stored["numbers"].to_pylist()
    assert numbers[0][0] == pytest.approx(0.1, rel=2**-13)
    assert np.isnan(numbers[0][1])
    assert numbers[1:3] == [[], None]
    assert numbers[3] == [1234.5]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.parquet"]


SAME = {"key": 0, "device": "cpu", "threads": 1, "packages": {}}


def _shard(path: Path, table: pa.Table, **meta: object) -> Path:
    written = SAME | {"skipped": {path.stem: "deaf"}} | meta
    pq.write_table(table.replace_schema_metadata({META: json.dumps(written).encode()}), path)
    return path


@pytest.mark.parametrize(("kind", "bits"), [("stresses", 7), ("nulls", 7), ("jacobians", 12)])
def test_rows_in_data_are_packed_and_the_kinds_with_most_rows_keep_fewer_bits(
    kind: str, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).uniform(0.5, 1, 100)
    for folder, expected in (("build", values), ("data", np.round(values * 2**bits) / 2**bits)):
        shards = Path("shards") / folder
        (shards / "parts").mkdir(parents=True)
        shard = _shard(shards / "whole.parquet", pa.table({"number": values}))
        rows = Path(folder) / kind / "rows.parquet"
        rows.parent.mkdir(parents=True)
        main(kind, rows, [shard])
        np.testing.assert_array_equal(pq.read_table(rows)["number"].to_numpy(), expected)
        assert read_meta(rows)["skipped"] == {"whole": "deaf"}
        assert [file.name for file in rows.parent.iterdir()] == ["rows.parquet"]
        assert not (shards / "parts").exists()
        before = rows.read_bytes()
        main(kind, rows, [])  # they are there already
        assert rows.read_bytes() == before


def test_what_must_hold_of_rows_is_checked_when_shards_are_put_together(tmp_path: Path) -> None:
    rows = read([SMOKE], NULLS)
    half = rows.utterance.isin(rows.utterance.unique()[::2])
    tables = [
        pa.Table.from_pandas(rows[side], NULLS, preserve_index=False) for side in (half, ~half)
    ]
    shards = [_shard(tmp_path / f"{i}.parquet", table) for i, table in enumerate(tables)]
    merge_shards("nulls", shards, tmp_path / "rows.parquet")
    assert len(read([tmp_path / "rows.parquet"], NULLS)) == len(rows)
    assert read_meta(tmp_path / "rows.parquet")["skipped"] == {"0": "deaf", "1": "deaf"}
    (tmp_path / "rows.parquet").unlink()
    forced = (rows.null == "forced") & (rows.matched_with == "") & (rows.condition == "clean")
    rows.loc[forced, "tokens"] += 1
    _shard(shards[0], pa.Table.from_pandas(rows[half], NULLS, preserve_index=False))
    with pytest.raises(ValueError, match="of its rows this must hold and does not: assert "):
        merge_shards("nulls", shards, tmp_path / "rows.parquet")
    assert sorted(at.name for at in tmp_path.iterdir()) == ["0.parquet", "1.parquet"]


@pytest.mark.parametrize("name", ["key", "device", "packages"])
def test_shards_that_were_measured_otherwise_are_refused(name: str, tmp_path: Path) -> None:
    table = pa.table({"number": [1.0]})
    shards = [_shard(tmp_path / f"{i}.parquet", table, **{name: i}) for i in range(2)]
    with pytest.raises(ValueError, match=f"1.parquet: its {name} is not that of .*remove one"):
        merge_shards("nulls", shards, tmp_path / "rows.parquet")
    assert not (tmp_path / "rows.parquet").exists()


def test_a_broken_shard_is_removed_and_named(tmp_path: Path) -> None:
    shards = [_shard(tmp_path / f"{i}.parquet", pa.table({"x": [1.0]})) for i in range(2)]
    shards[1].write_bytes(shards[0].read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"1.parquet: broken .*, and removed; run the same"):
        merge_shards("nulls", shards, tmp_path / "rows.parquet")
    assert [at.name for at in tmp_path.iterdir()] == ["0.parquet"]


def test_rows_become_smaller_and_packing_again_changes_nothing(tmp_path: Path) -> None:
    rows, path = read([SMOKE], NULLS).to_dict("records"), tmp_path / "rows.parquet"
    write(rows, path, {}, NULLS)
    before = path.stat().st_size
    pack(path, 12)
    once = path.read_bytes()
    assert len(once) < 0.9 * before
    assert len(read([path], NULLS)) == len(rows)
    pack(path, 12)
    assert path.read_bytes() == once

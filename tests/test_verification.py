"""Measuring a sample of rows again: what is found when they are, and are not, what was kept."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from companion.measurement import pooling
from companion.measurement.keys import VERSIONS, key_of, speech_digest
from companion.measurement.keys import difference as difference_of_keys
from companion.measurement.kinds import KINDS
from companion.measurement.schemas import LISTENING
from companion.measurement.store import bits_of, read, read_meta, write
from companion.measurement.verification import _flat, _numbers, difference, verify
from companion.models.loading import weights_digest
from companion.speech.corpus import find_utterances
from spectral import spectra

ROOT = Path(__file__).parents[1]
LADDER, CORPUS = ROOT / "data" / "ladder", ROOT / "data" / "corpus"
SMOKE = ROOT / "data" / "smoke" / "listening" / "xs-0.parquet"
ROWS = pd.DataFrame(
    {
        "utterance": ["a", "a", "b"],
        "transcript": ["one", "one", "two"],
        "layer": [1, 2, 1],
        "value": [1.0, math.nan, 4.0],
        "spectrum": [np.array([2.0, 1.0]), np.array([1.0]), np.array([3.0, 0.0])],
    }
)


def changed(column: str, row: int, value: object) -> pd.DataFrame:
    rows = ROWS.copy()
    rows[column] = [value if i == row else old for i, old in enumerate(rows[column])]
    return rows


def test_the_same_rows_differ_by_nothing() -> None:
    gap = difference(ROWS, ROWS.copy(), 12)
    assert (gap.utterances, gap.rows, gap.unlike, gap.largest) == (2, 3, 0, 0.0)
    assert gap.again


def test_the_largest_difference_is_relative_and_says_where() -> None:
    gap = difference(ROWS, changed("value", 2, 4.4), 12)
    assert gap.largest == pytest.approx(0.4 / 4.4, rel=5e-3)
    assert (gap.column, gap.unlike) == ("value", 0)
    gap = difference(ROWS, changed("spectrum", 0, np.array([2.0, 1.5])), 12)
    assert gap.largest == pytest.approx(0.5 / 1.5, rel=5e-3)
    assert gap.column == "spectrum"


def test_what_rounding_explains_is_no_difference() -> None:
    kept = changed("value", 2, 4.0)
    for value in (4.0 + 2.0**-7, 4.0 - 2.0**-9):  # half a unit of the 9 bits, above and below
        assert difference(kept, changed("value", 2, value), 9).largest == 0.0
        assert difference(kept, changed("value", 2, value), 12).largest > 1e-4
    # Past the middle by a float32's rounding, a number is that far off, and not a whole unit.
    gap = difference(kept, changed("value", 2, 4.0 + 2.0**-7 + 1e-6), 9)
    assert gap.largest == pytest.approx(1e-6 / 4, rel=0.01)


def test_a_number_that_is_no_longer_one_is_infinitely_far() -> None:
    assert difference(ROWS, changed("value", 1, 2.0), 12).largest == math.inf
    assert difference(ROWS, changed("value", 0, math.nan), 12).largest == math.inf


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [("transcript", 0, "three"), ("layer", 1, 3), ("spectrum", 0, np.array([2.0]))],
)
def test_other_texts_and_shapes_are_counted_alone(column: str, row: int, value: object) -> None:
    gap = difference(ROWS, changed(column, row, value), 12)
    assert (gap.unlike, gap.largest) == (1, 0.0)


def test_missing_rows_are_unlike() -> None:
    assert difference(ROWS, ROWS.iloc[:2], 12).unlike == 1
    assert difference(ROWS, ROWS.iloc[:1], 12).unlike == 2
    assert not difference(ROWS, ROWS.iloc[:1], 12).again


@pytest.mark.skipif(not SMOKE.exists(), reason="no rows")
def test_a_planted_error_in_kept_rows_is_found(tmp_path: Path) -> None:
    kept = read([SMOKE], LISTENING)
    wrong = kept.assign(forced_loss=kept.forced_loss * 1.01, windows=None).to_dict("records")
    path = tmp_path / "xs-0.parquet"
    write(wrong, path, read_meta(SMOKE), LISTENING)  # type: ignore[arg-type]
    verified = verify({"xs-0": path}, "listening", LADDER, CORPUS, "cpu", seed=0)
    assert verified["largest"] == pytest.approx(0.01, rel=0.02)
    assert verified["column"] == "forced_loss"
    assert not verified["again"]
    shutil.copy(SMOKE, path)
    again = verify({"xs-0": path}, "listening", LADDER, CORPUS, "cpu", seed=0)
    assert float(str(again["largest"])) < 1e-4
    assert again["again"]


@pytest.mark.parametrize("kind", VERSIONS)
def test_a_kinds_numbers_move_only_with_its_version(kind: str, tmp_path: Path) -> None:
    path = ROOT / "data" / "smoke" / kind / "xs-0.parquet"
    key = read_meta(path)["key"]
    speech = speech_digest(find_utterances(CORPUS).utterances)
    now = key_of(kind, key["parameters"], weights_digest("xs-0", LADDER), speech)
    assert difference_of_keys(key, now) is None, f"{path}: stale; `make smoke` measures it again"
    if kind == pooling.KIND:  # of all utterances at once
        again = _pooled_again(key["parameters"], tmp_path / "xs-0.parquet")
        verified = vars(gap := difference(_rows(kind), again, bits_of(kind))) | {"again": gap.again}
    else:
        verified = verify({"xs-0": path}, kind, LADDER, CORPUS, "cpu", seed=0)
    assert verified["again"], (
        f"{kind} gives other numbers than {path}: {verified}; mend the code, or, where they differ "
        f"on purpose, raise VERSIONS[{kind!r}] in companion/measurement/keys.py and measure again "
        "(`make smoke`, `make evidence`)"
    )


def _rows(kind: str) -> pd.DataFrame:
    """The smoke rows of a kind; those of a pooled table are told apart by what they pool."""
    return _named(read([ROOT / "data" / "smoke" / kind / "xs-0.parquet"], KINDS[kind].schema))


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    if "utterance" in rows:
        return rows
    return rows.assign(utterance=rows.condition + rows["sample"] + rows.loops + rows.without)


def _pooled_again(values: dict[str, Any], output: Path) -> pd.DataFrame:
    places = {"ladder": LADDER, "corpus": CORPUS, "output": output, "device": "cpu"}
    activations, seen = output.parent / "activations", ROOT / "data" / "published" / "seen.txt"
    pooling.measure_pooling(
        pooling.PoolingSettings(**values, **places, activations=activations, seen=seen)
    )
    return _named(read([output], pooling.POOLING))


@pytest.mark.parametrize("kind", VERSIONS)
def test_one_per_cent_more_in_any_column_is_found(kind: str) -> None:
    kept = _rows(kind)
    kept = kept[kept.utterance == kept.utterance[0]]
    assert difference(kept, kept.copy(), bits_of(kind)).again
    gaps = {}
    for column in _numbers(kept):
        values = _flat(kept[column])
        if (np.abs(values) > 0).mean() < 1 / 2:  # most are zero or missing, and stay it
            continue
        more = kept.assign(
            **{column: [value if value is None else value * 1.01 for value in kept[column]]}
        )
        gaps[column] = difference(kept, more, bits_of(kind))
    assert gaps
    assert [column for column, gap in gaps.items() if gap.again] == []
    assert all(gap.moved_column == column for column, gap in gaps.items())


def test_code_that_gives_one_per_cent_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "data" / "smoke" / "measure" / "xs-0.parquet"
    slope = spectra.spectral_slope
    monkeypatch.setattr(spectra, "spectral_slope", lambda *a: 1.01 * slope(*a))
    verified = verify({"xs-0": path}, "measure", LADDER, CORPUS, "cpu", seed=0)
    assert not verified["again"]
    assert verified["moved_column"] == verified["column"] == "alpha"


def test_single_numbers_may_be_farther_but_not_a_tenth_of_a_column() -> None:
    rows = pd.DataFrame({"utterance": ["a"] * 20, "value": np.linspace(1, 2, 20)})
    for count in (1, 2, 3):
        again = rows.assign(value=rows.value.where(rows.index >= count, rows.value * 1.2))
        gap = difference(rows, again, 12)
        assert (gap.moved, gap.moved_column) == (pytest.approx(count / 20), "value")
        assert gap.again == (count <= 2)


def test_an_unknown_kind_is_an_error_that_lists_the_kinds() -> None:
    with pytest.raises(ValueError, match="no measurement 'null'; choose from measure, "):
        verify({"xs-0": SMOKE}, "null", LADDER, CORPUS, "cpu", seed=0)

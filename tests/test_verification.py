"""Measuring a sample of rows again: what is found when they are, and are not, what was kept."""

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spectral.measurement.schemas import LISTENING
from spectral.measurement.store import read, read_meta, write
from spectral.measurement.verification import difference, verify

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
    found = difference(ROWS, ROWS.copy(), 12)
    assert (found.utterances, found.rows, found.unlike, found.largest) == (2, 3, 0, 0.0)


def test_the_largest_difference_is_relative_and_says_where() -> None:
    found = difference(ROWS, changed("value", 2, 4.4), 12)
    assert found.largest == pytest.approx(0.4 / 4.4, rel=5e-3)
    assert (found.column, found.unlike) == ("value", 0)
    found = difference(ROWS, changed("spectrum", 0, np.array([2.0, 1.5])), 12)
    assert found.largest == pytest.approx(0.5 / 1.5, rel=5e-3)
    assert found.column == "spectrum"


def test_what_rounding_explains_is_no_difference() -> None:
    kept = changed("value", 2, 4.0)
    for value in (4.0 + 2.0**-7, 4.0 - 2.0**-9):  # half a unit of the 9 bits, above and below
        assert difference(kept, changed("value", 2, value), 9).largest == 0.0
        assert difference(kept, changed("value", 2, value), 12).largest > 1e-4
    # Past the middle by a float32's rounding, a number is that far off, and not a whole unit.
    found = difference(kept, changed("value", 2, 4.0 + 2.0**-7 + 1e-6), 9)
    assert found.largest == pytest.approx(1e-6 / 4, rel=0.01)


def test_a_number_that_is_no_longer_one_is_infinitely_far() -> None:
    assert difference(ROWS, changed("value", 1, 2.0), 12).largest == math.inf
    assert difference(ROWS, changed("value", 0, math.nan), 12).largest == math.inf


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [("transcript", 0, "three"), ("layer", 1, 3), ("spectrum", 0, np.array([2.0]))],
)
def test_other_texts_and_other_shapes_are_not_compared_but_counted(
    column: str, row: int, value: object
) -> None:
    found = difference(ROWS, changed(column, row, value), 12)
    assert (found.unlike, found.largest) == (1, 0.0)


def test_missing_rows_are_unlike() -> None:
    assert difference(ROWS, ROWS.iloc[:2], 12).unlike == 1
    assert difference(ROWS, ROWS.iloc[:1], 12).unlike == 2


@pytest.mark.skipif(not SMOKE.exists(), reason="no rows")
def test_a_planted_error_in_kept_rows_is_found(tmp_path: Path) -> None:
    kept = read([SMOKE], LISTENING)
    wrong = kept.assign(forced_loss=kept.forced_loss * 1.01).to_dict("records")
    path = tmp_path / "xs-0.parquet"
    write(wrong, path, read_meta(SMOKE), LISTENING)  # type: ignore[arg-type]
    found = verify({"xs-0": path}, "listening", LADDER, CORPUS, "cpu", seed=0)
    assert found["largest"] == pytest.approx(0.01, rel=0.02)
    assert found["column"] == "forced_loss"
    shutil.copy(SMOKE, path)
    again = verify({"xs-0": path}, "listening", LADDER, CORPUS, "cpu", seed=0)
    assert float(str(again["largest"])) < 1e-4


def test_an_unknown_kind_is_an_error_that_lists_the_kinds() -> None:
    with pytest.raises(ValueError, match="no measurement 'null'; choose from measure, listening"):
        verify({"xs-0": SMOKE}, "null", LADDER, CORPUS, "cpu", seed=0)

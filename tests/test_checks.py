"""What must hold of measured rows holds of those that come with the tests, and is seen to break."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from companion.measurement.kinds import KINDS
from companion.measurement.store import read

SMOKE = Path(__file__).parents[1] / "data" / "smoke"
FAULTS = {  # a column, a row's place among those it is looked for in, and what it becomes
    "measure": ("n_eff", 0.99),
    "pooling": ("kirchhoff_of_fractions", 1.0),
    "listening": ("forced_loss", 0.0),
    "nulls": ("tokens", 1),
    "stresses": ("condition", "elsewhere"),
    "choices": ("tokens", 1),
    "jacobians": ("alignment", 1.01),
    "dynamics": ("value", -0.1),
    "subtle": ("unchanged", None),
    "warnings": ("alpha", np.nan),
    "contest": ("entropy", -0.1),
    "guards": ("entropy", -0.1),
    "alarms": ("forbidden_first", 1.1),
    "doubts": ("forbidden_first", 1.1),
    "talks": ("invented", 1000),
    "fitting": ("forbidden_mean", 1.1),
    "recordings": ("deleted", 1000),
}


def rows_of(kind: str) -> pd.DataFrame:
    return read([SMOKE / kind / "xs-0.parquet"], KINDS[kind].schema)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_s_check_says_what_holds(kind: str) -> None:
    said = KINDS[kind].check(rows_of(kind))
    assert said
    assert "\n" not in said


@pytest.mark.parametrize("kind", KINDS)
def test_one_wrong_number_breaks_it(kind: str) -> None:
    rows = rows_of(kind)
    column, wrong = FAULTS[kind]
    where = rows.index[rows[column].notna()]
    if kind in ("nulls", "choices"):
        forced = rows.null if kind == "nulls" else rows.forcing
        where = rows.index[(forced == "forced") & (rows.matched_with == "")]
    if kind == "pooling":
        where = rows.index[(rows.resolved >= rows.modes) & (rows.modes > 1)]
    if kind == "jacobians":
        where = rows.index[rows.layer < rows.layer.max()]
    if kind == "dynamics":
        where = rows.index[rows.quantity == "linear_probe"]
    rows.loc[where[0], column] = not rows.loc[where[0], column] if wrong is None else wrong
    with pytest.raises(AssertionError):
        KINDS[kind].check(rows)

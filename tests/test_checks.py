"""What must hold of measured rows holds of those that come with the tests, and is seen to break."""

from pathlib import Path

import numpy as np
import pytest

from companion.measurement.kinds import KINDS
from companion.measurement.store import read

SMOKE = Path(__file__).parents[1] / "data" / "smoke"
FAULTS = {  # a column, what one value of it becomes, and of which rows where not of any
    "measure": ("n_eff", 0.99),
    "pooling": ("kirchhoff_of_fractions", 1.0, "resolved >= modes and modes > 1"),
    "listening": ("forced_loss", 0.0),
    "nulls": ("tokens", 1, "null == 'forced' and matched_with == ''"),
    "stresses": ("condition", "elsewhere"),
    "choices": ("tokens", 1, "forcing == 'forced' and matched_with == ''"),
    "jacobians": ("alignment", 1.01),
    "dynamics": ("value", -0.1, "quantity == 'linear_probe'"),
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


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_s_check_says_what_holds_and_one_wrong_number_breaks_it(kind: str) -> None:
    rows = read([SMOKE / kind / "xs-0.parquet"], KINDS[kind].schema)
    line = KINDS[kind].check(rows)
    assert line
    assert "\n" not in line
    column, wrong, *which = FAULTS[kind]
    (place, *_) = rows.dropna(subset=column).query(*which or ["index >= 0"]).index
    rows.loc[place, column] = not rows.loc[place, column] if wrong is None else wrong
    with pytest.raises(AssertionError):
        KINDS[kind].check(rows)

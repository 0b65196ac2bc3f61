"""Predictions that were written down before anything was measured, and what became of them.

The page is read as it was committed: ids, numbers, models, sides and bounds stand there alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from companion.claims.numbers import NotMeasured, Tables
from companion.claims.rules import ABOVE, BELOW, OPEN, SUPPORTED, Statement
from companion.results.intervals import Interval

COMMIT = "365e973"
"""The commit of the page, from before the first row was measured."""

TRUE, FALSE, UNMEASURED = "came true", "did not", "not measured"
OUTCOMES = (TRUE, FALSE, OPEN, UNMEASURED)
_COLUMNS = ("id", "claim", "what we expect", "number", "models", "side", "bound")
BOTH = "both"

Number = Callable[[Tables, str], Interval]
"""A number of the tables, of one model; raises NotMeasured where they have none."""


@dataclass(frozen=True)
class Prediction:
    """One line of the page about one model."""

    id: str
    claim: int
    says: str
    number: str
    model: str
    side: str
    bound: float


def read_predictions(page: Path) -> list[Prediction]:
    """The lines of a page, one per model that they name; ValueError for a line that is none."""
    found = []
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0].startswith(":") or tuple(cells) == _COLUMNS:
            continue
        if len(cells) != len(_COLUMNS) or cells[5] not in (ABOVE, BELOW):
            raise ValueError(f"{page}: {line!r} is no prediction; write {' | '.join(_COLUMNS)}")
        name, claim, says, number, models, side, bound = cells
        found += [
            Prediction(name, int(claim), says, number, model.strip(), side, float(bound))
            for model in models.split(",")
        ]
    return found


def judge(
    predictions: Sequence[Prediction], tables: Tables, numbers: Mapping[str, Number]
) -> pd.DataFrame:
    """One row per prediction and model, with the number measured and what became of it.

    A number of a table or model that is not there is not measured; ``lacks`` says why.
    """
    rows = []
    for one in predictions:
        found, lacks = None, ""
        try:
            found = numbers[one.number](tables, one.model)
        except NotMeasured as reason:
            lacks = str(reason)
        rows.append(
            {
                "id": one.id, "claim": one.claim, "expected": one.says, "model": one.model,
                "side": one.side, "bound": one.bound,
                "estimate": found.estimate if found else math.nan,
                "estimate_low": found.low if found else math.nan,
                "estimate_high": found.high if found else math.nan,
                "outcome": _outcome(one, found), "lacks": lacks,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _outcome(one: Prediction, found: Interval | None) -> str:
    if found is None:
        return UNMEASURED
    decision = Statement(one.model, found, one.side, one.bound).decision
    return {SUPPORTED: TRUE, OPEN: OPEN}.get(decision, FALSE)

"""All that is known of each effect: raw, at equal length, and beside every null; and a verdict."""

from collections.abc import Mapping

import pandas as pd

from companion.measurement.schemas import (
    FORCED,
    GAUSSIAN,
    INITIALISED,
    SHUFFLED,
    SPECTRUM,
    SWAPPED,
    UNPAIRED,
)
from companion.results.controls import DRAWN, control_effects
from companion.results.effects import GROUP, MATCHED, OBSERVABLES, RAW, effects, observable_rows
from companion.results.intervals import Interval
from companion.results.matching import PAIRS, pair_effects
from companion.results.tables import with_interval
from companion.results.verdict import Verdict, verdict

MODEL = "model"
"""The source of what was measured on the model itself."""

_BLOCKS = (
    {(MODEL, RAW): "raw"},
    {
        (SHUFFLED, MATCHED): "random rows",
        (MODEL, MATCHED): "first rows",
        (MODEL, PAIRS): "equal pairs",
    },
    {(FORCED, RAW): "same text"},
    {
        (GAUSSIAN, RAW): "Gaussian",
        (INITIALISED, RAW): "randomly initialised control",
        (SPECTRUM, RAW): "random vectors",
        (UNPAIRED, RAW): "unpaired training",
        (SWAPPED, RAW): "other speech",
    },
    {
        (GAUSSIAN, MATCHED): "Gaussian, first rows",
        (INITIALISED, MATCHED): "randomly initialised control, first rows",
        (SPECTRUM, MATCHED): "random vectors, first rows",
        (UNPAIRED, MATCHED): "unpaired training, first rows",
        (SWAPPED, MATCHED): "other speech, first rows",
    },
)
NULL_BLOCKS = 2
"""So many of the blocks, the last ones, are nulls, not the model itself."""

CONTROLS = {key: label for block in _BLOCKS for key, label in block.items()}
"""By source and length, what a reader compares, in the order to read it. Random rows are the
headline at equal length; the same text, forced on both sounds, has equal length by itself."""

EFFECT = [*GROUP, "observable"]
"""What one effect is: a model, a component, K and an observable."""


def evidence(
    rows: pd.DataFrame,
    null_rows: pd.DataFrame,
    condition: str,
    tolerance: int,
) -> pd.DataFrame:
    """Every effect under every control: one row per ``EFFECT``, source and length.

    Columns ``change``, ``low``, ``high``, ``p``, ``n``, ``tokens_clean``, ``tokens_stressed``, and
    ``draws``, the networks that the interval is over. ``rows`` are those of `measure`,
    ``null_rows`` those of `nulls`; ``tolerance`` is that of ``pair_effects``. Observables that the
    nulls lack, those of the graphs, are left out.
    """
    seen = [name for name, column in OBSERVABLES.items() if column in null_rows]
    tables = [
        effects(rows, condition).assign(source=MODEL),
        pair_effects(rows, condition, tolerance).assign(source=MODEL),
    ]
    for name, part in null_rows.groupby("null"):
        stressed = SWAPPED if name == SWAPPED else condition
        of = control_effects if name in DRAWN else effects
        tables.append(of(part, stressed).assign(source=name))
    long = pd.concat([observable_rows(table, name) for table in tables for name in seen])
    long["draws"] = long.draws.fillna(1).astype(int)
    known = pd.MultiIndex.from_frame(long[["source", "length"]]).isin(list(CONTROLS))
    return long[known].sort_values([*EFFECT, "source", "length"], ignore_index=True)


def blocks(table: pd.DataFrame) -> list[list[tuple[str, str]]]:
    """The keys of ``CONTROLS`` that a table has, those that belong together in one list.

    Raw, at equal length, the same text, nulls, nulls at equal length.
    """
    there = set(zip(table.source, table.length, strict=True))
    return [[key for key in block if key in there] for block in _BLOCKS]


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """One row per ``EFFECT`` of ``evidence``: its change raw and at equal length, and a verdict.

    ``matched`` is with random rows, ``first_rows`` with first ones; ``reason`` says why.
    """
    found = []
    for key, part in table.groupby(EFFECT, sort=True):
        by_control = part.set_index(["source", "length"])
        intervals = {
            (str(source), str(length)): Interval(row.change, row.low, row.high)
            for (source, length), row in by_control.iterrows()
        }
        decided = judge(intervals)
        found.append(
            dict(zip(EFFECT, key, strict=True))
            | {
                "raw": intervals[MODEL, RAW].estimate,
                "matched": intervals[SHUFFLED, MATCHED].estimate,
                "first_rows": intervals[MODEL, MATCHED].estimate,
                "verdict": decided.name,
                "reason": decided.reason,
            }
        )
    return pd.DataFrame(found)


def readable_evidence(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """``evidence`` to read, an effect a row: its verdict, and its change under every control."""
    named = table.rename(columns={"low": "change_low", "high": "change_high"})
    named = named.assign(
        control=[CONTROLS[key] for key in zip(table.source, table.length, strict=True)],
        cell=with_interval(named, "change", 2, sign=True),
    )
    wide = named.pivot(index=EFFECT, columns="control", values="cell")
    wide = wide[[name for name in CONTROLS.values() if name in wide]]
    said = found.set_index(EFFECT)[["verdict", "reason"]]
    return said.join(wide).reset_index().drop(columns="parameters")


def judge(intervals: Mapping[tuple[str, str], Interval]) -> Verdict:
    """``verdict`` on one effect, from its intervals by source and length."""
    controls = [(SHUFFLED, MATCHED), (MODEL, MATCHED), (MODEL, PAIRS)]
    nulls = [(null, MATCHED) for null in (INITIALISED, SPECTRUM, UNPAIRED, SWAPPED)]
    return verdict(
        intervals[MODEL, RAW],
        {CONTROLS[key]: intervals[key] for key in controls},
        {CONTROLS[key]: intervals[key] for key in nulls if key in intervals},
        intervals[GAUSSIAN, RAW],
        like=CONTROLS[MODEL, MATCHED],
    )

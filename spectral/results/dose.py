"""Dose and response: observables and answers by the severity of a stress."""

from collections.abc import Iterable

import pandas as pd

from spectral.measurement.schemas import REFERENCE_CONDITION
from spectral.results.effects import OBSERVABLES, effects, observable_rows
from spectral.results.word_errors import transcripts, word_errors
from spectral.stress.conditions import split_severity


def severities(rows: pd.DataFrame, family: str) -> dict[str, float]:
    """The conditions of a family in the rows, by severity: clean is 0, the family's own name 1.

    Raises ValueError where the rows hold no milder form.
    """
    found = {REFERENCE_CONDITION: 0.0}
    for name in rows.condition.unique():
        base, severity = split_severity(name)
        if base == family:
            found[name] = severity
    if len(found) < 3:
        raise ValueError(f"rows have no milder {family}; measure conditions such as {family}-0.5")
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def dose_response(
    rows: pd.DataFrame, families: Iterable[str], resamples: int, seed: int
) -> pd.DataFrame:
    """Changes from clean by severity: those of ``effects``, an observable a row.

    Columns ``family``, ``severity``, ``observable``, ``change`` and its interval. At severity 0
    nothing has changed, by definition.
    """
    tables = []
    for family in families:
        for name, severity in severities(rows, family).items():
            if severity == 0:
                continue
            table = effects(rows, name, resamples, seed)
            tables += [
                observable_rows(table, observable).assign(family=family, severity=severity)
                for observable, column in OBSERVABLES.items()
                if column in rows
            ]
    found = pd.concat(tables, ignore_index=True)
    first = found[found.severity == 1].assign(severity=0.0, change=0.0, low=0.0, high=0.0, p=1.0)
    first = first.assign(tokens_stressed=first.tokens_clean)
    keys = ["family", "parameters", "model", "component", "modes", "length", "observable"]
    return pd.concat([first, found]).sort_values([*keys, "severity"], ignore_index=True)


def answer_response(
    rows: pd.DataFrame, families: Iterable[str], resamples: int, seed: int
) -> pd.DataFrame:
    """``word_errors`` by severity: the numbers themselves, not their changes."""
    errors = word_errors(transcripts(rows), resamples, seed)
    tables = []
    for family in families:
        doses = severities(rows, family)
        own = errors[errors.condition.isin(doses)]
        tables.append(own.assign(family=family, severity=own.condition.map(doses)))
    keys = ["family", "parameters", "model", "severity"]
    return pd.concat(tables).sort_values(keys, ignore_index=True)

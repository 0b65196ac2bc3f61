"""Dose and response: observables and transcripts by the severity of a stress."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results.answers import answers
from companion.results.effects import (
    OBSERVABLES,
    Columns,
    effects,
    interval_columns,
    observable_rows,
)
from companion.results.intervals import deletions, jackknife, weighted_mean
from companion.results.wers import transcripts, wers
from companion.stress.conditions import condition, split_severity
from companion.stress.perturbations import GaussianNoise

NOISE = "noise"
_PASSAGE = (10.0, 90.0)


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


def dose_response(rows: pd.DataFrame, families: Iterable[str]) -> pd.DataFrame:
    """Changes from clean by severity: those of ``effects``, an observable a row.

    Columns ``family``, ``severity``, ``observable``, ``change`` and its interval. At severity 0
    nothing has changed, by definition.
    """
    tables = []
    for family in families:
        for name, severity in severities(rows, family).items():
            if severity == 0:
                continue
            table = effects(rows, name)
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


def transcript_response(rows: pd.DataFrame, families: Iterable[str]) -> pd.DataFrame:
    """``wers`` by severity: the numbers themselves, not their changes."""
    errors = wers(transcripts(rows))
    tables = []
    for family in families:
        doses = severities(rows, family)
        own = errors[errors.condition.isin(doses)]
        tables.append(own.assign(family=family, severity=own.condition.map(doses)))
    keys = ["family", "parameters", "model", "severity"]
    return pd.concat(tables).sort_values(keys, ignore_index=True)


def noise_width(rows: pd.DataFrame) -> pd.DataFrame:
    """Over how many dB of noise hallucination candidates go from 10 to 90 % of transcripts, by
    model.

    Linear between the levels measured. Candidates of a level are taken to be no fewer than of a
    fainter one. Where 10 % are reached below the faintest level, or 90 % above the loudest,
    ``width_db`` is the least that it can be, ``whole`` is false, and the interval has no upper end;
    where 10 % are never reached, even without one speaker, there is none. The width is smooth in
    the weights but where a level or a share is just reached.
    """
    said = answers(rows)
    levels = {
        name: _level_db(name) for name, severity in severities(rows, NOISE).items() if severity > 0
    }
    table = []
    for key, group in said[said.condition.isin(levels)].groupby(["parameters", "model"]):
        wide = group.pivot(
            index=["utterance", "speaker"], columns="condition", values="candidate_fraction"
        ).dropna()
        names = sorted(wide.columns, key=levels.__getitem__)
        speakers = wide.index.get_level_values("speaker").to_numpy()
        weights = deletions(speakers)
        fractions = np.maximum.accumulate(weighted_mean(weights, wide[names].to_numpy()), axis=1)
        found = np.array([_width([levels[name] for name in names], row) for row in fractions])
        table.append(
            dict(zip(["parameters", "model"], key, strict=True)) | _width_columns(found, speakers)
        )
    return pd.DataFrame(table)


def _level_db(name: str) -> float:
    """How loud the noise of a condition is, in dB of the speech."""
    (noise,) = condition(name).perturbations
    if not isinstance(noise, GaussianNoise):
        raise ValueError(f"{name} is no noise alone; its severity is no level in dB")
    return -noise.snr_db


def _width(levels: list[float], fractions: np.ndarray) -> tuple[float, bool]:
    """Least dB between the two shares, and whether both are reached between the levels."""
    first, last = _PASSAGE
    if fractions[-1] < first:
        return float("nan"), False
    start, stop = (_reached(levels, fractions, fraction) for fraction in _PASSAGE)
    return stop - start, bool(fractions[0] <= first and fractions[-1] >= last)


def _reached(levels: list[float], fractions: np.ndarray, fraction: float) -> float:
    """The level at which rising shares reach one; an end where that is beyond it."""
    after = int((fractions < fraction).sum())
    if after in (0, len(fractions)):
        return levels[min(after, len(fractions) - 1)]
    part = (fraction - fractions[after - 1]) / (fractions[after] - fractions[after - 1])
    return float(levels[after - 1] + part * (levels[after] - levels[after - 1]))


def _width_columns(found: np.ndarray, speakers: np.ndarray) -> Columns:
    whole = found[:, 1].astype(bool)
    width = jackknife(found[:, 0], np.unique(speakers))
    if not whole.all() and np.isfinite(width.low):
        width = replace(width, high=float("inf"), deviations={})
    return interval_columns("width_db", width) | {"whole": bool(whole[0])}

"""Transition or drift: the shape of every observable over severity and over depth."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results.answers import ANSWER, ANSWERS, answers
from companion.results.dose import severities
from companion.results.effects import GROUP, OBSERVABLES, layer_means, observed
from companion.results.shapes import FLAT, SMOOTH, STEP, shape

SEVERITY, DEPTH = "severity", "depth"
_KEY = [*GROUP, "length", "observable"]
_UNITS = ["speaker", "utterance"]


def transitions(rows: pd.DataFrame, families: Iterable[str]) -> pd.DataFrame:
    """``shape`` of the speakers' means along every axis: one row per GROUP, length, observable,
    axis.

    An utterance counts where it has a value at every point.

    ``along`` is "severity" (``of`` a family, clean as 0) or "depth" (``of`` a condition, its
    layers, all T tokens). Over severity the raw curve is of values, the length-matched one of
    changes from clean, each at the length of its own pair. The transcripts' own have component
    "answer" and K 0.
    """
    table = []
    names = {column: pd.factorize(rows[column], sort=True)[0] for column in _UNITS}
    rows = rows.assign(**names)  # numbers are grouped several times faster
    for family in families:
        curves = _by_severity(rows, severities(rows, family))
        for key, speakers in _speakers(curves, SEVERITY):
            table.append(_row(key, speakers, SEVERITY) | {"of": family})
        for name in (REFERENCE_CONDITION, family):
            curves = _by_depth(rows[rows.condition == name])
            for key, speakers in _speakers(curves, "layer"):
                table.append(_row(key, speakers, DEPTH) | {"of": name})
    return pd.DataFrame(table).drop_duplicates([*_KEY, "along", "of"], ignore_index=True)


def _speakers(curves: pd.DataFrame, axis: str) -> Iterator[tuple[tuple[object, ...], pd.DataFrame]]:
    """The speakers' means of every ``_KEY``, a column per point of ``axis``."""
    for _, own in curves.groupby(["parameters", "model"]):  # models differ in depth
        wide = own.pivot(index=[*_KEY, *_UNITS], columns=axis, values="value")
        means = wide.dropna().groupby([*_KEY, "speaker"]).mean()
        known = dict(iter(means.groupby(_KEY)))
        for key in wide.groupby(_KEY).groups:  # also those without a value at every point
            yield key, known.get(key, means.iloc[:0])


def _row(key: tuple[object, ...], speakers: pd.DataFrame, along: str) -> dict[str, object]:
    x = speakers.columns.to_numpy(float)
    found = shape(speakers.to_numpy(float), x)
    return dict(zip(_KEY, key, strict=True)) | {
        "along": along,
        "points": len(x),
        "speakers": len(speakers),
        "verdict": found.verdict,
        **{f"bic_{name.replace(' ', '_')}": found.bic.get(name) for name in (FLAT, SMOOTH, STEP)},
        "step_after": x[found.place - 1] if found.place else np.nan,
        "margin": found.margin.estimate,
        "margin_low": found.margin.low,
        "margin_high": found.margin.high,
    }


def _by_severity(rows: pd.DataFrame, doses: dict[str, float]) -> pd.DataFrame:
    """Every utterance: columns of ``_KEY``, speaker, utterance, severity and value."""
    tables = []
    for name, severity in doses.items():
        if severity == 0:
            continue
        means = layer_means(rows, name)
        for observable in OBSERVABLES:
            if f"{observable}_clean" in means:
                clean, value = (means[f"{observable}_{side}"] for side in ("clean", "stressed"))
                matched = means.length != "raw"
                part = means[[*GROUP, "length", "speaker", "utterance"]].assign(
                    observable=observable
                )
                tables.append(
                    part.assign(severity=severity, value=value.where(~matched, value - clean))
                )
                if severity == 1:
                    tables.append(part.assign(severity=0.0, value=clean.where(~matched, 0.0)))
    said = answers(rows[rows.condition.isin(doses)])
    for observable in ANSWERS:
        part = said[["parameters", "model", "speaker", "utterance"]].assign(
            component=ANSWER, modes=0, length="raw", observable=observable,
            severity=said.condition.map(doses), value=said[observable],
        )  # fmt: skip
        tables.append(part[part.value.notna()])
    return pd.concat(tables)


def _by_depth(rows: pd.DataFrame) -> pd.DataFrame:
    """Every utterance by layer: columns of ``_KEY``, speaker, utterance, layer and value."""
    raw = rows[rows.matched_with == ""]
    tables = [
        raw[[*GROUP, "speaker", "utterance", "layer"]].assign(
            length="raw", observable=name, value=observed(raw, name)
        )
        for name, column in OBSERVABLES.items()
        if column in raw
    ]
    return pd.concat(tables)

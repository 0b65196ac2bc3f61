"""Measure some rows again, and say how far they are from those that were kept."""

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from companion.measurement.kinds import KINDS, Kind
from companion.measurement.run import batches, stressed
from companion.measurement.schemas import ABSENT, LATER
from companion.measurement.settings import Settings
from companion.measurement.store import bits_of, read, read_meta, rounded
from companion.models.loading import choose_device, load
from companion.speech.corpus import find_utterances
from companion.stress.mixture import Speakers

KEYS = ["speaker", "utterance"]  # whose rows are compared; of some kinds a whole speaker's too
SAMPLE = 2
"""Utterances that are measured again."""

TOLERANCE = 1e-3
"""How far a number may be from the kept one, as a fraction of itself."""

ODD = 0.1
"""The fraction of a column's numbers that may be farther: on another processor single small ones
are, such as an alignment near zero, or what a randomly initialised control makes of a change far
below the signal."""


@dataclass(frozen=True)
class Difference:
    """How far rows are from their counterparts.

    ``unlike`` utterances have other texts or numbers of rows; ``largest`` is how far other numbers
    are at most, as a fraction of themselves, from what would have been kept, in ``column``;
    ``moved`` the largest fraction of numbers farther than ``TOLERANCE``, in ``moved_column``.
    """

    utterances: int
    rows: int
    unlike: int
    largest: float
    column: str
    moved: float
    moved_column: str

    @property
    def again(self) -> bool:
        """Whether the kept rows come out again: texts, and in every column nearly all numbers."""
        return self.unlike <= self.utterances / 2 and self.moved <= ODD


def verify(
    files: Mapping[str, Path], kind: str, ladder: Path, corpus: Path, device: str, seed: int
) -> dict[str, object]:
    """Measure a few utterances of one model again, both drawn by the seed; ``files`` are by model.

    They are ``SAMPLE``, or a whole batch where rows are of one. All else is as the rows' own record
    says; columns that they lack are not compared. Raises ValueError for an unknown kind, or a file
    that no longer has rows of the utterances it was measured on.
    """
    if kind not in KINDS:
        raise ValueError(f"no measurement {kind!r}; choose from {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    model = sorted(files)[rng.integers(len(files))]
    kept = read([files[model]], KINDS[kind].schema)
    settings = _settings(KINDS[kind], files[model], ladder, corpus, device)
    names, again = _measured_again(KINDS[kind], settings, rng)
    same = pd.MultiIndex.from_frame(kept[KEYS]).isin(pd.MultiIndex.from_frame(again[KEYS]))
    kept = kept[same].reset_index(drop=True)
    unknown = [name for name in (*LATER, *ABSENT) if name in kept and kept[name].isna().all()]
    kept, again = kept.drop(columns=unknown), again.drop(columns=unknown)
    if kept.empty:
        raise ValueError(f"{files[model]}: has no rows of {names[0]}; measure it again")
    compared = difference(kept, again, bits_of(kind))
    return {"kind": kind, "model": model, **vars(compared), "again": compared.again}


def difference(kept: pd.DataFrame, again: pd.DataFrame, bits: int) -> Difference:
    """Compare rows, utterance by utterance, with rows of the same columns; ``bits`` are kept."""
    parts: dict[str, list[np.ndarray]] = {column: [] for column in _numbers(kept)}
    unlike, names = 0, sorted({*kept.utterance, *again.utterance})
    for name in names:
        before, after = (rows[rows.utterance == name] for rows in (kept, again))
        if not _labels(before, parts).equals(_labels(after, parts)):
            unlike += 1
            continue
        for column, beyond in parts.items():
            beyond.append(_beyond(_flat(before[column]), _flat(after[column]), bits))
    columns = {column: np.concatenate(beyond) for column, beyond in parts.items() if beyond}
    far = _most({name: float(beyond.max(initial=0)) for name, beyond in columns.items()})
    moved = _most({name: float(np.mean(beyond > TOLERANCE)) for name, beyond in columns.items()})
    return Difference(len(names), len(kept), unlike, *far, *moved)


def _most(fractions: Mapping[str, float]) -> tuple[float, str]:
    """The largest fraction and its column, "" where all are zero."""
    column = max(fractions, key=fractions.__getitem__, default="")
    return (fractions[column], column) if column and fractions[column] > 0 else (0.0, "")


def _settings(kind: Kind, rows: Path, ladder: Path, corpus: Path, device: str) -> Settings:
    """What rows were measured with, on the paths of this computer."""
    recorded = read_meta(rows)["key"]["parameters"]
    known = {field.name for field in fields(kind.settings)}
    values = {name: value for name, value in recorded.items() if name in known}
    places = {"ladder": ladder, "corpus": corpus, "output": rows, "device": device}
    return kind.settings(**values, **places)  # type: ignore[arg-type]


def _measured_again(
    kind: Kind, settings: Settings, rng: np.random.Generator
) -> tuple[list[str], pd.DataFrame]:
    """Some utterances, and their rows as they come out now."""
    speech = find_utterances(settings.corpus).utterances
    if not kind.compared:
        settings = replace(settings, batch=min(SAMPLE, settings.batch))
    parts = batches(speech, settings, kind.together)
    utterances = parts[rng.integers(len(parts))]
    model = load(settings.model, settings.ladder, choose_device(settings.device))
    batch, _ = stressed(utterances, Speakers(speech), settings)
    table = pa.Table.from_pylist(kind.rows_of(model, batch, settings), schema=kind.schema)
    return [utterance.id for utterance in utterances], table.to_pandas()


def _labels(rows: pd.DataFrame, measured: Iterable[str]) -> pd.DataFrame:
    """What must agree: all that is no measured number, and how long lists are, -1 of none."""
    lists = {
        name: [-1 if numbers is None else len(numbers) for numbers in rows[name]]
        for name in measured
        if rows[name].dtype == object
    }
    plain = rows.drop(columns=[*measured]).reset_index(drop=True)
    return plain.assign(**lists).astype(str)


def _numbers(rows: pd.DataFrame) -> list[str]:
    """The columns of measured numbers, or of lists of them."""
    firsts = {name: next((x for x in rows[name] if x is not None), None) for name in rows}
    return [name for name, first in firsts.items() if np.asarray(first).dtype.kind == "f"]


def _flat(column: "pd.Series[float]") -> np.ndarray:
    if column.dtype == object:
        return np.concatenate([np.empty(0), *column.dropna()]).astype(float)
    return column.to_numpy(dtype=float)


def _beyond(kept: np.ndarray, again: np.ndarray, bits: int) -> np.ndarray:
    """How far every number is from rounding to the kept one; infinite where one alone is NaN."""
    kept, beyond = rounded(kept, bits), np.zeros(len(kept))
    other = (kept != rounded(again, bits)) & ~(np.isnan(kept) & np.isnan(again))
    kept, again = kept[other], again[other]
    half_unit = np.ldexp(0.5, np.frexp(kept)[1] - bits)
    apart = np.maximum(np.abs(kept - again) - half_unit, 0)
    fractions = apart / np.maximum(np.abs(kept), np.abs(again))
    beyond[other] = np.where(np.isnan(fractions), math.inf, fractions)
    return beyond

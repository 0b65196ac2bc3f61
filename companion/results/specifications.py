"""The specification curve: every effect under every choice that the paper leaves open.

Simonsohn, Simmons & Nelson (2020). A specification is a set of choices that was computed: those
that stored eigenvalues allow are crossed with one another, with the layers and with the filters of
utterances; centring, pooling, forcing and positions with one another and with these, for the mean
over layers; order and direction of the stress are changed one at a time.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import chain

import numpy as np
import pandas as pd
import torch

from companion.measurement.choices import DEFAULT, FORCED, POOLED
from companion.measurement.readings import READINGS, readings
from companion.measurement.schemas import REFERENCE_CONDITION
from companion.measurement.texts import Row
from companion.results.effects import MATCHED, RAW, changes_without
from companion.results.intervals import Columns, groups_by, reaches, rows_by
from companion.stress.conditions import condition as condition_of
from companion.stress.perturbations import TimeStretch
from companion.stress.stretching import VOCODER

CHOICES = (
    "length", "forcing", "positions", "pooling", "centring", "order", "stretch", "utterances",
    "layers", "K", "p", "modes fitted", "missing modes", "eigenvalues", "epsilon",
)  # fmt: skip
"""What is chosen, by column; empty where an observable does not have that choice."""

CLAIMS = {
    ("cross_attention", "n_eff"): "1",
    ("self_attention", "n_eff"): "2",
    ("self_attention", "alpha"): "2",
    ("ffn", "n_eff"): "3",
    ("self_attention", "log10_kf"): "4",
    ("cross_attention", "log10_kf"): "4",
    ("ffn", "log10_kf"): "4",
}
"""The paper's claims about a change, numbered as in the list of claims that are tested."""

_ABOUT = ["parameters", "model", "component"]
_PAPER = ["delta_n_eff", "delta_log10_kf", "delta_alpha"]


def specification_curve(
    rows: pd.DataFrame,
    choice_rows: pd.DataFrame,
    condition: str,
    widths: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """The change of every observable by every specification, with its interval.

    ``rows`` are of ``measure``, ``choice_rows`` of ``choices``. One row per model, component,
    observable and specification: ``CHOICES``, ``change`` (of N_eff in %), ``low``, ``high`` and
    ``n``, the utterances (pooled: speakers) whose value exists on both sides. K in proportion to
    the width is of the models whose ``widths`` are given, where as many eigenvalues are stored.
    """
    tables = []
    for about, part in groups_by(rows[rows.modes == rows.modes.max()], _ABOUT):
        width = (widths or {}).get(about["model"])
        tables += [changes.assign(**about) for changes in stored(part, condition, width)]
    for about, part in groups_by(choice_rows, _ABOUT):
        tables += [changes.assign(**about) for changes in measured(part, condition)]
    table = pd.concat(tables, ignore_index=True)
    return table[[*_ABOUT, "observable", *CHOICES, "change", "low", "high", "n"]]


def agreement(table: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """How many specifications agree in sign with the paper, per model, component and observable.

    ``known`` are the published rows; their sign is the same in every row of a component. In %:
    ``agree`` of all whose change exists, ``certain`` and ``opposite`` with an interval that lies
    wholly on the paper's side and wholly on the other.
    """
    signs = np.sign(known.groupby("component")[_PAPER].mean())

    def describe(part: pd.DataFrame) -> Columns:
        component, observable = part[["component", "observable"]].iloc[0]
        sign = float(signs.at[component, f"delta_{observable}"])
        low, high = np.sort(sign * part[["low", "high"]].to_numpy(), axis=1).T
        return {
            "claim": CLAIMS.get((component, observable), ""),
            "paper": "falls" if sign < 0 else "rises",
            "specifications": len(part),
            "agree": 100 * float((sign * part.change > 0).mean()),
            "certain": 100 * float((low > 0).mean()),
            "opposite": 100 * float((high < 0).mean()),
        }

    return rows_by(table[table.change.notna()], [*_ABOUT, "observable"], describe)


EVERYONE, CANDIDATES, HEARD = "all", "candidates", "clean WER 0"
FASTER, SLOWER, SLOWER_FITTING = "faster", "slower, all", "slower, one window"

Choices = dict[str, str]
Column = tuple[str, Choices]
"""An observable and the choices about it."""


def compared(
    choices: Choices,
    columns: list[Column],
    speakers: np.ndarray,
    clean: np.ndarray,
    stressed: np.ndarray,
) -> pd.DataFrame:
    """A row per column: change, low, high, and n, how many units exist on both sides.

    Units are utterances, or speakers (units,), of one model and component; clean and stressed
    (units, columns) are both sides of one choice.
    """
    changes = np.empty((len(np.unique(speakers)) + 1, len(columns)))
    for name in {name for name, _ in columns}:
        of = [i for i, (other, _) in enumerate(columns) if other == name]
        changes[:, of] = changes_without(name, clean[:, of], stressed[:, of], speakers)
    middle, half = changes[0], reaches(changes)
    n = (np.isfinite(clean) & np.isfinite(stressed)).sum(0)
    numbers = {"change": middle, "low": middle - half, "high": middle + half, "n": n}
    named = [{"observable": name, **choices, **reading} for name, reading in columns]
    return pd.DataFrame(named).assign(**numbers)


def stored(rows: pd.DataFrame, condition: str, width: int | None = None) -> Iterator[pd.DataFrame]:
    """Of one model and component in ``measure``: every length and filter, the mean and each layer.

    Eigenvalues are stored with every K alike, so ``rows`` are those of one K. With the model's
    ``width`` they are also read by K in proportion to it.
    """
    layers = rows.layer.nunique()
    for length, partners in ((RAW, ("", "")), (MATCHED, (condition, REFERENCE_CONDITION))):
        sides = [
            rows[(rows.condition == side) & (rows.matched_with == partner)].sort_values(
                ["utterance", "layer"]
            )
            for side, partner in zip((REFERENCE_CONDITION, condition), partners, strict=True)
        ]
        (columns, before), (_, after) = (_by_layer(side, layers, width) for side in sides)
        clean, stressed = (side[::layers] for side in sides)
        choices = {"length": length} | _named(DEFAULT, condition)
        for name, mask in filters(clean, stressed).items():
            made = {**choices, "utterances": name}
            speakers = clean.speaker.to_numpy()[mask]
            yield compared(made, columns, speakers, before[mask], after[mask])


def measured(rows: pd.DataFrame, condition: str) -> Iterator[pd.DataFrame]:
    """Of one model and component in ``choices``: all but what ``measure`` has of more utterances.

    Pooled spectra are of all utterances, as they were measured.
    """
    columns = [(name, {**reading, "layers": "mean"}) for name, reading in READINGS.values()]
    names = list(READINGS)
    rows = rows.sort_values(["speaker", "utterance"], ignore_index=True)
    values = rows[names].to_numpy(float)
    free = rows[_are(rows, DEFAULT) & (rows.matched_with == "")].set_index("utterance")
    heard = free[free.condition == REFERENCE_CONDITION]
    for chosen, name, *places in _sides(rows):
        if chosen == DEFAULT and name == condition:
            continue
        after = rows.iloc[places[1]]
        masks = {EVERYONE: np.ones(len(after), bool)}
        if chosen["pooling"] != POOLED:
            stressed = free[free.condition == name]
            masks = filters(heard.loc[after.utterance], stressed.loc[after.utterance])
        named = _named(chosen, name)
        if chosen["forcing"] != FORCED:  # one text has one length
            named["length"] = MATCHED if after.matched_with.iloc[0] else RAW
        numbers = [values[side] for side in places]
        for kept, mask in masks.items():
            for direction, fits in _directions(name, after).items():
                if (both := mask & fits).any():
                    made = {**named, "stretch": direction, "utterances": kept}
                    speakers = after.speaker.to_numpy()[both]
                    yield compared(made, columns, speakers, *(side[both] for side in numbers))


def filters(clean: pd.DataFrame, stressed: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which utterances count, by what was written freely of them; without any it is left out."""
    masks = {
        EVERYONE: np.ones(len(clean), bool),
        CANDIDATES: stressed.candidate.to_numpy(bool),
        HEARD: clean.wer.to_numpy() == 0,
    }
    return {name: mask for name, mask in masks.items() if mask.any()}


def slow_utterances(rows: pd.DataFrame) -> pd.DataFrame:
    """How many utterances of ``choices`` fit into one window once slowed down, per model."""
    free = rows[_are(rows, DEFAULT) & (rows.matched_with == "")]
    slow = free[[_rate(name) < 1 for name in free.condition]].drop_duplicates(
        ["model", "condition", "utterance"]
    )
    counts = slow.groupby(["model", "condition"]).windows
    return counts.agg(utterances="size", fitting=lambda count: int((count == 1).sum()))


def _sides(rows: pd.DataFrame) -> Iterator[tuple[Row, str, np.ndarray, np.ndarray]]:
    """Every choice and stress with the places of both sides in ``rows``, unit by unit."""
    units = pd.factorize(rows.speaker + " " + rows.utterance)[0]
    groups = rows.groupby(["condition", "matched_with", *DEFAULT], sort=False).indices
    for (name, cut, *factors), after in groups.items():
        if name == REFERENCE_CONDITION:
            continue
        before = groups.get((REFERENCE_CONDITION, name if cut else "", *factors), np.empty(0, int))
        if not np.array_equal(units[before], units[after]):
            raise ValueError(f"{name}: not the same utterances as {REFERENCE_CONDITION}")
        yield dict(zip(DEFAULT, factors, strict=True)), name, before, after


def _are(rows: pd.DataFrame, chosen: Row) -> pd.Series:
    return (rows[list(chosen)] == pd.Series(chosen)).all(axis=1)


def _named(chosen: Row, name: str) -> Choices:
    """The choices about activations, and what the condition of that name chooses, as they read."""
    return {
        "forcing": str(chosen["forcing"]),
        "positions": str(chosen["positions"]),
        "pooling": str(chosen["pooling"]),
        "centring": "on" if chosen["centred"] else "off",
        "order": ", ".join(made.name for made in condition_of(name).perturbations),
        "stretch": FASTER + _by(name),
    }


def _directions(name: str, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    everyone, fitting = np.ones(len(rows), bool), rows.windows.to_numpy() == 1
    if _rate(name) >= 1:
        return {FASTER + _by(name): everyone}
    return {SLOWER_FITTING: fitting} | ({} if fitting.all() else {SLOWER: everyone})


def _rate(name: str) -> float:
    """How many times faster the condition of that name makes the target."""
    return math.prod(stretch.rate for stretch in _stretches(name))


def _by(name: str) -> str:
    """What is added to a direction where something else than the phase vocoder stretches."""
    methods = [stretch.method for stretch in _stretches(name)]
    return "".join(f", {method}" for method in methods if method != VOCODER)


def _stretches(name: str) -> list[TimeStretch]:
    return [made for made in condition_of(name).perturbations if isinstance(made, TimeStretch)]


def _by_layer(
    rows: pd.DataFrame, layers: int, width: int | None
) -> tuple[list[Column], np.ndarray]:
    """Every reading's mean over layers and of each layer, (utterances, columns)."""
    eigenvalues = np.stack(rows.eigenvalues.to_list()).astype(float)
    spectra = torch.from_numpy(eigenvalues.reshape(-1, layers, eigenvalues.shape[1]))
    columns, numbers = [], []
    proportional = () if width is None else readings(spectra, width)
    for name, choices, values in chain(readings(spectra), proportional):
        names = ["mean", *map(str, range(1, layers + 1))]
        columns += [(name, {**choices, "layers": layer}) for layer in names]
        numbers.append(np.column_stack([values.mean(1), values]))
    return columns, np.concatenate(numbers, axis=1)

"""The specification curve: every effect under every choice that the paper leaves open.

Simonsohn, Simmons & Nelson (2020). The choices here are those that can be made again from stored
eigenvalues, the largest 50; each is combined with all others.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spectral.measurement.schemas import REFERENCE_CONDITION
from spectral.results.bootstrap import LEVEL, resampling_weights
from spectral.results.effects import MATCHED, RAW, change
from spectral.spectra import (
    effective_rank,
    kirchhoff_index,
    resolved_kirchhoff_index,
    spectral_slope,
)

MODES = (10, 20, 50)
RANGES = ((1, 10), (2, 10), (1, 20), (1, 50), (10, 50))
EPSILONS = (1e-3, 1e-6, 1e-9)
CHOICES = ("length", "layers", "K", "p", "modes fitted", "missing modes", "eigenvalues", "epsilon")
"""What is chosen, by column; empty where an observable does not have that choice."""

Reading = tuple[str, dict[str, str], Tensor]
"""An observable, the choices made, and its values (utterances, layers)."""


def specification_curve(
    rows: pd.DataFrame, condition: str, resamples: int, seed: int
) -> pd.DataFrame:
    """The change of every observable by every specification, with its interval.

    One row per model, component, observable and specification: ``CHOICES``, ``change`` (of N_eff in
    %), ``low``, ``high`` and ``n``, the utterances whose value exists on both sides.
    """
    tables = []
    widest = rows[rows.modes == rows.modes.max()]  # eigenvalues are stored with every K alike
    for key, part in widest.groupby(["parameters", "model", "component"], sort=True):
        for length, partners in ((RAW, ("", "")), (MATCHED, (condition, REFERENCE_CONDITION))):
            clean, stressed = (
                part[(part.condition == side) & (part.matched_with == partner)]
                for side, partner in zip((REFERENCE_CONDITION, condition), partners, strict=True)
            )
            table = _changes(clean, stressed, resamples, seed)
            names = dict(zip(("parameters", "model", "component"), key, strict=True))
            tables.append(table.assign(length=length, **names))
    found = pd.concat(tables, ignore_index=True)
    front = ["parameters", "model", "component", "observable", *CHOICES]
    return found[[*front, "change", "low", "high", "n"]]


def agreement(table: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """How many specifications agree in sign with the paper, per model, component and observable.

    ``known`` are the published rows; their sign is the same in every row of a component. Shares in
    %: ``agree`` of all whose change exists, ``certain`` and ``opposite`` with an interval that lies
    wholly on the paper's side and wholly on the other.
    """
    published = ["delta_n_eff", "delta_log10_kf", "delta_alpha"]
    signs = np.sign(known.groupby("component")[published].mean())
    shares = []
    keys = ["parameters", "model", "component", "observable"]
    for key, part in table[table.change.notna()].groupby(keys, sort=True):
        sign = float(signs.at[key[2], f"delta_{key[3]}"])
        low, high = np.sort(sign * part[["low", "high"]].to_numpy(), axis=1).T
        shares.append(
            dict(zip(keys, key, strict=True))
            | {
                "paper": "falls" if sign < 0 else "rises",
                "specifications": len(part),
                "agree": 100 * float((sign * part.change > 0).mean()),
                "certain": 100 * float((low > 0).mean()),
                "opposite": 100 * float((high < 0).mean()),
            }
        )
    return pd.DataFrame(shares)


def readings(spectra: Tensor) -> Iterator[Reading]:
    """All that is read off spectra (utterances, layers, modes), by every choice about them."""
    for k, of in product(MODES, ("eigenvalues", "singular_values")):
        choices = {"K": str(k), "p": of.replace("_", " ")}
        yield "n_eff", choices, effective_rank(spectra, k, of=of)  # type: ignore[arg-type]
    for first, last in RANGES:
        yield "alpha", {"modes fitted": f"{first}-{last}"}, spectral_slope(spectra, first, last)
    kernels = {"padded": kirchhoff_index, "resolved": resolved_kirchhoff_index}
    for k, epsilon in product(MODES, EPSILONS):
        kept = spectra[..., :k]
        total = kept.sum(-1, keepdim=True)
        scales = {"as they are": kept, "shares": kept / total.where(total > 0, 1.0)}
        for missing, scale in product(kernels, scales):
            choices = {"K": str(k), "missing modes": missing, "eigenvalues": scale}
            index = kernels[missing](scales[scale], k, epsilon).log10()
            yield "log10_kf", choices | {"epsilon": f"{epsilon:.0e}"}, index


def _changes(
    clean: pd.DataFrame, stressed: pd.DataFrame, resamples: int, seed: int
) -> pd.DataFrame:
    people, before = _spectra(clean)
    _, after = _spectra(stressed)
    weights = resampling_weights(people, resamples, seed)
    found = []
    for (name, choices, one), (_, _, other) in zip(readings(before), readings(after), strict=True):
        pair = [np.column_stack([x.mean(1), x]) for x in (one.numpy(), other.numpy())]
        both = np.isfinite(pair[0]) & np.isfinite(pair[1])
        with np.errstate(invalid="ignore", divide="ignore"):  # an observable may exist nowhere
            counts = weights @ both
            means = [weights @ np.where(both, side, 0.0) / counts for side in pair]
            changes = change(name, *means)
        low, high = _interval(changes[1:])
        for i, layer in enumerate(["mean", *map(str, range(1, one.shape[1] + 1))]):
            found.append(
                {"observable": name, **choices, "layers": layer, "change": changes[0, i],
                 "low": low[i], "high": high[i], "n": int(both[:, i].sum())}
            )  # fmt: skip
    return pd.DataFrame(found, columns=["observable", *CHOICES, "change", "low", "high", "n"])


def _interval(drawn: np.ndarray) -> np.ndarray:
    """Percentiles of each column (resamples, columns) -> (2, columns), NaN where none is finite."""
    tail = (1 - LEVEL) / 2
    empty = ~np.isfinite(drawn).any(0)
    drawn = np.where(empty | np.isfinite(drawn), drawn, np.nan)
    filled = np.where(empty, 0.0, drawn)
    return np.where(empty, np.nan, np.nanquantile(filled, [tail, 1 - tail], axis=0))


def _spectra(rows: pd.DataFrame) -> tuple[np.ndarray, Tensor]:
    """Speakers (utterances,) and eigenvalues (utterances, layers, modes), in order of utterance."""
    rows = rows.sort_values(["utterance", "layer"])
    layers = rows.layer.nunique()
    values = np.stack(rows.eigenvalues.to_list()).astype(float)
    spectra = torch.from_numpy(values.reshape(-1, layers, values.shape[1]))
    return rows.speaker.to_numpy()[::layers], spectra

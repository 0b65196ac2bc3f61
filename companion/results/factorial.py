"""Factorial: what each of three stresses does, and what they do only together."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd

from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results.answers import ANSWER, ANSWERS, answers
from companion.results.effects import GROUP, OBSERVABLES, RAW, change, layer_means
from companion.results.intervals import (
    deletions,
    jackknife,
    weighted_mean,
)

Row = dict[str, object]

STRESSES = ("stretch", "mix", "noise")
_SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(STRESSES, size)]
CELLS = tuple("hell" if subset == STRESSES else "+".join(subset) for subset in _SUBSETS)
"""The stressed conditions of the design: each alone, each pair, all three."""

EFFECTS = tuple(" x ".join(subset) for subset in _SUBSETS)
"""Main effects, and interactions by the stresses that take part."""


def contrasts() -> np.ndarray:
    """The coefficients of each effect on clean and ``CELLS``: (7 effects, 8 cells).

    Yates's contrasts of a 2^3 design: the mean where an even number of the named stresses is
    absent minus the mean where an odd number is (Box, Hunter & Hunter 2005, ch. 5). A main effect
    is the mean difference that a stress makes over all settings of the others; the interaction of
    two is half the difference that one makes to the other's effect.
    """
    cells = [(), *_SUBSETS]
    return np.array(
        [[np.prod([1 if s in cell else -1 for s in named]) / 4 for cell in cells]
         for named in _SUBSETS]
    )  # fmt: skip


def factorial(rows: pd.DataFrame) -> pd.DataFrame:
    """Every effect on every observable: one row per GROUP, length, observable and effect.

    A cell is the change from clean, at the length of that pair where rows are cut; N_eff in %, all
    others by difference. ``component`` is "answer" and K 0 for word error (mean over utterances)
    and candidates in points of %, log-probability and tokens. Utterances count whose value exists
    in every cell. Raises ValueError where a condition is missing.
    """
    missing = [name for name in CELLS if name not in set(rows.condition.unique())]
    if missing:
        raise ValueError(f"rows lack {', '.join(missing)}; measure these conditions too")
    found = [*_spectra(rows), *_answers(rows)]
    return pd.DataFrame(found)


def _spectra(rows: pd.DataFrame) -> Iterator[Row]:
    means = pd.concat([layer_means(rows, name).assign(condition=name) for name in CELLS])
    keys = [*GROUP, "length"]
    for key, group in means.groupby(keys, sort=True):
        wide = group.set_index(["utterance", "speaker", "condition"])
        for name in OBSERVABLES:
            if f"{name}_clean" in wide:
                clean, stressed = (
                    wide[f"{name}_{side}"].unstack()[list(CELLS)] for side in ("clean", "stressed")
                )
                row = dict(zip(keys, key, strict=True)) | {"observable": name}
                for own in _effects(name, clean, stressed):
                    yield {**row, **own}


def _answers(rows: pd.DataFrame) -> Iterator[Row]:
    for (parameters, model), group in answers(rows).groupby(["parameters", "model"], sort=True):
        wide = group.set_index(["utterance", "speaker", "condition"])
        for name in ANSWERS:
            values = wide[name].unstack()
            if values.isna().all(axis=None):
                continue
            clean = pd.concat([values[REFERENCE_CONDITION]] * len(CELLS), axis=1)
            row: Row = {
                "parameters": parameters, "model": model, "component": ANSWER, "modes": 0,
                "length": RAW, "observable": name,
            }  # fmt: skip
            for own in _effects(name, clean, values[list(CELLS)]):
                yield {**row, **own}


def _effects(name: str, clean: pd.DataFrame, stressed: pd.DataFrame) -> Iterator[Row]:
    """The seven effects of one observable: (utterances, 7) of both sides of each pair."""
    speakers = clean.index.get_level_values("speaker").to_numpy()
    before, after = clean.to_numpy(float), stressed.to_numpy(float)
    usable = np.isfinite(before).all(1) & np.isfinite(after).all(1)
    before, after = (np.where(usable[:, None], side, np.nan) for side in (before, after))
    weights = deletions(speakers)
    changes = [
        change(name, weighted_mean(weights, x), weighted_mean(weights, y))
        for x, y in zip(before.T, after.T, strict=True)
    ]
    cells = np.stack([np.zeros(len(weights)), *changes], axis=1)
    for effect, coefficients in zip(EFFECTS, contrasts(), strict=True):
        found = jackknife(cells @ coefficients, np.unique(speakers))
        columns = {"change": found.estimate, "low": found.low, "high": found.high}
        yield {"effect": effect, **columns, "n": int(usable.sum())}

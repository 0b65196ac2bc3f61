"""Forecasts of what stress does to a model left out, from its spectra of clean speech alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results.effects import interval_columns, observed
from companion.results.intervals import interval
from companion.results.scale import MODES, size_of
from companion.results.wers import transcripts
from companion.speech.text import normalise

COMPONENT = "cross_attention"
LEAST = 4
"""Sizes that a forecast needs: a line through two others fits them whatever they are."""

MEAN, SIZE = "mean", "size"
PREDICTORS = ("n_eff / width", "alpha", "log10_kf_resolved")
COLUMNS = ["target", "predictor", "rival", "skill", "skill_low", "skill_high", "n"]


@dataclass(frozen=True)
class Ratio:
    """A number of every model: a sum over utterances by another, both (utterances x models).

    The index holds utterance and speaker; an utterance that does not count is 0 in both.
    """

    parts: pd.DataFrame
    wholes: pd.DataFrame

    def of(self, models: list[str], utterances: pd.Index, weights: np.ndarray) -> np.ndarray:
        """The numbers of ``models`` for weighted utterances: (rows, models)."""
        parts, wholes = (
            table[models].reindex(utterances, fill_value=0.0).to_numpy(float)
            for table in (self.parts, self.wholes)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((weights @ parts) / (weights @ wholes))


def predictors(rows: pd.DataFrame, widths: Mapping[str, int]) -> dict[str, Ratio]:
    """What is read off cross-attention of clean speech at K = 50, raw, mean over layers.

    An utterance counts where every layer of every model has a finite value, so that all models are
    compared on the same speech.
    """
    clean = rows[
        (rows.condition == REFERENCE_CONDITION) & (rows.matched_with == "")
        & (rows.component == COMPONENT) & (rows.modes == MODES)
    ]  # fmt: skip
    values = (
        clean.n_eff / clean.model.map(widths),
        observed(clean, "alpha"),
        observed(clean, "log10_kf_resolved"),
    )
    found = {}
    for name, value in zip(PREDICTORS, values, strict=True):
        groups = clean.assign(value=value).groupby(["utterance", "speaker", "model"]).value
        wide = groups.mean().where(groups.count() == groups.size()).unstack("model")
        counts = np.isfinite(wide).all(axis=1)
        wholes = wide.notna().mul(counts, axis=0).astype(float)
        found[name] = Ratio(wide.where(wholes > 0, 0.0), wholes)
    return found


def targets(
    rows: pd.DataFrame, condition: str, stress_rows: pd.DataFrame, milder: str
) -> dict[str, Ratio]:
    """Word error in ``condition``; word error and candidate share in ``milder``, all in %.

    A milder stress counts for the models that it makes invent something, but not always: at
    a fraction of 0 or 100 % candidates say nothing about how prone a model is.
    """
    errors = {name: _answers(table, name) for name, table in
              ((condition, rows), (milder, stress_rows))}  # fmt: skip
    fraction = errors[milder].candidate.groupby("model").mean()
    between = fraction.index[(fraction > 0) & (fraction < 100)]
    mild = errors[milder][errors[milder].index.get_level_values("model").isin(between)]
    return {
        f"word error, {condition}": _ratio(errors[condition], "edits", "words"),
        f"candidates, {milder}": _ratio(mild, "candidate", "one"),
        f"word error, {milder}": _ratio(mild, "edits", "words"),
    }


def left_out(found: Mapping[str, Ratio]) -> list[str]:
    """Why a target has no forecast, a line each."""
    return [
        f"{name}: too few sizes, {count}; a line that can be wrong needs {LEAST}"
        for name, ratio in found.items()
        if (count := len(set(map(size_of, ratio.parts.columns)))) < LEAST
    ]


def forecast(
    known: Mapping[str, Ratio],
    wanted: Mapping[str, Ratio],
    parameters: Mapping[str, int],
) -> pd.DataFrame:
    """Skill of every predictor against both rivals for every target, one predictor at a time.

    Each model is forecast by a line fitted to the models of other sizes; ``mean`` forecasts their
    mean, ``size`` fits the line to log10 parameters. Skill is 1 minus the sum of squared errors by
    that of the rival. Speakers are left out of predictor and target alike, while the models stay:
    intervals say nothing of other models. ``n`` is the number of models.
    Targets with fewer than ``LEAST`` sizes have no row.
    """
    table = []
    for target, ratio in wanted.items():
        models = sorted(ratio.parts.columns, key=lambda model: (parameters[model], model))
        if len(set(map(size_of, models))) < LEAST:
            continue
        log_sizes = np.log10([parameters[model] for model in models])
        for predictor, spectra in known.items():
            utterances = spectra.parts.index.union(ratio.parts.index)
            speakers = utterances.get_level_values("speaker").to_numpy()
            for rival, others in ((MEAN, np.zeros(len(models))), (SIZE, log_sizes)):
                skill = partial(
                    _skill, known=spectra, wanted=ratio, rival=others, models=models,
                    utterances=utterances,
                )  # fmt: skip
                found = interval(skill, speakers)
                row = {"target": target, "predictor": predictor, "rival": rival}
                table.append(row | interval_columns("skill", found) | {"n": len(models)})
    return pd.DataFrame(table, columns=COLUMNS)


def held_out(x: np.ndarray, y: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """y of each model by the line through models of other sizes: (rows, models), per row.

    Where x of the others does not differ the line is flat: their mean.
    """
    found = np.empty_like(y)
    for j, size in enumerate(sizes):
        others = sizes != size
        x_mean, y_mean = (side[:, others].mean(axis=1, keepdims=True) for side in (x, y))
        away = x[:, others] - x_mean
        spread = (away**2).sum(axis=1)
        shared = (away * (y[:, others] - y_mean)).sum(axis=1)
        slope = np.divide(shared, spread, out=np.zeros_like(spread), where=spread > 0)
        found[:, j] = y_mean[:, 0] + slope * (x[:, j] - x_mean[:, 0])
    return found


def _skill(
    weights: np.ndarray,
    known: Ratio,
    wanted: Ratio,
    rival: np.ndarray,
    models: list[str],
    utterances: pd.Index,
) -> np.ndarray:
    """Skill against a line in ``rival`` (models,), for weighted utterances: (rows,)."""
    x, y = (ratio.of(models, utterances, weights) for ratio in (known, wanted))
    sizes = np.array([size_of(model) for model in models])
    own, other = (
        ((held_out(np.broadcast_to(values, y.shape), y, sizes) - y) ** 2).sum(axis=1)
        for values in (x, rival)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - own / other)


def _answers(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    said = transcripts(rows[rows.condition == condition])
    if said.empty:
        raise ValueError(f"no rows of {condition!r}; measure this condition, or name another")
    words = said.reference.map(lambda text: len(normalise(text).split())).astype(float)
    return said.assign(
        words=words,
        edits=100 * words * said.wer,
        candidate=100.0 * said.candidate,
        one=1.0,
    ).set_index(["utterance", "speaker", "model"])[["words", "edits", "candidate", "one"]]


def _ratio(answers: pd.DataFrame, part: str, whole: str) -> Ratio:
    return Ratio(*(answers[name].unstack("model").fillna(0.0) for name in (part, whole)))

"""Scale: sizes and cards of models, effects by width and depth, forecasts from clean spectra."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from companion.measurement.readings import modes_in_proportion
from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results import intervals
from companion.results.effects import by_observable, effects, observed, size_of
from companion.results.intervals import Columns, as_table, between
from companion.results.tables import with_interval, write_text
from companion.results.transcripts import transcripts, word_counts
from companion.speech.grammar import vocabulary
from companion.speech.synthesis import TRAINING_ACCENTS, TRAINING_VARIANTS
from spectral.spectra import effective_rank

MODES = 50
SHOWN = ("n_eff", "alpha", "log10_kf_resolved")
DEPTH, WIDTH, BOTH = "depth at equal width", "width at equal depth", "width and depth"
COMPONENT = "cross_attention"
LEAST = 4
"""Sizes that a forecast needs: a line through two others fits them whatever they are."""

MEAN, SIZE = "mean", "size"
PREDICTORS = ("n_eff / width", "alpha", "log10_kf_resolved")
COLUMNS = ["target", "predictor", "rival", "skill", "skill_low", "skill_high", "n"]

_CHANGE = ("change", "change_low", "change_high", "change_speakers")

_CARD = """# {name}

A Whisper-architecture model of {millions:.2f} M parameters, trained from scratch by this project
on speech that it synthesised: a miniature for experiments, no substitute for a speech recogniser.

| | |
|---|---|
| architecture | width {d_model}, {decoder_attention_heads} heads, {encoder_layers} + \
{decoder_layers} layers (encoder + decoder), {window:g} s window, character tokens |
| training data | seeded sentences, jumbled and single words of a {words}-word lexicon, spoken by \
eSpeak NG in {accents} English accents and {variants} speaker variants, 40 % of them with added \
noise; clips without speech |
| recipe | `params/training.yml`, size `{size}`: {stages} steps |
| seed | {seed} |
| compute | {minutes:.0f} min on {device}, {threads} thread(s), torch {torch} |
| at the end of training | loss {loss:.3f}, word error {development:.1f} % on held-back sentences |

## Word error on the embedded corpus, clean speech

{results}

## Limits

It has heard nothing but one synthesiser reading one phrase grammar: real speakers, other words and
windows longer than {window:g} s are beyond it. Its hallucinations are real, but they are those of a
miniature; no number of it is a number of OpenAI's Whisper.
"""


def write_cards(folders: list[Path], errors: pd.DataFrame, output: Path) -> list[Path]:
    """A Markdown card per model, from its own folder and the rows of ``by_novelty``."""
    written = [output / f"{folder.name}.md" for folder in folders]
    for folder, path in zip(folders, written, strict=True):
        training = json.loads((folder / "training.json").read_text())
        config = json.loads((folder / "config.json").read_text())
        rows = errors[errors.model == folder.name]
        rows = rows.assign(**{"word error (%)": with_interval(rows, "wer", 1)})
        steps: dict[str, int] = {row["stage"]: row["step"] for row in training["record"]}
        about = training | config | training["record"][-1] | {
            "name": folder.name,
            "millions": training["parameters"] / 1e6,
            "window": config["max_source_positions"] / 50,
            "words": len(vocabulary()),
            "accents": len(TRAINING_ACCENTS),
            "variants": len(TRAINING_VARIANTS),
            "stages": ", then ".join(f"{count} {name}" for name, count in steps.items()),
            "minutes": training["seconds"] / 60,
            "development": 100 * training["record"][-1]["word_error"],
            "results": rows[["material", "n", "word error (%)"]].to_markdown(index=False),
        }  # fmt: skip
        write_text(path, _CARD.format(**about))
    return written


def model_shapes(folders: list[Path]) -> pd.DataFrame:
    """Columns model, size, width, depth (decoder layers), seeds: how many models have that size.

    Raises ValueError for a folder without config.json, and for seeds of a size that differ in it.
    """
    table = []
    for path in (folder / "config.json" for folder in folders):
        if not path.exists():
            raise ValueError(f"{path}: no such file; width and depth are read from it")
        config, model = json.loads(path.read_text()), path.parent.name
        shape = {"width": config["d_model"], "depth": config["decoder_layers"]}
        table.append({"model": model, "size": size_of(model)} | shape)
    shapes = pd.DataFrame(table)
    sizes = shapes.groupby("size")
    differ = sizes[["width", "depth"]].nunique().max(axis=1) > 1
    if differ.any():
        raise ValueError(
            f"the seeds of {differ.idxmax()!r} differ in width or depth; name them apart"
        )
    return shapes.assign(seeds=sizes.model.transform("size"))


def scale_effects(rows: pd.DataFrame, shapes: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Length-matched changes at K = 50 beside width, depth and seeds: those of ``effects``.

    One row per model, component and observable, with ``change``, ``low``, ``high`` and ``n``.
    """
    table = effects(rows[(rows.modes == MODES) & (rows.matched_with != "")], condition)
    numbers = ["change", "low", "high", "change_speakers", "n"]
    columns = ["model", "parameters", "component", "observable", *numbers]
    changes = by_observable(table, SHOWN)[columns]
    joined = shapes.merge(changes, on="model", validate="one_to_many")
    return joined.sort_values(["parameters", "model", "component", "observable"], ignore_index=True)


def in_proportion(rows: pd.DataFrame, shapes: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``MODES`` whose N_eff is of K in proportion to the width (``modes_in_proportion``).

    K = 50 is nearly all of a narrow model and a quarter of a wide one, two quantities. Models whose
    rows store fewer eigenvalues than that K are left out.
    """
    modes = shapes.set_index("model").width.map(modes_in_proportion)
    parts = []
    for model, group in rows[rows.modes == MODES].groupby("model", sort=False):
        spectra = torch.from_numpy(np.stack(group.eigenvalues.to_list()).astype(float))
        if (k := int(modes[model])) <= spectra.shape[-1]:
            parts.append(group.assign(n_eff=effective_rank(spectra, k).numpy()))
    return pd.concat(parts)


def pairs(shapes: pd.DataFrame) -> list[tuple[str, str, str]]:
    """What differs, the larger size and the smaller: every pair that can be told apart.

    Two sizes of equal width differ in depth alone, two of equal depth in width alone. Of those that
    differ in both just the shallowest and narrowest stands against the deepest and widest.
    """
    sizes = shapes.drop_duplicates("size").set_index("size")[["width", "depth"]]
    ordered = sizes.sort_values(["width", "depth"])
    differing = []
    for small, large in combinations(ordered.index, 2):
        wider, deeper = ordered.loc[large] > ordered.loc[small]
        if deeper and not wider:
            differing.append((DEPTH, large, small))
        elif wider and ordered.depth[large] == ordered.depth[small]:
            differing.append((WIDTH, large, small))
    first, last = ordered.index[[0, -1]]
    if (ordered.loc[last] > ordered.loc[first]).all():
        differing.append((BOTH, last, first))
    return sorted(differing, key=lambda pair: [DEPTH, WIDTH, BOTH].index(pair[0]))


def contrasts(table: pd.DataFrame, shapes: pd.DataFrame) -> pd.DataFrame:
    """A size's length-matched change minus another's, from ``scale_effects``, by ``between``.

    A size's change is the mean over its seeds; the interval holds what seeds and speakers vary.
    ``seeds`` tells how many networks are on each side. One row per pair, component and observable.
    """
    counts = shapes["size"].value_counts()
    rows: list[Columns] = []
    for differs, larger, smaller in pairs(shapes):
        for (component, name), group in table.groupby(["component", "observable"], sort=False):
            sizes = group.groupby("size").change_speakers.agg(list).to_dict()
            rows.append({
                "differs": differs,
                "contrast": f"{larger} minus {smaller}",
                "seeds": f"{counts[larger]} against {counts[smaller]}",
                "component": component,
                "observable": name,
                "change": between(sizes, larger, smaller),
                "n": group.n[group["size"].isin([larger, smaller])].min(),
            })  # fmt: skip
    columns = ["differs", "contrast", "seeds", "component", "observable", *_CHANGE, "n"]
    return as_table(rows).reindex(columns=columns)


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
            weights @ table[models].reindex(utterances, fill_value=0.0).to_numpy(float)
            for table in (self.parts, self.wholes)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(parts / wholes)


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
    ratios = {}
    for name, value in zip(PREDICTORS, values, strict=True):
        groups = clean.assign(value=value).groupby(["utterance", "speaker", "model"]).value
        wide = groups.mean(skipna=False).unstack("model")
        wholes = wide.notna().mul(np.isfinite(wide).all(axis=1), axis=0).astype(float)
        ratios[name] = Ratio(wide.where(wholes > 0, 0.0), wholes)
    return ratios


def targets(
    rows: pd.DataFrame, condition: str, stress_rows: pd.DataFrame, milder: str
) -> dict[str, Ratio]:
    """Word error in ``condition``; word error and candidates in ``milder``, all in %.

    A milder stress counts for the models that it makes invent something, but not always: at
    a fraction of 0 or 100 % candidates say nothing about how prone a model is.
    """
    hell, mild = _texts(rows, condition), _texts(stress_rows, milder)
    fraction = mild.candidate.groupby("model").mean()
    between = fraction.index[(fraction > 0) & (fraction < 100)]
    mild = mild[mild.index.get_level_values("model").isin(between)]
    return {
        f"word error, {condition}": _ratio(hell, "edits", "words"),
        f"candidates, {milder}": _ratio(mild, "candidate", "one"),
        f"word error, {milder}": _ratio(mild, "edits", "words"),
    }


def left_out(ratios: Mapping[str, Ratio]) -> list[str]:
    """Why a target has no forecast, a line each."""
    return [
        f"{name}: too few sizes, {count}; a line that can be wrong needs {LEAST}"
        for name, ratio in ratios.items()
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
    table: list[Columns] = []
    for target, ratio in wanted.items():
        models = sorted(ratio.parts.columns, key=lambda model: (parameters[model], model))
        sizes = np.array([size_of(model) for model in models])
        if len(set(sizes)) < LEAST:
            continue
        log_sizes = np.log10([parameters[model] for model in models])
        for predictor, spectra in known.items():
            utterances = spectra.parts.index.union(ratio.parts.index)
            speakers = utterances.get_level_values("speaker").to_numpy()
            weights = intervals.deletions(speakers)
            x, y = (number.of(models, utterances, weights) for number in (spectra, ratio))
            errors = _squared_errors(x, y, sizes)
            for rival, other in ((MEAN, np.zeros(len(models))), (SIZE, log_sizes)):
                rivals = _squared_errors(np.broadcast_to(other, y.shape), y, sizes)
                with np.errstate(invalid="ignore", divide="ignore"):
                    skill = intervals.jackknife(1 - errors / rivals, np.unique(speakers))
                about = {"target": target, "predictor": predictor, "rival": rival}
                table.append(about | {"skill": skill, "n": len(models)})
    return as_table(table).reindex(columns=COLUMNS)  # also where there is none


def _squared_errors(x: np.ndarray, y: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.asarray(((held_out(x, y, sizes) - y) ** 2).sum(axis=1))


def held_out(x: np.ndarray, y: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """y of each model by the line through models of other sizes: (rows, models), per row.

    Where x of the others does not differ the line is flat: their mean.
    """
    forecasts = np.empty_like(y)
    for j, size in enumerate(sizes):
        others = sizes != size
        x_mean, y_mean = (side[:, others].mean(axis=1, keepdims=True) for side in (x, y))
        away = x[:, others] - x_mean
        spread = (away**2).sum(axis=1)
        shared = (away * (y[:, others] - y_mean)).sum(axis=1)
        slope = np.divide(shared, spread, out=np.zeros_like(spread), where=spread > 0)
        forecasts[:, j] = y_mean[:, 0] + slope * (x[:, j] - x_mean[:, 0])
    return forecasts


def _texts(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    texts = transcripts(rows[rows.condition == condition])
    if texts.empty:
        raise ValueError(f"no rows of {condition!r}; measure this condition, or name another")
    words = word_counts(texts.reference)
    numbers = {"words": words, "edits": 100 * words * texts.wer,
               "candidate": 100.0 * texts.candidate, "one": 1.0}  # fmt: skip
    return texts.assign(**numbers).set_index(["utterance", "speaker", "model"])[[*numbers]]


def _ratio(texts: pd.DataFrame, part: str, whole: str) -> Ratio:
    return Ratio(*(texts[name].unstack("model").fillna(0.0) for name in (part, whole)))

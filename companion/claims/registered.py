"""The numbers that the predictions are about, each from a table of another notebook."""

from collections.abc import Callable, Mapping

import pandas as pd

from companion.claims.changes import changed_row, control_row, pooled_row
from companion.claims.layers import hypothesis_row, rises_by_layer
from companion.claims.numbers import (
    HALVES,
    MODEL_KEYS,
    NONSPEECH,
    NotMeasured,
    Tables,
    of,
    only,
    with_bounds,
)
from companion.claims.predictions import BOTH, Number
from companion.claims.sweeps import alike, distance_row, subtle_rows
from companion.measurement.schemas import DISTANCE, SPECTRUM
from companion.models.capture import COMPONENTS
from companion.models.rules import OPENAI, UNRESTRICTED
from companion.results.effects import FIRST_ROWS
from companion.results.intervals import Interval, complement, difference, exact, mean, scaled
from companion.results.stresses import TRAINED
from companion.results.transcripts import ANSWER, PER_WORD_PIECE
from companion.results.warnings import ANY, MEAN

_SMALLER, _LARGER = "tiny.en", "base"
_CROSS = "cross_attention"
_STRESS = "hell"
_LEVEL = 20.0  # dB below the log-mel


def pooled(name: str, **where: object) -> Number:
    """A number of the pooled table: by default cross-attention, unseen, loops dropped, K = 50."""
    return lambda tables, model: of(pooled_row(tables, name, model=model, **where), name)


def larger_minus_smaller(tables: Tables, model: str) -> Interval:
    """base's pooled change of effective rank minus tiny.en's."""
    if model != BOTH:
        raise NotMeasured(f"it is of two models, not of {model}")
    change = pooled("n_eff")
    return difference(change(tables, _LARGER), change(tables, _SMALLER))


def halves(holds: Callable[[pd.DataFrame], "pd.Series[bool]"]) -> Number:
    """The fraction of random halves of clean speech of which something holds, exact interval."""

    def number(tables: Tables, model: str) -> Interval:
        keys = ["model", "decoding", "component", "modes", "n_eff", "difference"]
        table = tables.read(HALVES, keys)
        chosen = (table.model == model) & (table.decoding == OPENAI.name)
        own = table[chosen & (table.component == _CROSS) & (table.modes == 50)]
        if own.empty:
            raise NotMeasured(f"there are no halves of {model}")
        return scaled(exact(int(holds(own).sum()), len(own)), 0.01)

    return number


def largest_slope(tables: Tables, model: str) -> Interval:
    """The largest pooled slope in Hell, over components."""
    found = [pooled("alpha_stressed", component=part)(tables, model) for part in COMPONENTS]
    return max(found, key=lambda one: one.estimate)


def without_loops(name: str, component: str = _CROSS) -> Number:
    """A change per utterance, length-matched, K = 50, of those that loop on neither side.

    Length-matched meant first rows when the lines were written, and means it here.
    """

    def number(tables: Tables, model: str) -> Interval:
        return of(changed_row(tables, model, component, name, FIRST_ROWS), f"delta_{name}")

    return number


def mean_of_components(tables: Tables, model: str) -> Interval:
    """The mean over components of the change of effective rank, by ``mean``."""
    return mean([without_loops("n_eff", part)(tables, model) for part in COMPONENTS])


def over_stresses(rows: pd.DataFrame) -> Interval:
    """The mean AUC over stresses, by ``mean``; NotMeasured where there is none."""
    known = rows.dropna(subset="auc")
    if known.empty:
        raise NotMeasured("there is no stress under which both kinds of transcripts are frequent")
    return mean([of(row, "auc") for _, row in known.iterrows()])


def beyond_controls(column: str) -> Number:
    """Of cross-attention's change of rank beside random networks that keep weights' spectra."""
    return lambda tables, model: of(control_row(tables, model, _CROSS, "n_eff", SPECTRUM), column)


def marks(component: str, observable: str) -> Number:
    """AUC of candidates among whole transcripts under one stress: mean over stresses, by
    ``mean``."""

    def number(tables: Tables, model: str) -> Interval:
        keys = [*MODEL_KEYS, "component", "condition", "observable"]
        table = tables.read("within_conditions_k50", [*keys, *with_bounds("auc")])
        own = table[(table.model == model) & (table.component == component)]
        return over_stresses(own[own.observable == observable])

    return number


def marks_at_equal_length(component: str, observable: str) -> Number:
    """AUC of candidates under one stress from as many first tokens: ``mean`` over stresses."""

    def number(tables: Tables, model: str) -> Interval:
        keys = [*MODEL_KEYS, "condition", "when", "prefix", "component", "observable"]
        table = tables.read("early_warning", [*keys, *with_bounds("auc")])
        own = table[(table.model == model) & (table.when == ANY) & (table.prefix == MEAN)]
        return over_stresses(own[(own.component == component) & (own.observable == observable)])

    return number


def lower(number: Number) -> Number:
    """An AUC for the smaller values instead of the larger."""
    return lambda tables, model: complement(number(tables, model))


def confidence_minus_slope(tables: Tables, model: str) -> Interval:
    """How much better the log-probability of the same first tokens tells candidates apart."""
    slope = marks_at_equal_length(_CROSS, "alpha")(tables, model)
    confidence = lower(marks_at_equal_length(ANSWER, PER_WORD_PIECE))(tables, model)
    return difference(confidence, slope)


def unstable(tables: Tables, model: str) -> Interval:
    """Unstable dimensions, Hell minus clean, in points: ``mean`` over layers."""
    return scaled(mean(rises_by_layer(tables, model, TRAINED)), 100)


def noise_width(tables: Tables, model: str) -> Interval:
    """Over how many dB of noise candidates go from 10 to 90 %."""
    table = tables.read("noise_width", [*MODEL_KEYS, *with_bounds("width_db")])
    return of(only(table, {"model": model}), "width_db")


def hypothesis(name: str) -> Number:
    """A fraction of tokens in Hell, of the trained network."""
    return lambda tables, model: of(hypothesis_row(tables, model, TRAINED), name)


def distance_change(tables: Tables, model: str) -> Interval:
    """How much closer last-layer states of two utterances are in Hell, in %."""
    return of(distance_row(tables, model, DISTANCE, TRAINED), "change")


def perturbed(name: str) -> Number:
    """Of clean texts, where the most sensitive direction of the log-mel moves it at -20 dB."""

    def number(tables: Tables, model: str) -> Interval:
        chosen = {"model": model, "direction": "singular", "level_db": _LEVEL}
        return of(only(subtle_rows(tables), chosen), name)

    return number


def outcome(kind: str, name: str) -> Number:
    """The fraction of transcripts in Hell of one kind, or how many of these pass, in %."""

    def number(tables: Tables, model: str) -> Interval:
        keys = [*MODEL_KEYS, "condition", "outcome"]
        table = tables.read("outcome_confidence", [*keys, *with_bounds(name)])
        chosen = {"model": model, "condition": _STRESS, "outcome": kind}
        return of(only(table, chosen), name)

    return number


def words_from_nonspeech(decoding: str) -> Number:
    """The fraction of clips without speech of which words come out, in %, with its exact
    interval."""

    def number(tables: Tables, model: str) -> Interval:
        keys = ["model", "decoding", "clips", "with_words"]
        table = tables.read(NONSPEECH, keys)
        row = only(table, {"model": model, "decoding": decoding})
        return exact(int(row.with_words), int(row.clips))

    return number


NUMBERS: Mapping[str, Number] = {
    "pooled n_eff": pooled("n_eff"),
    "pooled alpha": pooled("alpha"),
    "pooled log10 difference": pooled("log10_difference"),
    "pooled log10 ratio": pooled("log10_ratio"),
    "pooled n_eff, matched": pooled("n_eff", loops="matched"),
    "pooled n_eff, unrestricted": pooled("n_eff", decoding=UNRESTRICTED.name),
    "pooled n_eff, kept": pooled("n_eff", loops="kept"),
    "pooled n_eff, ffn": pooled("n_eff", component="ffn"),
    "pooled n_eff, self-attention": pooled("n_eff", component="self_attention"),
    "pooled n_eff, K = 10": pooled("n_eff", modes=10),
    "pooled n_eff, base minus tiny.en": larger_minus_smaller,
    "pooled slope, largest": largest_slope,
    "halves n_eff below 6": halves(lambda table: table.n_eff.abs() < 6),
    "halves log10 difference above 1.5": halves(lambda table: table.difference.abs() > 10**1.5),
    "matched n_eff": without_loops("n_eff"),
    "matched n_eff, self-attention": without_loops("n_eff", "self_attention"),
    "matched n_eff, ffn": without_loops("n_eff", "ffn"),
    "matched log10 resolved index": without_loops("log10_kf_resolved"),
    "matched n_eff, mean": mean_of_components,
    "matched n_eff beyond controls": beyond_controls("remaining"),
    "control over trained": beyond_controls("fraction"),
    "alpha AUC": marks_at_equal_length(_CROSS, "alpha"),
    "log-probability AUC minus alpha AUC": confidence_minus_slope,
    "log-probability AUC": lower(marks(ANSWER, PER_WORD_PIECE)),
    "unstable": unstable,
    "noise, 10 to 90 %": noise_width,
    "product decays": hypothesis("product_decays"),
    "rank-one fraction": hypothesis("rank_one_fraction"),
    "distance change": distance_change,
    "pairs alike, Hell": lambda tables, model: alike(tables, model, _STRESS),
    "texts changed": perturbed("changed"),
    "new candidates": perturbed("new_candidates"),
    "inventions": outcome("invention", "fraction"),
    "loops": outcome("loop", "fraction"),
    "inventions above -1": outcome("invention", "passing"),
    "words from non-speech": words_from_nonspeech(OPENAI.name),
    "words from non-speech, unrestricted": words_from_nonspeech(UNRESTRICTED.name),
}
"""By the names that docs/predictions.md gives them."""

"""Claims 8, 10 and 11: what the measured propagators say."""

from collections.abc import Iterator

import pandas as pd

from companion.claims.numbers import (
    MODEL_KEYS,
    NotMeasured,
    Tables,
    by_model,
    of,
    only,
    with_bounds,
)
from companion.claims.roles import LARGEST, SMALLEST, every_model, models_of
from companion.claims.rules import ABOVE, BELOW, Part, Statement, part
from companion.results.intervals import Interval, difference, mean
from companion.results.stresses import ALL_LAYERS, BEYOND, RANDOM, TRAINED

FRACTIONS = (
    "gain_below_one",
    "product_decays",
    "relative_injection_decays",
    "normed_injection_decays",
    "product_rank_one",
    "rank_one_fraction",
)
_MOST = 0.5
_SMALL_GAP = 0.5
_FEW, _MANY, _MORE = 0.01, 0.75, 0.1
"""The smallest that would matter: of dimensions, of tokens, and more tokens than in a control."""

STRESS = "hell"


def unstable(tables: Tables) -> list[Part]:
    """Claim 8: more unstable dimensions in Hell than on clean speech, and in hallucinations."""
    says = "under one stress, hallucinated transcripts have more of them"
    return [
        part("more unstable dimensions in Hell than on clean speech, mean over layers",
             "propagators", _rises(tables, beyond=False), _FEW),
        part("the rise is larger than of the randomly initialised control, mean over layers",
             "propagators", _rises(tables, beyond=True), _FEW),
        *(
            part(which, "unstable_dimensions", _hallucinated(tables, name, network), 1.0,
                 "there is no stress under which some transcripts are hallucinated")
            for which, name, network in (
                (f"{says}, raw", "difference", TRAINED),
                (f"{says}, at equal length", "adjusted", TRAINED),
                ("by more than in their randomly initialised controls, at equal length", "adjusted",
                 BEYOND),
            )
        ),
    ]  # fmt: skip


def rises_by_layer(tables: Tables, model: str, network: str) -> list[Interval]:
    """Unstable dimensions in Hell minus those on clean speech, a fraction of all, by layer."""
    keys = ["model", "layer", "network", "condition"]
    table = tables.read("propagators", [*keys, *with_bounds("unstable")])
    own = table[(table.model == model) & (table.network == network)]
    if own.empty:
        raise NotMeasured(f"there are no layers of {model}")
    return [
        difference(*(of(only(own, {"layer": layer, "condition": side}), "unstable")
                     for side in (STRESS, "clean")))
        for layer in sorted(own.layer.unique())
    ]  # fmt: skip


def _rises(tables: Tables, beyond: bool) -> Iterator[Statement]:
    for model in every_model(tables.read("propagators", MODEL_KEYS)):
        trained, random = (mean(rises_by_layer(tables, model, name)) for name in (TRAINED, RANDOM))
        found = difference(trained, random) if beyond else trained
        yield Statement(model, found, ABOVE, 0)


def _hallucinated(tables: Tables, name: str, network: str) -> Iterator[Statement]:
    """Under one stress: hallucinated transcripts against the others, means over layers."""
    keys = [*MODEL_KEYS, "condition", "network", "layer"]
    table = tables.read("unstable_dimensions", [*keys, *with_bounds("difference", "adjusted")])
    rows = table[(table.layer == ALL_LAYERS) & (table.network == network)]
    for model, found in by_model(rows, name):
        yield Statement(model, found, ABOVE, 0)


def decay(tables: Tables) -> list[Part]:
    """Claim 10: in the smallest size, gains are below one and what early layers inject decays.

    Modulo the direction 1, for in the whole space no product can decay; an injection by its share
    of the hidden state, and by what the final norm passes on of it.
    """
    return [
        part("every gain is below one, at most tokens", "hypotheses",
             _fraction(tables, SMALLEST, "gain_below_one"), _MANY),
        part("the product of layers decays, at most tokens", "hypotheses",
             _fraction(tables, SMALLEST, "product_decays"), _MANY),
        part("the first injection decays relative to the hidden state, at most tokens",
             "hypotheses", _fraction(tables, SMALLEST, "relative_injection_decays"), _MANY),
        part("the first injection decays after the final norm, at most tokens", "hypotheses",
             _fraction(tables, SMALLEST, "normed_injection_decays"), _MANY),
        part("it does so after the final norm oftener than in the randomly initialised control",
             "hypotheses",
             _beyond_initialised(tables, SMALLEST, "normed_injection_decays"), _MORE),
    ]  # fmt: skip


def rank_one(tables: Tables) -> list[Part]:
    """Claim 11: in the largest size, sensitivity is of rank one and gaps are small."""
    return [
        part("most of the sensitivity is in one direction", "hypotheses",
             _fraction(tables, LARGEST, "rank_one_fraction"), _MANY),
        part("more of it than in the randomly initialised control", "hypotheses",
             _beyond_initialised(tables, LARGEST, "rank_one_fraction"), _MORE),
        part("the product is of rank one, at most tokens", "hypotheses",
             _fraction(tables, LARGEST, "product_rank_one"), _MANY),
        part(f"gaps are below {_SMALL_GAP}, mean over layers", "propagators",
             _singular_value_ratios(tables),
             _SMALL_GAP / 2),
    ]  # fmt: skip


def hypothesis_row(tables: Tables, model: str, network: str) -> "pd.Series[float]":
    """In Hell, how often each hypothesis and each conclusion of the theorem holds."""
    keys = [*MODEL_KEYS, "network", "condition"]
    table = tables.read("hypotheses", [*keys, *with_bounds(*FRACTIONS)])
    return only(table, {"model": model, "network": network, "condition": STRESS})


def _singular_value_ratios(tables: Tables) -> Iterator[Statement]:
    keys = [*MODEL_KEYS, "layer", "network", "condition"]
    table = tables.read("propagators", [*keys, *with_bounds("singular_value_ratio")])
    chosen = table[
        table.model.isin(models_of(table, LARGEST))
        & (table.network == TRAINED)
        & (table.condition == STRESS)
    ]
    for model, found in by_model(chosen, "singular_value_ratio"):
        yield Statement(model, found, BELOW, _SMALL_GAP)


def _fraction(tables: Tables, role: str, name: str) -> Iterator[Statement]:
    for model in models_of(tables.read("hypotheses", MODEL_KEYS), role):
        found = of(hypothesis_row(tables, model, TRAINED), name)
        yield Statement(model, found, ABOVE, _MOST)


def _beyond_initialised(tables: Tables, role: str, name: str) -> Iterator[Statement]:
    for model in models_of(tables.read("hypotheses", MODEL_KEYS), role):
        both = (of(hypothesis_row(tables, model, one), name) for one in (TRAINED, RANDOM))
        yield Statement(model, difference(*both), ABOVE, 0)

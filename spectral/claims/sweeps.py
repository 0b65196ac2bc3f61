"""Claims 7, 9, 12 and 13: milder stresses, subtle ones, and convergence."""

from collections.abc import Iterator

import pandas as pd

from spectral.claims.numbers import MODEL_KEYS, Tables, difference, of, only, with_bounds
from spectral.claims.roles import LARGEST, models_of
from spectral.claims.rules import ABOVE, BELOW, Part, Statement, part
from spectral.results.bootstrap import LEVEL, Interval
from spectral.results.distinct import SAID, WHOLE
from spectral.results.unstable import RANDOM, TRAINED
from spectral.results.warnings import BEFORE, MEAN

_CHANCE = 0.5
_MODES = 50
_STEP, _OTHERS = "step", ("smooth", "no change")
_STRESS = "hell"
_WITHIN = f"within_conditions_k{_MODES}"
_DISTANCES = "attraction_distances"


def early_warning(tables: Tables) -> list[Part]:
    """Claim 7: under one stress, hallucinated answers have the higher alpha, from the beginning."""
    mixed = "there is no stress under which some answers are hallucinated"
    return [
        part("a hallucinated answer's alpha is more likely the higher one", _WITHIN,
             _marked(tables, "auc", _CHANCE), without=mixed),
        part("hallucinated answers have the higher alpha, at equal length", _WITHIN,
             _marked(tables, "adjusted", 0.0), without=mixed),
        part("alpha is higher before a hallucination, in the same stress", "early_warning",
             _before(tables), without="too few answers have beginnings that are still right"),
    ]  # fmt: skip


def _marked(tables: Tables, name: str, bound: float) -> Iterator[Statement]:
    columns = [*MODEL_KEYS, "component", "modes", "condition", "observable"]
    table = tables.read(_WITHIN, [*columns, *with_bounds("auc", "adjusted")])
    rows = table[(table.observable == "alpha") & (table.modes == _MODES)].dropna(subset="auc")
    for _, row in rows.iterrows():
        about = f"{row.model}, {row.component}, {row.condition}"
        yield Statement(about, of(row, name), ABOVE, bound)


def _before(tables: Tables) -> Iterator[Statement]:
    """What was written before the first wrong word; the mean over all numbers of tokens."""
    columns = [*MODEL_KEYS, "condition", "when", "prefix", "component", "observable"]
    table = tables.read("early_warning", [*columns, *with_bounds("auc")])
    means = table[(table.prefix == MEAN) & (table.when == BEFORE) & (table.observable == "alpha")]
    for _, row in means.dropna(subset="auc").iterrows():
        about = f"{row.model}, {row.component}, {row.condition}"
        yield Statement(about, of(row, "auc"), ABOVE, _CHANCE)


def transition(tables: Tables) -> list[Part]:
    """Claim 9: most courses are a step, over severity and over depth.

    A course is decided where at least 95 % of the resampled voices decide alike; the share of steps
    is bounded by taking all others for no steps, and for steps.
    """
    return [
        part(f"most courses over {along} are a step", "transitions", _courses(tables, along),
             without="there is no course of four points or more")
        for along in ("severity", "depth")
    ]  # fmt: skip


def _courses(tables: Tables, along: str) -> Iterator[Statement]:
    columns = [*MODEL_KEYS, "component", "modes", "length", "along", "verdict", "support"]
    table = tables.read("transitions", columns)
    long = table[(table.verdict != "too few") & (table.along == along)]
    for (_, model), group in long.groupby(MODEL_KEYS):
        yield Statement(str(model), _steps(group), ABOVE, _CHANCE)


def _steps(courses: pd.DataFrame) -> Interval:
    sure = courses[courses.support >= LEVEL]
    low = float((sure.verdict == _STEP).sum() / len(courses))
    high = float((len(courses) - sure.verdict.isin(_OTHERS).sum()) / len(courses))
    return Interval(float((courses.verdict == _STEP).mean()), low, high)


def attraction(tables: Tables) -> list[Part]:
    """Claim 12: in the largest size Hell draws states together, and texts are few."""
    return [
        part("states in Hell are closer at the last layer than at input", _DISTANCES,
             _distances(tables, "ratio_stressed", 1)),
        part("they are closer in Hell than on clean speech (%)", _DISTANCES,
             _distances(tables, "change", 0)),
        part("by more than in the random twin (%)", _DISTANCES, _beyond_twin(tables)),
        part("more pairs share their text in Hell than were said alike (%)", "attraction_texts",
             _alike(tables)),
    ]  # fmt: skip


def distance_row(tables: Tables, model: str, quantity: str, network: str) -> "pd.Series[float]":
    """How far apart states of two utterances are in Hell, of a model or its random twin."""
    keys = [*MODEL_KEYS, "network", "quantity"]
    table = tables.read(_DISTANCES, [*keys, *with_bounds("ratio_stressed", "change")])
    return only(table, {"model": model, "quantity": quantity, "network": network})


def alike(tables: Tables, model: str, side: str) -> Interval:
    """The share of pairs of utterances with one and the same text, in %."""
    table = tables.read("attraction_texts", [*MODEL_KEYS, "side", "words", *with_bounds("alike")])
    return of(only(table, {"model": model, "side": side, "words": WHOLE}), "alike")


def _quantities(tables: Tables) -> Iterator[tuple[str, str]]:
    table = tables.read(_DISTANCES, [*MODEL_KEYS, "quantity"])
    for model in models_of(table, LARGEST):
        for quantity in sorted(table.quantity.unique()):
            yield model, quantity


def _distances(tables: Tables, name: str, bound: float) -> Iterator[Statement]:
    for model, quantity in _quantities(tables):
        row = distance_row(tables, model, quantity, TRAINED)
        yield Statement(f"{model}, {quantity}", of(row, name), BELOW, bound)


def _beyond_twin(tables: Tables) -> Iterator[Statement]:
    for model, quantity in _quantities(tables):
        both = (
            of(distance_row(tables, model, quantity, network), "change")
            for network in (TRAINED, RANDOM)
        )
        yield Statement(f"{model}, {quantity}", difference(*both), BELOW, 0)


def _alike(tables: Tables) -> Iterator[Statement]:
    for model in models_of(tables.read("attraction_texts", MODEL_KEYS), LARGEST):
        found = difference(alike(tables, model, _STRESS), alike(tables, model, SAID))
        yield Statement(model, found, ABOVE, 0)


def subtle(tables: Tables) -> list[Part]:
    """Claim 13: the least change of clean speech that was tried makes new hallucinations."""
    says = "the least changes of the log-mel make new hallucinations (% of answers)"
    return [part(says, "subtle_stress", _new_candidates(tables))]


def subtle_rows(tables: Tables) -> pd.DataFrame:
    """What small changes of the log-mel do on clean speech, by direction and level."""
    columns = [*MODEL_KEYS, "condition", "direction", "level_db"]
    numbers = with_bounds("changed", "new_candidates")
    table = tables.read("subtle_stress", [*columns, *numbers])
    return table[table.condition == "clean"].sort_values([*MODEL_KEYS, "direction"])


def _new_candidates(tables: Tables) -> Iterator[Statement]:
    rows = subtle_rows(tables)
    level = rows.level_db.max()  # below the log-mel's own size
    for _, row in rows[rows.level_db == level].iterrows():
        about = f"{row.model}, {row.direction}, {level:g} dB below"
        yield Statement(about, of(row, "new_candidates"), ABOVE, 0)

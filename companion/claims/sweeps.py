"""Claims 7, 9, 12 and 13: milder stresses, subtle ones, and convergence."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from companion.claims.numbers import MODEL_KEYS, Tables, by_model, of, only, with_bounds
from companion.claims.roles import LARGEST, models_of
from companion.claims.rules import ABOVE, BELOW, Part, Statement, part
from companion.measurement.schemas import CENTRED_DISTANCE, DISTANCE, EVERYDAY_CHANGES
from companion.measurement.schemas import WHOLE as WHOLE_TEXT
from companion.models.capture import COMPONENTS
from companion.results.intervals import Interval, difference
from companion.results.shapes import LEAST_MARGIN, STEP
from companion.results.stresses import RANDOM, TRAINED
from companion.results.transcripts import SAID, WHOLE
from companion.results.warnings import BEFORE, MEAN

_CHANCE = 0.5
_MODES = 50
_AUC, _SLOPE, _MANY, _NEARER, _ALIKE, _NEW = 0.6, 0.1, 0.75, 5.0, 1.0, 5.0
"""The smallest that would matter: AUC, slope, fraction of steps; nearer, alike and new in %."""

CONTEST, HONEST, UNSEEN = "contest", "contest_honest", "unseen stresses"
_STRESS = "hell"
_WITHIN = f"within_conditions_k{_MODES}"
_DISTANCES = "attraction_distances"


def early_warning(tables: Tables) -> list[Part]:
    """Claim 7: under one stress, hallucinated transcripts have the higher alpha, from the
    beginning."""
    mixed = "there is no stress under which some transcripts are hallucinated"
    few = "too few transcripts have beginnings that are still right"
    parts = []
    for component in COMPONENTS:
        name = component.replace("_", "-")
        parts += [
            part(f"{name}: a hallucinated transcript's alpha is more likely the higher one",
                 _WITHIN,
                 _marked(tables, component, "auc", _CHANCE), _AUC, mixed),
            part(f"{name}: hallucinated transcripts have the higher alpha, at equal length",
                 _WITHIN,
                 _marked(tables, component, "adjusted", 0.0), _SLOPE, mixed),
            part(f"{name}: alpha is higher before a hallucination, in the same stress",
                 "early_warning", _before(tables, component), _AUC, few),
        ]  # fmt: skip
        says = f"{name}: alpha tells invented texts from others, on stresses of all kinds (AUC)"
        parts += contested(tables, says, f"{name}: alpha", Bound(ABOVE, _CHANCE, _AUC))
    return parts


def _marked(tables: Tables, component: str, name: str, bound: float) -> Iterator[Statement]:
    columns = [*MODEL_KEYS, "component", "modes", "condition", "observable"]
    table = tables.read(_WITHIN, [*columns, *with_bounds("auc", "adjusted")])
    rows = table[(table.observable == "alpha") & (table.modes == _MODES)]
    for model, found in by_model(rows[rows.component == component], name):
        yield Statement(model, found, ABOVE, bound)


def _before(tables: Tables, component: str) -> Iterator[Statement]:
    """What was written before the first wrong word; the mean over all numbers of tokens."""
    columns = [*MODEL_KEYS, "condition", "when", "prefix", "component", "observable"]
    table = tables.read("early_warning", [*columns, *with_bounds("auc")])
    means = table[(table.prefix == MEAN) & (table.when == BEFORE) & (table.observable == "alpha")]
    for model, found in by_model(means[means.component == component], "auc"):
        yield Statement(model, found, ABOVE, _CHANCE)


@dataclass(frozen=True)
class Bound:
    """Which side of what, and the smallest number that would matter."""

    side: str
    bound: float
    expected: float


def contested(tables: Tables, says: str, score: str, bound: Bound) -> list[Part]:
    """How well a score tells invented texts from others in the contest: stretched or in Hell.

    The contest is of OpenAI's models alone: no part where there is no such table.
    """
    if not tables.path(CONTEST).exists():
        return []
    keys = [*MODEL_KEYS, "set", "prefix", "confident", "contestant"]
    table = tables.read(CONTEST, [*keys, *with_bounds("auroc")])
    whole = table[(table.set == UNSEEN) & (table.prefix == WHOLE_TEXT) & ~table.confident]
    found = by_model(whole[whole.contestant == score], "auroc")
    statements = [Statement(model, one, bound.side, bound.bound) for model, one in found]
    return [part(says, CONTEST, statements, bound.expected)]


def transition(tables: Tables) -> list[Part]:
    """Claim 9: most curves are a step, over severity and over depth.

    A curve is decided where the interval of its margin is on one side of the least that leads; the
    fraction of steps is bounded by taking all others for no steps, and for steps.
    """
    return [
        part(f"most curves over {along} are a step", "transitions", _curves(tables, along), _MANY,
             "there is no curve of four points or more")
        for along in ("severity", "depth")
    ]  # fmt: skip


def _curves(tables: Tables, along: str) -> Iterator[Statement]:
    columns = [*MODEL_KEYS, "component", "modes", "length", "along", "verdict"]
    table = tables.read("transitions", [*columns, *with_bounds("margin")])
    long = table[(table.verdict != "too few") & (table.along == along)]
    for (_, model), group in long.groupby(MODEL_KEYS):
        yield Statement(str(model), _steps(group), ABOVE, _CHANCE)


def _steps(curves: pd.DataFrame) -> Interval:
    low = float((curves.margin_low > LEAST_MARGIN).mean())
    high = float((~(curves.margin_high < LEAST_MARGIN)).mean())
    return Interval(float((curves.verdict == STEP).mean()), low, high)


def attraction(tables: Tables) -> list[Part]:
    """Claim 12: in the largest size Hell draws states together, and texts are few."""
    parts = []
    for quantity in (DISTANCE, CENTRED_DISTANCE):
        name = quantity.replace("_", " ")
        parts += [
            part(f"{name}: states in Hell are closer at the last layer than at input", _DISTANCES,
                 _distances(tables, quantity, "ratio_stressed", 1), 1 - _NEARER / 100),
            part(f"{name}: they are closer in Hell than on clean speech (%)", _DISTANCES,
                 _distances(tables, quantity, "change", 0), -_NEARER),
            part(f"{name}: by more than in the randomly initialised control (%)", _DISTANCES,
                 _beyond_initialised(tables, quantity), -_NEARER),
        ]  # fmt: skip
    says = "more pairs share their text in Hell than were said alike (%)"
    return [*parts, part(says, "attraction_texts", _alike(tables), _ALIKE)]


def distance_row(tables: Tables, model: str, quantity: str, network: str) -> "pd.Series[float]":
    """How far apart states of two utterances are in Hell, of a model or its randomly initialised
    control."""
    keys = [*MODEL_KEYS, "network", "quantity"]
    table = tables.read(_DISTANCES, [*keys, *with_bounds("ratio_stressed", "change")])
    return only(table, {"model": model, "quantity": quantity, "network": network})


def alike(tables: Tables, model: str, side: str) -> Interval:
    """The fraction of pairs of utterances with one and the same text, in %."""
    table = tables.read("attraction_texts", [*MODEL_KEYS, "side", "words", *with_bounds("alike")])
    return of(only(table, {"model": model, "side": side, "words": WHOLE}), "alike")


def _distances(tables: Tables, quantity: str, name: str, bound: float) -> Iterator[Statement]:
    for model in models_of(tables.read(_DISTANCES, MODEL_KEYS), LARGEST):
        row = distance_row(tables, model, quantity, TRAINED)
        yield Statement(model, of(row, name), BELOW, bound)


def _beyond_initialised(tables: Tables, quantity: str) -> Iterator[Statement]:
    for model in models_of(tables.read(_DISTANCES, MODEL_KEYS), LARGEST):
        both = (
            of(distance_row(tables, model, quantity, network), "change")
            for network in (TRAINED, RANDOM)
        )
        yield Statement(model, difference(*both), BELOW, 0)


def _alike(tables: Tables) -> Iterator[Statement]:
    for model in models_of(tables.read("attraction_texts", MODEL_KEYS), LARGEST):
        found = difference(alike(tables, model, _STRESS), alike(tables, model, SAID))
        yield Statement(model, found, ABOVE, 0)


DIRECTIONS = ("singular", "random")
"""Of small changes of the log-mel."""


def subtle(tables: Tables) -> list[Part]:
    """Claim 13: the least change of clean speech that was tried makes new hallucinations."""
    says = "the least changes of the log-mel make new hallucinations (% of transcripts)"
    parts = [
        part(f"{name} direction: {says}", "subtle_stress", _new_candidates(tables, name), _NEW)
        for name in DIRECTIONS
    ]
    if tables.path(HONEST).exists():  # of OpenAI's models alone
        says = "room tone, a low level, clipping or a telephone line make inventions of 5 % or more"
        parts.append(part(says, HONEST, _everyday(tables), 2 * _NEW))
    return parts


def _everyday(tables: Tables) -> Iterator[Statement]:
    table = tables.read(HONEST, [*MODEL_KEYS, "condition", *with_bounds("invented")])
    for model, found in by_model(table[table.condition == EVERYDAY_CHANGES], "invented"):
        yield Statement(model, found, ABOVE, _NEW)


def subtle_rows(tables: Tables) -> pd.DataFrame:
    """What small changes of the log-mel do on clean speech, by direction and level."""
    columns = [*MODEL_KEYS, "condition", "direction", "level_db"]
    numbers = with_bounds("changed", "new_candidates")
    table = tables.read("subtle_stress", [*columns, *numbers])
    return table[table.condition == "clean"].sort_values([*MODEL_KEYS, "direction"])


def _new_candidates(tables: Tables, direction: str) -> Iterator[Statement]:
    rows = subtle_rows(tables)
    least = rows.level_db == rows.level_db.max()  # below the log-mel's own size
    for model, found in by_model(rows[least & (rows.direction == direction)], "new_candidates"):
        yield Statement(model, found, ABOVE, 0)

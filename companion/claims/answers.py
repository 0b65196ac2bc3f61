"""Claims 15 and 16: what models write in Hell, and how sure they are of it."""

from collections.abc import Iterator, Sequence

import pandas as pd

from companion.claims.numbers import Tables, by_model, of, only, with_bounds
from companion.claims.roles import LARGEST, SMALLEST, every_model, models_of
from companion.claims.rules import ABOVE, BELOW, Part, Statement, part
from companion.claims.sweeps import Bound, contested
from companion.results.intervals import complement, exact, mean, scaled
from companion.results.transcripts import CONFIDENCES, LEAST_LOG_PROBABILITY

_STRESS, _WITHIN = "hell", "within_conditions_k50"
_MOST, _MANY = 50.0, 75.0
"""Most transcripts in %; and the smallest that would matter."""

_CHANCE, _WARNS = 0.5, 0.6
"""AUC of no warning, and the least of a warning that would matter."""

_FLUENT = ("invention",)
_INCOHERENT = ("loop", "fragment", "gibberish")
_KEYS = ["parameters", "model", "condition"]
_HIGH = LEAST_LOG_PROBABILITY
_OTHER_UNIT = "Whisper's threshold is per word piece, and these models write characters"


def fluency(tables: Tables) -> list[Part]:
    """Claim 15: most transcripts of the smallest size are incoherent, of the largest inventions."""
    return [
        part(f"most transcripts of the {role} size are {says} (%)", "outcome_confidence",
             _fractions(tables, role, named), _MANY)
        for role, says, named in (
            (SMALLEST, "incoherent", _INCOHERENT), (LARGEST, "fluent inventions", _FLUENT)
        )
    ]  # fmt: skip


def _fractions(tables: Tables, role: str, named: Sequence[str]) -> Iterator[Statement]:
    """Shares of kinds add up, speaker by speaker; without a transcript of them it is exact."""
    table = tables.read("outcome_confidence", [*_KEYS, "outcome", "n", *with_bounds("fraction")])
    stressed = table[table.condition == _STRESS]
    for model in models_of(table, role):
        rows = stressed[stressed.model == model]
        own = rows[rows.outcome.isin(named) & (rows.n > 0)]
        count, total = int(own.n.sum()), int(rows.n.sum())
        found = exact(count, total)
        if 0 < count < total:
            found = scaled(mean([of(row, "fraction") for _, row in own.iterrows()]), len(own))
        yield Statement(model, found, ABOVE, _MOST)


def confidence(tables: Tables) -> list[Part]:
    """Claim 16: inventions pass Whisper's threshold, and confidence does not tell them apart.

    The threshold is one per word piece. An AUC is the probability that of a right transcript and an
    invention the right one is the more confident, so its unit does not matter within a model; under
    one stress it is that of other transcripts and candidates.
    """
    says = "the log-probability does not tell"
    mixed = "there is no stress under which some transcripts are hallucinated"
    return [
        part(f"most inventions in Hell have a log-probability per word piece above {_HIGH:g} (%)",
             "outcome_confidence", _passing(tables), _MANY, _OTHER_UNIT),
        part(f"{says} inventions from right transcripts, on clean speech and in Hell (AUC)",
             "confidence", _separation(tables), _CHANCE),
        part(f"{says} candidates from other transcripts under one stress (AUC)", _WITHIN,
             _separation_within(tables), _CHANCE, mixed),
        *contested(tables, f"{says} invented texts from others, on stresses of all kinds (AUC)",
                   "log-probability", Bound(BELOW, _WARNS, _CHANCE)),
    ]  # fmt: skip


def _passing(tables: Tables) -> Iterator[Statement]:
    table = tables.read("outcome_confidence", [*_KEYS, "outcome", *with_bounds("passing")])
    for model in every_model(table):
        row = only(table, {"model": model, "condition": _STRESS, "outcome": "invention"})
        if pd.notna(row.passing):
            yield Statement(model, of(row, "passing"), ABOVE, _MOST)


def _separation(tables: Tables) -> Iterator[Statement]:
    columns = [f"auc_{name}" for name in CONFIDENCES]
    table = tables.read("confidence", ["parameters", "model", *with_bounds(*columns)])
    for model in every_model(table):
        row = only(table, {"model": model})
        known = [name for name in columns if pd.notna(row[name])]
        if known:
            yield Statement(model, of(row, known[0]), BELOW, _WARNS)


def _separation_within(tables: Tables) -> Iterator[Statement]:
    columns = ["parameters", "model", "component", "condition", "observable"]
    table = tables.read(_WITHIN, [*columns, *with_bounds("auc")])
    for model, found in by_model(table[table.observable.isin(list(CONFIDENCES))], "auc"):
        yield Statement(model, complement(found), BELOW, _WARNS)

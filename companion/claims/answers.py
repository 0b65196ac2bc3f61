"""Claims 15 and 16: what models write in Hell, and how sure they are of it."""

from collections.abc import Iterator, Sequence

from companion.claims.numbers import Tables, of, only, with_bounds
from companion.claims.roles import LARGEST, SMALLEST, every_model, models_of
from companion.claims.rules import ABOVE, Part, Statement, part
from companion.results.intervals import difference, exact, mean, scaled

_STRESS = "hell"
_MOST, _MANY, _HIGHER = 50.0, 75.0, 0.1
"""Most answers in %; and the smallest that would matter, of answers and of log-probability."""

_FLUENT = ("invention",)
_INCOHERENT = ("loop", "fragment", "gibberish")
_KEYS = ["parameters", "model", "condition"]
_HIGH = -1.0
"""Below this average log-probability Whisper's own decoding distrusts a transcript."""


def fluency(tables: Tables) -> list[Part]:
    """Claim 15: most answers of the smallest size are incoherent, of the largest inventions."""
    return [
        part(f"most answers of the {role} size are {says} (%)", "outcome_confidence",
             _shares(tables, role, named), _MANY)
        for role, says, named in (
            (SMALLEST, "incoherent", _INCOHERENT), (LARGEST, "fluent inventions", _FLUENT)
        )
    ]  # fmt: skip


def _shares(tables: Tables, role: str, named: Sequence[str]) -> Iterator[Statement]:
    """Shares of kinds add up, speaker by speaker; without a transcript of them it is exact."""
    table = tables.read("outcome_confidence", [*_KEYS, "outcome", "n", *with_bounds("share")])
    stressed = table[table.condition == _STRESS]
    for model in models_of(table, role):
        rows = stressed[stressed.model == model]
        own = rows[rows.outcome.isin(named) & (rows.n > 0)]
        count, total = int(own.n.sum()), int(rows.n.sum())
        found = exact(count, total)
        if 0 < count < total:
            found = scaled(mean([of(row, "share") for _, row in own.iterrows()]), len(own))
        yield Statement(model, found, ABOVE, _MOST)


def confidence(tables: Tables) -> list[Part]:
    """Claim 16: log-probability stays high in hallucinations, and does not fall to warn of them."""
    return [
        part(f"the average log-probability in Hell is above {_HIGH:g}", "word_error",
             _log_probability(tables, _HIGH), _HIGH / 2),
        part("it is no lower than on clean speech", "word_error", _falling(tables),
             _HIGHER),
    ]  # fmt: skip


def _log_probability(tables: Tables, bound: float) -> Iterator[Statement]:
    name = "log_probability"
    table = tables.read("word_error", [*_KEYS, *with_bounds(name)])
    for model in every_model(table):
        row = only(table, {"model": model, "condition": _STRESS})
        yield Statement(model, of(row, name), ABOVE, bound)


def _falling(tables: Tables) -> Iterator[Statement]:
    name = "log_probability"
    table = tables.read("word_error", [*_KEYS, *with_bounds(name)])
    for model in every_model(table):
        sides = (
            of(only(table, {"model": model, "condition": side}), name)
            for side in (_STRESS, "clean")
        )
        yield Statement(model, difference(*sides), ABOVE, 0)

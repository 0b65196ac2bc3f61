"""Claims 15 and 16: what models write in Hell, and how sure they are of it."""

from collections.abc import Iterator, Sequence

from spectral.claims.numbers import Tables, difference, of, only, share, with_bounds
from spectral.claims.roles import LARGEST, SMALLEST, every_model, models_of
from spectral.claims.rules import ABOVE, Part, Statement, part

_STRESS = "hell"
_MOST = 50.0
_FLUENT = ("invention",)
_INCOHERENT = ("loop", "fragment", "gibberish")
_KEYS = ["parameters", "model", "condition"]
_HIGH = -1.0
"""Below this average log-probability Whisper's own decoding distrusts a transcript."""


def fluency(tables: Tables) -> list[Part]:
    """Claim 15: most answers of the smallest size are incoherent, of the largest inventions."""
    return [
        part(f"most answers of the {role} size are {says} (%)", "outcomes",
             _shares(tables, role, named))
        for role, says, named in (
            (SMALLEST, "incoherent", _INCOHERENT), (LARGEST, "fluent inventions", _FLUENT)
        )
    ]  # fmt: skip


def _shares(tables: Tables, role: str, named: Sequence[str]) -> Iterator[Statement]:
    table = tables.read("outcomes", _KEYS)
    counts = tables.read("word_error", [*_KEYS, "n"])
    for model in models_of(table, role):
        chosen = {"model": model, "condition": _STRESS}
        n = int(only(counts, chosen).n)
        shares = only(table, chosen).reindex([*named]).fillna(0.0)  # kinds nobody wrote lack
        count = round(float(shares.sum()) / 100 * n)
        yield Statement(model, share(count, n), ABOVE, _MOST)


def confidence(tables: Tables) -> list[Part]:
    """Claim 16: log-probability stays high in hallucinations, and does not fall to warn of them."""
    return [
        part(f"the average log-probability in Hell is above {_HIGH:g}", "word_error",
             _log_probability(tables, _HIGH)),
        part("it is no lower than on clean speech", "word_error", _falling(tables)),
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

"""Claim 14: whether spectra of clean speech forecast what stress does to a model."""

from collections.abc import Iterator

from spectral.claims.numbers import NotMeasured, Tables, of, with_bounds
from spectral.claims.rules import ABOVE, Part, Statement, part

_RIVALS = {"mean": "the mean of the others", "size": "size alone"}


def forecast(tables: Tables) -> list[Part]:
    """Each spectral predictor forecasts models left out better than each naive forecast does."""
    return [
        part(f"spectra forecast better than {name} (skill)", "forecast", _skills(tables, rival),
             without="there is no target with enough models")
        for rival, name in _RIVALS.items()
    ]  # fmt: skip


def _skills(tables: Tables, rival: str) -> Iterator[Statement]:
    if not tables.path("forecast").exists():
        raise NotMeasured("there is no forecast.csv; it takes more sizes than two")
    table = tables.read("forecast", ["target", "predictor", "rival", *with_bounds("skill")])
    for _, row in table[table.rival == rival].iterrows():
        yield Statement(f"{row.target}, from {row.predictor}", of(row, "skill"), ABOVE, 0)

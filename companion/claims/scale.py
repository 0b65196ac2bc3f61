"""Claim 14: whether spectra of clean speech forecast what stress does to a model."""

from collections.abc import Iterator

from companion.claims.numbers import NotMeasured, Tables, of, with_bounds
from companion.claims.rules import ABOVE, Part, Statement, part
from companion.results.scale import PREDICTORS

_SKILL = 0.2
"""The smallest that would matter."""

_RIVALS = {"mean": "the mean of the others", "size": "size alone"}


def forecast(tables: Tables) -> list[Part]:
    """Each spectral predictor forecasts models left out better than each naive forecast does."""
    return [
        part(f"{predictor} forecasts better than {name} (skill)", "forecast",
             _skills(tables, rival, predictor), _SKILL, "there is no target with enough models")
        for rival, name in _RIVALS.items()
        for predictor in PREDICTORS
    ]  # fmt: skip


def _skills(tables: Tables, rival: str, predictor: str) -> Iterator[Statement]:
    """Targets stand in the place of models, which a skill is over."""
    if not tables.path("forecast").exists():
        raise NotMeasured("there is no forecast.csv; it takes more sizes than two")
    table = tables.read("forecast", ["target", "predictor", "rival", *with_bounds("skill")])
    chosen = (table.rival == rival) & (table.predictor == predictor)
    for _, row in table[chosen].iterrows():
        yield Statement(row.target, of(row, "skill"), ABOVE, 0)

"""Claim 14: whether spectra of clean speech forecast what stress does to a model."""

from pathlib import Path

from spectral.claims.numbers import of, read_table
from spectral.claims.rules import ABOVE, Part, Statement

_RIVALS = {"mean": "the mean of the others", "size": "size alone"}


def forecast(tables: Path) -> list[Part]:
    """Each spectral predictor forecasts models left out better than each naive forecast does."""
    columns = ["target", "predictor", "rival", "skill", "skill_low", "skill_high"]
    table = read_table(tables, "forecast", columns)
    return [
        Part(
            f"spectra forecast better than {name} (skill)", "forecast",
            [
                Statement(f"{row.target}, from {row.predictor}", of(row, "skill"), ABOVE, 0)
                for _, row in table[table.rival == rival].iterrows()
            ],
            needs="" if len(table) else "a target with enough models",
        )
        for rival, name in _RIVALS.items()
    ]  # fmt: skip

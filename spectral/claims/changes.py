"""Claims 1 to 6: how spectra change under stress."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from spectral.claims.numbers import between_sizes, difference, of, read_table, sizes
from spectral.claims.rules import ABOVE, BELOW, Part, Statement
from spectral.results.bootstrap import Interval
from spectral.results.effects import MATCHED, RAW
from spectral.results.tails import EIGENVALUE, SHARE, TAIL

_EVIDENCE = ["model", "component", "modes", "source", "length", "observable", "change", "low"]
_MODES = 50
_TABLE = f"evidence_k{_MODES}"
_ALPHA = 9.0
_DECADES = 2.9
_CUT = "length-matched"
_WAYS = {"raw": ("model", "raw"), "at equal length": ("model", _CUT)}
_NULLS = {
    "random twin": ("twin", _CUT),
    "random vectors": ("spectrum", _CUT),
    "other speech": ("swapped", _CUT),
}


def signal_loss(tables: Path) -> list[Part]:
    """Claim 1: cross-attention's rank falls, beyond the controls, most in the smallest size."""
    table = _evidence(tables)
    small, *_, large = sizes(table)
    cells = _cells(table, "n_eff")
    ones, others = ([cells("cross_attention", *_WAYS["at equal length"], m).estimate for m in group]
                    for group in (small, large))  # fmt: skip
    about = f"{', '.join(small)} minus {', '.join(large)}"
    contrast = Statement(about, between_sizes(ones, others), BELOW, 0)
    return [
        *_falls(table, "cross_attention", "n_eff", _all(table), BELOW),
        Part("the smallest size falls more than the largest, over seeds", _TABLE, [contrast]),
    ]


def compression(tables: Path) -> list[Part]:
    """Claim 2: in the largest size self-attention's rank falls and its slope rises."""
    table = _evidence(tables)
    large = sizes(table)[-1]
    return [
        *_falls(table, "self_attention", "n_eff", large, BELOW),
        *_falls(table, "self_attention", "alpha", large, ABOVE),
    ]


def collapse(tables: Path) -> list[Part]:
    """Claim 3: the FFN's rank falls in sizes that are neither the smallest nor the largest."""
    table = _evidence(tables)
    middle = [model for group in sizes(table)[1:-1] for model in group]
    return _falls(table, "ffn", "n_eff", middle, BELOW)


def resistance(tables: Path) -> list[Part]:
    """Claim 4: the Kirchhoff index rises, by the decades published, in every component."""
    table = _evidence(tables)
    rows = [
        ("the padded index rises, raw", "log10_kf", "raw", 0.0),
        ("it rises at equal length", "log10_kf", "at equal length", 0.0),
        ("resolved, it rises at equal length", "log10_kf_resolved", "at equal length", 0.0),
        (f"the padded index rises by {_DECADES} decades, raw", "log10_kf", "raw", _DECADES),
    ]  # fmt: skip
    return [
        Part(says, _TABLE, _everywhere(table, name, _WAYS[way], ABOVE, bound))
        for says, name, way, bound in rows
    ]


def either_regime(tables: Path) -> list[Part]:
    """Claim 5: effective rank falls in every component of every size."""
    table = _evidence(tables)
    return [
        Part(
            f"effective rank falls, {way}",
            _TABLE,
            _everywhere(table, "n_eff", key, BELOW, 0),
        )
        for way, key in _WAYS.items()
    ]


def hardening(tables: Path) -> list[Part]:
    """Claim 6: in the largest size slopes exceed nine under stress, tail eigenvalues clean ones.

    Of which component the tail is, is not said: compression is claimed of self-attention alone, so
    its tail counts; the table has the others. Ratios of shares of the sum are those that larger
    activations, in all modes alike, do not raise.
    """
    needed = ["model", "component", "modes", "length", "side", "alpha", "alpha_low", "alpha_high"]
    table = read_table(tables, "phase_diagram", needed)
    large = sizes(table)[-1]
    stressed = table[table.model.isin(large) & (table.side == "stressed")]
    statements = [
        Statement(f"{row.model}, {row.component}, K = {row.modes}", of(row, "alpha"), ABOVE, _ALPHA)
        for _, row in stressed.sort_values(["model", "component", "modes"]).iterrows()
    ]
    return [
        Part(f"alpha exceeds {_ALPHA:g} under stress", "phase_diagram", statements),
        *_tails(tables, large),
    ]


def _tails(tables: Path, models: Sequence[str]) -> list[Part]:
    keys = ["model", "component", "length", "measure", "part"]
    numbers = ["ratio", "ratio_low", "ratio_high"]
    table = read_table(tables, "tail_eigenvalues", [*keys, *numbers])
    rows = table.set_index(keys)[numbers]
    says = "self-attention's tail eigenvalues exceed the clean ones"
    return [
        Part(
            f"{says}, {way}", "tail_eigenvalues",
            [
                Statement(m, of(rows.loc[m, "self_attention", *key, TAIL], "ratio"), ABOVE, 1)
                for m in models
            ],
        )
        for way, key in (
            ("raw", (RAW, EIGENVALUE)),
            ("at equal length", (MATCHED, EIGENVALUE)),
            ("as shares of their sum, at equal length", (MATCHED, SHARE)),
        )
    ]  # fmt: skip


def _evidence(tables: Path) -> pd.DataFrame:
    table = read_table(tables, _TABLE, _EVIDENCE)
    return table[table.modes == _MODES]


def _all(table: pd.DataFrame) -> list[str]:
    return [model for group in sizes(table) for model in group]


def _cells(table: pd.DataFrame, observable: str) -> Callable[[str, str, str, str], Interval]:
    """The change by component, source, length and model."""
    keyed = table[table.observable == observable].set_index(
        ["component", "source", "length", "model"]
    )[["change", "low", "high"]]
    found = {
        key: Interval(*map(float, row)) for key, row in zip(keyed.index, keyed.values, strict=True)
    }
    return lambda *key: found[key]


def _falls(
    table: pd.DataFrame, component: str, observable: str, models: Sequence[str], side: str
) -> list[Part]:
    """That a change has a side: raw, at equal length, and beyond each null at equal length."""
    cells = _cells(table, observable)
    cut = _WAYS["at equal length"]
    verb = {BELOW: "falls", ABOVE: "rises"}[side]
    name = f"{component.replace('_', '-')}'s {_NAMES[observable]}"
    parts = [
        Part(
            f"{name} {verb}, {way}", _TABLE,
            [Statement(m, cells(component, *key, m), side, 0) for m in models],
        )
        for way, key in _WAYS.items()
    ]  # fmt: skip
    measured = set(zip(table.source, table.length, strict=True))
    for null, key in _NULLS.items():
        if key not in measured:
            continue
        statements = [
            Statement(
                m,
                difference(cells(component, *cut, m), cells(component, *key, m)),
                side, 0,
            )
            for m in models
        ]  # fmt: skip
        parts.append(Part(f"{name} {verb} more than with {null}", _TABLE, statements))
    return parts


_NAMES = {"n_eff": "effective rank", "alpha": "slope"}


def _everywhere(
    table: pd.DataFrame, observable: str, way: tuple[str, str], side: str, bound: float
) -> list[Statement]:
    cells = _cells(table, observable)
    return [
        Statement(f"{model}, {component}", cells(component, *way, model), side, bound)
        for model in _all(table)
        for component in sorted(table.component.unique())
    ]

"""The few numbers that answer whether the paper was right, for the README."""

from collections.abc import Callable, Mapping

import pandas as pd

from companion.claims.numbers import POOLED, NotMeasured, Tables
from companion.measurement.pooling import ALL, DROPPED, UNSEEN
from companion.models.rules import OPENAI, UNRESTRICTED
from companion.results.effects import MATCHED, RANDOM_ROWS, WITHOUT_LOOPS

Cells = dict[str, str]
"""A number in words, by model."""

_COMPONENT, _MODES, _STRESS = "cross_attention", 50, "hell"
_UNKNOWN = "not measured"
_MEASURED, _CONTROLS = "measured", "controls"


def summary(groups: Mapping[str, Tables], whole: str, known: pd.DataFrame) -> pd.DataFrame:
    """A row per quantity: as published, of every model of the groups, and ranges of one group.

    ``whole`` names the group whose models are one column; ``known`` the published rows.
    """
    rows = []
    for says, published, number in _ROWS:
        row = {"Hell against clean speech": says, "published (Tiny)": published(known)}
        for group, tables in groups.items():
            try:
                cells = number(tables)
            except NotMeasured:
                cells = {}
            row |= {group: _range(cells)} if group == whole else cells
        rows.append(row)
    models = [name for row in rows for name in row if name != whole]
    return pd.DataFrame(rows, columns=[*dict.fromkeys(models), whole]).fillna(_UNKNOWN)


def _published(column: str, style: str) -> Callable[[pd.DataFrame], str]:
    def text(known: pd.DataFrame) -> str:
        row = known[(known.component == _COMPONENT) & (known.model == "tiny")]
        return style.format(row[column].item())

    return text


def _nothing(known: pd.DataFrame) -> str:
    return ""


def _pooled(name: str, style: str, of: str = _MEASURED) -> Callable[[Tables], Cells]:
    """The paper's convention: cross-attention, K = 50, loops dropped, unseen utterances."""

    def cells(tables: Tables) -> Cells:
        keys = ["of", "model", "decoding", "sample", "loops", "component", "modes"]
        table = tables.read(POOLED, [*keys, name, f"{name}_low", f"{name}_high"])
        openai = OPENAI.name in set(table.decoding)
        wanted: dict[str, object] = {
            "of": of, "loops": DROPPED, "component": _COMPONENT, "modes": _MODES,
            "decoding": OPENAI.name if openai else UNRESTRICTED.name,
        }  # fmt: skip
        if of == _MEASURED:
            wanted["sample"] = UNSEEN if UNSEEN in set(table["sample"]) else ALL
        return _cells(table, wanted, name, style)

    return cells


def _by_utterance(file: str, **which: str) -> Callable[[Tables], Cells]:
    """At equal length, by ``which`` rows are kept: cross-attention, K = 50, no loops."""

    def cells(tables: Tables) -> Cells:
        name = "delta_n_eff"
        wanted = {"component": _COMPONENT, "modes": _MODES, **which}
        table = tables.read(file, ["model", *wanted, name, f"{name}_low", f"{name}_high"])
        return _cells(table, wanted, name, "{:+.1f}")

    return cells


def _wer(tables: Tables) -> Cells:
    table = tables.read("wer", ["model", "condition", "wer"])
    sides = [table[table.condition == side].set_index("model").wer for side in ("clean", _STRESS)]
    return {str(model): f"{sides[0][model]:.0f}, {sides[1][model]:.0f}" for model in sides[0].index}


def _outcomes(tables: Tables) -> Cells:
    table = tables.read("outcomes", ["model", "condition"])
    stressed = table[table.condition == _STRESS].set_index("model")
    kinds = stressed.reindex(columns=["invention", "loop"]).fillna(0.0)
    return {str(model): f"{row.invention:.0f}, {row.loop:.0f}" for model, row in kinds.iterrows()}


def _cells(table: pd.DataFrame, wanted: Mapping[str, object], name: str, style: str) -> Cells:
    for column, value in wanted.items():
        table = table[table[column] == value]
    if table.empty:
        raise NotMeasured(f"there is no row of {', '.join(map(str, wanted.values()))}")
    cells = {}
    for model, value, low, high in table[["model", name, f"{name}_low", f"{name}_high"]].values:
        bounds = f" [{style}, {style}]".format(low, high) if low <= high else ""
        cells[str(model)] = style.format(value) + bounds
    return cells


def _range(cells: Cells) -> str:
    """From the lowest to the highest of what the cells begin with."""
    first = (cell.split(" [")[0].split(", ") for cell in cells.values())
    columns = [sorted(set(column), key=float) for column in zip(*first, strict=True)]
    return ", ".join(c[0] if len(c) == 1 else f"{c[0]} to {c[-1]}" for c in columns) or _UNKNOWN


_ROWS: tuple[tuple[str, Callable[[pd.DataFrame], str], Callable[[Tables], Cells]], ...] = (
    ("pooled: effective rank (%)", _published("delta_n_eff", "{:+.1f}"),
     _pooled("n_eff", "{:+.1f}")),
    ("pooled: spectral slope", _published("delta_alpha", "{:+.2f}"), _pooled("alpha", "{:+.2f}")),
    ("pooled: log10 of the difference of Kf", _published("delta_log10_kf", "{:.2f}"),
     _pooled("log10_difference", "{:.2f}")),
    ("pooled: difference of log10 Kf", _nothing, _pooled("log10_ratio", "{:+.2f}")),
    ("pooled, random networks with the same singular values: effective rank (%)", _nothing,
     _pooled("n_eff", "{:+.1f}", _CONTROLS)),
    ("by utterance, as many random rows, no loops: effective rank (%)", _nothing,
     _by_utterance("equal_length", rows=RANDOM_ROWS)),
    ("by utterance, as many first rows, no loops: effective rank (%)", _nothing,
     _by_utterance("by_outcome", length=MATCHED, outcome=WITHOUT_LOOPS)),
    ("WER on clean speech and in Hell (%)", _nothing, _wer),
    ("inventions and loops in Hell (% of transcripts)", _nothing, _outcomes),
)  # fmt: skip

"""Dose and response, factorial effects, and hallucinated transcripts against others."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from companion.figures.style import (
    COLUMN,
    COMPONENT_NAMES,
    LENGTH_MARKERS,
    MOST_BARS,
    PAGE,
    SHORT_NAMES,
    ZERO_LINE,
    draw_intervals,
    draw_models,
    label_lines,
    model_colours,
    model_keys,
    model_order,
)
from companion.results.confidence import PER_CHARACTER, PER_WORD_PIECE
from companion.results.factorial import EFFECTS
from companion.results.within import DIFFERS, TOO_FEW
from companion.stress.conditions import split_severity

ANSWERS = {
    "wer": "WER (%)",
    "candidates": "candidates (%)",
    PER_WORD_PIECE: "log-probability\n(nats per word piece)",
    PER_CHARACTER: "log-probability\n(nats per character)",
}
_PARTS = ["transcript", *COMPONENT_NAMES]
_MATCHED = LENGTH_MARKERS["length-matched"]


def draw_transcript_response(table: pd.DataFrame) -> Figure:
    """WER, candidates and log-probability by severity; a column per family of stresses."""
    families = list(table.family.unique())
    names = [name for name in ANSWERS if table[name].notna().any()]
    if PER_WORD_PIECE in names:  # per character it is the same once more
        names.remove(PER_CHARACTER)
    figure, axes = plt.subplots(
        len(names), len(families), sharex=True, sharey="row", squeeze=False,
        figsize=(COLUMN, 1.15 * len(names) + 0.7), layout="constrained",
    )  # fmt: skip
    for column, family in zip(axes.T, families, strict=True):
        for ax, name in zip(column, names, strict=True):
            _draw_doses(ax, table[table.family == family], name, "o")
        column[0].set_title(family.capitalize())
        column[-1].set_xlabel("severity (0: clean)")
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(ANSWERS[name])
    figure.align_ylabels()
    figure.legend(handles=model_keys(table), loc="outside lower center", ncols=2)
    return figure


def draw_dose_response(table: pd.DataFrame, observables: list[str]) -> Figure:
    """Length-matched changes from clean by severity: a row per observable, components beside.

    ``table`` holds rows of ``dose_response`` of one family and one K per observable; what is raw
    is in the table alone.
    """
    figure, axes = plt.subplots(
        len(observables), len(COMPONENT_NAMES), sharex=True, sharey="row", squeeze=False,
        figsize=(PAGE, 1.35 * len(observables) + 0.7), layout="constrained",
    )  # fmt: skip
    matched = table[table.length == "length-matched"]
    for row, observable in zip(axes, observables, strict=True):
        own = matched[matched.observable == observable]
        for ax, component in zip(row, COMPONENT_NAMES, strict=True):
            _draw_doses(ax, own[own.component == component], "change", _MATCHED)
            ax.axhline(0, **ZERO_LINE)
        row[0].set_ylabel(_change(table, observable).replace(" of ", " of\n"))
    for ax, title in zip(axes[0], COMPONENT_NAMES.values(), strict=True):
        ax.set_title(title)
    figure.align_ylabels()
    axes[-1, 1].set_xlabel(f"severity of {table.family.iloc[0].capitalize()} (0: clean)")
    figure.legend(handles=_models(table), loc="outside lower center", ncols=3)
    return figure


def draw_factorial(table: pd.DataFrame, panels: dict[tuple[str, str], str]) -> Figure:
    """Main effects and interactions, a panel per component and observable, with its title.

    ``table`` holds rows of ``factorial`` of one K per observable; the components' are
    length-matched, what is raw is in the table alone.
    """
    count = len(panels) // 2 if len(panels) == 4 else 3
    figure, axes = plt.subplots(
        -(-len(panels) // count), count, sharey=True, squeeze=False, layout="constrained",
        figsize=(COLUMN if count == 2 else PAGE, 1.9 * -(-len(panels) // count) + 0.5),
    )  # fmt: skip
    names = [name.replace(" x ", " \u00d7 ") for name in EFFECTS]
    for ax, ((component, observable), title) in zip(axes.flat, panels.items(), strict=True):
        own = table[(table.component == component) & (table.observable == observable)]
        if component != "transcript":
            own = own[own.length == "length-matched"]
        marker = "o" if component == "transcript" else _MATCHED
        own = own.assign(place=own.effect.map(EFFECTS.index))
        draw_models(ax, own, "change", model_order(table), marker=marker)
        label_lines(ax, names)
        ax.axvline(0, **ZERO_LINE)
        ax.set_title(title)
    figure.legend(handles=_models(table), loc="outside lower center", ncols=2)
    return figure


def draw_within(table: pd.DataFrame) -> Figure:
    """How candidates differ from others under one stress: a cell per score, model and condition.

    ``table`` holds rows of ``within_conditions`` of one K per observable, and the transcripts'
    own. The colour is the probability that a candidate's value is the larger; a dot marks those
    that differ at equal length too, a cross those with too few transcripts of a kind.
    """
    lines = score_lines(table)
    judged = table[table.verdict != TOO_FEW]
    table = table[table.condition.isin(judged.condition)]
    models = model_order(table)
    columns = [(m, c) for m in models for c in sorted(set(table.condition), key=split_severity)]
    cells = table.set_index(["component", "observable", "model", "condition"])
    cells = cells.reindex([(*line, *column) for line in lines for column in columns])
    shape = (len(lines), len(columns))
    figure, ax = plt.subplots(
        figsize=(PAGE, 0.16 * len(lines) + 1.9), layout="constrained"
    )  # fmt: skip
    image = ax.imshow(
        cells.auc.to_numpy(float).reshape(shape), cmap="PuOr_r", vmin=0, vmax=1, aspect="auto"
    )
    marks = ((DIFFERS, "."), (TOO_FEW, "x"))
    for verdict, marker in marks:
        y, x = np.nonzero((cells.verdict == verdict).to_numpy().reshape(shape))
        faint = marker == "x"
        ax.plot(x, y, marker, color="0.8" if faint else "black", ms=3 if faint else 4, mew=0.5)
    count = len(columns) // len(models)
    for i, model in enumerate(models):
        ax.axvline(i * count - 0.5, color="black", lw=0.8)
        turned: dict[str, Any] = {} if len(models) <= MOST_BARS else {"rotation": 90, "fontsize": 6}
        ax.text((i + 0.5) * count - 0.5, -0.8, model, ha="center", va="bottom", **turned)
    ax.set_xticks(range(len(columns)), [c for _, c in columns], rotation=90, fontsize=6)
    ax.set_yticks(
        range(len(lines)), [f"{COMPONENT_NAMES.get(p, p)}: {SHORT_NAMES[n]}" for p, n in lines]
    )
    ax.tick_params(length=0)
    bar = figure.colorbar(image, ax=ax, ticks=[0, 0.5, 1], aspect=30, pad=0.01)
    bar.set_label("AUC: a candidate's value is the larger\n(dot: differs at equal length too)")
    return figure


def score_lines(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Which observables of transcripts and components a table has, in the order of figures."""
    there = set(zip(table.component, table.observable, strict=True))
    return [(part, name) for part in _PARTS for name in SHORT_NAMES if (part, name) in there]


def _draw_doses(ax: Axes, table: pd.DataFrame, name: str, marker: str) -> None:
    models = model_order(table)
    for i, (model, colour) in enumerate(model_colours(models).items()):
        own = table[table.model == model].sort_values("severity")
        places = own.severity + 0.008 * (i - (len(models) - 1) / 2)
        draw_intervals(ax, own, name, places, colour=colour, marker=marker, line="-")


def _change(table: pd.DataFrame, observable: str) -> str:
    modes = table[table.observable == observable].modes.iloc[0]
    unit = " (%)" if observable == "n_eff" else ""
    return f"change of {SHORT_NAMES[observable]}{unit}, $K$ = {modes}"


def _models(table: pd.DataFrame) -> list[Line2D]:
    return model_keys(table, _MATCHED)

"""How well the first tokens of a text tell which answers will be hallucinated."""

import re
from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from companion.figures.style import (
    COMPONENT_NAMES,
    OBSERVABLE_NAMES,
    PAGE,
    legend_labels,
    model_colours,
    model_order,
)
from companion.results.answers import ANSWER
from companion.results.confidence import CONFIDENCES
from companion.results.warnings import ANY, BEFORE, CHANCE, MEAN, SPECTRAL

_BARS = 6
"""Up to so many models have their intervals drawn; those of more are in the table alone."""

_NAMES = OBSERVABLE_NAMES | {"log10_variance": r"$\log_{10}$ variance"}
_WHEN = {ANY: "all beginnings", BEFORE: "no wrong word yet"}
_HEIGHT = 0.19  # inches per score
_OFFSET, _SPREAD = 0.36, 0.32  # rows between the two kinds of beginnings, and for all models


def draw_early_warning(table: pd.DataFrame) -> Figure:
    """AUC, mean over the numbers of tokens: a row per score, a panel per condition.

    ``table`` is that of ``early_warnings``. Filled: all beginnings; open: those without a wrong
    word. A log-probability is shown as 1 minus its AUC, for a low one warns.
    """
    shown = table[(table.prefix == MEAN) & table.auc.notna()]
    conditions = list(dict.fromkeys(table.condition))
    measured = [name for name in CONFIDENCES if name in set(table.observable)]
    scores = [(ANSWER, name) for name in measured]
    scores += [(component, name) for component in COMPONENT_NAMES for name in SPECTRAL]
    figure, axes = plt.subplots(
        1, len(conditions), sharex=True, sharey=True, squeeze=False, layout="constrained",
        figsize=(PAGE, _HEIGHT * len(scores) + 1.0),
    )  # fmt: skip
    colours = model_colours(model_order(table))
    for ax, condition in zip(axes[0], conditions, strict=True):
        _draw_condition(ax, shown[shown.condition == condition], scores, colours)
        ax.set_title(re.sub(r"-(?=\d)", "\n", condition))
        ax.set_xlabel("AUC")
    labels = [
        f"low {CONFIDENCES[name]}" if component == ANSWER
        else f"{COMPONENT_NAMES[component]}: {_NAMES[name]}"
        for component, name in scores
    ]  # fmt: skip
    axes[0, 0].set_yticks(range(len(scores)), labels)
    axes[0, 0].set_ylim(len(scores) - 0.5, -0.5)
    axes[0, 0].set(xlim=(0, 1), xticks=[0, CHANCE, 1], xticklabels=["0", "0.5", "1"])
    names = legend_labels(table)
    handles = [
        Line2D([], [], marker="o", ls="", color=colours[m], label=names[m])
        for m in names
        if names[m][0] != "_"
    ]
    handles += [
        Line2D([], [], marker="o", ls="", color="0.3", mfc=face, label=_WHEN[when])
        for when, face in ((ANY, "0.3"), (BEFORE, "white"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    return figure


def _draw_condition(
    ax: Axes, table: pd.DataFrame, scores: list[tuple[str, str]], colours: Mapping[str, object]
) -> None:
    models = list(colours)
    bars = len(models) <= _BARS
    for i, (component, name) in enumerate(scores):
        part = table[(table.component == component) & (table.observable == name)]
        for row in part.itertuples():
            side = -0.5 if row.when == ANY else 0.5
            place = models.index(str(row.model)) - (len(models) - 1) / 2
            y = i + _OFFSET * side + bars * _SPREAD * place / len(models)
            ends = (row.auc, row.auc_low, row.auc_high)
            auc, low, high = (1 - each for each in ends) if component == ANSWER else ends
            colour = colours[str(row.model)]
            face = colour if row.when == ANY else "white"
            ax.plot(auc, y, "o", ms=2.6, color=colour, mfc=face, mew=0.6)
            if bars:
                ax.hlines(y, low, high, color=colour, lw=0.6, zorder=0)
    for start in range(len(scores) - 3 * len(SPECTRAL), len(scores), 2 * len(SPECTRAL)):
        ax.axhspan(start - 0.5, start + len(SPECTRAL) - 0.5, color="0.95", lw=0, zorder=-1)
    ax.axvline(CHANCE, color="0.3", lw=0.6, ls=":")

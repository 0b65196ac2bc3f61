"""Stressed over clean eigenvalues, mode by mode."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter

from companion.figures.style import (
    COMPONENT_NAMES,
    PAGE,
    legend_labels,
    model_colours,
    model_order,
)
from companion.results.effects import MATCHED, RAW
from companion.results.tails import EIGENVALUE, PARTS, SHARE, TAIL

_ROWS = {
    (RAW, EIGENVALUE): "raw",
    (MATCHED, EIGENVALUE): "equal length\n(first rows)",
    (MATCHED, SHARE): "the same, shares\nof the sum",
}


def draw_mode_ratios(table: pd.DataFrame) -> Figure:
    """A column per component; a line per model over modes, with 95 % bands; tail shaded.

    Rows: eigenvalues as they are, at equal length, and there as shares of their sum.
    """
    models = model_order(table)
    figure, axes = plt.subplots(
        len(_ROWS), len(COMPONENT_NAMES), sharex=True, sharey=True,
        figsize=(PAGE, 1.6 * len(_ROWS) + 0.4), layout="constrained",
    )  # fmt: skip
    rows = table.set_index(["length", "measure", "component"]).sort_index()
    for row, (key, label) in zip(axes, _ROWS.items(), strict=True):
        for ax, component in zip(row, COMPONENT_NAMES, strict=True):
            _draw_panel(ax, rows.loc[(*key, component)], models)
        row[0].set_ylabel(f"stressed / clean,\n{label}")
    for ax, title in zip(axes[0], COMPONENT_NAMES.values(), strict=True):
        ax.set_title(title)
    for ax in axes[-1]:
        ax.set_xlabel("mode $i$")
    colours = model_colours(models)
    for model, label in legend_labels(table).items():
        axes[0, 0].plot([], [], color=colours[model], label=label)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _draw_panel(ax: Axes, panel: pd.DataFrame, models: list[str]) -> None:
    for model, colour in model_colours(models).items():
        line = panel[panel.model == model].sort_values("mode")
        ax.loglog(line["mode"], line.ratio, color=colour, lw=0.8)
        ax.fill_between(
            line["mode"], line.ratio_low, line.ratio_high, color=colour, alpha=0.15, lw=0
        )
    ax.axvspan(PARTS[TAIL].start + 0.5, PARTS[TAIL].stop, color="0.93", zorder=0)
    ax.axhline(1, color="black", lw=0.6, ls=(0, (1, 2)))
    ax.set_yticks([0.125, 0.25, 0.5, 1, 2])
    ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xticks([1, 2, 5, 10, 20, 50])
    ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.xaxis.set_minor_formatter(NullFormatter())

"""The phase diagram: effective rank against spectral slope, models by scale, clean to stressed."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import (
    COMPONENT_NAMES,
    OBSERVABLE_NAMES,
    PAGE,
    legend_labels,
    model_colours,
    model_order,
)


def draw_phase(table: pd.DataFrame, condition: str) -> Figure:
    """A panel per component; an arrow per model from clean (open circle) to stressed (filled).

    ``table`` has a row per model, component and side, with n_eff, alpha and their intervals.
    """
    models = model_order(table)
    colours, labels = model_colours(models), legend_labels(table)
    figure, axes = plt.subplots(
        1, len(COMPONENT_NAMES), figsize=(PAGE, 2.9), layout="constrained"
    )  # fmt: skip
    for ax, component in zip(axes, COMPONENT_NAMES, strict=True):
        panel = table[table.component == component]
        for model in models:
            sides = panel[panel.model == model].set_index("side")
            _draw_arrow(ax, sides, colours[model], labels[model])
        ax.set_title(COMPONENT_NAMES[component])
        ax.set_xlabel(OBSERVABLE_NAMES["n_eff"])
    axes[0].set_ylabel(OBSERVABLE_NAMES["alpha"])
    axes[0].plot([], [], "o", color="black", mfc="white", label="clean")
    axes[0].plot([], [], "o", color="black", label=condition.capitalize())
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))
    return figure


def _draw_arrow(
    ax: Axes, sides: pd.DataFrame, colour: tuple[float, float, float], label: str
) -> None:
    for side, filling in (("clean", "white"), ("stressed", colour)):
        point = sides.loc[side]
        ax.errorbar(
            point.n_eff, point.alpha,
            xerr=[[point.n_eff - point.n_eff_low], [point.n_eff_high - point.n_eff]],
            yerr=[[point.alpha - point.alpha_low], [point.alpha_high - point.alpha]],
            fmt="o", color=colour, mfc=filling, lw=0.8, zorder=3,
            label=label if side == "stressed" else None,
        )  # fmt: skip
    start, end = sides.loc["clean"], sides.loc["stressed"]
    ax.annotate(
        "", (end.n_eff, end.alpha), (start.n_eff, start.alpha),
        arrowprops={"arrowstyle": "->", "color": colour, "shrinkA": 4, "shrinkB": 4},
    )  # fmt: skip

"""Effects of stress by what was written, a row per kind of transcript."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import COMPONENT_NAMES, LENGTH_MARKERS, LENGTH_NAMES, PAGE, model_order
from companion.results.by_outcome import ALL, WITHOUT_LOOPS

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe & Ito 2008


def draw_by_outcome(table: pd.DataFrame, name: str, label: str) -> Figure:
    """One panel per component: the change of an observable by outcome, a colour per model.

    Filled circles are raw, open diamonds length-matched by first rows; bars are 95 % intervals.
    """
    models = model_order(table)
    kinds = [ALL, WITHOUT_LOOPS, *sorted(set(table.outcome) - {ALL, WITHOUT_LOOPS})]
    figure, axes = plt.subplots(
        1, len(COMPONENT_NAMES), sharey=True, sharex=True,
        figsize=(PAGE, 0.32 * len(kinds) + 1.1), layout="constrained",
    )  # fmt: skip
    for ax, (component, title) in zip(axes, COMPONENT_NAMES.items(), strict=True):
        _draw(ax, table[table.component == component], name, kinds, models)
        ax.set_title(title)
        ax.axvline(0, color="black", lw=0.5)
        ax.axhline(1.5, color="0.7", lw=0.5, ls=":")
    axes[len(axes) // 2].set_xlabel(label)
    axes[0].set_yticks(range(len(kinds)), kinds)
    axes[0].invert_yaxis()
    for colour, model in zip(_COLOURS, models, strict=False):
        axes[0].plot([], [], "o", color=colour, label=model)
    for length, marker in LENGTH_MARKERS.items():
        filling = "black" if length == "raw" else "white"
        axes[0].plot([], [], marker, color="black", mfc=filling, label=LENGTH_NAMES[length])
    figure.legend(loc="outside lower center", ncols=len(models) + len(LENGTH_MARKERS))
    return figure


def _draw(ax: Axes, table: pd.DataFrame, name: str, kinds: list[str], models: list[str]) -> None:
    step = 0.7 / (len(models) * len(LENGTH_MARKERS))
    columns = [f"delta_{name}{end}" for end in ("", "_low", "_high")]
    for i, (model, (length, marker)) in enumerate(
        (model, pair) for model in models for pair in LENGTH_MARKERS.items()
    ):
        side = table[(table.model == model) & (table.length == length)]
        value, low, high = side.set_index("outcome").reindex(kinds)[columns].to_numpy().T
        place = np.arange(len(kinds)) + step * (i - (len(models) * len(LENGTH_MARKERS) - 1) / 2)
        colour = _COLOURS[models.index(model) % len(_COLOURS)]
        ax.errorbar(
            value, place, xerr=[value - low, high - value], fmt=marker, color=colour, ms=3.5,
            mfc=colour if length == "raw" else "white", lw=0.8, capsize=1.5,
        )  # fmt: skip

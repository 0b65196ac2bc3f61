"""Unstable dimensions of hallucinated answers against the others', model by model."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import PAGE, model_colours, model_label, model_order
from companion.results.unstable import ALL_LAYERS, RANDOM, TRAINED

_PANELS = {"difference": "raw", "adjusted": "at equal position"}
_MARKS = {TRAINED: ("o", -0.15), RANDOM: ("s", 0.15)}


def draw_unstable(table: pd.DataFrame) -> Figure:
    """Candidates minus others, mean over layers, with 95 % intervals; raw, at equal position.

    A row per model and stress that divides its answers; filled circles are trained networks, open
    squares random twins.
    """
    rows = table[(table.layer == ALL_LAYERS) & table.difference.notna()]
    models = model_order(rows)
    places = [(m, c) for m in models for c in sorted(rows[rows.model == m].condition.unique())]
    figure, axes = plt.subplots(
        1, len(_PANELS), sharex=True, sharey=True, figsize=(PAGE, 0.28 * len(places) + 1.25),
        layout="constrained",
    )  # fmt: skip
    for ax, (name, title) in zip(axes, _PANELS.items(), strict=True):
        _draw_panel(ax, rows.set_index(["network", "model", "condition"]), name, places)
        ax.set_title(title)
        ax.set_xlabel("unstable dimensions,\nhallucinated minus other answers")
    labels = [f"{model_label(rows, model)}, {condition}" for model, condition in places]
    axes[0].set_yticks(range(len(places)), labels)
    axes[0].invert_yaxis()
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


def _draw_panel(ax: Axes, rows: pd.DataFrame, name: str, places: list[tuple[str, str]]) -> None:
    colours = model_colours(list(dict.fromkeys(model for model, _ in places)))
    for network, (marker, shift) in _MARKS.items():
        for place, (model, condition) in enumerate(places):
            at = rows.loc[(network, model, condition)]
            ends = np.abs(np.array([[at[f"{name}_low"]], [at[f"{name}_high"]]]) - at[name])
            ax.errorbar(
                at[name], place + shift, xerr=ends, fmt=marker, color=colours[model], lw=0.8,
                mfc=colours[model] if network == TRAINED else "white", capsize=1.5,
            )  # fmt: skip
        filling = "black" if network == TRAINED else "white"
        ax.plot([], [], marker, color="black", mfc=filling, label=f"{network} networks")
    ax.axvline(0, color="black", lw=0.5)

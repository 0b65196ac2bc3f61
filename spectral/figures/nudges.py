"""Texts and states after small changes of the log-mel, by level and direction."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectral.figures.style import CONDITION_COLOURS, PAGE, model_label, model_order

_DIRECTIONS = {"random": ("s", ":", "white"), "singular": ("o", "-", None)}
_TEXT_PANELS = {
    "changed": "changed texts (%)",
    "added_error": "added word error\n(points)",
    "candidates": "candidates (%)",
}


def draw_nudges(texts: pd.DataFrame) -> Figure:
    """A column per model, a row per number, over the level of the change below the signal."""
    models = model_order(texts)
    figure, axes = plt.subplots(
        len(_TEXT_PANELS), len(models), sharex=True, sharey="row", squeeze=False,
        figsize=(PAGE, 1.35 * len(_TEXT_PANELS) + 0.6), layout="constrained",
    )  # fmt: skip
    for column, model in enumerate(models):
        table = texts[texts.model == model]
        for ax, name in zip(axes[:, column], _TEXT_PANELS, strict=True):
            _lines(ax, table, name, 0.5)
            ax.set_xticks([-level for level in sorted(table.level_db.unique())])
        axes[0, column].set_title(model_label(texts, model))
        axes[-1, column].set_xlabel("change (dB)")
    for ax, label in zip(axes[:, 0], _TEXT_PANELS.values(), strict=True):
        ax.set_ylabel(label)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def draw_growths(growths: pd.DataFrame, level: float) -> Figure:
    """Growth of the change from layer to layer at one level, a panel per model; grey: at random."""
    models = model_order(growths)
    figure, axes = plt.subplots(
        1, len(models), sharey=True, squeeze=False, figsize=(PAGE, 2.1), layout="constrained"
    )
    for ax, model in zip(axes[0], models, strict=True):
        table = growths[(growths.model == model) & (growths.level_db == level)]
        for network in ("trained", "random"):
            _growth_lines(ax, table[table.network == network], network)
        ax.axhline(0, color="black", lw=0.6, ls=(0, (1, 2)))
        ax.set(title=model_label(growths, model), xlabel="decoder layer")
        ax.set_xticks(sorted(table.layer.unique()))
    axes[0, 0].set_ylabel(r"$\log_{10}$ growth")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _lines(ax: Axes, table: pd.DataFrame, name: str, shift: float) -> None:
    for i, (direction, (marker, style, face)) in enumerate(_DIRECTIONS.items()):
        for condition, colour in CONDITION_COLOURS.items():
            part = table[(table.direction == direction) & (table.condition == condition)]
            part = part.sort_values("level_db")
            ax.errorbar(
                -part.level_db + shift * (2 * i - 1), part[name], yerr=_errors(part, name),
                fmt=marker, ls=style, color=colour, mfc=face or colour, lw=0.8, ms=3,
                label=f"{condition}, {direction}",
            )  # fmt: skip


def _growth_lines(ax: Axes, table: pd.DataFrame, network: str) -> None:
    for direction, (marker, style, face) in _DIRECTIONS.items():
        for condition, colour in CONDITION_COLOURS.items():
            part = table[(table.direction == direction) & (table.condition == condition)]
            shown = colour if network == "trained" else "#999999"
            if network == "random" and condition != "clean":
                continue
            part = part.sort_values("layer")
            ax.errorbar(
                part.layer, part.growth, yerr=_errors(part, "growth"), fmt=marker, ls=style,
                color=shown, mfc=face or shown, lw=0.8, ms=3,
                label=f"{condition}, {direction}"
                + (" (random network)" if network == "random" else ""),
            )  # fmt: skip


def _errors(part: pd.DataFrame, name: str) -> np.ndarray:
    ends = part[[f"{name}_low", f"{name}_high"]].to_numpy().T
    return np.abs(ends - part[name].to_numpy())

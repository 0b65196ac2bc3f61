"""Texts and states after small changes of the log-mel, by level and direction."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import CONDITION_COLOURS, PAGE, add_legend, models_by_size

_DIRECTIONS = {"random": ("s", ":", "white"), "singular": ("o", "-", None)}
_TEXT_PANELS = {
    "changed": "changed texts (%)",
    "added_error": "added word error\n(points)",
    "candidates": "candidates (%)",
}


def draw_nudges(texts: pd.DataFrame) -> Figure:
    """A column per size, a row per number, over the level of the change below the signal."""
    sizes = models_by_size(texts)
    figure, axes = plt.subplots(
        len(_TEXT_PANELS), len(sizes), sharex=True, sharey="row", squeeze=False,
        figsize=(PAGE, 1.35 * len(_TEXT_PANELS) + 0.6), layout="constrained",
    )  # fmt: skip
    for column, (label, models) in enumerate(sizes.items()):
        for ax, name in zip(axes[:, column], _TEXT_PANELS, strict=True):
            for _, table in texts[texts.model.isin(models)].groupby("model"):
                _lines(ax, table, name, 0.5)
            ax.set_xticks([-level for level in sorted(texts.level_db.unique())])
        axes[0, column].set_title(label)
        axes[-1, column].set_xlabel("change (dB)")
    for ax, label in zip(axes[:, 0], _TEXT_PANELS.values(), strict=True):
        ax.set_ylabel(label)
    add_legend(figure, axes[0, 0])
    return figure


def draw_growths(growths: pd.DataFrame, level: float) -> Figure:
    """Growth of the change from layer to layer at one level, a panel per size; grey: at random."""
    sizes = models_by_size(growths)
    figure, axes = plt.subplots(
        1, len(sizes), sharey=True, squeeze=False, figsize=(PAGE, 2.1), layout="constrained"
    )
    for ax, (label, models) in zip(axes[0], sizes.items(), strict=True):
        table = growths[growths.model.isin(models) & (growths.level_db == level)]
        for (network, _), own in table.groupby(["network", "model"], sort=False):
            _growth_lines(ax, own, str(network))
        ax.axhline(0, color="black", lw=0.6, ls=(0, (1, 2)))
        ax.set(title=label, xlabel="decoder layer")
        ax.set_xticks(sorted(table.layer.unique()))
    axes[0, 0].set_ylabel(r"$\log_{10}$ growth")
    add_legend(figure, axes[0, 0], columns=3)
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

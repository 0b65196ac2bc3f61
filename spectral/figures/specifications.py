"""The specification curve: sorted changes above, the choices behind each below."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spectral.figures.style import (
    COMPONENT_NAMES,
    OBSERVABLE_NAMES,
    PAGE,
    model_colours,
    model_label,
    model_order,
)
from spectral.results.specifications import CHOICES

_UNITS = {"n_eff": " (%)"}
_SHADE = "#e8e8e8"
_INK = "#555555"


def draw_specifications(table: pd.DataFrame, observable: str, paper: dict[str, str]) -> Figure:
    """A column per component; every point a specification of one model, in order of its change.

    ``table`` holds rows of ``specification_curve``, ``paper`` says by component whether the
    published change "rises" or "falls": the shaded half. Bars are 95 % intervals; a tick below
    marks the choice made. Layers are the mean over them, or single ones.
    """
    part = table[(table.observable == observable) & table.change.notna()]
    part = part.assign(layers=np.where(part.layers == "mean", "mean", "single"))
    models = model_order(part)
    options = [
        (choice, value) for choice in CHOICES for value in part[choice].dropna().unique()
    ]  # fmt: skip
    figure, axes = plt.subplots(
        2, len(COMPONENT_NAMES), sharex="col", sharey="row", layout="constrained",
        figsize=(PAGE, 2.6 + 0.13 * len(options)),
        height_ratios=[2.0, 0.13 * len(options)],
    )  # fmt: skip
    for (above, below), component in zip(axes.T, COMPONENT_NAMES, strict=True):
        curve = part[part.component == component].sort_values("change", ignore_index=True)
        _draw_curve(above, curve, models)
        _draw_choices(below, curve, options)
        above.set_title(COMPONENT_NAMES[component])
    low, high = axes[0, 0].get_ylim()
    for ax, component in zip(axes[0], COMPONENT_NAMES, strict=True):
        edge = high if paper[component] == "rises" else low
        ax.axhspan(0, edge, color=_SHADE, zorder=0)
    axes[0, 0].set_ylim(low, high)
    label = f"change of {OBSERVABLE_NAMES[observable].split(' (')[0]}"
    axes[0, 0].set_ylabel(f"{label}{_UNITS.get(observable, '')}")
    axes[1, 1].set_xlabel("specifications, sorted")
    colours = model_colours(models)
    handles = [
        Line2D([], [], marker="o", ls="", color=colours[model], label=model_label(part, model))
        for model in models
    ]
    handles.append(
        Line2D([], [], marker="s", ls="", color=_SHADE, mec=_INK, label="the paper's sign")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _draw_curve(ax: Axes, curve: pd.DataFrame, models: list[str]) -> None:
    colours = model_colours(models)
    for model in models:
        own = curve[curve.model == model]
        ax.vlines(own.index, own.low, own.high, color=colours[model], lw=0.5, alpha=0.4)
        ax.plot(own.index, own.change, ".", color=colours[model], ms=2)
    ax.axhline(0, color="black", lw=0.5)
    ax.tick_params(axis="x", length=0)


def _draw_choices(ax: Axes, curve: pd.DataFrame, options: list[tuple[str, str]]) -> None:
    for i, (choice, value) in enumerate(options):
        at = curve.index[curve[choice] == value]
        ax.vlines(at, i - 0.35, i + 0.35, color=_INK, lw=0.4)
    ax.set_yticks(range(len(options)), [f"{choice}: {value}" for choice, value in options])
    ax.set_ylim(len(options) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0, labelsize=6)

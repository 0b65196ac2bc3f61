"""The specification curve: sorted changes above, where each choice lies among them below."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
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
from companion.results.specifications import CHOICES

_UNITS = {"n_eff": " (%)"}
_SHADE = "#e8e8e8"
_INK = "#555555"
_BINS = 60
_DARKEST = 3.0  # times an even spread
_ROW = 0.125  # inches
_LINEAR = 0.1  # decades


def draw_specifications(table: pd.DataFrame, observable: str, paper: dict[str, str]) -> Figure:
    """A column per component; every point a specification of one model, in order of its change.

    ``table`` holds rows of ``specification_curve``, ``paper`` says by component whether the
    published change "rises" or "falls": the shaded half. Bars are 95 % intervals. Below, each
    choice has a strip, darker where more of its own specifications lie. Layers are the mean over
    them, or single ones.
    """
    part = table[(table.observable == observable) & table.change.notna()]
    part = part.assign(layers=np.where(part.layers == "mean", "mean", "single"))
    models = model_order(part)
    options = [
        (choice, value)
        for choice in CHOICES
        for value in part[choice].dropna().unique()
        if part[choice].nunique() > 1
    ]
    figure, axes = plt.subplots(
        2, len(COMPONENT_NAMES), sharex="col", sharey="row", layout="constrained",
        figsize=(PAGE, 2.8 + _ROW * len(options)),
        height_ratios=[2.0, _ROW * len(options)],
    )  # fmt: skip
    for (above, below), component in zip(axes.T, COMPONENT_NAMES, strict=True):
        curve = part[part.component == component].sort_values("change", ignore_index=True)
        _draw_curve(above, curve, models)
        strips = _draw_choices(below, curve, options)
        above.set_title(f"{COMPONENT_NAMES[component]}\n{len(curve):,} specifications")
    if observable == "log10_kf":  # from hundredths of a decade to several
        axes[0, 0].set_yscale("symlog", linthresh=_LINEAR)
    _shade(axes[0], [paper[component] for component in COMPONENT_NAMES])
    label = f"change of {OBSERVABLE_NAMES[observable].split(' (')[0]}"
    axes[0, 0].set_ylabel(f"{label}{_UNITS.get(observable, '')}")
    axes[1, 1].set_xlabel("specifications, sorted by their change")
    bar = figure.colorbar(strips, ax=axes[1], extend="max", aspect=40, pad=0.01, ticks=[0, 1, 2, 3])
    bar.set_label("where a choice's specifications lie (1: evenly spread)")
    figure.legend(handles=_handles(part, models), loc="outside lower center", ncols=3)
    return figure


def _draw_curve(ax: Axes, curve: pd.DataFrame, models: list[str]) -> None:
    colours = model_colours(models)
    for model in models:
        own = curve[curve.model == model]
        # Thousands of bars as one line with gaps; their outlines would make the file huge.
        bars = np.column_stack([own.low, own.high, np.full(len(own), np.nan)])
        places = np.repeat(own.index, bars.shape[1])
        ax.plot(places, bars.ravel(), color=colours[model], lw=0.5, alpha=0.3, rasterized=True)
        ax.plot(own.index, own.change, ".", color=colours[model], ms=2, rasterized=True)
    ax.axhline(0, color="black", lw=0.5)
    ax.tick_params(axis="x", length=0)


def _draw_choices(ax: Axes, curve: pd.DataFrame, options: list[tuple[str, str]]) -> QuadMesh:
    edges = np.linspace(0, len(curve), _BINS + 1)
    strips = np.full((len(options), _BINS), np.nan)
    for i, (choice, value) in enumerate(options):
        at = curve.index[curve[choice] == value]
        if len(at):
            strips[i] = np.histogram(at + 0.5, edges)[0] / len(at) * _BINS
    mesh = ax.pcolormesh(
        edges, np.arange(len(options) + 1) - 0.5, strips, cmap="Greys", vmin=0, vmax=_DARKEST
    )
    mesh.set_edgecolor("face")
    for i in range(1, len(options)):
        if options[i][0] != options[i - 1][0]:
            ax.axhline(i - 0.5, color=_INK, lw=0.4)
    ax.set_yticks(range(len(options)), [f"{choice}: {value}" for choice, value in options])
    ax.set_ylim(len(options) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0, labelsize=6)
    return mesh


def _shade(axes: np.ndarray, directions: list[str]) -> None:
    """The half of each panel where the paper's sign is."""
    low, high = axes[0].get_ylim()
    for ax, direction in zip(axes, directions, strict=True):
        ax.axhspan(0, high if direction == "rises" else low, color=_SHADE, zorder=0)
    axes[0].set_ylim(low, high)


def _handles(table: pd.DataFrame, models: list[str]) -> list[Line2D]:
    colours = model_colours(models)
    points = [
        Line2D([], [], marker="o", ls="", color=colours[model], label=label)
        for model, label in legend_labels(table).items()
        if not label.startswith("_")
    ]
    shade = Line2D([], [], marker="s", ls="", color=_SHADE, mec=_INK, label="the paper's sign")
    return [*points, shade]

"""Every effect beside its controls, and how it hangs on conventions."""

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
    OBSERVABLE_NAMES,
    PUBLISHED_COLOUR,
    SHADE,
    ZERO_LINE,
    draw_models,
    key,
    label_lines,
    model_colours,
    model_keys,
    model_order,
)
from companion.results.evidence import CONTROLS, NULL_BLOCKS, blocks
from companion.results.specifications import CHOICES

_UNITS = {"n_eff": " (%)"}
_RANGES = {0.8: (0.05, 0.95), 2.2: (0.25, 0.75)}  # quantiles, by the width of their line
_LINEAR = 0.1  # decades


def draw_evidence(
    table: pd.DataFrame, observable: str, published: pd.DataFrame | None = None
) -> Figure:
    """One observable's change, a panel per component, a line per control.

    ``table`` holds rows of ``evidence`` of one K. Filled: the model itself, raw, with random rows
    first at equal length, and the same text; open: nulls. Crosses are ``published`` changes.
    """
    models, groups = model_order(table), blocks(table)
    controls = [control for group in groups for control in group]
    nulls = [control for group in groups[-NULL_BLOCKS:] for control in group]
    figure, axes = plt.subplots(
        1, len(COMPONENT_NAMES), sharex=observable != "log10_kf", sharey=True,
        figsize=(COLUMN, 0.8 + 0.19 * len(controls)), layout="constrained",
    )  # fmt: skip
    own = table[table.observable == observable]
    own = own.assign(control=list(zip(own.source, own.length, strict=True)))
    own = own.assign(place=own.control.map(controls.index), null=own.control.isin(nulls))
    for ax, component in zip(axes, COMPONENT_NAMES, strict=True):
        part = own[own.component == component]
        for (length, null), alike in part.groupby(["length", "null"]):
            marker = LENGTH_MARKERS.get(str(length), LENGTH_MARKERS["length-matched"])
            draw_models(ax, alike, "change", models, marker=marker, control=bool(null))
        if published is not None and f"delta_{observable}" in published:
            known = published[published.component == component][f"delta_{observable}"]
            ax.plot(known, np.zeros(len(known)), "x", color=PUBLISHED_COLOUR, zorder=4)
        ax.axvline(0, **ZERO_LINE)
        label_lines(ax, [CONTROLS[each] for each in controls], list(map(len, groups)))
        ax.set_title(COMPONENT_NAMES[component].replace("-", "-\n"))
    axes[1].set_xlabel(f"change of {OBSERVABLE_NAMES[observable]}{_UNITS.get(observable, '')}")
    handles = [
        *model_keys(table), key("length-matched", marker=LENGTH_MARKERS["length-matched"]),
        key("null", control=True),
    ]  # fmt: skip
    if published is not None and f"delta_{observable}" in published:
        handles.append(key("published", PUBLISHED_COLOUR, "x"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=0.8)
    return figure


def draw_specifications(table: pd.DataFrame, observable: str, paper: dict[str, str]) -> Figure:
    """Above, how changes are distributed over all specifications; below, by every single choice.

    A column per component. ``table`` holds rows of ``specification_curve``, ``paper`` says by
    component whether the published change "rises" or "falls": the shaded half. Above a line per
    model is the fraction of its specifications that change less; below, of all models together,
    dots are medians, thick lines quartiles, and thin ones hold nine tenths. One in fifty
    specifications lies beyond the axis.
    """
    part = table[(table.observable == observable) & table.change.notna()]
    part = part.assign(layers=np.where(part.layers == "mean", "mean", "single"))
    options = [
        (choice, value)
        for choice in CHOICES
        for value in part[choice].dropna().unique()
        if part[choice].nunique() > 1
    ]
    ends = 1.1 * part.change.quantile([0.01, 0.99]).to_numpy()
    height = 0.125 * len(options)
    figure, axes = plt.subplots(
        2, len(COMPONENT_NAMES), sharex="col" if observable == "log10_kf" else True, sharey="row",
        layout="constrained", figsize=(COLUMN, 2.0 + height), height_ratios=[1.0, height],
    )  # fmt: skip
    for (above, below), component in zip(axes.T, COMPONENT_NAMES, strict=True):
        curve = part[part.component == component]
        for model, colour in model_colours(model_order(part)).items():
            above.ecdf(curve[curve.model == model].change, color=colour, lw=1.0)
        _draw_choices(below, curve, options)
        above.set_title(COMPONENT_NAMES[component].replace("-", "-\n"))
        for ax in (above, below):
            if observable == "log10_kf":  # from hundredths of a decade to several
                ax.set_xscale("symlog", linthresh=_LINEAR)
            ax.axvspan(0, ends[int(paper[component] == "rises")], color=SHADE)
            ax.set_xlim(ends)
            ax.axvline(0, **ZERO_LINE)
    axes[0, 0].set_ylabel("fraction")
    label = OBSERVABLE_NAMES[observable].split(" (")[0]
    axes[1, 1].set_xlabel(f"change of {label}{_UNITS.get(observable, '')}")
    shade = Line2D([], [], marker="s", ls="", color=SHADE, mec="0.5", label="the paper's sign")
    handles = [*model_keys(part), shade]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=0.8)
    return figure


def _draw_choices(ax: Axes, curve: pd.DataFrame, options: list[tuple[str, str]]) -> None:
    for i, (choice, value) in enumerate(options):
        changes = curve.change[curve[choice] == value]
        if len(changes):
            for width, ends in _RANGES.items():
                ax.plot(changes.quantile(ends), [i, i], color="0.4", lw=width, zorder=2)
            ax.plot(changes.median(), i, "o", color="black", ms=2, zorder=3)
        if i and options[i][0] != options[i - 1][0]:
            ax.axhline(i - 0.5, color="0.5", lw=0.4)
    ax.set_yticks(range(len(options)), [f"{choice}: {value}" for choice, value in options])
    ax.set_ylim(len(options) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0, labelsize=5.5)

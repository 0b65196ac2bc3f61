"""Every effect beside its controls, and what was made of it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from companion.figures.style import (
    COLUMN,
    COMPONENT_NAMES,
    OBSERVABLE_NAMES,
    PAGE,
    PUBLISHED_COLOUR,
    legend_labels,
    model_colours,
    model_order,
)
from companion.results.evidence import CONTROLS, NULL_BLOCKS, blocks
from companion.results.verdict import EXPLAINED, IN_PART, SURVIVES, UNDECIDED

UNITS = {"n_eff": " (%)"}
_FEW = 8  # models whose names stand beside each other in a column of print
_SHADE = "#f2f2f2"
_COLOURS = {SURVIVES: "#0072B2", IN_PART: "#56B4E9", EXPLAINED: "#D55E00", UNDECIDED: "#999999"}
_SHORT = {
    "n_eff": r"$N_{\mathrm{eff}}$",
    "alpha": r"$\alpha$",
    "log10_kf": "Kf, padded",
    "log10_kf_resolved": "Kf, resolved",
}
_ARROWS = {1: "^", -1: "v"}  # Okabe & Ito's colours, and shapes that do without them


def draw_evidence(
    table: pd.DataFrame, observables: list[str], published: pd.DataFrame | None = None
) -> Figure:
    """A row of panels per observable, a column per component, a line per control.

    ``table`` holds rows of ``evidence`` of one K. Filled: the model itself, with random rows first
    at equal length and the same text in a row of its own; open: nulls. Bars are 95 % intervals, a
    colour per model. Crosses are ``published`` changes of other models.
    """
    models, groups = model_order(table), blocks(table)
    controls = sum(map(len, groups))
    figure, axes = plt.subplots(
        len(observables), len(COMPONENT_NAMES), sharex="row", sharey=True, squeeze=False,
        figsize=(PAGE, (0.5 + 0.15 * controls) * len(observables)), layout="constrained",
    )  # fmt: skip
    for row, observable in zip(axes, observables, strict=True):
        for ax, component in zip(row, COMPONENT_NAMES, strict=True):
            part = table[(table.component == component) & (table.observable == observable)]
            _draw_controls(ax, part, models, groups)
            if published is not None and f"delta_{observable}" in published:
                known = published[published.component == component][f"delta_{observable}"]
                ax.plot(known, np.zeros(len(known)), "x", color=PUBLISHED_COLOUR, zorder=4)
        row[1].set_xlabel(f"change of {OBSERVABLE_NAMES[observable]}{UNITS.get(observable, '')}")
    for ax, title in zip(axes[0], COMPONENT_NAMES.values(), strict=True):
        ax.set_title(title)
    colours = model_colours(models)
    handles = [
        Line2D([], [], marker="o", ls="", color=colours[model], label=label)
        for model, label in legend_labels(table).items()
        if not label.startswith("_")
    ]
    handles.append(Line2D([], [], marker="o", ls="", color="black", mfc="white", label="null"))
    if published is not None:
        label = "published, OpenAI's Whisper"
        handles.append(Line2D([], [], marker="x", ls="", color=PUBLISHED_COLOUR, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def draw_verdicts(found: pd.DataFrame) -> Figure:
    """A mark per effect: rows are components and observables, columns models, a panel per K.

    An arrow survives and points where the effect goes; a cross is explained by length.
    """
    models, sizes = model_order(found), sorted(found.modes.unique())
    observables = [name for name in _SHORT if name in set(found.observable)]
    lines = [(component, name) for component in COMPONENT_NAMES for name in observables]
    figure, axes = plt.subplots(
        1, len(sizes), sharey=True, squeeze=False, layout="constrained",
        figsize=(COLUMN if len(models) <= _FEW else PAGE, 1.0 + 0.17 * len(lines)),
    )  # fmt: skip
    for ax, k in zip(axes[0], sizes, strict=True):
        effects = found[found.modes == k]
        effects = effects.assign(
            x=effects.model.map(models.index),
            y=[
                lines.index(line)
                for line in zip(effects.component, effects.observable, strict=True)
            ],
            sign=np.sign(effects.raw).astype(int),
        )
        for (verdict, sign), alike in effects.groupby(["verdict", "sign"]):
            _draw_verdicts(ax, alike, verdict, sign)
        for i in range(0, len(COMPONENT_NAMES), 2):
            ax.axhspan(
                i * len(observables) - 0.5, (i + 1) * len(observables) - 0.5, color=_SHADE, zorder=0
            )
        ax.set_title(f"$K$ = {k}")
        ax.set_xticks(range(len(models)), models, rotation=90)
        ax.set_xlim(-0.6, len(models) - 0.4)
        ax.tick_params(length=0)
    labels = [f"{COMPONENT_NAMES[component]}: {_SHORT[name]}" for component, name in lines]
    axes[0, 0].set_yticks(range(len(lines)), labels)
    axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)
    figure.legend(handles=_verdict_handles(), loc="outside lower center", ncols=2)
    return figure


def _draw_controls(
    ax: Axes, part: pd.DataFrame, models: list[str], groups: list[list[tuple[str, str]]]
) -> None:
    colours = model_colours(models)
    controls = [key for group in groups for key in group]
    nulls = len(controls) - sum(map(len, groups[-NULL_BLOCKS:]))
    reach = 0.3 * (1 - 1 / len(models))
    offsets = np.linspace(-reach, reach, len(models))
    for model, offset in zip(models, offsets, strict=True):
        own = part[part.model == model].set_index(["source", "length"]).reindex(controls)
        places = np.arange(len(controls)) + offset
        for side, filling in ((slice(nulls), colours[model]), (slice(nulls, None), "white")):
            change, low, high = own[["change", "low", "high"]].iloc[side].to_numpy().T
            ax.errorbar(
                change, places[side], xerr=[change - low, high - change],
                fmt="o", ms=3, lw=0.8, color=colours[model], mfc=filling,
            )  # fmt: skip
    start = 0
    for i, size in enumerate(map(len, groups)):
        if i % 2:
            ax.axhspan(start - 0.5, start + size - 0.5, color=_SHADE, zorder=0)
        start += size
    ax.axvline(0, color="black", lw=0.5)
    ax.set_yticks(range(len(controls)), [CONTROLS[key] for key in controls])
    ax.set_ylim(len(controls) - 0.5, -0.5)


def _draw_verdicts(ax: Axes, alike: pd.DataFrame, verdict: str, sign: int) -> None:
    colour = _COLOURS[verdict]
    if verdict in (SURVIVES, IN_PART):
        filling = colour if verdict == SURVIVES else "white"
        ax.plot(alike.x, alike.y, _ARROWS[sign], color=colour, mfc=filling, ms=5)
    else:
        mark = "x" if verdict == EXPLAINED else "."
        ax.plot(alike.x, alike.y, mark, color=colour, ms=4)


def _verdict_handles() -> list[Line2D]:
    markers = {SURVIVES: "^", IN_PART: "^", EXPLAINED: "x", UNDECIDED: "."}
    return [
        Line2D(
            [], [], marker=marker, ls="", color=_COLOURS[name], label=name,
            mfc="white" if name == IN_PART else _COLOURS[name],
        )
        for name, marker in markers.items()
    ]  # fmt: skip

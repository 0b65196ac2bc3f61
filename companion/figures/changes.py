"""Changes under stress with their intervals: raw beside length-matched, published apart."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import (
    COMPONENT_NAMES,
    LENGTH_MARKERS,
    LENGTH_NAMES,
    PAGE,
    PUBLISHED_COLOUR,
    model_colours,
    model_label,
    model_order,
)

_OFFSET = {"raw": -0.16, "length-matched": 0.16}


def draw_changes(
    table: pd.DataFrame,
    observables: dict[str, str],
    published: pd.DataFrame | None = None,
    components: dict[str, str] = COMPONENT_NAMES,
) -> Figure:
    """One row of panels per observable (column -> axis label), one column per component.

    Filled circles are raw, open diamonds length-matched by first rows; bars are 95 % intervals.
    Rows of ``published`` (component, model, and some of the observables) are drawn as grey crosses
    below a line: they were measured on other models.
    """
    models = model_order(table)
    figure, axes = plt.subplots(
        len(observables), len(components), sharey=True, sharex="row", squeeze=False,
        figsize=(PAGE, (0.3 * len(models) + 1.0) * len(observables)), layout="constrained",
    )  # fmt: skip
    others = [] if published is None else list(published.model.unique())
    for row, (name, label) in zip(axes, observables.items(), strict=True):
        for ax, component in zip(row, components, strict=True):
            _draw_measured(ax, table[table.component == component], name, models)
            if published is not None:
                known = published[published.component == component]
                _draw_published(ax, known, name, others, len(models))
            ax.axvline(0, color="black", lw=0.5)
        row[len(row) // 2].set_xlabel(label)
    labels = [model_label(table, model) for model in models]
    labels += [f"{name}, published" for name in others]
    axes[0, 0].set_yticks(range(len(labels)), labels)
    axes[0, 0].invert_yaxis()
    for ax, title in zip(axes[0], components.values(), strict=True):
        ax.set_title(title)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


def _draw_measured(ax: Axes, table: pd.DataFrame, name: str, models: list[str]) -> None:
    colours = model_colours(models)
    for length, marker in LENGTH_MARKERS.items():
        side = table[table.length == length].set_index("model").reindex(models)
        place = np.arange(len(models)) + _OFFSET[length]
        errors = np.abs(side[[f"{name}_low", f"{name}_high"]].to_numpy().T - side[name].to_numpy())
        for i, model in enumerate(models):
            ax.errorbar(
                side[name].iloc[i], place[i], xerr=errors[:, i : i + 1], fmt=marker,
                color=colours[model], mfc=colours[model] if length == "raw" else "white",
                lw=0.8, capsize=1.5,
            )  # fmt: skip
        filling = "black" if length == "raw" else "white"
        ax.plot([], [], marker, color="black", mfc=filling, label=LENGTH_NAMES[length])


def _draw_published(
    ax: Axes, known: pd.DataFrame, name: str, others: list[str], first: int
) -> None:
    ax.axhline(first - 0.5, color=PUBLISHED_COLOUR, lw=0.5, ls=":")
    if name not in known:
        ax.text(
            0.97, first + (len(others) - 1) / 2, "not published", ha="right", va="center",
            color=PUBLISHED_COLOUR, fontsize=7, transform=ax.get_yaxis_transform(),
        )  # fmt: skip
        return
    place = [first + others.index(model) for model in known.model]
    ax.plot(known[name], place, "x", color=PUBLISHED_COLOUR, label="published, OpenAI's Whisper")

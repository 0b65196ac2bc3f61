"""Changes of what spectra show, and the eigenvalues behind them, clean against stressed."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter

from companion.figures.style import (
    CHANCE_LINE,
    COMPONENT_NAMES,
    LENGTH_MARKERS,
    LENGTH_NAMES,
    PAGE,
    PUBLISHED_COLOUR,
    ZERO_LINE,
    draw_models,
    key,
    label_lines,
    legend_labels,
    model_colours,
    model_order,
    models_by_size,
)
from companion.results.effects import MATCHED, RAW
from companion.results.tails import EIGENVALUE, FRACTION, PARTS, TAIL

_RATIOS = {
    (RAW, EIGENVALUE): "raw",
    (MATCHED, EIGENVALUE): "length-matched\n(first rows)",
    (MATCHED, FRACTION): "the same, fractions\nof the sum",
}


def draw_changes(
    table: pd.DataFrame,
    observables: dict[str, str],
    published: pd.DataFrame | None = None,
    components: dict[str, str] = COMPONENT_NAMES,
) -> Figure:
    """One row of panels per observable (column -> axis label), one column per component.

    A line per size, with its seeds. Circles are raw, diamonds length-matched by first rows; crosses
    are rows of ``published`` (component, model, and some of the observables), of other models.
    """
    sizes = models_by_size(table)
    others = [] if published is None else list(published.model.unique())
    lines = [*sizes, *(f"{name}, published" for name in others)]
    place = {model: i for i, models in enumerate(sizes.values()) for model in models}
    figure, axes = plt.subplots(
        len(observables), len(components), sharey=True, sharex="row", squeeze=False,
        figsize=(PAGE, (0.32 * len(lines) + 0.7) * len(observables) + 0.3), layout="constrained",
    )  # fmt: skip
    for row, (name, label) in zip(axes, observables.items(), strict=True):
        for ax, component in zip(row, components, strict=True):
            for shift, (length, marker) in zip((-0.18, 0.18), LENGTH_MARKERS.items(), strict=True):
                own = table[(table.component == component) & (table.length == length)]
                own = own.assign(place=own.model.map(place))
                for models in sizes.values():
                    colours = model_colours(model_order(table))
                    side = own[own.model.isin(models)]
                    draw_models(
                        ax, side, name, models, marker=marker, shift=shift, reach=0.34,
                        colours=colours,
                    )  # fmt: skip
            if published is not None and name in published:
                known = published[published.component == component]
                at = [len(sizes) + others.index(model) for model in known.model]
                ax.plot(known[name], at, "x", color=PUBLISHED_COLOUR)
            label_lines(ax, lines)
            ax.axvline(0, **ZERO_LINE)
        row[len(row) // 2].set_xlabel(label)
    for ax, title in zip(axes[0], components.values(), strict=True):
        ax.set_title(title)
    handles = [key(LENGTH_NAMES[length], marker=m) for length, m in LENGTH_MARKERS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def draw_mode_ratios(table: pd.DataFrame) -> Figure:
    """Stressed over clean eigenvalues by mode: a row per length and measure, a colour per size.

    ``table`` is that of ``mode_ratios``; bands are 95 % intervals, the tail is shaded.
    """
    figure, axes = plt.subplots(
        len(_RATIOS), len(COMPONENT_NAMES), sharex=True, sharey=True,
        figsize=(PAGE, 1.6 * len(_RATIOS) + 0.4), layout="constrained",
    )  # fmt: skip
    rows = table.set_index(["length", "measure", "component"]).sort_index()
    colours = model_colours(model_order(table))
    for row, (cut, label) in zip(axes, _RATIOS.items(), strict=True):
        for ax, component in zip(row, COMPONENT_NAMES, strict=True):
            _draw_ratios(ax, rows.loc[(*cut, component)], colours)
        row[0].set_ylabel(f"stressed / clean,\n{label}")
    for ax, title in zip(axes[0], COMPONENT_NAMES.values(), strict=True):
        ax.set_title(title)
    for ax in axes[-1]:
        ax.set_xlabel("mode $i$")
    for model, label in legend_labels(table).items():
        axes[0, 0].plot([], [], color=colours[model], label=label)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _draw_ratios(
    ax: Axes, panel: pd.DataFrame, colours: dict[str, tuple[float, float, float]]
) -> None:
    for model, colour in colours.items():
        line = panel[panel.model == model].sort_values("mode")
        ax.loglog(line["mode"], line.ratio, color=colour, lw=0.8)
        ax.fill_between(
            line["mode"], line.ratio_low, line.ratio_high, color=colour, alpha=0.15, lw=0
        )
    ax.axvspan(PARTS[TAIL].start + 0.5, PARTS[TAIL].stop, color="0.93", zorder=0)
    ax.axhline(1, **CHANCE_LINE)
    for axis, ticks in ((ax.yaxis, [0.125, 0.25, 0.5, 1, 2]), (ax.xaxis, [1, 2, 5, 10, 20, 50])):
        axis.set_ticks(ticks)
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_formatter(NullFormatter())

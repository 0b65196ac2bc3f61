"""Eigenspectra, clean against stressed, by component and scale."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import (
    COMPONENT_NAMES,
    CONDITION_COLOURS,
    PAGE,
    add_legend,
    models_by_size,
)


def spectrum_summary(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Median and quartiles of each eigenvalue over utterances and layers, length-matched.

    Both sides keep the same number of tokens. A mode that a spectrum does not resolve counts as
    zero; modes whose lower quartile is zero are left out. Columns model, parameters, component,
    condition, mode, low, median, high.
    """
    matched = rows[rows.matched_with.isin(["clean", condition]) & (rows.modes == rows.modes.max())]
    table = []
    keys = ["parameters", "model", "component", "condition"]
    for key, group in matched.groupby(keys, sort=True):
        spectra = np.zeros((len(group), int(rows.modes.max())))
        for row, spectrum in zip(spectra, group.eigenvalues, strict=True):
            row[: len(spectrum)] = spectrum
        low, median, high = np.quantile(spectra, [0.25, 0.5, 0.75], axis=0)
        for i in np.flatnonzero(low > 0).tolist():
            values = {"mode": i + 1, "low": low[i], "median": median[i], "high": high[i]}
            table.append(dict(zip(keys, key, strict=True)) | values)
    return pd.DataFrame(table)


def draw_spectra(summary: pd.DataFrame) -> Figure:
    """A panel per component and size, its seeds alike; log eigenvalue against log mode."""
    sizes = models_by_size(summary)
    figure, axes = plt.subplots(
        len(COMPONENT_NAMES), len(sizes), sharex=True, sharey="row", squeeze=False,
        figsize=(PAGE, 1.55 * len(COMPONENT_NAMES) + 0.3), layout="constrained",
    )  # fmt: skip
    for row, component in zip(axes, COMPONENT_NAMES, strict=True):
        for ax, models in zip(row, sizes.values(), strict=True):
            panel = summary[(summary.component == component) & summary.model.isin(models)]
            for _, own in panel.groupby("model"):
                _draw_panel(ax, own)
        row[0].set_ylabel(f"{COMPONENT_NAMES[component]}\n" + r"eigenvalue $\lambda_i$")
    for ax, label in zip(axes[0], sizes, strict=True):
        ax.set_title(label)
    for ax in axes[-1]:
        ax.set_xlabel("mode $i$")
    add_legend(figure, axes[0, 0])
    return figure


def _draw_panel(ax: Axes, panel: pd.DataFrame) -> None:
    for condition, side in panel.groupby("condition", sort=True):
        colour = CONDITION_COLOURS.get(str(condition), "black")
        style = "-" if condition == "clean" else "--"
        ax.loglog(
            side["mode"], side["median"], style, color=colour, label=str(condition).capitalize()
        )
        ax.fill_between(side["mode"], side["low"], side["high"], color=colour, alpha=0.15, lw=0)

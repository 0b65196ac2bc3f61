"""Gain, alignment and gap layer by layer, and what becomes of an injection on its way up."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from companion.figures.style import CONDITION_COLOURS, PAGE, add_legend, models_by_size

LAYER_PANELS = {
    "gap": r"gap $\xi_l$",
    "alignment": r"alignment $|\kappa_l|$",
    "log10_gain": r"$\log_{10}$ gain $\rho_l$",
    "log10_sigma_1": r"$\log_{10} \sigma_{1,l}$",
}
SUBLAYER_PANELS = {
    "self_attention_gap": "self-attention",
    "cross_attention_gap": "cross-attention",
    "ffn_gap": "FFN",
}
INJECTION_PANELS = {
    "log10_injection": r"$\log_{10} \|G_l\|_F$, entering",
    "log10_relative_survival": "arriving / entering,\nrelative to $|h|$",
    "log10_normed_survival": "the same, after\nthe final norm",
    "unstable": "fraction of\nunstable dimensions",
}
_STYLES = {"trained": ("o", "-"), "random": ("s", ":")}
_SHIFT = {("trained", 0): -0.12, ("trained", 1): -0.04, ("random", 0): 0.04, ("random", 1): 0.12}


def draw_layers(summary: pd.DataFrame, panels: dict[str, str]) -> Figure:
    """A row of panels per size, its seeds alike, a column per quantity (name -> label), by layer.

    Filled circles are trained, open squares random twins; bars are 95 % intervals. Dotted lines: 1
    for a gain or sigma, what chance gives for an alignment. Grey dashes: the gain that the same
    sigma_1 would make with the alignment of random directions.
    """
    sizes = models_by_size(summary)
    figure, axes = plt.subplots(
        len(sizes), len(panels), sharex=True, sharey="col", squeeze=False,
        figsize=(PAGE, 1.35 * len(sizes) + 0.6), layout="constrained",
    )  # fmt: skip
    for row, (label, models) in zip(axes, sizes.items(), strict=True):
        table = summary[summary.model.isin(models)]
        for ax, name in zip(row, panels, strict=True):
            for _, own in table.groupby("model"):
                _draw_panel(ax, own, name)
                if name == "log10_gain":
                    _draw_chance_gain(ax, own)
            _draw_reference(ax, name, float(table.chance.iloc[0]))
        row[0].set_ylabel(label)
    for ax, label in zip(axes[0], panels.values(), strict=True):
        ax.set_title(label)
    for ax in axes[-1]:
        ax.set_xlabel("decoder layer $l$")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    shown = axes[0, list(panels).index("log10_gain") if "log10_gain" in panels else 0]
    add_legend(figure, shown)
    return figure


def _draw_panel(ax: Axes, table: pd.DataFrame, name: str) -> None:
    for network, (marker, line) in _STYLES.items():
        for i, (condition, colour) in enumerate(CONDITION_COLOURS.items()):
            part = table[(table.network == network) & (table.condition == condition)]
            part = part[np.isfinite(part[name])].sort_values("layer")
            errors = np.abs(part[[f"{name}_low", f"{name}_high"]].to_numpy().T - [part[name]] * 2)
            ax.errorbar(
                part.layer + _SHIFT[network, i], part[name], yerr=errors, fmt=marker, ls=line,
                color=colour, mfc=colour if network == "trained" else "white", lw=0.8, ms=3,
                label=f"{condition.capitalize()}, {network}",
            )  # fmt: skip


def _draw_chance_gain(ax: Axes, table: pd.DataFrame) -> None:
    for network in _STYLES:
        for i, condition in enumerate(CONDITION_COLOURS):
            part = table[(table.network == network) & (table.condition == condition)]
            ax.plot(
                part.layer + _SHIFT[network, i], part.log10_chance_gain, "_", color="0.45", ms=6,
                mew=1.2, label="gain at chance alignment", zorder=3,
            )  # fmt: skip


def _draw_reference(ax: Axes, name: str, chance: float) -> None:
    heights = {"alignment": chance, "unstable": 0.5}
    if name in heights or (name.startswith("log10") and name != "log10_injection"):
        ax.axhline(heights.get(name, 0.0), color="black", lw=0.6, ls=(0, (1, 2)))

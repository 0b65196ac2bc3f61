"""Regimes as a diagram: product of layers against rank one, models from clean to stressed."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import PAGE, legend_labels, model_colours, model_order
from companion.results.regimes import MODULO_1, NORMED

_PRODUCTS = {
    MODULO_1: r"$\log_{10} \|P\, W_L \cdots W_2\|$",
    NORMED: r"$\log_{10} \|N_L W_L \cdots W_2\| / \|N_1\|$",
}


def draw_regimes(table: pd.DataFrame, condition: str) -> Figure:
    """An arrow per model from clean (open) to ``condition`` (filled), trained and random.

    ``table`` is that of ``regimes``; a row of panels per reading. To the left of the line products
    decay; to its right and above the other most of the sensitivity has one direction.
    """
    figure, panels = plt.subplots(
        len(_PRODUCTS), 2, figsize=(PAGE, 5.6), sharex="row", sharey=True, layout="constrained"
    )
    for axes, (reading, label) in zip(panels, _PRODUCTS.items(), strict=True):
        for ax, network in zip(axes, ("trained", "random"), strict=True):
            own = table[(table.reading == reading) & (table.network == network)]
            _draw_models(ax, own, condition)
            ax.set_title(f"{network} networks, {reading}")
            ax.set_xlabel(label)
        left = min(-0.25, axes[0].get_xlim()[0])
        axes[0].set_xlim(left, max(0.25, axes[0].get_xlim()[1]))
        for ax in axes:
            ax.text(left * 0.5, 0.03, "decays", ha="center", fontsize=7, color="0.3")
        axes[0].set_ylabel("rank-one share of $J_L$")
    first = panels[0, 0]
    first.set_ylim(0, max(0.62, 1.1 * first.get_ylim()[1]))  # both lines show
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _draw_models(ax: Axes, table: pd.DataFrame, condition: str) -> None:
    models = model_order(table)
    colours, labels = model_colours(models), legend_labels(table)
    for model in models:
        points = table[table.model == model].set_index("condition")
        start, end = points.loc["clean"], points.loc[condition]
        for point, filling in ((start, "white"), (end, colours[model])):
            x, y = point.log10_product, point.rank_one_share
            ax.errorbar(
                x, y,
                xerr=[[x - point.log10_product_low], [point.log10_product_high - x]],
                yerr=[[y - point.rank_one_share_low], [point.rank_one_share_high - y]],
                fmt="o", color=colours[model], mfc=filling, lw=0.8, zorder=3,
                label=labels[model] if point is end else None,
            )  # fmt: skip
        ax.annotate(
            "", (end.log10_product, end.rank_one_share),
            (start.log10_product, start.rank_one_share),
            arrowprops={"arrowstyle": "->", "color": colours[model]},
        )  # fmt: skip
    ax.axvline(0, color="0.5", lw=0.6, ls=":")
    ax.plot([0, 1], [0.5, 0.5], color="0.5", lw=0.6, ls=":", transform=ax.get_yaxis_transform())
    ax.text(0.98, 0.95, "attracting, if aligned", ha="right", va="top", fontsize=7,
            color="0.3", transform=ax.transAxes)  # fmt: skip

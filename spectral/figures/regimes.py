"""Regimes as a diagram: product of layers against rank one, models from clean to stressed."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from spectral.figures.style import PAGE, legend_labels, model_colours, model_order


def draw_regimes(table: pd.DataFrame, condition: str) -> Figure:
    """An arrow per model from clean (open) to ``condition`` (filled), trained and random.

    ``table`` is that of ``regimes``. To the left of the line products decay; to its right and above
    the other most of the sensitivity has one direction.
    """
    models = model_order(table)
    colours, labels = model_colours(models), legend_labels(table)
    figure, axes = plt.subplots(
        1, 2, figsize=(PAGE, 3.4), sharex=True, sharey=True, layout="constrained"
    )
    for ax, network in zip(axes, ("trained", "random"), strict=True):
        for model in models:
            own = table[(table.model == model) & (table.network == network)]
            points = own.set_index("condition")
            start, end = points.loc["clean"], points.loc[condition]
            for point, filling in ((start, "white"), (end, colours[model])):
                x, y = point.log10_product, point.rank_one_share
                ax.errorbar(
                    x, y,
                    xerr=[[x - point.log10_product_low], [point.log10_product_high - x]],
                    yerr=[[y - point.rank_one_share_low], [point.rank_one_share_high - y]],
                    fmt="o", color=colours[model], mfc=filling, lw=0.8, zorder=3,
                    label=labels[model] if point is end and ax is axes[0] else None,
                )  # fmt: skip
            ax.annotate(
                "", (end.log10_product, end.rank_one_share),
                (start.log10_product, start.rank_one_share),
                arrowprops={"arrowstyle": "->", "color": colours[model]},
            )  # fmt: skip
        ax.axvline(0, color="0.5", lw=0.6, ls=":")
        ax.plot([0, 1], [0.5, 0.5], color="0.5", lw=0.6, ls=":", transform=ax.get_yaxis_transform())
        ax.set_title(f"{network} networks")
        ax.set_xlabel(r"$\log_{10} \|W_L \cdots W_2\|$")
        ax.text(0.98, 0.95, "attracting, if aligned", ha="right", va="top", fontsize=7,
                color="0.3", transform=ax.transAxes)  # fmt: skip
    left = min(-0.25, axes[0].get_xlim()[0])
    axes[0].set_xlim(left, axes[0].get_xlim()[1])
    axes[0].set_ylim(0, max(0.62, 1.1 * axes[0].get_ylim()[1]))  # both lines show
    for ax in axes:
        ax.text(left * 0.5, 0.03, "decays", ha="center", fontsize=7, color="0.3")
    axes[0].set_ylabel("rank-one share of $J_L$")
    figure.legend(loc="outside lower center", ncols=4)
    return figure

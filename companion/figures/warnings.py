"""How well the first tokens of a text tell which answers will be hallucinated."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import NullLocator

from companion.figures.style import (
    COMPONENT_NAMES,
    OBSERVABLE_NAMES,
    PAGE,
    legend_labels,
    model_colours,
    model_order,
)
from companion.results.confidence import CONFIDENCES
from companion.results.warnings import ANY, BEFORE, CHANCE, MEAN, SPECTRAL

_BARS = 6
"""Up to so many models have their intervals drawn; those of more are in the table alone."""

_NAMES = OBSERVABLE_NAMES | {"log10_variance": r"$\log_{10}$ variance"}
_WHEN = {ANY: "whatever the first n tokens say", BEFORE: "no wrong word in the first n tokens"}
_SPREAD = 0.012  # between models at one n, as a share of it


def draw_early_warning(table: pd.DataFrame, when: str) -> Figure:
    """AUC against the number of tokens: a block per condition, components by observables.

    ``table`` is that of ``early_warnings``, ``when`` which beginnings count. Grey and black: range
    and median over the models of the log-probability, as one minus its AUC, for a low one warns.
    """
    shown = table[(table.when == when) & (table.prefix != MEAN)]
    seen = shown[shown.auc.notna()]  # where too few differ there is no number, and no block
    conditions = list(dict.fromkeys(seen.condition)) or list(dict.fromkeys(shown.condition))
    rows = len(COMPONENT_NAMES)
    figure = plt.figure(figsize=(PAGE, 0.5 + 1.15 * rows * len(conditions)), layout="constrained")
    blocks = figure.subfigures(len(conditions), 1, squeeze=False)[:, 0]
    known = sorted(seen.prefix.unique()) or sorted(shown.prefix.unique())
    for block, condition in zip(blocks, conditions, strict=True):
        block.suptitle(f"{condition}: {_WHEN[when]}", x=0.01, ha="left", size=9)
        _draw_condition(block, shown[shown.condition == condition], known)
    handles, labels = blocks[0].axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    return figure


def _draw_condition(block: SubFigure, table: pd.DataFrame, prefixes: list[int]) -> None:
    axes = block.subplots(len(COMPONENT_NAMES), len(SPECTRAL), sharex=True, sharey=True)
    for row, (component, name) in zip(axes, COMPONENT_NAMES.items(), strict=True):
        row[0].set_ylabel(f"{name}\nAUC")
        for ax, observable in zip(row, SPECTRAL, strict=True):
            _draw_confidence(ax, table[table.observable.isin(list(CONFIDENCES))])
            own = table[(table.component == component) & (table.observable == observable)]
            _draw_models(ax, own)
            ax.axhline(CHANCE, color="0.3", lw=0.6, ls=":")
    for ax, observable in zip(axes[0], SPECTRAL, strict=True):
        ax.set_title(_NAMES[observable])
    axes[0, 0].set_ylim(0, 1)
    axes[0, 0].set_yticks([0, CHANCE, 1])
    axes[0, 0].set_xscale("log", base=2)
    axes[0, 0].set_xlim(0.93 * prefixes[0], 1.07 * prefixes[-1])
    axes[0, 0].set_xticks(prefixes, map(str, prefixes), minor=False)
    axes[0, 0].xaxis.set_minor_locator(NullLocator())
    for ax in axes[-1]:
        ax.set_xlabel("first n text tokens")


def _draw_confidence(ax: Axes, table: pd.DataFrame) -> None:
    warns = (1 - table.auc).groupby(table.prefix)
    low, middle, high = warns.min(), warns.median(), warns.max()
    names = " or ".join(CONFIDENCES[name] for name in table.observable.unique())
    ax.fill_between(low.index, low, high, color="0.85", lw=0, label=f"low {names}: range")
    ax.plot(middle.index, middle, color="k", lw=1.2, label="median over models")


def _draw_models(ax: Axes, table: pd.DataFrame) -> None:
    models = model_order(table)
    bars, labels = len(models) <= _BARS, legend_labels(table)
    for i, (model, colour) in enumerate(model_colours(models).items()):
        own = table[table.model == model].sort_values("prefix")
        x = own.prefix * (1 + _SPREAD * (i - (len(models) - 1) / 2) * bars)
        style = {"lw": 0.9, "marker": "o", "ms": 2.5} if bars else {"lw": 0.6}
        ax.plot(x, own.auc, color=colour, label=labels[model], **style)
        if bars:
            ax.vlines(x, own.auc_low, own.auc_high, color=colour, lw=0.5)

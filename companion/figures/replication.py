"""The paper's table beside ours: the pooled convention, with what is done about loops."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import COMPONENT_NAMES, PAGE, PUBLISHED_COLOUR
from companion.measurement.pooling import CAPPED, DROPPED, KEPT, MATCHED

LOOPS = {
    KEPT: ("#999999", "loops kept"),
    CAPPED: ("#56B4E9", "at most 50 rows each"),
    DROPPED: ("#0072B2", "loops dropped"),
    MATCHED: ("#D55E00", "dropped, and equally many rows"),
}
"""Colour (Okabe & Ito 2008) and name of every treatment of loops."""

NUMBERS = {
    "n_eff": "change of $N_{\\mathrm{eff}}$ (%)",
    "alpha": "change of slope $\\alpha$",
    "log10_difference": "$\\log_{10}$ of the difference of Kf",
}
_PUBLISHED = dict(zip(NUMBERS, ("delta_n_eff", "delta_alpha", "delta_log10_kf"), strict=True))
_FILLED, _OPEN = "openai", "unrestricted"
_STEP = 0.24
_PUBLISHED_STEP, _MODEL_STEP = 0.5, 1.5


def draw_replication(
    table: pd.DataFrame, random: pd.DataFrame, chance: pd.DataFrame, published: pd.DataFrame
) -> Figure:
    """One row of panels per component, one column per number of the paper's table.

    ``table``: ``changes`` of one sample and one K, ``random`` and ``chance``: ``controls`` and
    ``halves`` of the same K. Filled markers are of the rule ``openai``, open ones of
    ``unrestricted``; bars are 95 % intervals over speakers. Triangles are of random networks that
    keep the weights' spectra (loops dropped), with bars where one more would lie. Grey bands hold
    95 % of the differences between random halves of clean speech, of whichever model spreads more.
    Crosses are published.
    """
    models = list(table.sort_values("parameters").model.unique())
    others = list(published.model.unique())
    places = {f"{name}, published": _PUBLISHED_STEP * i for i, name in enumerate(others)}
    edge = _PUBLISHED_STEP * len(others)
    places |= {name: edge + 0.6 + _MODEL_STEP * i for i, name in enumerate(models)}
    figure, axes = plt.subplots(
        len(COMPONENT_NAMES), len(NUMBERS), sharex="col", sharey=True,
        figsize=(PAGE, (0.32 * max(places.values()) + 0.6) * len(COMPONENT_NAMES) + 0.8),
        layout="constrained",
    )  # fmt: skip
    for row, (component, title) in zip(axes, COMPONENT_NAMES.items(), strict=True):
        for ax, (name, label) in zip(row, NUMBERS.items(), strict=True):
            _draw_chance(ax, chance[chance.component == component], name)
            known = published[published.component == component]
            ax.plot(
                known[_PUBLISHED[name]], [places[f"{m}, published"] for m in known.model],
                "x", color=PUBLISHED_COLOUR, ms=6, mew=1.5,
            )  # fmt: skip
            _draw_measured(ax, table[table.component == component], name, places)
            _draw_random(ax, random[random.component == component], name, places)
            ax.axhline(edge - 0.15, color=PUBLISHED_COLOUR, lw=0.5, ls=":")
            if name != "log10_difference":
                ax.axvline(0, color="black", lw=0.5)
            if component == list(COMPONENT_NAMES)[-1]:
                ax.set_xlabel(label)
        row[0].set_ylabel(title)
    axes[0, 0].set_yticks(list(places.values()), list(places))
    axes[0, 0].set_ylim(max(places.values()) + 0.9, -0.3)
    _legend(figure, axes[0, 0])
    return figure


def _draw_chance(ax: Axes, chance: pd.DataFrame, name: str) -> None:
    low, high = chance[f"{name}_low"].min(), chance[f"{name}_high"].max()
    if np.isfinite(high):
        ax.axvspan(low if np.isfinite(low) else ax.get_xlim()[0], high, color="0.9", lw=0)


def _draw_measured(ax: Axes, table: pd.DataFrame, name: str, places: dict[str, float]) -> None:
    for _, line in table.iterrows():
        if not np.isfinite(line[name]):
            continue
        place = places[line.model] + _STEP * (list(LOOPS).index(line.loops) - 1.5)
        colour, filled = LOOPS[line.loops][0], line.decoding == _FILLED
        ends = [line[name] - line[f"{name}_low"], line[f"{name}_high"] - line[name]]
        reach = np.where(np.isfinite(ends), ends, 0.0)[:, None]
        ax.errorbar(
            line[name], place if filled else place + _STEP / 2, xerr=reach, capsize=1.2, lw=0.8,
            fmt="o" if filled else "s", ms=3.2, color=colour, mfc=colour if filled else "white",
        )  # fmt: skip


def _draw_random(ax: Axes, random: pd.DataFrame, name: str, places: dict[str, float]) -> None:
    own = random[(random.loops == DROPPED) & (random.decoding == _FILLED)]
    for _, line in own[np.isfinite(own[name])].iterrows():
        ends = [line[name] - line[f"{name}_low"], line[f"{name}_high"] - line[name]]
        ax.errorbar(
            line[name], places[line.model] + 2.5 * _STEP,
            xerr=np.where(np.isfinite(ends), ends, 0.0)[:, None], fmt="^", ms=3.5, lw=0.8,
            color="black", mfc="white", capsize=1.2,
        )  # fmt: skip


def _legend(figure: Figure, ax: Axes) -> None:
    ax.plot([], [], "x", color=PUBLISHED_COLOUR, ms=6, mew=1.5, label="published")
    for colour, label in LOOPS.values():
        ax.plot([], [], "o", color=colour, label=label)
    ax.plot([], [], "^", color="black", mfc="white", label="random networks, spectra kept")
    ax.plot([], [], "o", color="black", label=f"rule {_FILLED}")
    ax.plot([], [], "s", color="black", mfc="white", label=f"rule {_OPEN}")
    ax.fill_between([], [], color="0.9", lw=0, label="halves of clean speech")
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)

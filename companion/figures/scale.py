"""Effects of stress against a model's size, and how well spectra forecast what stress does."""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from companion.figures.style import (
    COMPONENT_NAMES,
    OBSERVABLE_NAMES,
    PAGE,
    legend_labels,
    model_colours,
    model_order,
)

_PREDICTORS = {
    "n_eff / width": (r"$N_{\mathrm{eff}}$ / width", "o", "#0072B2"),
    "alpha": (r"slope $\alpha$", "s", "#D55E00"),
    "log10_kf_resolved": (OBSERVABLE_NAMES["log10_kf_resolved"], "^", "#009E73"),
}  # Okabe & Ito 2008
_RIVALS = {"mean": "the mean of the others", "size": r"a line in $\log_{10}$ parameters"}
_LEAST_SKILL = -3.0
"""Where the axis ends: a skill below is marked at its edge, and told in the table."""


def draw_scale(table: pd.DataFrame, skills: pd.DataFrame, reasons: list[str]) -> Figure:
    """Above: change of N_eff against parameters, per component; below: skills, per rival.

    ``table`` is that of ``scale_effects``, ``skills`` that of ``forecast``, ``reasons`` those of
    ``left_out``, written where there is no skill to draw.
    """
    figure = plt.figure(figsize=(PAGE, 5.2), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.1])[:, 0]
    _draw_effects(above, table[table.observable == "n_eff"])
    if skills.empty:
        below.text(0.5, 0.5, "no forecast\n" + "\n".join(reasons), ha="center", va="center")
    else:
        _draw_skills(below, skills)
    return figure


def _draw_effects(figure: SubFigure, table: pd.DataFrame) -> None:
    axes = figure.subplots(1, len(COMPONENT_NAMES), sharex=True)
    models = model_order(table)
    colours, labels = model_colours(models), legend_labels(table)
    markers = dict(zip(sorted(table.depth.unique()), cycle("osD^v"), strict=False))
    for ax, component in zip(axes, COMPONENT_NAMES, strict=True):
        panel = table[table.component == component].set_index("model")
        for model in models:
            point = panel.loc[model]
            ax.errorbar(
                point.parameters / 1e6, point.change,
                yerr=[[point.change - point.low], [point.high - point.change]],
                fmt=markers[point.depth], color=colours[model], lw=0.8,
                label=f"{labels[model]}, {point.depth} layers",
            )  # fmt: skip
        ax.axhline(0, color="0.5", lw=0.6, ls=":")
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title(COMPONENT_NAMES[component])
        ax.set_xlabel("parameters (million)")
    axes[0].set_ylabel("change of $N_{\\mathrm{eff}}$ (%),\nas many first rows")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)))


def _draw_skills(figure: SubFigure, skills: pd.DataFrame) -> None:
    axes = figure.subplots(1, len(_RIVALS), sharex=True, sharey=True)
    targets = list(dict.fromkeys(skills.target))
    for ax, (rival, name) in zip(axes, _RIVALS.items(), strict=True):
        panel = skills[skills.rival == rival]
        for shift, (predictor, (label, marker, colour)) in zip(
            np.linspace(-0.25, 0.25, len(_PREDICTORS)), _PREDICTORS.items(), strict=True
        ):
            own = panel[panel.predictor == predictor].set_index("target").loc[targets]
            for y, (_, point) in enumerate(own.iterrows()):
                _draw_skill(ax, point, y + shift, marker, colour, label if y == 0 else None)
        ax.axvline(0, color="0.3", lw=0.8)
        ax.set_title(f"against {name}")
        ax.set_xlabel("skill (1: exact, below 0: worse than this rival)")
    axes[0].set_xlim(_LEAST_SKILL - 0.1, 1.1)
    axes[0].set_yticks(range(len(targets)), targets)
    axes[0].set_ylim(len(targets) - 0.5, -0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _draw_skill(
    ax: Axes, point: pd.Series, y: float, marker: str, colour: str, label: str | None
) -> None:
    low, skill, high = np.maximum([point.skill_low, point.skill, point.skill_high], _LEAST_SKILL)
    ax.plot([low, high], [y, y], color=colour, lw=0.8)
    if low > point.skill_low:
        ax.plot(low, y, "<", color=colour, ms=3)
    ax.plot(
        skill, y, marker, color=colour, label=label, mfc=colour if skill == point.skill else "w"
    )

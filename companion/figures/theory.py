"""The regimes that gain, alignment and gap decide, beside what random stacks do, and tightness."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from companion.figures.style import PAGE

_DECAY, _GROWTH = "#0072B2", "#D55E00"  # Okabe & Ito 2008
_KIND_COLOURS = {"random": "#000000", "reflections": "#009E73", "rotations": "#CC79A7"}
_LIMIT = 0.5  # decades per layer, where colours saturate


def draw_regimes(grid: pd.DataFrame) -> Figure:
    """A panel per gap: measured growth of random stacks, and the borders that are predicted."""
    gaps = sorted(grid.gap.unique())
    figure, axes = plt.subplots(
        1, len(gaps), sharex=True, sharey=True, squeeze=False, figsize=(PAGE, 2.9),
        layout="constrained",
    )  # fmt: skip
    for ax, gap in zip(axes[0], gaps, strict=True):
        mesh = _draw_panel(ax, grid[grid.gap == gap])
        ax.set_title(rf"gap $\xi = {gap:g}$")
        ax.set_xlabel(r"alignment $|\kappa|$")
    axes[0, 0].set_ylabel(r"gain $\rho = \sigma_1 |\kappa|$")
    bar = figure.colorbar(mesh, ax=axes, extend="both")
    bar.set_label("$\\log_{10}$ growth per layer,\nrandom stacks (measured)")
    lines = [
        Line2D([], [], color=_DECAY, lw=1.6, label="Regime I: decay certain below"),
        Line2D([], [], color=_GROWTH, lw=1.6, label="growth certain above, right of dots"),
        Line2D([], [], color=_GROWTH, lw=1.0, ls=":", label="Regime II: rank one, right of it"),
        Line2D([], [], color="black", lw=1.0, ls="--", label=r"$\rho = 1$"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2)
    return figure


def _draw_panel(ax: Axes, panel: pd.DataFrame):  # type: ignore[no-untyped-def]
    table = panel.pivot(index="gain", columns="alignment", values="random")
    mesh = ax.pcolormesh(
        table.columns, table.index, np.log10(table), cmap="PuOr_r", shading="nearest",
        norm=TwoSlopeNorm(0.0, -_LIMIT, _LIMIT), rasterized=True,
    )  # fmt: skip
    gap, cosine = float(panel.gap.iloc[0]), np.linspace(1e-3, 1, 400)
    least = 2 * gap**0.5 / (1 + gap)
    led = cosine[cosine >= least]
    # Where r_+ and r_- are one: rho (1 - xi) + rho^2 xi / kappa^2 and its like with -xi.
    decay = 2 / (1 - gap + np.sqrt((1 - gap) ** 2 + 4 * gap / cosine**2))
    growth = 2 / (1 + gap + np.sqrt((1 + gap) ** 2 - 4 * gap / led**2))
    ax.plot(cosine, decay, color=_DECAY, lw=1.6)
    ax.plot(led, growth, color=_GROWTH, lw=1.6)
    ax.axvline(least, color=_GROWTH, lw=1.0, ls=":")
    ax.axhline(1.0, color="black", lw=1.0, ls="--")
    ax.set(xlim=(0, 1), ylim=(0, table.index.max()))
    return mesh


def draw_tightness(cases: pd.DataFrame) -> Figure:
    """How near stacks of each kind come to the ceiling, the floor and the rank-one bound."""
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.3), layout="constrained")
    for kind, colour in _KIND_COLOURS.items():
        part = cases[cases.kind == kind]
        known = part[(part.floor > 0) & (part.rank_one_bound < 1)]
        logs = (
            np.log10(part.norm / part.ceiling),
            np.log10(known.norm / known.floor),
            np.log10(known.ratio.clip(lower=1e-13) / known.rank_one_bound.clip(lower=1e-13)),
        )
        for ax, values in zip(axes, logs, strict=True):
            ax.ecdf(values, color=colour, label=kind, lw=1.2)
    labels = ("norm / ceiling", "norm / floor", "rank-one ratio / bound")
    for ax, label in zip(axes, labels, strict=True):
        ax.axvline(0, color="black", lw=0.6, ls=(0, (1, 2)))
        ax.set_xlabel(rf"$\log_{{10}}$ {label}")
        ax.set_xlim(*((-2, 0.1), (-0.1, 2), (-4, 0.2))[labels.index(label)])
    axes[0].set_ylabel("share of stacks")
    axes[0].legend(loc="upper left")
    return figure

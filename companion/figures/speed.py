"""How the kernels compare with their rivals, and how their cost grows."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.benchmarks.timing import OURS
from companion.figures.style import PAGE

_AXES = {
    "width": "width $D$",
    "tokens": "tokens $T$",
    "frames": "frames $S$",
    "layers": "layers $L$",
}
_OURS, _RIVAL = "#0072B2", "#D55E00"  # Okabe & Ito 2008


def draw_ratios(table: pd.DataFrame) -> Figure:
    """Times slower than ours, on a log axis; open circles are extrapolated from a sample."""
    rivals = table[(table.way != OURS) & ~table.case.str.startswith("growth")]
    figure, ax = plt.subplots(figsize=(PAGE, 0.2 * len(rivals) + 0.8), layout="constrained")
    for i, row in enumerate(rivals.itertuples()):
        whole = row.extrapolated_from == 1
        ax.plot(row.ratio, i, "o", color=_RIVAL, mfc=_RIVAL if whole else "white")
        ax.plot([1, row.ratio], [i, i], color=_RIVAL, lw=0.6, zorder=0)
        ax.annotate(
            f"{row.ratio:,.0f}x" if row.ratio >= 10 else f"{row.ratio:.1f}x",
            (row.ratio, i), xytext=(5, 0), textcoords="offset points", va="center", fontsize=6,
        )  # fmt: skip
    labels = [f"{_size(row)}: {row['way']}" for _, row in rivals.iterrows()]
    ax.set_yticks(range(len(rivals)), labels)
    ax.invert_yaxis()
    ax.axvline(1, color="black", lw=0.6)
    ax.set(xscale="log", xlabel="time relative to this project's kernel (open: extrapolated)")
    ax.margins(x=0.15)
    return figure


def draw_growth(table: pd.DataFrame) -> Figure:
    """Seconds of exact propagators as one size grows, log-log, beside the count of operations."""
    figure, axes = plt.subplots(
        1, len(_AXES), sharey=True, figsize=(PAGE, 2.2), layout="constrained"
    )
    for ax, (axis, label) in zip(axes, _AXES.items(), strict=True):
        part = table[(table.case == f"growth with {axis}") & (table.way == OURS)]
        _draw_axis(ax, part.sort_values(axis), axis)
        ax.set_xlabel(label)
    axes[0].set_ylabel("seconds")
    axes[0].legend()
    return figure


def _draw_axis(ax: Axes, part: pd.DataFrame, axis: str) -> None:
    errors = np.abs(part[["low", "high"]].to_numpy().T - part["median"].to_numpy())
    ax.errorbar(part[axis], part["median"], yerr=errors, fmt="o-", color=_OURS, label="measured")
    scaled = part.operations * (part["median"].iloc[-1] / part.operations.iloc[-1])
    ax.plot(part[axis], scaled, ":", color="black", label="operation count")
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(part[axis].to_list(), [str(int(size)) for size in part[axis]])
    ax.set_xticks([], minor=True)


def _size(row: pd.Series) -> str:
    names = {"width": "D", "tokens": "T", "layers": "L", "nodes": "n"}
    known = [f"{letter}={int(row[name])}" for name, letter in names.items() if row[name] > 0]
    return f"{row['case']}, {' '.join(known)}"

"""Gain, alignment and gap layer by layer, what becomes of an injection, and what a token hears."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from companion.figures.style import (
    CHANCE_LINE,
    COLUMN,
    CONDITION_COLOURS,
    PAGE,
    add_legend,
    draw_intervals,
    models_by_size,
)
from companion.measurement.hearing import Hearing
from companion.models.ladder import FRAMES_PER_SECOND

LAYER_PANELS = {
    "singular_value_ratio": r"ratio $\xi_l$",
    "alignment": r"alignment $|\kappa_l|$",
    "log10_gain": r"$\log_{10}$ gain $\rho_l$",
    "log10_sigma_1": r"$\log_{10} \sigma_{1,l}$",
}
SUBLAYER_PANELS = {
    "self_attention_singular_value_ratio": "self-attention",
    "cross_attention_singular_value_ratio": "cross-attention",
    "ffn_singular_value_ratio": "FFN",
}
INJECTION_PANELS = {
    "log10_injection": r"$\log_{10} \|G_l\|_F$, entering",
    "log10_relative_survival": "arriving / entering,\nrelative to $|h|$",
    "log10_normed_survival": "the same, after\nthe final norm",
    "unstable": "fraction of\nunstable dimensions",
}
_SHIFT = 0.08
_MOST_LABELS = 30  # characters that fit beside a map


def draw_layers(summary: pd.DataFrame, panels: dict[str, str]) -> Figure:
    """A column of panels per size, its seeds alike, a row per quantity (name -> label), by layer.

    Filled are trained, open random networks. Dotted lines: 1 for a gain or sigma, what chance gives
    for an alignment. Grey dashes: the gain that the same sigma_1 would make with the alignment of
    random directions.
    """
    figure, axes = size_panels(summary, list(panels.values()))
    for column, models in zip(axes.T, models_by_size(summary).values(), strict=True):
        table = summary[summary.model.isin(models)]
        heights = {"alignment": float(table.chance.iloc[0]), "unstable": 0.5}
        for ax, name in zip(column, panels, strict=True):
            for _, own in table.groupby("model"):
                draw_networks(ax, own, "layer", name)
            if name in heights or (name.startswith("log10") and name != "log10_injection"):
                ax.axhline(heights.get(name, 0.0), **CHANCE_LINE)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.sharex(column[0])
        column[-1].set_xlabel("decoder layer $l$")
    names = list(panels)
    add_legend(figure, axes[names.index("log10_gain") if "log10_gain" in names else 0, 0], 2)
    return figure


def size_panels(table: pd.DataFrame, labels: list[str]) -> tuple[Figure, np.ndarray]:
    """A row of panels per label, a column per size; two sizes fit a column of print."""
    sizes = models_by_size(table)
    figure, axes = plt.subplots(
        len(labels), len(sizes), sharey="row", squeeze=False, layout="constrained",
        figsize=(COLUMN if len(sizes) <= 2 else PAGE, 1.25 * len(labels) + 0.9),
    )  # fmt: skip
    for ax, label in zip(axes[0], sizes, strict=True):
        ax.set_title(label)
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label)
    return figure, axes


def draw_networks(ax: Axes, table: pd.DataFrame, x: str, name: str, log: bool = False) -> None:
    """A line per network, trained and random, and condition, against the column ``x``."""
    table = table[np.isfinite(table[name])]
    shift = -1.5 * _SHIFT
    for network in ("trained", "random"):
        for condition, colour in CONDITION_COLOURS.items():
            part = table[(table.network == network) & (table.condition == condition)]
            part = part.sort_values(x)
            places = part[x] * (1 + shift) if log else part[x] + shift
            draw_intervals(
                ax, part, name, places, colour=colour, line="-", control=network == "random",
                label=f"{condition.capitalize()}, {network}",
            )  # fmt: skip
            if name == "log10_gain":
                ax.plot(
                    places, part.log10_chance_gain, "_", color="0.45", ms=6, mew=1.2, zorder=3,
                    label="gain at chance alignment",
                )  # fmt: skip
            shift += _SHIFT


def draw_maps(heard: dict[str, Hearing]) -> Figure:
    """A column per condition: log-mel, sensitivity of every token to every frame, attention.

    Each token's row of a map is divided by its largest entry.
    """
    figure, axes = plt.subplots(
        3, len(heard), sharex=True, squeeze=False, figsize=(PAGE, 5.6),
        height_ratios=[0.8, 1.6, 1.6], layout="constrained",
    )  # fmt: skip
    for column, (condition, hearing) in zip(axes.T, heard.items(), strict=True):
        _draw_mel(column[0], hearing.features)
        column[0].set_title(condition.capitalize())
        for ax, rows in ((column[1], hearing.sensitivity), (column[2], hearing.attention)):
            _draw_rows(ax, rows, hearing)
        column[2].set_xlabel("time (s)")
    axes[0, 0].set_xlim(0, max(_spoken_seconds(hearing.features) for hearing in heard.values()))
    axes[0, 0].set_ylabel("mel band")
    axes[1, 0].set_ylabel("token\nsensitivity $\\|J_L^s\\|_F$")
    axes[2, 0].set_ylabel("token\nmean attention weight")
    bar = figure.colorbar(axes[1, 0].images[0], ax=axes[1:], shrink=0.5)
    bar.set_label("fraction of the token's largest")
    return figure


def draw_directions(
    hearing: Hearing, tokens: list[int], directions: list[Tensor], sigma: list[float]
) -> Figure:
    """The log-mel with each token's most sensitive direction (mels, frames) under it."""
    figure, axes = plt.subplots(
        len(tokens) + 1, 1, sharex=True, figsize=(PAGE, 1.1 * len(tokens) + 1.3),
        layout="constrained",
    )  # fmt: skip
    _draw_mel(axes[0], hearing.features)
    axes[0].set_ylabel("log-mel\nband")
    text = "".join(hearing.characters)
    for ax, token, direction, size in zip(axes[1:], tokens, directions, sigma, strict=True):
        values = direction.numpy()
        most = float(np.abs(values).max())
        image = ax.imshow(
            values, origin="lower", aspect="auto", cmap="PuOr_r", vmin=-most, vmax=most,
            extent=(0, values.shape[1] / FRAMES_PER_SECOND, 0, values.shape[0]),
        )  # fmt: skip
        before = text[max(0, token - 12) : token]
        ax.set_title(
            f"{before!r} then {text[token]!r}: $\\sigma_1$ = {size:.2g}", loc="left", fontsize=7
        )
        ax.set_ylabel("band")
        figure.colorbar(image, ax=ax, ticks=[-most, 0, most], format="%.2f")
    axes[-1].set_xlabel("time (s)")
    axes[-1].set_xlim(0, _spoken_seconds(hearing.features))
    return figure


def _spoken_seconds(features: Tensor) -> float:
    """Where the padding begins: the last frame that is louder than its very end, and a margin."""
    louder = (features > features[:, -1:] + 0.01).any(0).nonzero()
    last = int(louder.max()) if len(louder) else features.shape[1]
    return min(last + 10, features.shape[1]) / FRAMES_PER_SECOND


def _draw_mel(ax: Axes, features: Tensor) -> None:
    mel = features.numpy()
    extent = (0, mel.shape[1] / FRAMES_PER_SECOND, 0, mel.shape[0])
    ax.imshow(mel, origin="lower", aspect="auto", extent=extent, cmap="magma")


def _draw_rows(ax: Axes, rows: Tensor, hearing: Hearing) -> None:
    values = (rows / rows.amax(-1, keepdim=True)).numpy()
    seconds = hearing.features.shape[-1] / FRAMES_PER_SECOND
    ax.imshow(
        values, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest",
        extent=(0, seconds, len(values) - 0.5, -0.5),
    )  # fmt: skip
    step = -(-len(values) // _MOST_LABELS)
    places = range(0, len(values), step)
    ax.set_yticks(places, [hearing.characters[i] for i in places], fontsize=5)

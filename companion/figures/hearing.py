"""Where tokens listen, over audio time, and the directions of the log-mel that move them most."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from companion.figures.style import PAGE
from companion.measurement.hearing import Hearing
from companion.models.ladder import FRAMES_PER_SECOND

_MOST_LABELS = 30  # characters that fit beside a map


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
    bar.set_label("share of the token's largest")
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

"""One sound, clean and stressed: where its tokens listen, how sure they are, spectra of layers."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor

from companion.figures.style import COMPONENT_NAMES, CONDITION_COLOURS
from companion.models.inside import Inside
from companion.speech.corpus import SAMPLE_RATE

Spectra = Mapping[str, Mapping[str, Tensor]]
"""Eigenvalues (layers, modes) by component and side."""

_LABELLED = 45  # tokens: more do not fit beside one another
_MODES = (1, 2, 5, 10, 20, 50, 100)  # ticks
_LINES = {"clean": "-", "stressed": "--"}
_TITLE = 1.0  # stated: else matplotlib measures every label to see whether one is in the way
PROFILE = ("gain", "alignment")
"""What is drawn over depth."""


def draw_listening(sides: Mapping[str, Inside], layer: int, token: int) -> Figure:
    """Log-mel with where one token listens, above where all do; a column per side.

    ``layer`` counts from 0, -1 is the mean over layers. ``token`` counts from 0; a side with
    fewer shows its last.
    """
    figure = Figure(figsize=(11, 5.6))
    places = {"left": 0.08, "right": 0.99, "top": 0.95, "bottom": 0.09, "wspace": 0.18}
    axes = figure.subplots(2, len(sides), squeeze=False, height_ratios=(1, 1.4), gridspec_kw=places)
    for column, (side, seen) in zip(axes.T, sides.items(), strict=True):
        weights = seen.listening.mean(0) if layer < 0 else seen.listening[layer]
        _draw_side(column, side, seen, weights, min(token, len(seen.pieces) - 1))
    return figure


def _draw_side(axes: np.ndarray, side: str, seen: Inside, weights: np.ndarray, token: int) -> None:
    mel, rows = axes
    seconds = min(len(seen.wave) / SAMPLE_RATE, seen.window_seconds)
    frames = max(1, round(seen.mel.shape[1] * seconds / seen.window_seconds))
    places = max(1, round(weights.shape[1] * seconds / seen.window_seconds))
    mel.imshow(
        seen.mel[:, :frames], origin="lower", aspect="auto", cmap="gray_r",
        extent=(0, seconds, 0, len(seen.mel)),
    )  # fmt: skip
    mel.set_ylabel("mel band")
    if not seen.pieces:
        mel.set_title(f"{side}: no token was written", y=_TITLE)
        rows.set_axis_off()
        return
    beyond = weights[:, places:].sum(1).mean()
    of_token = weights[token, :places]
    time = (np.arange(places) + 0.5) * seconds / places
    mel.plot(time, of_token / max(of_token.max(), 1e-12) * len(seen.mel), color="#D55E00", lw=1)
    shown = f"{side}: token {token + 1}, “{_plain(seen.pieces[token].strip())}”"
    mel.set_title(f"{shown}, probability {seen.probabilities[token]:.2f}", fontsize=10, y=_TITLE)
    rows.imshow(
        weights[:, :places] ** 0.5, aspect="auto", cmap="viridis",
        extent=(0, seconds, len(seen.pieces) - 0.5, -0.5),
    )  # fmt: skip
    rows.axhline(token, color="#D55E00", lw=0.8)
    named = range(0, len(seen.pieces), -(-len(seen.pieces) // _LABELLED))
    rows.set_yticks(list(named), [_plain(seen.pieces[i]) for i in named], fontsize=7)
    rows.set_xlabel(f"seconds (colour: root of attention; {beyond:.0%} goes beyond the sound)")


def _plain(text: str) -> str:
    """A text in which a dollar begins no equation."""
    return text.replace("$", r"\$")


def draw_eigenvalues(spectra: Spectra, rows: int) -> Figure:
    """A panel per component, a colour per layer; both sides have as many ``rows``."""
    figure = Figure(figsize=(11, 3.4))
    places = {"left": 0.08, "right": 0.99, "top": 0.84, "bottom": 0.14, "wspace": 0.18}
    axes = figure.subplots(1, len(COMPONENT_NAMES), gridspec_kw=places)
    for ax, (kind, name) in zip(axes, COMPONENT_NAMES.items(), strict=True):
        ax.set_title(name, y=_TITLE)
        ax.set_xlabel("mode")
        if kind not in spectra:
            ax.text(0.5, 0.5, f"{rows} rows have no spectrum", ha="center", transform=ax.transAxes)
            continue
        for side, values in spectra[kind].items():
            colours = mpl.colormaps["viridis_r"](np.linspace(0.15, 1, len(values)))
            for layer, (spectrum, colour) in enumerate(zip(values, colours, strict=True)):
                kept = spectrum[spectrum > 0].cpu()
                label = f"layer {layer + 1}" if side == "clean" else None
                ax.loglog(range(1, len(kept) + 1), kept, _LINES[side], color=colour, label=label)
        shown = [mode for mode in _MODES if mode < rows]
        ax.set_xticks(shown, map(str, shown))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_locator(NullLocator())
    axes[0].set_ylabel(r"eigenvalue $\lambda_i$")
    if spectra:
        axes[-1].legend(fontsize=7, frameon=False)
    figure.suptitle(f"clean (solid) and stressed (dashed), the first {rows} rows of each")
    return figure


def draw_profile(sides: Mapping[str, Inside]) -> Figure:
    """Probability and risk token by token, and gain and alignment over depth."""
    figure = Figure(figsize=(11, 3))
    places = {"left": 0.08, "right": 0.99, "top": 0.88, "bottom": 0.16, "wspace": 0.22}
    axes = figure.subplots(1, 4, gridspec_kw=places)
    labels = ("probability", "risk", "gain", "alignment, without sign")
    for ax, label, x in zip(axes, labels, ("token", "token", "layer", "layer"), strict=True):
        ax.set_title(label, y=_TITLE)
        ax.set_xlabel(x)
    for side, seen in sides.items():
        risks = seen.risk.risks if seen.risk else ()
        rows = (seen.probabilities, risks, *(seen.profile.get(n, ()) for n in PROFILE))
        for ax, values in zip(axes, rows, strict=True):
            colour = CONDITION_COLOURS["clean" if side == "clean" else "hell"]
            ax.plot(range(1, len(values) + 1), values, f"o{_LINES[side]}", color=colour, label=side)
    if all(seen.risk is None for seen in sides.values()):
        axes[1].text(0.5, 0.5, "none was fitted", ha="center", transform=axes[1].transAxes)
    axes[2].axhline(1, color="black", lw=0.5)
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylim(0, None if ax is axes[2] else 1.03)
    axes[0].legend(fontsize=7, frameon=False)
    return figure

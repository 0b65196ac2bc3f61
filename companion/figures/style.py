"""How every figure looks, and what its marks mean.

The same in all figures, so that a legend need not be read twice:

- *Filled* markers and solid lines are of the trained model as it is; *open* markers and dotted
  lines are controls: random networks and vectors, random directions, other speech, Gaussian rows.
- *Circles* are raw, *diamonds* length-matched; lines of raw numbers beside these are dashed. Where
  nothing of the kind is told apart marks are circles, and squares and triangles are further kinds.
- *Colours* are of conditions (blue clean, vermilion Hell), or else of models: darker is larger.
  What is neither has a colour of Okabe and Ito's; what is undecided is pale.
- Grey crosses are *published*. Bars are 95 % intervals. A thin black line is no change, a dotted
  one what chance gives. Kinds of transcripts have their own colours, in bars alone.

A main figure is one column of print wide (``COLUMN``), or two where it has panels side by side.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Image as Shown
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from companion.results.confidence import CONFIDENCES
from companion.results.scale import size_of

COLUMN, PAGE = 3.4, 7.0  # inches: one and two columns of a paper
COMPONENT_NAMES = {
    "self_attention": "self-attention",
    "cross_attention": "cross-attention",
    "ffn": "FFN",
}
OBSERVABLE_NAMES = {
    "n_eff": r"effective rank $N_{\mathrm{eff}}$",
    "alpha": r"spectral slope $\alpha$",
    "log10_kf": r"$\log_{10}$ Kf (padded)",
    "log10_kf_resolved": r"$\log_{10}$ Kf (resolved)",
    "log10_attention_kf": r"$\log_{10}$ Kf, attention graph",
    "log10_similarity_kf": r"$\log_{10}$ Kf, similarity graph",
}
SHORT_NAMES = {
    "wer": "WER",
    "candidate_fraction": "candidates",
    **CONFIDENCES,
    "tokens": "tokens $T$",
    "n_eff": r"$N_{\mathrm{eff}}$",
    "alpha": r"$\alpha$",
    "log10_kf": r"$\log_{10}$ Kf, padded",
    "log10_kf_resolved": r"$\log_{10}$ Kf, resolved",
}
CONDITION_COLOURS = {"clean": "#0072B2", "hell": "#D55E00"}  # Okabe & Ito 2008
LENGTH_MARKERS = {"raw": "o", "length-matched": "D"}
LENGTH_NAMES = {"raw": "raw", "length-matched": "length-matched (first rows)"}
OTHER_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#999999")  # the same
PUBLISHED_COLOUR = "#555555"
SHADE = "#f2f2f2"
CHANCE_LINE: dict[str, Any] = {"color": "black", "lw": 0.6, "ls": (0, (1, 2))}
ZERO_LINE: dict[str, Any] = {"color": "black", "lw": 0.5}
MOST_BARS = 6
"""Of more models side by side the intervals are in the tables alone."""
_MARKERS = "os^Dv*P"
_PALE = 0.35


def use_style() -> None:
    """Set matplotlib's defaults for all figures of a notebook."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind")
    mpl.rcParams.update(
        {
            "figure.dpi": 120,
            "savefig.dpi": 150,
            "font.size": 8,
            "axes.titlesize": 8,
            "axes.labelsize": 8,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "lines.linewidth": 1.0,
            "lines.markersize": 4,
            "pdf.fonttype": 42,  # embed outlines as text that stays editable
            "svg.hashsalt": "spectral",
        }
    )


def model_order(table: pd.DataFrame) -> list[str]:
    """The models of a table from the smallest to the largest."""
    sizes = table.drop_duplicates("model").sort_values(["parameters", "model"])
    return list(sizes.model)


def model_colours(models: list[str]) -> dict[str, tuple[float, float, float]]:
    """A colour per size, darker for larger, told apart in greyscale too; its seeds share it."""
    sizes = list(dict.fromkeys(map(size_of, models)))
    colours = dict(zip(sizes, sns.color_palette("viridis_r", len(sizes) + 1)[1:], strict=True))
    return {model: colours[size_of(model)] for model in models}


def model_markers(models: list[str]) -> dict[str, str]:
    """A marker per size; its seeds share it."""
    sizes = list(dict.fromkeys(map(size_of, models)))
    return {model: _MARKERS[sizes.index(size_of(model)) % len(_MARKERS)] for model in models}


def model_label(table: pd.DataFrame, model: str) -> str:
    """A model's name with its size, such as ``xs-0 (0.23 M)``."""
    parameters = table.loc[table.model == model, "parameters"].iloc[0]
    return f"{model} ({parameters / 1e6:.2f} M)"


def models_by_size(table: pd.DataFrame) -> dict[str, list[str]]:
    """The models of each size, under what a panel of that size is called: ``xs (0.23 M)``."""
    sizes: dict[str, list[str]] = {}
    for model in model_order(table):
        label = model_label(table, model).replace(model, size_of(model))
        sizes.setdefault(label, []).append(model)
    return sizes


def legend_labels(table: pd.DataFrame) -> dict[str, str]:
    """What a legend says of each model: of a size once, with its seeds; then hidden ("_")."""
    labels: dict[str, str] = {}
    for size, models in models_by_size(table).items():
        seeds = f", {len(models)} seeds" if len(models) > 1 else ""
        labels |= dict.fromkeys(models, "_") | {models[0]: f"{size}{seeds}"}
    return labels


def draw_intervals(
    ax: Axes,
    table: pd.DataFrame,
    name: str,
    places: Sequence[float] | np.ndarray | pd.Series,
    *,
    colour: Any,
    marker: str = "o",
    line: str = "",
    control: bool = False,
    pale: bool = False,
    across: bool = False,
    label: str | None = None,
) -> None:
    """The numbers in a column of ``table`` at ``places``, with bars for their intervals.

    Intervals are in the columns ``name_low`` and ``name_high``, else ``low`` and ``high``; an end
    that is not known has no bar. ``across`` draws numbers along the x axis, one below the other;
    ``control`` makes markers open and a solid ``line`` dotted, ``pale`` says that it is undecided.
    """
    ends = [f"{name}_low", f"{name}_high"] if f"{name}_low" in table else ["low", "high"]
    value = table[name].to_numpy(float)
    low, high = table[ends].to_numpy(float).T
    reach = np.abs([value - low, high - value])
    reach = np.where(np.isfinite(reach), reach, 0.0)
    x, y, xerr, yerr = (value, places, reach, None) if across else (places, value, None, reach)
    look = _look(colour, marker, line, control, pale)
    ax.errorbar(x, y, yerr, xerr, elinewidth=0.8, label=label, **look)


def key(
    label: str, colour: Any = "black", marker: str = "o", line: str = "", control: bool = False
) -> Line2D:
    """A line of a legend, that looks as ``draw_intervals`` draws."""
    return Line2D([], [], label=label, **_look(colour, marker, line, control, False))


def _look(colour: Any, marker: str, line: str, control: bool, pale: bool) -> dict[str, Any]:
    return {
        "color": colour, "marker": marker, "mfc": "white" if control else colour, "ms": 3.5,
        "ls": ":" if control and line == "-" else line, "lw": 0.8, "mew": 0.8,
        "alpha": _PALE if pale else None,
    }  # fmt: skip


def model_keys(table: pd.DataFrame, marker: str = "o") -> list[Line2D]:
    """A legend's lines for models, of a size once."""
    colours = model_colours(model_order(table))
    return [
        key(label, colours[model], marker)
        for model, label in legend_labels(table).items()
        if not label.startswith("_")
    ]


def draw_models(
    ax: Axes,
    table: pd.DataFrame,
    name: str,
    models: list[str],
    *,
    colours: dict[str, Any] | None = None,
    marker: str = "o",
    shift: float = 0.0,
    reach: float = 0.6,
    control: bool = False,
) -> None:
    """The numbers of every model along x, side by side within the lines in the column ``place``.

    Of more than ``MOST_BARS`` models the intervals are in the table alone.
    """
    colours = colours or model_colours(models)
    for model, offset in zip(models, spread(len(models), reach), strict=True):
        own = table[table.model == model]
        if len(colours) > MOST_BARS:
            own = own.assign(**{f"{name}_low": np.nan, f"{name}_high": np.nan})
        draw_intervals(
            ax, own, name, own.place + offset + shift, colour=colours[model], marker=marker,
            control=control, across=True,
        )  # fmt: skip


def spread(count: int, reach: float = 0.6) -> np.ndarray:
    """Offsets that put so many marks side by side within ``reach`` of a line's height."""
    return np.linspace(-reach, reach, count) * (1 - 1 / count) / 2


def label_lines(ax: Axes, labels: Sequence[str], blocks: Sequence[int] = ()) -> None:
    """Name the lines of a panel from the top, and shade every other block of so many lines."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    start = 0.0
    for i, size in enumerate(blocks or [1] * len(labels)):
        if i % 2 == 0:
            ax.axhspan(start - 0.5, start + size - 0.5, color=SHADE, lw=0, zorder=0)
        start += size


def add_legend(figure: Figure, ax: Axes, columns: int | None = None) -> None:
    """Below the figure, what one panel shows; what several seeds share is said once."""
    handles, labels = ax.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    figure.legend(
        known.values(), known.keys(), loc="outside lower center", ncols=columns or len(known)
    )


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write name.png and name.pdf, each whole or not at all; equal figures give equal bytes.

    The layout is made once for both, the PNG is what the notebook shows, and the figure is closed:
    to draw it again takes longer than all else about it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # with "none" every format would be laid out once more
    inches = figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])
    drawn = BytesIO()
    nothing: dict[str, str | None] = {"Software": None}
    figure.savefig(drawn, format="png", metadata=nothing, bbox_inches=inches)
    part = folder / f"{name}.part.png"
    part.write_bytes(as_png(Image.open(drawn)))
    os.replace(part, folder / f"{name}.png")
    part = folder / f"{name}.part.pdf"
    nothing = {"CreationDate": None, "Producer": None, "Creator": None}
    figure.savefig(part, metadata=nothing, bbox_inches=inches)
    os.replace(part, folder / f"{name}.pdf")
    plt.close(figure)
    display(Shown(filename=folder / f"{name}.png"))


def as_png(image: Image.Image) -> bytes:
    """A drawing as PNG, every colour as it is; a palette where all fit, and never a filter.

    Filters, which are meant for photographs, make flat drawings a third larger.
    """
    pixels = np.asarray(image.convert("RGB"))
    colours, index = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    few = len(colours) <= 256
    lines = (index.astype(np.uint8) if few else pixels).reshape(len(pixels), -1)
    packed = zlib.compress(np.pad(lines, ((0, 0), (1, 0))).tobytes(), 9)
    height, width, _ = pixels.shape
    metre = round(float(image.info["dpi"][0]) / 0.0254)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3 if few else 2, 0, 0, 0),
        b"pHYs": struct.pack(">IIB", metre, metre, 1),
        b"PLTE": colours.tobytes() if few else b"",
        b"IDAT": packed,
        b"IEND": b"",
    }
    written = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks.items()
        if body or kind != b"PLTE"
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)

"""How every figure looks: print column widths, colour-blind safe colours, names with units."""

import os
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython.display import Image as Shown
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

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
CONDITION_COLOURS = {"clean": "#0072B2", "hell": "#D55E00"}  # Okabe & Ito 2008
LENGTH_MARKERS = {"raw": "o", "length-matched": "D"}
LENGTH_NAMES = {"raw": "raw", "length-matched": "length-matched (first rows)"}
PUBLISHED_COLOUR = "#555555"
_MARKERS = "os^Dv*P"
_COLOURS = 128  # of a palette; no pixel is then farther than about 20 of 255 from its own


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
    to draw it again takes longer than all else about it. The PNG has a palette, which makes it a
    third as large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # with "none" every format would be laid out once more
    inches = figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])
    drawn = BytesIO()
    nothing: dict[str, str | None] = {"Software": None}
    figure.savefig(drawn, format="png", metadata=nothing, bbox_inches=inches)
    part = folder / f"{name}.part.png"
    image = Image.open(drawn)
    # The median cut, the default, forgets the colours of few pixels: of a legend, of a colour bar.
    kept = image.convert("RGB").quantize(
        _COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    )
    kept.save(part, optimize=True, dpi=image.info["dpi"])
    os.replace(part, folder / f"{name}.png")
    part = folder / f"{name}.part.pdf"
    nothing = {"CreationDate": None, "Producer": None, "Creator": None}
    figure.savefig(part, metadata=nothing, bbox_inches=inches)
    os.replace(part, folder / f"{name}.pdf")
    plt.close(figure)
    display(Shown(filename=folder / f"{name}.png"))

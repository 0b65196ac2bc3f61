"""How every figure looks: print column widths, colour-blind safe colours, names with units."""

import os
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from PIL import Image

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
PUBLISHED_COLOUR = "#555555"
_SHADED_DPI = 200


def use_style() -> None:
    """Set matplotlib's defaults for all figures of a notebook."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind")
    mpl.rcParams.update(
        {
            "figure.dpi": 120,
            "savefig.dpi": 300,
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
    """A colour per model, darker for larger, told apart in greyscale too."""
    colours = sns.color_palette("viridis_r", len(models) + 1)[1:]
    return dict(zip(models, colours, strict=True))


def model_label(table: pd.DataFrame, model: str) -> str:
    """A model's name with its size, such as ``xs-0 (0.23 M)``."""
    parameters = table.loc[table.model == model, "parameters"].iloc[0]
    return f"{model} ({parameters / 1e6:.2f} M)"


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write name.png and name.pdf, each whole or not at all; equal figures give equal bytes.

    The PNG of lines and points has a palette of 256 colours, which makes it a third as large; that
    of shaded areas keeps its colours, at two thirds of the resolution.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shaded = any(ax.images or _has_mesh(ax) for ax in figure.axes)
    drawn = BytesIO()
    dpi = _SHADED_DPI if shaded else mpl.rcParams["savefig.dpi"]
    nothing: dict[str, str | None] = {"Software": None}
    figure.savefig(drawn, format="png", dpi=dpi, metadata=nothing, bbox_inches="tight")
    part = folder / f"{name}.part.png"
    image = Image.open(drawn)
    colours = image.convert("RGB")
    kept = colours if shaded else colours.quantize(256, dither=Image.Dither.NONE)
    kept.save(part, optimize=True, dpi=image.info["dpi"])
    os.replace(part, folder / f"{name}.png")
    part = folder / f"{name}.part.pdf"
    nothing = {"CreationDate": None, "Producer": None, "Creator": None}
    figure.savefig(part, metadata=nothing, bbox_inches="tight")
    os.replace(part, folder / f"{name}.pdf")


def _has_mesh(ax: Axes) -> bool:
    return any(isinstance(each, QuadMesh) for each in ax.collections)

"""How every figure looks, and what its marks mean.

The same in all figures, so that a legend need not be read twice:

- *Filled* markers and solid lines are of the trained model as it is; *open* markers and dotted
  lines are controls: random networks and vectors, random directions, other speech, Gaussian rows.
- *Circles* are raw, *diamonds* length-matched; lines of raw numbers beside these are dashed. Where
  nothing of the kind is told apart marks are circles, and squares and triangles are further kinds.
- *Colours* are of conditions (blue clean, vermilion Hell), or else of models: darker is larger.
  What is neither has a colour of Okabe and Ito's.
- Grey crosses are *published*. Bars are 95 % intervals. A thin black line is no change, a dotted
  one what chance gives. Kinds of transcripts have their own colours, in bars alone.

A main figure is one column of print wide (``COLUMN``), or two where it has panels side by side.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

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
from PIL.PngImagePlugin import putchunk

from companion.measurement.store import whole_or_absent
from companion.results.effects import size_of

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
LENGTH_KINDS = {"o": "raw", "D": "length-matched (first rows)"}
OTHER_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#999999")  # the same
PUBLISHED_COLOUR = "#555555"
SHADE = "#f2f2f2"
CHANCE_LINE: dict[str, Any] = {"color": "black", "lw": 0.6, "ls": (0, (1, 2))}
MOST_BARS = 6
"""Of more models side by side the intervals are in the tables alone."""


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
    across: bool = False,
) -> None:
    """The numbers in a column of ``table`` at ``places``, with bars for their intervals.

    Intervals are in the columns ``name_low`` and ``name_high``, else ``low`` and ``high``; an end
    that is not known has no bar. ``across`` draws numbers along the x axis, one below the other;
    ``control`` makes markers open and a solid ``line`` dotted.
    """
    ends = [f"{name}_low", f"{name}_high"] if f"{name}_low" in table else ["low", "high"]
    value = table[name].to_numpy(float)
    low, high = table[ends].to_numpy(float).T
    reach = np.abs([value - low, high - value])
    reach = np.where(np.isfinite(reach), reach, 0.0)
    x, y, xerr, yerr = (value, places, reach, None) if across else (places, value, None, reach)
    ax.errorbar(x, y, yerr, xerr, elinewidth=0.8, **_look(colour, marker, line, control))


def key(label: str, colour: Any = "black", marker: str = "o", control: bool = False) -> Line2D:
    """A line of a legend, that looks as ``draw_intervals`` draws."""
    return Line2D([], [], label=label, **_look(colour, marker, "", control))


def _look(colour: Any, marker: str, line: str, control: bool) -> dict[str, Any]:
    return {
        "color": colour, "marker": marker, "mfc": "white" if control else colour, "ms": 3.5,
        "ls": ":" if control and line == "-" else line, "lw": 0.8, "mew": 0.8,
    }  # fmt: skip


def model_keys(table: pd.DataFrame) -> list[Line2D]:
    """A legend's lines for models: of a size once, with the number of its seeds."""
    colours, keys = model_colours(model_order(table)), []
    for size, models in models_by_size(table).items():
        seeds = f", {len(models)} seeds" if len(models) > 1 else ""
        keys.append(key(f"{size}{seeds}", colours[models[0]]))
    return keys


def label_lines(ax: Axes, labels: Sequence[str], blocks: Sequence[int] = ()) -> None:
    """Name the lines of a panel from the top, and shade every other block of so many lines."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    start = 0.0
    for i, size in enumerate(blocks or [1] * len(labels)):
        if i % 2 == 0:
            ax.axhspan(start - 0.5, start + size - 0.5, color=SHADE, lw=0, zorder=0)
        start += size


def tidy(table: pd.DataFrame, numbers: Mapping[str, str]) -> pd.DataFrame:
    """Numbers of a table one below the other: their label in ``number``, value, low and high.

    ``numbers`` are labels by column; an interval that is not known is left empty. A column ``size``
    names the panel of a model's size, and components get the names that a reader knows, both in
    their order. Random directions, else random networks, are a ``control``; raw and length-matched
    numbers have a ``marker``.
    """
    parts = []
    for name, label in numbers.items():
        ends = {end: table.get(f"{name}_{end}", table.get(end)) for end in ("low", "high")}
        parts.append(table.assign(number=label, value=table[name], **ends))
    long = pd.concat(parts, ignore_index=True)
    long["number"] = pd.Categorical(long.number, list(numbers.values()))
    if "component" in long:
        there = [part for part in COMPONENT_NAMES if (long.component == part).any()]
        long["component"] = pd.Categorical(long.component, there).rename_categories(COMPONENT_NAMES)
    for drawn in ("network", "direction"):
        if drawn in long:
            long["control"] = long[drawn] == "random"
    if "length" in long and "marker" not in long:
        long["marker"] = long.length.map(LENGTH_MARKERS).fillna("D")
    if "model" in long:
        sizes = models_by_size(long)
        of = {model: size for size, models in sizes.items() for model in models}
        long["size"] = pd.Categorical(long.model.map(of), list(sizes))
    return long


def draw_panels(
    table: pd.DataFrame,
    x: str,
    *,
    row: str = "number",
    column: str = "component",
    colour: str = "model",
    across: bool = False,
    line: str = "",
    band: bool = False,
    spread: float = 0.0,
    kinds: Mapping[str, str] = MappingProxyType({}),
    control: str = "random",
    blocks: Sequence[int] = (),
    chance: float | None = None,
    sharex: bool | Literal["all", "col", "row"] = "all",
    height: float = 0.0,
    xlabel: str = "",
    legend: int = 3,
    log: bool = False,
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Panels of the numbers in ``table`` (``tidy``), in rows and columns by category.

    Values stand over the number in ``x``, or with ``across`` along the axis, a line of the panel
    per category of ``x``, shaded in ``blocks`` of so many. Each kind of mark has its bars: a
    ``colour`` by model, condition or another column; the marker in the column ``marker``, which
    ``kinds`` name; open where the column ``control`` is true. They stand side by side within
    ``spread``. With ``band`` lines are drawn in bands instead. ``chance`` is a number that all of
    them are held against: no change, or what chance gives. ``log`` makes both axes logarithmic. A
    row of panels is ``height`` inches high, two columns fill a column of print. Axes are given by
    row and column.
    """
    table = table.dropna(subset="value").assign(**{
        name: default for name, default in (("control", False), ("marker", "o"), ("model", ""))
        if name not in table
    })  # fmt: skip
    rows, columns, places = (_categories(table[name]) for name in (row, column, x))
    height = height or (0.2 * len(places) + 0.3 if across else 1.3)
    figure, axes = plt.subplots(
        len(rows), len(columns), squeeze=False, sharex=sharex, sharey="row", layout="constrained",
        figsize=(COLUMN if len(columns) <= 2 else PAGE, height * len(rows) + 0.9),
    )  # fmt: skip
    grid = {(r, c): axes[i, j] for i, r in enumerate(rows) for j, c in enumerate(columns)}
    colours = _colours(table, colour)
    by = [colour, "marker", "control"] + ["model"] * (across and colour != "model")
    marks = list(table[by].drop_duplicates().itertuples(index=False, name=None))
    marks.sort(key=lambda mark: list(colours).index(mark[0]))
    shifts = np.linspace(-spread, spread, len(marks)) / 2 if len(marks) > 1 else [0.0]
    crowded = across and colour == "model" and table.model.nunique() > MOST_BARS
    groups = list(dict.fromkeys([row, column, *by, "model"]))
    for (r, c, *kind), part in table.groupby(groups, observed=True, sort=False):
        ax, points = grid[r, c], part.sort_values(x)
        place = np.array([places.index(at) for at in points[x]] if across else points[x], float)
        look = {"colour": colours[kind[0]], "marker": kind[1], "control": kind[2]}
        if band:
            ax.plot(place, points.value, color=look["colour"])
            ax.fill_between(place, points.low, points.high, color=look["colour"], alpha=0.15, lw=0)
            continue
        if crowded:
            points = points.assign(low=np.nan, high=np.nan)
        place = place + shifts[marks.index(tuple(kind[: len(by)]))]
        draw_intervals(ax, points, "value", place, across=across, line=line, **look)
    for (r, c), ax in grid.items():
        if log:
            ax.set(xscale="log", yscale="log")
        if r == rows[0]:
            ax.set_title(c)
        if chance is not None:
            (ax.axvline if across else ax.axhline)(chance, **CHANCE_LINE)
        if across:
            label_lines(ax, places, blocks)
        elif c == columns[0]:
            ax.set_ylabel(r if "$" in r else r.replace("_", " "))
    for i, r in enumerate(rows if across else [xlabel]):
        axes[i if across else -1, len(columns) // 2].set_xlabel(r)
    figure.align_ylabels()
    handles = model_keys(table) if colour == "model" else [
        key(str(name).capitalize() if colour == "condition" else str(name), shade)
        for name, shade in colours.items()
    ]  # fmt: skip
    kinds = kinds or (LENGTH_KINDS if "length" in table else {})
    there = set(table.marker)
    handles += [key(label, marker=marker) for marker, label in kinds.items() if marker in there]
    handles += [key(control, control=True)] * bool(table.control.any())
    figure.legend(handles=handles, loc="outside lower center", ncols=legend, columnspacing=1.0)
    return figure, grid


def draw_lines(
    panels: Mapping[str, tuple[pd.DataFrame, str]],
    line: str,
    lines: Sequence[str],
    models: list[str],
    chance: float = 0.0,
    height: float = 0.22,
) -> tuple[Figure, Sequence[Axes]]:
    """A panel per title, of a table and one of its numbers, with the models side by side.

    The categories of the column ``line`` are the ``lines`` of a panel from below, each ``height``
    inches high.
    """
    figure, axes = plt.subplots(
        1, len(panels), sharey=True, figsize=(PAGE, height * len(lines) + 0.8), layout="constrained"
    )
    for ax, (title, (table, name)) in zip(axes, panels.items(), strict=True):
        for i, (model, colour) in enumerate(model_colours(models).items()):
            part = table[(table.model == model) & table[line].isin(lines)].dropna(subset=name)
            y = part[line].map(lines.index).astype(float) + 0.3 * (i - (len(models) - 1) / 2)
            ax.hlines(y, part[f"{name}_low"], part[f"{name}_high"], color=colour)
            ax.plot(part[name], y, "o", color=colour, label=model, markersize=3)
        ax.axvline(chance, color="grey", linewidth=0.6, zorder=0)
        ax.set(title=title, ylim=(-0.7, len(lines) - 0.3))
    axes[0].set_yticks(range(len(lines)), lines)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(models))
    return figure, axes


def draw_arrows(
    table: pd.DataFrame, x: str, y: str, panel: str, side: str
) -> tuple[Figure, list[Axes]]:
    """An arrow per model from clean to stressed, the values of ``side``, by two of its numbers.

    A panel per value of ``panel``. The stressed end stands there with the intervals of both
    numbers; of random networks that alone.
    """
    if "control" not in table:
        table = table.assign(control=table.get("network") == "random")
    panels = _categories(table[panel])
    figure, axes = plt.subplots(
        1, len(panels), sharey=True, figsize=(COLUMN if len(panels) < 3 else PAGE, 2.9),
        layout="constrained",
    )  # fmt: skip
    colours = model_colours(model_order(table))
    for (name, model, control), ends in table.groupby([panel, "model", "control"], observed=True):
        ax, look = axes[panels.index(name)], {"colour": colours[model], "control": control}
        first, last = ends[ends[side] == "clean"], ends[ends[side] != "clean"]
        if not control:
            start, stop = (end[[x, y]].to_numpy()[0] for end in (first, last))
            ax.annotate("", stop, start, arrowprops={"arrowstyle": "->", "color": colours[model]})
            ax.plot(*start, ",", color=colours[model])  # an arrow alone would not widen the axes
        draw_intervals(ax, last, y, last[x], **look)
        draw_intervals(ax, last, x, last[y], across=True, **look)
        ax.set_title(name)
    axes[len(panels) // 2].set_xlabel(OBSERVABLE_NAMES.get(x, ""))
    axes[0].set_ylabel(OBSERVABLE_NAMES.get(y, ""))
    handles = [*model_keys(table), key("stressed, from clean")]
    handles += [key("random", control=True)] * bool(table.control.any())
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure, list(axes)


def _categories(column: pd.Series) -> list[Any]:
    """The values of a column in their order: of categories, else of appearance."""
    there = list(dict.fromkeys(column))
    if isinstance(column.dtype, pd.CategoricalDtype):
        return [value for value in column.cat.categories if value in there]
    return there


def _colours(table: pd.DataFrame, colour: str) -> dict[Any, Any]:
    if colour == "model":
        return model_colours(model_order(table))
    names = _categories(table[colour])
    if set(names) <= set(CONDITION_COLOURS):
        return {name: shade for name, shade in CONDITION_COLOURS.items() if name in names}
    published = {"published": PUBLISHED_COLOUR} if "published" in names else {}
    others = [name for name in names if name not in published]
    return dict(zip(others, OTHER_COLOURS, strict=False)) | published


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write name.png and name.pdf, each whole or not at all; equal figures give equal bytes.

    The layout is made once for both, the PNG is what the notebook shows, and the figure is closed:
    to draw it again takes longer than all else about it.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # with "none" every format would be laid out once more
    inches = figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])
    left_out = {"png": ["Software"], "pdf": ["CreationDate", "Producer", "Creator"]}
    for end, names in left_out.items():
        with whole_or_absent(folder / f"{name}.{end}") as part:
            metadata = dict.fromkeys(names)
            figure.savefig(part, format=end, metadata=metadata, bbox_inches=inches)
            if end == "png":
                with Image.open(part) as drawn:
                    packed = as_png(drawn)
                part.write_bytes(packed)
    plt.close(figure)
    display(Shown(filename=folder / f"{name}.png"))


def as_png(image: Image.Image) -> bytes:
    """A drawing as PNG, every colour as it is; a palette where all fit, and never a filter.

    Filters, which are meant for photographs, make flat drawings a third larger.
    """
    pixels = np.asarray(image.convert("RGB"))
    # as numbers, since to sort rows of three takes ten times as long
    codes = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    known, index = np.unique(codes, return_inverse=True)
    colours = (known[:, None] >> np.array([16, 8, 0], np.uint32)).astype(np.uint8)
    few = len(colours) <= 256
    lines = (index.astype(np.uint8) if few else pixels).reshape(len(pixels), -1)
    packed = zlib.compress(np.pad(lines, ((0, 0), (1, 0))).tobytes(), 9)
    height, width, _ = pixels.shape
    metre = round(float(image.info["dpi"][0]) / 0.0254)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3 if few else 2, 0, 0, 0),
        b"pHYs": struct.pack(">IIB", metre, metre, 1),
        **({b"PLTE": colours.tobytes()} if few else {}),
        b"IDAT": packed,
        b"IEND": b"",
    }
    file = BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    for kind, body in chunks.items():
        putchunk(file, kind, body)
    return file.getvalue()

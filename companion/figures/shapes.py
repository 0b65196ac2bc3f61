"""Step or drift: what was decided, for every observable and every axis."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from companion.figures.style import COMPONENT_NAMES, PAGE, model_order
from companion.results.confidence import CONFIDENCES
from companion.results.shapes import FLAT, SMOOTH, STEP, TOO_FEW, UNDECIDED

_MARKS = {
    STEP: ("s", "#D55E00"),
    SMOOTH: ("o", "#0072B2"),
    FLAT: ("_", "#555555"),
    UNDECIDED: (".", "#999999"),
    TOO_FEW: ("x", "#CCCCCC"),
}  # Okabe & Ito's colours, and shapes that do without them
_NAMES = {
    "word_error": "word error",
    "candidate_share": "candidates",
    **CONFIDENCES,
    "tokens": "tokens $T$",
    "n_eff": r"$N_{\mathrm{eff}}$",
    "alpha": r"$\alpha$",
    "log10_kf": "Kf, padded",
    "log10_kf_resolved": "Kf, resolved",
}
_ROOMY = 6  # so many models stand side by side without touching
_SHADE = "#f2f2f2"


def draw_shapes(table: pd.DataFrame) -> Figure:
    """A mark per observable and model, a panel per axis: severity, or depth under a condition.

    ``table`` holds rows of ``transitions`` of one length and one K per observable, and the
    answers' own.
    """
    models = model_order(table)
    axes_of = list(dict.fromkeys(zip(table.along, table.of, strict=True)))
    parts = ["answer", *COMPONENT_NAMES]
    lines = [
        (part, name)
        for part in parts
        for name in _NAMES
        if ((table.component == part) & (table.observable == name)).any()
    ]
    figure, axes = plt.subplots(
        1, len(axes_of), sharey=True, squeeze=False, layout="constrained",
        figsize=(PAGE, 1.2 + 0.17 * len(lines)),
    )  # fmt: skip
    size = 5 if len(models) <= _ROOMY else 4  # points, of marks
    for ax, (along, of) in zip(axes[0], axes_of, strict=True):
        own = table[(table.along == along) & (table.of == of)]
        for verdict, alike in own.groupby("verdict"):
            marker, colour = _MARKS[verdict]
            places = [
                lines.index(line) for line in zip(alike.component, alike.observable, strict=True)
            ]
            ax.plot(alike.model.map(models.index), places, marker, color=colour, ms=size)
        for i, part in enumerate(parts):
            places = [place for place, line in enumerate(lines) if line[0] == part]
            if i % 2 and places:
                ax.axhspan(places[0] - 0.5, places[-1] + 0.5, color=_SHADE, zorder=0)
        ax.set_title(f"{along},\n{of}")
        ax.set_xticks(range(len(models)), models, rotation=90, fontsize=size + 1)
        ax.set_xlim(-0.6, len(models) - 0.4)
        ax.tick_params(length=0)
    names = [f"{COMPONENT_NAMES.get(part, part)}: {_NAMES[name]}" for part, name in lines]
    axes[0, 0].set_yticks(range(len(lines)), names)
    axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)
    handles = [
        Line2D([], [], marker=marker, ls="", color=colour, label=name)
        for name, (marker, colour) in _MARKS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure

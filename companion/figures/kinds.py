"""How many words are wrong, and which kinds of transcripts come out, model by model."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from companion.figures import style
from companion.stress.scoring import Outcome

OUTCOME_COLOURS = {
    Outcome.CORRECT: "#009E73",
    Outcome.INTERFERER: "#56B4E9",
    Outcome.FRAGMENT: "#F0E442",
    Outcome.INVENTION: "#D55E00",
    Outcome.LOOP: "#CC79A7",
    Outcome.GIBBERISH: "#666666",
    Outcome.EMPTY: "#DDDDDD",
    Outcome.ANNOTATION: "#0072B2",
}  # Okabe & Ito 2008


def draw_kinds(errors: pd.DataFrame, fractions: dict[str, pd.DataFrame]) -> Figure:
    """WER of every model by condition, then a panel of the kinds of its transcripts per title.

    ``errors`` holds wer with its interval, ``fractions`` a column per kind, in %. Audio of
    another speaker, the condition "swapped", is a control.
    """
    models = style.model_order(errors)
    figure, axes = plt.subplots(
        1, 1 + len(fractions), sharey=True, layout="constrained",
        figsize=(style.COLUMN if len(fractions) < 2 else style.PAGE, 0.24 * len(models) + 1.7),
    )  # fmt: skip
    handles = []
    for condition, side in errors.groupby("condition", sort=True):
        swapped = condition == "swapped"
        colour = style.CONDITION_COLOURS.get("clean" if swapped else str(condition), "black")
        look = {"colour": colour, "control": swapped}
        places = side.model.map(models.index)
        style.draw_intervals(axes[0], side, "wer", places, across=True, **look)
        label = "another speaker's audio" if swapped else str(condition).capitalize()
        handles.append(style.key(label, **look))
    axes[0].axvline(100, **style.CHANCE_LINE)
    axes[0].set(xlabel="WER (%)", xlim=(0, None))
    axes[0].set_yticks(range(len(models)), [style.model_label(errors, model) for model in models])
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    for ax, (title, table) in zip(axes[1:], fractions.items(), strict=True):
        widths = table.set_index("model").reindex(models, columns=list(OUTCOME_COLOURS)).fillna(0.0)
        starts = widths.cumsum(axis=1) - widths
        for kind, colour in OUTCOME_COLOURS.items():
            ax.barh(np.arange(len(models)), widths[kind], 0.7, starts[kind], color=colour)
        ax.set(title=title, xlabel="transcripts (%)", xlim=(0, 100))
    drawn = pd.concat(fractions.values())
    there = [kind for kind in OUTCOME_COLOURS if kind in drawn and drawn[kind].gt(0).any()]
    handles += [style.key(str(kind), OUTCOME_COLOURS[kind], "s") for kind in there]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if len(fractions) < 2 else 5)
    return figure

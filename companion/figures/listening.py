"""Own audio against another's, and the kinds of answers to audio without speech."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.outcomes import draw_kinds
from companion.figures.style import PAGE, model_label, model_order
from companion.measurement.schemas import NONSPEECH
from companion.results.listening import HEARD, NOTHING

_STYLES = dict(
    zip(HEARD, (("own", "o", "#0072B2"), ("swapped", "s", "#D55E00")), strict=True)
)  # Okabe & Ito 2008
_TITLES = {NONSPEECH: "clips without speech"}


def draw_listening_summary(heard: pd.DataFrame, answers: pd.DataFrame) -> Figure:
    """Word error with own and swapped audio by model; a panel of answers per kind of nothing."""
    models = model_order(heard)
    there = set(answers.condition)
    shown = [condition for condition in (*NOTHING, NONSPEECH) if condition in there]
    figure, axes = plt.subplots(
        1, 1 + len(shown), sharey=True, figsize=(PAGE, 0.3 * len(models) + 1.4),
        layout="constrained",
    )  # fmt: skip
    _draw_errors(axes[0], heard, models)
    for ax, condition in zip(axes[1:], shown, strict=True):
        draw_kinds(ax, answers[answers.condition == condition], models)
        ax.set(title=_TITLES.get(condition, condition), xlabel="answers (%)")
    axes[0].set_yticks(range(len(models)), [model_label(heard, model) for model in models])
    axes[0].invert_yaxis()
    handles: dict[str, Artist] = {}
    for ax in axes:
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=5)
    return figure


def _draw_errors(ax: Axes, heard: pd.DataFrame, models: list[str]) -> None:
    for condition, (audio, marker, colour) in _STYLES.items():
        side = heard[heard.condition == condition].set_index("model").reindex(models)
        ends = side[["word_error_low", "word_error_high"]].to_numpy().T
        errors = np.abs(ends - side.word_error.to_numpy())
        ax.errorbar(
            side.word_error, range(len(models)), xerr=errors, fmt=marker, color=colour, lw=0.8,
            label=f"{audio} audio",
        )  # fmt: skip
    ax.axvline(100, color="black", lw=0.6, ls=(0, (1, 2)))
    ax.set(title="speech", xlabel="word error (%)", xlim=(0, None))

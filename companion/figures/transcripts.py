"""What models write: wrong words, kinds of transcripts, and one utterance to look at."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import (
    CHANCE_LINE,
    COLUMN,
    CONDITION_COLOURS,
    PAGE,
    draw_intervals,
    model_label,
    model_order,
)
from companion.measurement.schemas import NONSPEECH
from companion.models.ladder import FRAMES_PER_SECOND
from companion.results.listening import HEARD, NOTHING
from companion.speech.corpus import SAMPLE_RATE
from companion.stress.scoring import Outcome

_OUTCOME_COLOURS = {
    Outcome.CORRECT: "#009E73",
    Outcome.INTERFERER: "#56B4E9",
    Outcome.FRAGMENT: "#F0E442",
    Outcome.INVENTION: "#D55E00",
    Outcome.LOOP: "#CC79A7",
    Outcome.GIBBERISH: "#666666",
    Outcome.EMPTY: "#DDDDDD",
    Outcome.ANNOTATION: "#0072B2",
}  # Okabe & Ito 2008
_TITLES = {NONSPEECH: "clips without speech"}
_OWN, _SWAPPED = HEARD
_LINE = 0.115  # inches


def draw_wers(table: pd.DataFrame, fractions: pd.DataFrame) -> Figure:
    """WER of every model by condition, and the kinds of its transcripts under stress."""
    models = model_order(table)
    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, figsize=(COLUMN, 0.24 * len(models) + 1.7), layout="constrained"
    )
    for condition, side in table.groupby("condition", sort=True):
        draw_intervals(
            left, side, "wer", side.model.map(models.index), across=True,
            label=str(condition).capitalize(),
            colour=CONDITION_COLOURS.get(str(condition), "black"),
        )  # fmt: skip
    left.set(xlabel="WER (%)", xlim=(0, None))
    stressed = fractions[fractions.condition != "clean"]
    draw_kinds(right, stressed, models)
    left.set_yticks(range(len(models)), [model_label(table, model) for model in models])
    left.set_ylim(len(models) - 0.5, -0.5)
    right.set_xlabel(f"transcripts\nin {stressed.condition.iloc[0].capitalize()} (%)")
    _legend(figure, [left, right], 3)
    return figure


def draw_kinds(ax: Axes, fractions: pd.DataFrame, models: list[str]) -> None:
    """Stacked bars, one per model from the top, of each kind of transcript in %."""
    table = fractions.set_index("model").reindex(models)
    start = np.zeros(len(models))
    for kind, colour in _OUTCOME_COLOURS.items():
        if kind in table and table[kind].any():
            width = table[kind].to_numpy()
            ax.barh(range(len(models)), width, left=start, color=colour, label=kind, height=0.7)
            start += width
    ax.set_xlim(0, 100)


def draw_listening_summary(heard: pd.DataFrame, answers: pd.DataFrame) -> Figure:
    """WER with own and other audio by model; a panel of transcripts per kind of nothing."""
    models = model_order(heard)
    there = set(answers.condition)
    shown = [condition for condition in (*NOTHING, NONSPEECH) if condition in there]
    figure, axes = plt.subplots(
        1, 1 + len(shown), sharey=True, figsize=(PAGE, 0.26 * len(models) + 1.4),
        layout="constrained",
    )  # fmt: skip
    for condition, label in ((_OWN, "own audio"), (_SWAPPED, "another speaker's audio")):
        side = heard[heard.condition == condition]
        draw_intervals(
            axes[0], side, "wer", side.model.map(models.index), across=True, label=label,
            colour=CONDITION_COLOURS["clean"], control=condition == _SWAPPED,
        )  # fmt: skip
    axes[0].axvline(100, **CHANCE_LINE)
    axes[0].set(title="speech", xlabel="WER (%)", xlim=(0, None))
    for ax, condition in zip(axes[1:], shown, strict=True):
        draw_kinds(ax, answers[answers.condition == condition], models)
        ax.set(title=_TITLES.get(condition, condition), xlabel="transcripts (%)")
    axes[0].set_yticks(range(len(models)), [model_label(heard, model) for model in models])
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    _legend(figure, list(axes), 5)
    return figure


def _legend(figure: Figure, axes: list[Axes], columns: int) -> None:
    """What all panels together show, each thing once."""
    handles: dict[str, Artist] = {}
    for ax in axes:
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns,
        columnspacing=1.0,
    )  # fmt: skip


def draw_listening(
    waves: dict[str, np.ndarray],
    mels: dict[str, np.ndarray],
    reference: str,
    transcripts: dict[str, dict[str, str]],
) -> Figure:
    """Waveform, log-mel spectrogram and transcripts of one utterance, a column per condition.

    waves (samples,) and mels (bands, frames) by condition; transcripts by condition and model.
    """
    texts = {name: _written(reference, said) for name, said in transcripts.items()}
    heights = [0.6, 1.0, _LINE * max(text.count("\n") + 1 for text in texts.values())]
    figure, axes = plt.subplots(
        3, len(waves), sharex="row", sharey="row", squeeze=False,
        figsize=(PAGE, sum(heights) + 1.0), height_ratios=heights, layout="constrained",
    )  # fmt: skip
    for column, (condition, wave) in zip(axes.T, waves.items(), strict=True):
        seconds = np.arange(len(wave)) / SAMPLE_RATE
        column[0].plot(seconds, wave, lw=0.3, color=CONDITION_COLOURS.get(condition, "black"))
        column[0].set_title(condition.capitalize())
        column[0].tick_params(labelbottom=False)
        mel = mels[condition]
        extent = (0, mel.shape[1] / FRAMES_PER_SECOND, 0, mel.shape[0])
        column[1].imshow(mel, origin="lower", aspect="auto", extent=extent, cmap="magma")
        column[1].set_xlabel("time (s)")
        column[0].set_xlim(extent[:2])
        column[2].axis("off")
        column[2].text(
            0, 1, texts[condition], va="top", fontsize=6.5, transform=column[2].transAxes
        )
    axes[0, 0].set_ylabel("amplitude")
    axes[1, 0].set_ylabel("mel band")
    return figure


def _written(reference: str, transcripts: dict[str, str]) -> str:
    lines = [f"reference: {reference.lower()}"]
    lines += [f"{model}: {text or '(nothing)'}" for model, text in transcripts.items()]
    return "\n".join(textwrap.fill(line, 62, subsequent_indent="    ") for line in lines)

"""Speech under stress beside what models write of it."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from companion.figures.style import CONDITION_COLOURS, PAGE
from companion.models.ladder import FRAMES_PER_SECOND
from companion.speech.corpus import SAMPLE_RATE

_LINE = 0.115  # inches


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

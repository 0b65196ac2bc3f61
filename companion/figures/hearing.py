"""One sound, clean and stressed: what is written, and where a token listens."""

import textwrap
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from companion.figures.style import CONDITION_COLOURS, PAGE
from companion.measurement.hearing import Hearing
from companion.models.ladder import FRAMES_PER_SECOND, feature_extractor
from companion.speech.corpus import SAMPLE_RATE, find_utterances, read_wave
from companion.stress.conditions import condition as stress
from companion.stress.mixture import Mixture, Speakers
from spectral.jacobians.triplets import SingularTriplets

SEED = 0  # that all rows were measured with
_MOST_LABELS = 30  # characters that fit beside a map


def sounds(corpus: Path, utterance: str, condition: str) -> dict[str, Mixture]:
    """An utterance of a corpus as it is, and stressed: what models heard, made again."""
    known = find_utterances(corpus).utterances
    target = next(spoken for spoken in known if spoken.id == utterance)
    clean = Mixture.of(target, read_wave(target))
    return {"clean": clean, condition: stress(condition).apply(clean, Speakers(known), SEED)}


def draw_listening(mixtures: dict[str, Mixture], transcripts: dict[str, dict[str, str]]) -> Figure:
    """Waveform, log-mel spectrogram and transcripts of one utterance, a column per condition.

    ``transcripts`` are by condition and model.
    """
    texts = {}
    for name, written in transcripts.items():
        lines = [f"reference: {mixtures[name].target.reference.lower()}"]
        lines += [f"{model}: {text or '(nothing)'}" for model, text in written.items()]
        wrapped = [textwrap.fill(line, 62, subsequent_indent="    ") for line in lines]
        texts[name] = "\n".join(wrapped)
    heights = [0.6, 1.0, 0.115 * max(text.count("\n") + 1 for text in texts.values())]
    figure, axes = plt.subplots(
        3, len(mixtures), sharex="row", sharey="row", squeeze=False,
        figsize=(PAGE, sum(heights) + 1.0), height_ratios=heights, layout="constrained",
    )  # fmt: skip
    seconds = ceil(max(len(mixture.wave) for mixture in mixtures.values()) / SAMPLE_RATE)
    mels = feature_extractor(seconds)
    for (wave, mel, text), (name, mixture) in zip(axes.T, mixtures.items(), strict=True):
        time = np.arange(len(mixture.wave)) / SAMPLE_RATE
        wave.plot(time, mixture.wave, lw=0.3, color=CONDITION_COLOURS.get(name, "black"))
        wave.set(title=name.capitalize(), xlim=(0, seconds))
        features = mels(mixture.wave, sampling_rate=SAMPLE_RATE).input_features[0]
        _draw_map(mel, features, seconds, origin="lower", cmap="magma")
        mel.set_xlabel("time (s)")
        text.axis("off")
        text.text(0, 1, texts[name], va="top", fontsize=6.5, transform=text.transAxes)
    axes[0, 0].set_ylabel("amplitude")
    axes[1, 0].set_ylabel("mel band")
    return figure


def draw_maps(hearings: dict[str, Hearing]) -> Figure:
    """A column per condition: log-mel, sensitivity of every token to every frame, attention.

    Each token's row of a map is divided by its largest entry.
    """
    figure, axes = plt.subplots(
        3, len(hearings), sharex=True, squeeze=False, figsize=(PAGE, 5.6),
        height_ratios=[0.8, 1.6, 1.6], layout="constrained",
    )  # fmt: skip
    for column, (condition, hearing) in zip(axes.T, hearings.items(), strict=True):
        seconds = hearing.features.shape[1] / FRAMES_PER_SECOND
        _draw_map(column[0], hearing.features, seconds, origin="lower", cmap="magma")
        column[0].set_title(condition.capitalize())
        step = -(-len(hearing.characters) // _MOST_LABELS)
        for ax, rows in zip(column[1:], (hearing.sensitivity, hearing.attention), strict=True):
            scaled = rows / rows.amax(-1, keepdim=True)
            _draw_map(ax, scaled, seconds, origin="upper", cmap="viridis")
            places = range(0, len(rows), step)
            ax.set_yticks([len(rows) - 0.5 - i for i in places], hearing.characters[::step], size=5)
        column[2].set_xlabel("time (s)")
    axes[0, 0].set_xlim(0, max(_spoken_seconds(hearing.features) for hearing in hearings.values()))
    axes[0, 0].set_ylabel("mel band")
    axes[1, 0].set_ylabel("token\nsensitivity $\\|J_L^s\\|_F$")
    axes[2, 0].set_ylabel("token\nmean attention weight")
    bar = figure.colorbar(axes[1, 0].images[0], ax=axes[1:], shrink=0.5)
    bar.set_label("fraction of the token's largest")
    return figure


def draw_directions(
    hearing: Hearing, tokens: list[int], directions: list[SingularTriplets]
) -> Figure:
    """The log-mel with each token's most sensitive direction under it."""
    figure, axes = plt.subplots(
        len(tokens) + 1, 1, sharex=True, figsize=(PAGE, 1.1 * len(tokens) + 1.3),
        layout="constrained",
    )  # fmt: skip
    seconds, text = hearing.features.shape[1] / FRAMES_PER_SECOND, "".join(hearing.characters)
    _draw_map(axes[0], hearing.features, seconds, origin="lower", cmap="magma")
    for ax, token, triplets in zip(axes[1:], tokens, directions, strict=True):
        values = triplets.v[:, 0].reshape(hearing.features.shape).cpu()
        most = float(values.abs().max())
        limits = {"vmin": -most, "vmax": most}
        _draw_map(ax, values, seconds, origin="lower", cmap="PuOr_r", **limits)
        figure.colorbar(ax.images[0], ax=ax, ticks=[-most, 0, most], format="%.2f")
        title = f"{text[max(0, token - 12) : token]!r} then {text[token]!r}"
        title += f": $\\sigma_1$ = {triplets.sigma[0]:.2g}"
        title += ", not converged" * (not triplets.converged)
        ax.set_title(title, loc="left", fontsize=7)
    for ax in axes:
        ax.set_ylabel("mel band")
    axes[-1].set(xlabel="time (s)", xlim=(0, _spoken_seconds(hearing.features)))
    return figure


def _draw_map(ax: Axes, rows: Tensor | np.ndarray, seconds: float, **look: Any) -> None:
    """Rows over time as colours; a row is one unit high, and the axis begins at the bottom."""
    extent = (0.0, seconds, 0.0, float(len(rows)))
    ax.imshow(np.asarray(rows), aspect="auto", extent=extent, interpolation="nearest", **look)


def _spoken_seconds(features: Tensor) -> float:
    """Where the padding begins: the last frame that is louder than its very end, and a margin."""
    louder = (features > features[:, -1:] + 0.01).any(0).nonzero()
    last = int(louder.max()) if len(louder) else features.shape[1]
    return min(last + 10, features.shape[1]) / FRAMES_PER_SECOND

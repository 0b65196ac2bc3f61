"""Synthetic activations of speakers and utterances with effects planted in them, made into rows."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from companion.measurement.nulls import gaussian_sides, shuffled, side_rows
from companion.measurement.schemas import (
    FORCED,
    GAUSSIAN,
    INITIALISED,
    SHUFFLED,
    SPECTRUM,
    SWAPPED,
    UNPAIRED,
)
from companion.measurement.settings import SpectralSettings
from companion.measurement.spectra import Side, component_numbers, matched_rows
from companion.measurement.texts import Row

WIDTH, COMPONENT = 96, "cross_attention"
DRAWS = 3
UNPAIRED_SEEDS = 4
SETTINGS = SpectralSettings(
    model="planted-0", ladder=".", corpus=".", output=".", conditions=("clean", "hell"),
    decoding="unrestricted",
    seed=0, batch=1, device="cpu", utterances=None, modes=(10, 50), epsilon=1e-6,
)  # type: ignore[arg-type]  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What stress does: to the law of the eigenvalues, i^-slope, and to the number of tokens.

    ``drift`` is what stress does not touch: how much steeper the law is at the end of every text
    than at its beginning.
    """

    steeper: float = 0.0
    fewer: float = 0.0
    drift: float = 0.0
    speakers: int = 16
    utterances: int = 6
    layers: int = 2
    seed: int = 0


def spectra_row(**columns: object) -> dict[str, object]:
    """A row of `measure`, of one layer's FFN and a right transcript, but for these columns."""
    return {
        "parameters": 1, "model": "planted-0", "component": "ffn", "modes": 50, "layer": 1,
        "condition": "clean", "matched_with": "", "tokens": 40, "n_eff": 20.0, "alpha": 1.0,
        "kirchhoff": 1.0, "kirchhoff_resolved": 1.0, "reference": "a b", "transcript": "a b",
        "wer": 0.0, "candidate": False, "outcome": "correct", "text_log_probability": -0.1,
        "average_log_probability": -0.1, "compression_ratio": 1.0, "no_speech_probability": 0.0,
        "finished": True, "windows": 1, **columns,
    }  # fmt: skip


def number(name: str, value: float, reach: float) -> dict[str, float]:
    """The columns of a number and of its interval."""
    return {name: value, f"{name}_low": value - reach, f"{name}_high": value + reach}


def planted_rows(plan: Plan, nulls: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of `measure` and of `nulls` of a model for which ``plan`` is true.

    Speakers differ in slope, in scale and in how long they speak, utterances too; random networks
    and other speech have the lengths of the model's own texts and no change of law.
    """
    rng = np.random.default_rng(plan.seed)
    texts: list[Row] = [
        {"model": "planted-0", "parameters": 1, "utterance": f"{v}-{i}", "speaker": f"{v}"}
        for v in range(plan.speakers)
        for i in range(plan.utterances)
    ]
    count = len(texts)
    slopes = 1 + np.repeat(rng.normal(0, 0.05, plan.speakers), plan.utterances)
    longer = np.repeat(rng.normal(0, 3, plan.speakers), plan.utterances)
    lengths = {
        side: (66 + longer + rng.normal(0, 7, count) - shorter).round().clip(20, 120)
        for side, shorter in (("clean", 0.0), ("hell", plan.fewer), ("other", 0.0))
    }

    def side(name: str, steeper: float = 0.0) -> Side:
        exponents = slopes + steeper + rng.normal(0, 0.02, count)
        tokens = torch.from_numpy(lengths[name]).long()
        return Side(texts, _activations(exponents, tokens, rng, plan), tokens)

    clean, hell = side("clean"), side("hell", plan.steeper)
    sides = {"clean": clean, "hell": hell}
    measured = pd.DataFrame(_measured(sides))
    if not nulls:
        return measured, pd.DataFrame()
    steeper = _activations(slopes + plan.steeper, clean.lengths, rng, plan)
    forced = Side(texts, steeper, clean.lengths)
    known = {
        SHUFFLED: {name: shuffled(side, name, plan.seed) for name, side in sides.items()},
        GAUSSIAN: gaussian_sides(sides, COMPONENT, plan.seed),
        FORCED: {"clean": clean, "hell": forced},
        INITIALISED: {"clean": side("clean"), "hell": side("hell")},
        SWAPPED: {"clean": clean, "swapped": side("other")},
    }
    numbered = [(null, 0, pair) for null, pair in known.items()]
    for null, draws in {SPECTRUM: DRAWS, UNPAIRED: UNPAIRED_SEEDS}.items():
        for draw in range(draws):
            numbered.append((null, draw, {"clean": side("clean"), "hell": side("hell")}))
    return measured, pd.DataFrame(
        [
            row
            for null, draw, pair in numbered
            for row in side_rows(null, COMPONENT, pair, SETTINGS, draw)
        ]
    )


def _measured(sides: dict[str, Side]) -> list[Row]:
    """What `measure` writes of these activations, graphs left out; no text is a loop."""
    lengths_of = {name: side.lengths for name, side in sides.items()}
    return [
        {**side.texts[i], **columns, "outcome": "invention"}
        for name, side in sides.items()
        for i, columns in matched_rows(
            name, lengths_of, component_numbers(COMPONENT, side.activations, SETTINGS)
        )
    ]


def _activations(
    slopes: np.ndarray, lengths: Tensor, rng: np.random.Generator, plan: Plan
) -> Tensor:
    """Gaussian rows by the law i^-slope of each utterance: (utterances, layers, tokens, WIDTH).

    With a drift the slope rises by it from the first to the last of an utterance's rows.
    """
    modes, tokens = np.arange(1, WIDTH + 1), int(lengths.max())
    place = np.clip(np.arange(tokens) / (lengths.numpy()[:, None] - 1), 0, 1) - 0.5
    exponents = slopes[:, None] + plan.drift * place  # (utterances, tokens)
    drawn = rng.standard_normal((len(slopes), plan.layers, tokens, WIDTH))
    return torch.from_numpy(drawn * (modes ** (-exponents[..., None] / 2))[:, None])

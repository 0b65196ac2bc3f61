"""What a measured model is compared with: random networks, and rows with one thing true of them."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from companion.measurement.run import spread
from companion.measurement.schemas import INITIALISED, SPECTRUM, UNPAIRED
from companion.measurement.settings import NullSettings, Settings
from companion.models.controls import draw_seed, spectrum_preserving
from companion.models.loading import load, load_random_control
from companion.models.view import SpeechModel
from companion.speech.corpus import find_utterances
from companion.stress.mixture import digest
from spectral.spectra import resolved_modes, spectral_slope

LEAST_MODES = 4
"""Resolved modes without which a spectrum cannot be continued."""


def generator(seed: int, *key: str) -> np.random.Generator:
    """A generator that depends on the seed and the key alone, not on batches."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest(seed, *key))))


def continued(spectrum: Tensor, width: int) -> Tensor:
    """The law that a spectrum (modes,) was drawn from, as far as it shows: (width,) eigenvalues.

    The lower half of the resolved modes of T rows bends down for want of rows. So the upper half
    is kept, and its own lower half continued as a power law to the full width. Raises ValueError
    below ``LEAST_MODES`` resolved modes.
    """
    resolved = int(resolved_modes(spectrum))
    if resolved < LEAST_MODES:
        raise ValueError(f"{resolved} resolved modes, a law takes {LEAST_MODES}; leave it out")
    half = resolved // 2
    slope = spectral_slope(spectrum, half // 2, half)
    beyond = torch.arange(half + 1, width + 1, dtype=spectrum.dtype, device=spectrum.device)
    return torch.cat([spectrum[:half], spectrum[half - 1] * (beyond / half) ** -slope])


def gaussian(law: Tensor, length: int, rng: np.random.Generator) -> Tensor:
    """Independent Gaussian rows whose covariance has these eigenvalues.

    law (layers, width) -> (layers, length, width).
    """
    drawn = rng.standard_normal((law.shape[0], length, law.shape[1]))
    return torch.from_numpy(drawn).to(law.device) * law.sqrt()[:, None]


PLAIN = 5
"""Draws of plain random weights at most: a weaker control, so fewer show how far they differ."""


def random_control(settings: Settings, device: torch.device) -> SpeechModel:
    """The measured model's architecture at random weights, the same for all batches of a run."""
    return _initialised(settings.model, settings.ladder, device, settings.seed)


_initialised = lru_cache(maxsize=1)(load_random_control)


def further_draws(
    model: SpeechModel, settings: NullSettings
) -> Iterator[tuple[str, int, SpeechModel]]:
    """Null, draw and network of all controls of several draws, but ``random_control``, draw 0.

    The draws of those that were trained on unpaired audio and text are the seeds of their training.
    """
    for draw in range(settings.draws):
        yield SPECTRUM, draw, spectrum_preserving(model, draw, settings.seed)
    for draw in range(1, min(settings.draws, PLAIN)):
        seed = draw_seed(settings.model, draw, settings.seed)
        network = load_random_control(settings.model, settings.ladder, model.device, seed)
        yield INITIALISED, draw, network
    for draw, name in enumerate(settings.unpaired):
        yield UNPAIRED, draw, load(name, settings.ladder, model.device)


@lru_cache(maxsize=1)
def sampled(corpus: Path, measured: int | None, count: int | None) -> frozenset[str]:
    """``count`` utterances, by id, spread evenly over those of a corpus that are measured."""
    chosen = spread(spread(find_utterances(corpus).utterances, measured), count)
    return frozenset(utterance.id for utterance in chosen)

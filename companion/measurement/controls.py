"""What a measured model is compared with: random networks, and rows with one thing true of them."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch

from companion.measurement.run import spread
from companion.measurement.schemas import INITIALISED, SPECTRUM, UNPAIRED
from companion.measurement.settings import NullSettings, Settings
from companion.models.controls import draw_seed, spectrum_preserving
from companion.models.loading import load, load_random_control
from companion.models.view import SpeechModel
from companion.speech.corpus import find_utterances

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

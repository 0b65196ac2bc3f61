"""The random twin of the model that is measured."""

from functools import lru_cache
from pathlib import Path

import torch

from spectral.measurement.settings import Settings
from spectral.models.loading import load_random_twin
from spectral.models.view import SpeechModel


def random_twin(settings: Settings, device: torch.device) -> SpeechModel:
    """The measured model's architecture at random weights, the same for all batches of a run."""
    return _twin(settings.model, settings.ladder, device, settings.seed)


@lru_cache(maxsize=1)
def _twin(name: str, ladder: Path, device: torch.device, seed: int) -> SpeechModel:
    return load_random_twin(name, ladder, device, seed)

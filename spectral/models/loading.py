"""Load a model of the ladder by name, with its checksums verified; nothing is ever downloaded."""

from pathlib import Path

import torch
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from spectral.models.ladder import initialise, verify_checksums
from spectral.models.view import SpeechModel


def load(name: str, ladder: Path, device: torch.device) -> SpeechModel:
    """The trained model ``name`` of the folder ``ladder``, float32, on ``device``.

    Raises FileNotFoundError, listing the names, where there is no such model, and ValueError for a
    file whose checksum differs.
    """
    folder = _verified(name, ladder)
    model = WhisperForConditionalGeneration.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
    )
    return _view(name, folder, model, device)


def load_random_twin(name: str, ladder: Path, device: torch.device, seed: int) -> SpeechModel:
    """The architecture of model ``name`` at random initialisation: the null of a trained model."""
    folder = _verified(name, ladder)
    model = initialise(WhisperConfig.from_pretrained(folder), seed)
    return _view(f"{name}-random", folder, model, device)


def available(ladder: Path) -> list[str]:
    """The names of the models of a folder, sorted."""
    return sorted(path.parent.name for path in ladder.glob("*/SHA256SUMS"))


def choose_device(device: str) -> torch.device:
    """``auto`` is the GPU where there is one, and else the CPU; other names are taken literally.

    Raises ValueError for a name that torch does not know, and for a GPU that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is {device!r}; give auto, cpu or cuda") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but no GPU was found; give auto or cpu")
    return chosen


def _verified(name: str, ladder: Path) -> Path:
    if name not in available(ladder):
        known = ", ".join(available(ladder)) or "none"
        raise FileNotFoundError(f"{ladder}: no model {name!r}; there are: {known}")
    verify_checksums(ladder / name)
    return ladder / name


def _view(
    name: str, folder: Path, model: WhisperForConditionalGeneration, device: torch.device
) -> SpeechModel:
    return SpeechModel(
        name,
        model.to(device),
        WhisperTokenizer.from_pretrained(folder),
        WhisperFeatureExtractor.from_pretrained(folder),
    )

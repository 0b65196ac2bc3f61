"""Load a model by name: of the ladder, of transformers, or of openai-whisper.

A name is looked up in this order: a model of the ladder (``xs-0``), a transformers folder or
repository (``openai/whisper-tiny``), an openai-whisper file (``tiny.pt``) or name (``tiny``).
Weights come from safetensors, or from a file whose checksum is known, read without running code.
"""

import hashlib
import os
import pickle
from pathlib import Path

import torch
import whisper
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from whisper.model import ModelDimensions, Whisper

from spectral.models.ladder import initialise, sha256, verify_checksums
from spectral.models.openai_model import OpenAIModel
from spectral.models.transformers_model import TransformersModel
from spectral.models.view import SpeechModel

_NEEDED = ("config.json", "tokenizer_config.json", "preprocessor_config.json")


def load(name: str, ladder: Path, device: torch.device) -> SpeechModel:
    """The model called ``name``, in evaluation mode, float32, on ``device``.

    Raises FileNotFoundError, saying what there is or where to get it, where there is no such model
    on this computer and none can be fetched, and ValueError for a file whose checksum differs or
    that is no such checkpoint.
    """
    if name in available(ladder):
        return _from_folder(name, _verified(name, ladder), device)
    if _openai_file(name) is not None:
        return OpenAIModel(name, _openai(name)[0].to(device))
    if Path(name).is_dir() or "/" in name:
        return _from_folder(name, name, device)
    raise _unknown(name, ladder)


def load_random_twin(name: str, ladder: Path, device: torch.device, seed: int) -> SpeechModel:
    """The architecture of model ``name`` at random initialisation: the null of a trained model."""
    if name not in available(ladder) and _openai_file(name) is not None:
        dims = _openai(name)[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return OpenAIModel(f"{name}-random", _positioned(Whisper(dims)).to(device))
    folder = _verified(name, ladder) if name in available(ladder) else name
    model = initialise(WhisperConfig.from_pretrained(folder), seed).to(device)
    return TransformersModel(f"{name}-random", model, *_processors(folder))


def available(ladder: Path) -> list[str]:
    """The names of the models of a folder, sorted."""
    return sorted(path.parent.name for path in ladder.glob("*/SHA256SUMS"))


def weights_digest(name: str, ladder: Path) -> str:
    """A checksum of a model's weights and configuration, by which measured rows are keyed."""
    if name in available(ladder):
        return sha256(ladder / name / "SHA256SUMS")
    file = _openai_file(name)
    if file is not None:
        return sha256(file)
    if Path(name).is_dir():
        files = sorted(path for path in Path(name).iterdir() if path.is_file())
        return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
    return name


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
    verify_checksums(ladder / name)
    return ladder / name


def _unknown(name: str, ladder: Path) -> FileNotFoundError:
    known = ", ".join(available(ladder)) or "none"
    others = ", ".join(whisper.available_models())
    return FileNotFoundError(
        f"{ladder}: no model {name!r}; there are: {known}; others are a transformers folder or "
        f"repository, a .pt file, or one of openai-whisper's: {others}"
    )


def _from_folder(name: str, folder: Path | str, device: torch.device) -> SpeechModel:
    try:
        model = WhisperForConditionalGeneration.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32
        )
        processors = _processors(folder)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"{name}: cannot be loaded ({reason}); connect to the network once, or give a folder "
            f"with model.safetensors, {', '.join(_NEEDED)}"
        ) from error
    return TransformersModel(name, model.to(device), *processors)


def _processors(folder: Path | str) -> tuple[WhisperTokenizer, WhisperFeatureExtractor]:
    return (
        WhisperTokenizer.from_pretrained(folder),
        WhisperFeatureExtractor.from_pretrained(folder),
    )


def _openai_file(name: str) -> Path | None:
    """Where openai-whisper's checkpoint of that name is, or would be once fetched."""
    if Path(name).suffix == ".pt":
        return Path(name)
    if name not in whisper.available_models():
        return None
    cache = Path(os.getenv("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "whisper" / Path(whisper._MODELS[name]).name


def _openai(name: str) -> tuple[Whisper, ModelDimensions]:
    """A checkpoint of dims and model_state_dict, read with weights_only."""
    path = _openai_file(name)
    assert path is not None
    if name in whisper.available_models():
        _fetch(name, path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give an openai-whisper checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        dims = ModelDimensions(**checkpoint["dims"])
        model = Whisper(dims)
        model.load_state_dict(checkpoint["model_state_dict"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: no openai-whisper checkpoint ({reason}); it must hold dims and "
            "model_state_dict, and nothing that runs code: fetch it again"
        ) from error
    return model.float(), dims


def _fetch(name: str, path: Path) -> None:
    """openai-whisper's own download, checksum included; an error says what is missing and where."""
    url = whisper._MODELS[name]
    try:
        whisper._download(url, str(path.parent), in_memory=False)
    except (OSError, RuntimeError) as error:
        expected = url.split("/")[-2]
        raise FileNotFoundError(
            f"{name}: not on this computer and not fetched ({error}); put {url} at {path}, "
            f"SHA-256 {expected}"
        ) from error


def _positioned(model: Whisper) -> Whisper:
    """torch.empty leaves the decoder's positions to chance; as its embeddings are, N(0, 1 / 50)."""
    with torch.no_grad():
        model.decoder.positional_embedding.normal_(std=0.02)
    return model

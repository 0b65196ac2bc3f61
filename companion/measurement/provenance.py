"""Where numbers come from: what was measured, with which versions, device and commit."""

import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import torch

from companion.measurement.keys import Key, key_of, speech_digest
from companion.measurement.settings import Settings
from companion.models.loading import weights_digest
from companion.models.view import SpeechModel
from companion.speech.corpus import Utterance

_PACKAGES = (
    "torch", "transformers", "tokenizers", "openai-whisper", "numpy", "scipy", "librosa", "av",
    "soundfile", "jiwer", "pyarrow",
)  # fmt: skip


def key_of_run(kind: str, settings: Settings, utterances: Iterable[Utterance]) -> Key:
    """What rows are keyed by, of settings and a corpus that are here."""
    weights = weights_digest(settings.model, settings.ladder)
    return key_of(kind, settings.plain(), weights, speech_digest(utterances))


def key_of_parts(key: Key, device: torch.device) -> dict[str, object]:
    """What parts of one file must have in common: the key, device, threads and versions."""
    return {
        "key": key,
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def described(model: SpeechModel) -> str:
    """What computes, in one line: weights, precision, and device."""
    device = _device_name(model.device)
    threads = f" (threads: {torch.get_num_threads()})" if model.device.type == "cpu" else ""
    weights = f"{model.parameters / 1e6:.2f} million weights"
    return f"{model.name}: {weights} in {_dtype_name(model)} on {device}{threads}"


def provenance(key: Key, model: SpeechModel) -> dict[str, object]:
    """What is stored with measured rows: their key, and what else they were measured with."""
    return {
        **key_of_parts(key, model.device),
        "python": platform.python_version(),
        "dtype": _dtype_name(model),
        "commit": _commit(),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _dtype_name(model: SpeechModel) -> str:
    return str(model.dtype).removeprefix("torch.")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    folder = Path(__file__).parents[1]
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"
    return run.stdout.strip()

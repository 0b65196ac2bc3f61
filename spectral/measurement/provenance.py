"""Where numbers come from: parameters, code, data, versions, device and commit."""

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import torch

from spectral.measurement.settings import Settings
from spectral.models.loading import weights_digest
from spectral.models.view import SpeechModel
from spectral.speech.corpus import Utterance

_PACKAGES = (
    "torch", "transformers", "tokenizers", "openai-whisper", "numpy", "scipy", "librosa",
    "soundfile", "jiwer", "pyarrow",
)  # fmt: skip
_CODE = (
    "*.py", "speech/*.py", "stress/*.py", "models/*.py", "measurement/*.py", "jacobians/*.py",
)  # fmt: skip
"""The files of the package that decide a measured number."""


def fingerprint(settings: Settings, utterances: Iterable[Utterance]) -> str:
    """A hash of everything that decides the numbers: settings, code, weights and speech."""
    digest = hashlib.sha256(settings.plain().encode())
    package = Path(__file__).parents[1]
    for pattern in _CODE:
        for path in sorted(package.glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
    digest.update(weights_digest(settings.model, settings.ladder).encode())
    for utterance in utterances:
        digest.update(f"{utterance.id} {utterance.reference}".encode())
        if utterance.path.exists():
            digest.update(utterance.path.read_bytes())
    return digest.hexdigest()


def run_key(fingerprint: str, device: torch.device) -> str:
    """What parts of one file must have in common: numbers, device, threads and versions."""
    machine = (_device_name(device), torch.get_num_threads(), _versions())
    return hashlib.sha256(repr((fingerprint, machine)).encode()).hexdigest()


def described(model: SpeechModel) -> str:
    """What computes, in one line: weights, precision, and device."""
    device = _device_name(model.device)
    threads = f" (threads: {torch.get_num_threads()})" if model.device.type == "cpu" else ""
    weights = f"{model.parameters / 1e6:.2f} million weights"
    return f"{model.name}: {weights} in {_dtype_name(model)} on {device}{threads}"


def provenance(settings: Settings, fingerprint: str, model: SpeechModel) -> dict[str, object]:
    """What is stored with measured rows."""
    return {
        "parameters": settings.plain(),
        "fingerprint": fingerprint,
        "packages": _versions(),
        "python": platform.python_version(),
        "device": _device_name(model.device),
        "dtype": _dtype_name(model),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "seed": settings.seed,
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}


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

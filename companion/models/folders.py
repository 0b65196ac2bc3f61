"""Speech models of transformers, and folders of the Hugging Face Hub's repositories.

Weights come from safetensors alone, and no code of a folder is ever run. What a repository lacks on
this computer is fetched once, whole, and then read as any other folder, of transformers or of
CTranslate2.
"""

from pathlib import Path

import requests
import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import (
    PreTrainedConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from companion.models.ctranslate2 import WEIGHTS as CONVERTED
from companion.models.ctranslate2 import conversion_in
from companion.models.formats import foreign
from companion.models.ladder import initial_std, initialise
from companion.models.transformers_model import TransformersModel
from companion.models.view import SpeechModel
from companion.models.vocabulary import FILES as VOCABULARIES

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_NEEDED = (_CONFIG, "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
_PATTERNS = ["*.json", "*.txt", _WEIGHTS, "model-*-of-*.safetensors", CONVERTED]
_PATIENCE = 10.0  # seconds until a server that does not answer counts as none


def from_folder(name: str, folder: Path, device: torch.device) -> SpeechModel:
    """The model of a folder, float32, called ``name``.

    Raises FileNotFoundError for files that are missing, ValueError for what is no such model.
    """
    _require_whisper(name, folder)
    try:
        model, loaded = WhisperForConditionalGeneration.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        processors = _processors(folder)
    except OSError as error:
        raise _incomplete(name, error) from error
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise _foreign(name, error) from error
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loaded.items() if keys}
    wrong["missing_keys"] = [k for k in wrong.get("missing_keys", []) if k != "proj_out.weight"]
    if any(wrong.values()):
        kind, keys = next((kind, keys) for kind, keys in wrong.items() if keys)
        raise ValueError(
            f"{name}: its weights do not fit its configuration ({len(keys)} {kind}, the first: "
            f"{keys[0]}); fetch it again"
        )
    return TransformersModel(name, model.to(device), *processors)


def random_from_folder(name: str, folder: Path, device: torch.device, seed: int) -> SpeechModel:
    """The architecture of a folder's model at random initialisation, called ``name``."""
    _require_whisper(name, folder)
    config = WhisperConfig.from_pretrained(folder)
    config.init_std = initial_std(config.hidden_size)
    model = initialise(config, seed).to(device)
    return TransformersModel(name, model, *_processors(folder))


def _processors(folder: Path) -> tuple[WhisperTokenizer, WhisperFeatureExtractor]:
    return WhisperTokenizer.from_pretrained(folder), WhisperFeatureExtractor.from_pretrained(folder)


def repository_folder(name: str, ladder: Path) -> Path:
    """Where a repository's files lie on this computer, fetched if they are not there yet.

    The folder is named after the revision. Raises FileNotFoundError, saying what is missing and
    where to put it, where they cannot be fetched.
    """
    try:
        return fetched_folder(name)
    except OSError as error:
        raise FileNotFoundError(
            f"{name}: not on this computer and not fetched ({error}); put {_WEIGHTS}, "
            f"{', '.join(_NEEDED)} of {constants.ENDPOINT}/{name} into {ladder / name}; the page "
            f"of {_WEIGHTS} there states its SHA-256"
        ) from error


def fetched_folder(name: str, revision: str | None = None) -> Path:
    """As ``repository_folder``, of a ``revision`` or the newest; OSError says why there is none."""
    if (folder := cached_folder(name, revision)) is not None:
        return folder
    try:
        _require_server()
        return _complete(snapshot_download(name, revision=revision, allow_patterns=_PATTERNS))
    except (OSError, ValueError) as error:
        raise OSError(_reason(error)) from error


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """Where a repository's files lie on this computer; None where they do not, or not all."""
    try:
        return _complete(
            snapshot_download(
                name, revision=revision, allow_patterns=_PATTERNS, local_files_only=True
            )
        )
    except (OSError, ValueError):
        return None


def _require_server() -> None:
    """Ask once whether the hub answers: its own client would try for half a minute."""
    try:
        requests.head(constants.ENDPOINT, timeout=_PATIENCE)
    except requests.RequestException:
        raise OSError(f"{constants.ENDPOINT} cannot be reached") from None


def _complete(folder: str) -> Path:
    found = Path(folder)
    if conversion_in(found) and any((found / name).is_file() for name in VOCABULARIES):
        return found
    missing = [name for name in _NEEDED if not (found / name).is_file()]
    if not list(found.glob("model*.safetensors")):
        missing.append(_WEIGHTS)
    if missing:
        raise LocalEntryNotFoundError(f"{folder} lacks {', '.join(missing)}")
    return found


def _require_whisper(name: str, folder: Path) -> None:
    if not (folder / _CONFIG).is_file():
        other = foreign(folder)
        raise _incomplete(name, OSError(f"no {_CONFIG}{f'; {other}' if other else ''}"))
    try:
        kind = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
    except (OSError, ValueError) as error:
        raise _foreign(name, error) from error
    if kind != "whisper":
        raise ValueError(
            f"{name}: model_type is {kind!r} in its {_CONFIG}; known are whisper and "
            f"CTranslate2's Whisper with its {CONVERTED}"
        )


def _incomplete(name: str, error: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f"{name}: cannot be loaded ({_reason(error)}); give a folder with {_WEIGHTS}, "
        f"{', '.join(_NEEDED)}"
    )


def _foreign(name: str, error: Exception) -> ValueError:
    return ValueError(f"{name}: no speech model of transformers ({_reason(error)}); fetch it again")


def _reason(error: BaseException) -> str:
    """The first line of what went wrong."""
    return (str(error) or type(error).__name__).splitlines()[0]

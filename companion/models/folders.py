"""Speech models of transformers, and folders of the Hugging Face Hub's repositories.

Weights come from safetensors alone, and no code of a folder is ever run. What a repository lacks on
this computer is fetched once, whole, and then read as any other folder, of transformers or of
CTranslate2.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
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

from companion.models.checksums import listed
from companion.models.ctranslate2 import WEIGHTS as CONVERTED
from companion.models.ctranslate2 import conversion_in
from companion.models.ladder import initialise
from companion.models.transformers_model import TransformersModel
from companion.models.view import SpeechModel, initial_std
from companion.models.vocabulary import FILES as VOCABULARIES

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_NEEDED = (_CONFIG, "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
_PATTERNS = ["*.json", "*.txt", _WEIGHTS, "model-*-of-*.safetensors", CONVERTED]
_PATIENCE = 10.0  # seconds until a server that does not answer counts as none
_SHOWN = 5  # files that are named


@dataclass(frozen=True)
class Folder:
    """A model of transformers."""

    path: Path

    def load(self, name: str, device: torch.device, seed: int | None = None) -> SpeechModel:
        """The model, float32, called ``name``, of a ``seed`` at random.

        Raises FileNotFoundError for files that are missing, ValueError for what is no such model.
        """
        self._require_whisper(name)
        if seed is not None:
            config = WhisperConfig.from_pretrained(self.path)
            config.init_std = initial_std(config.hidden_size)
            return TransformersModel(name, initialise(config, seed).to(device), *self._processors())
        try:
            model, loaded = WhisperForConditionalGeneration.from_pretrained(
                self.path, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            processors = self._processors()
        except OSError as error:
            raise _incomplete(name, error) from error
        except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise _foreign(name, error) from error
        for kind, keys in loaded.items():
            if wrong := sorted({*map(str, keys or ())} - {"proj_out.weight"}):
                raise ValueError(
                    f"{name}: its weights do not fit its configuration ({len(wrong)} {kind}, the "
                    f"first: {wrong[0]}); fetch it again"
                )
        return TransformersModel(name, model.to(device), *processors)

    def digest(self) -> str:
        """A checksum of all its files."""
        return hashlib.sha256(listed(self.path).encode()).hexdigest()

    def _processors(self) -> tuple[WhisperTokenizer, WhisperFeatureExtractor]:
        kinds = (WhisperTokenizer, WhisperFeatureExtractor)
        return tuple(kind.from_pretrained(self.path) for kind in kinds)

    def _require_whisper(self, name: str) -> None:
        if not (self.path / _CONFIG).is_file():
            others = [path.name for path in sorted(self.path.iterdir())[:_SHOWN]]
            raise _incomplete(name, OSError(f"no {_CONFIG} beside {', '.join(others)}"))
        try:
            kind = PreTrainedConfig.get_config_dict(self.path)[0].get("model_type")
        except (OSError, ValueError) as error:
            raise _foreign(name, error) from error
        if kind != "whisper":
            raise ValueError(
                f"{name}: model_type is {kind!r} in its {_CONFIG}; known are whisper and "
                f"CTranslate2's Whisper with its {CONVERTED}"
            )


def fetched_folder(name: str, revision: str | None, remedy: str) -> Path:
    """Where the files of a repository lie, at a revision or the newest, fetched if they do not.

    The folder is named after the revision. Raises FileNotFoundError, with the ``remedy``, where
    they cannot be had.
    """
    if (folder := cached_folder(name, revision)) is not None:
        return folder
    try:
        # asked once: the hub's own client would try for half a minute
        requests.head(constants.ENDPOINT, timeout=_PATIENCE)
        return _complete(snapshot_download(name, revision=revision, allow_patterns=_PATTERNS))
    except (OSError, ValueError) as error:
        lost = isinstance(error, requests.RequestException)
        reason = f"{constants.ENDPOINT} cannot be reached" if lost else _reason(error)
        raise FileNotFoundError(
            f"{name}: not on this computer and not fetched ({reason}); {remedy}"
        ) from error


def repository_folder(name: str, ladder: Path) -> Path:
    """:func:`fetched_folder` of a repository that is no published one of OpenAI's."""
    return fetched_folder(
        name, None,
        f"put {_WEIGHTS}, {', '.join(_NEEDED)} of {constants.ENDPOINT}/{name} into "
        f"{ladder / name}; the page of {_WEIGHTS} there states its SHA-256",
    )  # fmt: skip


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """Where a repository's files lie on this computer; None where they do not, or not all."""
    with suppress(OSError, ValueError):
        return _complete(snapshot_download(
            name, revision=revision, allow_patterns=_PATTERNS, local_files_only=True
        ))  # fmt: skip
    return None


def _complete(folder: str) -> Path:
    path = Path(folder)
    if conversion_in(path) and any((path / name).is_file() for name in VOCABULARIES):
        return path
    missing = [name for name in _NEEDED if not (path / name).is_file()]
    if not list(path.glob("model*.safetensors")):
        missing.append(_WEIGHTS)
    if missing:
        raise LocalEntryNotFoundError(f"{folder} lacks {', '.join(missing)}")
    return path


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

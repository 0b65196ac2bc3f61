"""openai-whisper's own checkpoints: files of dims and model_state_dict, fetched by their names."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
import whisper
from whisper.model import ModelDimensions, Whisper

from companion.fetching import retrieve
from companion.models.checksums import sha256
from companion.models.openai_model import OpenAIModel, initialised

_FIRST = 8  # bytes that are shown of a file of another format


@dataclass(frozen=True)
class OpenAIFile:
    """A checkpoint; ``published``: one of openai-whisper's names, by which it can be fetched."""

    path: Path
    published: str | None

    @classmethod
    def of(cls, name: str, ladder: Path) -> "OpenAIFile":
        """Where openai-whisper's checkpoint of that name is, or would be once fetched."""
        published = name if name in whisper.available_models() else None
        beside = ladder / f"{name.removesuffix('.pt')}.pt"
        if beside.is_file() or not published:
            return cls(beside if beside.is_file() else Path(name), published)
        cache = Path(os.getenv("XDG_CACHE_HOME", Path.home() / ".cache"))
        return cls(cache / "whisper" / Path(whisper._MODELS[name]).name, published)

    def load(self, name: str, device: torch.device) -> OpenAIModel:
        """The model; raises ValueError for no such checkpoint, FileNotFoundError where none is."""
        return OpenAIModel(name, self._read()[0].to(device))

    def random(self, name: str, device: torch.device, seed: int) -> OpenAIModel:
        """Its architecture at random initialisation."""
        return OpenAIModel(name, initialised(self._read()[1], seed).to(device))

    def digest(self) -> str:
        """The SHA-256 of the file."""
        return sha256(self.path)

    def _read(self) -> tuple[Whisper, ModelDimensions]:
        self._fetch()
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file; give an openai-whisper checkpoint")
        try:
            checkpoint = torch.load(self.path, map_location="cpu", weights_only=True)
            dims = ModelDimensions(**checkpoint["dims"])
            model = Whisper(dims)
            model.load_state_dict(checkpoint["model_state_dict"])
        except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError) as error:
            raise ValueError(
                f"{self.path}: no openai-whisper checkpoint ({self._refused(error)}); it must hold "
                "dims and model_state_dict, and nothing that runs code: fetch it again"
            ) from error
        return model.float(), dims

    def _refused(self, error: Exception) -> str:
        """Why a file is no checkpoint, without torch's advice to read it unsafely."""
        if isinstance(error, pickle.UnpicklingError | EOFError):
            return f"of another format or of more than tensors, {beginning(self.path)}"
        return str(error).splitlines()[0] if str(error) else type(error).__name__

    def _fetch(self) -> None:
        """Download a checkpoint; an error says what is missing, where to put it, and its checksum.

        A file of that name that is there stays as it is: another checksum is an error.
        """
        if self.published is None:
            return
        url = whisper._MODELS[self.published]
        expected = url.split("/")[-2]
        if self.path.is_file():
            if (digest := self.digest()) != expected:
                raise ValueError(
                    f"{self.path}: SHA-256 {digest}, expected {expected}; remove the file, and "
                    f"{url} is fetched again"
                )
            return
        try:
            retrieve(url, self.path.parent, expected)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise FileNotFoundError(
                f"{self.published}: not on this computer and not fetched ({reason}); put {url} at "
                f"{self.path}, SHA-256 {expected}"
            ) from error


def beginning(path: Path) -> str:
    """How a file begins, which tells its format; an empty one is called so."""
    with path.open("rb") as file:
        start = file.read(_FIRST)
    return f"it starts with {start!r}" if start else "an empty file"

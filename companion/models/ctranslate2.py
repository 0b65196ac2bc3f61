"""Whisper checkpoints of CTranslate2, faster-whisper's format: ``model.bin``, whole or in parts.

The file is a header (version, name and revision of the specification, number of tensors), then
every tensor's name, shape, type and bytes, then aliases. Nothing is joined on disk, and no code of
the file is run. The layers' names say which weight of openai-whisper's Whisper a tensor holds;
queries, keys and values are stacked in one.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from whisper.model import ModelDimensions, Whisper

from companion.models.openai_model import OpenAIModel, initialised
from companion.models.vocabulary import read_vocabulary

WEIGHTS = "model.bin"
_PART = re.compile(re.escape(WEIGHTS) + r"\.part(\d+)")
_VERSION, _SPECIFICATION = 6, "WhisperSpec"
_DTYPES = {
    0: torch.float32, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.float16,
    5: torch.bfloat16,
}  # fmt: skip
_EXACT = (torch.float32, torch.float16)
_LONGEST_NAME, _HIGHEST_RANK = 256, 8


@dataclass(frozen=True)
class Conversion:
    """A checkpoint: the parts of its ``model.bin`` in order, and the folder of its vocabulary."""

    parts: tuple[Path, ...]
    folder: Path

    def load(self, name: str, device: torch.device, seed: int | None = None) -> OpenAIModel:
        """The model, of a seed at random; raises as ``read_whisper``, ``read_vocabulary`` do."""
        model = read_whisper(self.parts)
        vocabulary = read_vocabulary(self.folder, model.dims.n_vocab)
        model = model if seed is None else initialised(model.dims, seed)
        return OpenAIModel(name, model.to(device), vocabulary)

    def digest(self) -> str:
        """The SHA-256 of ``model.bin``, wherever it came from; read once per state of it."""
        return _digest(tuple((at, at.stat().st_size, at.stat().st_mtime_ns) for at in self.parts))


def conversion_in(folder: Path) -> Conversion | None:
    """The checkpoint of a folder; None for one without its files, or with transformers' beside it.

    Raises ValueError where a part between others is missing.
    """
    if next(folder.glob("model*.safetensors"), None):
        return None
    if (folder / WEIGHTS).is_file():
        return Conversion((folder / WEIGHTS,), folder)
    numbered = {
        int(match[1]): path
        for path in folder.glob(f"{WEIGHTS}.part*")
        if (match := _PART.fullmatch(path.name)) and path.is_file()
    }
    if not numbered:
        return None
    for number in range(min(1, *numbered), max(numbered)):
        if number not in numbered:
            raise ValueError(
                f"{folder / WEIGHTS}.part{number}: no such file, of parts up to {max(numbered)}; "
                "fetch the folder again"
            )
    return Conversion(tuple(numbered[i] for i in sorted(numbered)), folder)


@lru_cache
def _digest(parts: tuple[tuple[Path, int, int], ...]) -> str:
    sha = hashlib.sha256()
    for path, _, _ in parts:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: sha)
    return sha.hexdigest()


def read_whisper(parts: tuple[Path, ...]) -> Whisper:
    """The model of a file in one or several parts, float32, in evaluation mode.

    Raises ValueError, naming the file, for another format, a truncated file, parts in another
    order, quantised weights, NaN, and tensors that are no Whisper's.
    """
    tensors = dict(_tensors(_Reader(parts)))
    try:
        dims = _dimensions(tensors)
        model = Whisper(dims)
        model.load_state_dict(_state(tensors, dims))
    except KeyError as error:
        raise ValueError(f"{parts[0]}: lacks {error}; it is no Whisper: convert it again") from None
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{parts[0]}: {reason}; convert it again") from None
    return model.eval()


class _Reader:
    """The joined bytes of the parts of a file, read in order; what is large stays on disk."""

    def __init__(self, parts: tuple[Path, ...]) -> None:
        for path in parts:
            if not path.stat().st_size:
                raise ValueError(f"{path}: an empty file; fetch it again")
        whole = [np.memmap(path, np.uint8, "r") for path in parts]
        self._bytes: np.ndarray = np.concatenate(whole) if len(whole) > 1 else whole[0]
        self._at, self.parts = 0, parts

    @property
    def left(self) -> int:
        return self._bytes.size - self._at

    def take(self, count: int, what: str) -> np.ndarray:
        """So many bytes; ValueError where the last file ends before."""
        if self.left < count:
            raise ValueError(
                f"{self.parts[-1]}: ends {count - self.left} bytes short, inside {what}; it is "
                "truncated: fetch it again"
            )
        self._at += count
        return self._bytes[self._at - count : self._at]

    def number(self, dtype: str, what: str) -> int:
        """One little-endian number of a dtype of numpy."""
        return int(self.take(np.dtype(dtype).itemsize, what).view(dtype)[0])

    def text(self, what: str) -> str:
        """A string: its length, the bytes, and a zero."""
        length = self.number("<u2", what)
        raw = self.take(min(length, _LONGEST_NAME), what).tobytes()
        if length > _LONGEST_NAME or not re.fullmatch(rb"[\w./]+\x00", raw):
            raise self.garbled(f"no {what} where one is due")
        return raw[:-1].decode()

    def garbled(self, what: str) -> ValueError:
        """What is said where ``what`` shows that these are not the bytes that are due here."""
        names = " + ".join(map(str, self.parts))
        order = ", its parts in order" if len(self.parts) > 1 else ""
        return ValueError(f"{names}: {what}; truncated or damaged: fetch {WEIGHTS} again{order}")


def _tensors(reader: _Reader) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name, as stored."""
    start = reader.take(min(4, reader.left), "version").tobytes()
    if start != _VERSION.to_bytes(4, "little"):
        raise reader.garbled(
            f"it starts with {start!r}, and CTranslate2's version {_VERSION} was expected, as "
            "faster-whisper has it"
        )
    if (name := reader.text("name of the specification")) != _SPECIFICATION:
        raise ValueError(
            f"{reader.parts[0]}: a model of {name}, not of {_SPECIFICATION}; give a Whisper's"
        )
    reader.number("<u4", "revision")
    for _ in range(reader.number("<u4", "number of tensors")):
        name = reader.text("tensor's name")
        yield name, _tensor(reader, name)
    for _ in range(reader.number("<u4", "number of aliases")):
        reader.text("alias")
        reader.text("alias")
    if reader.left:
        raise reader.garbled("it goes on where it should end")


def _tensor(reader: _Reader, name: str) -> Tensor:
    rank = reader.number("u1", name)
    if rank > _HIGHEST_RANK:
        raise reader.garbled(f"{name} has rank {rank}")
    shape = tuple(reader.number("<u4", name) for _ in range(rank))
    code, size = reader.number("u1", name), reader.number("<u4", name)
    dtype = _DTYPES.get(code)
    if rank and dtype not in _EXACT:
        kind = str(dtype or f"of type {code}").removeprefix("torch.")
        raise ValueError(
            f"{reader.parts[0]}: {name} is {kind}, rounded, and spectra need the weights "
            "themselves; convert the model again with --quantization float16 or float32"
        )
    if dtype is None or size != math.prod(shape) * dtype.itemsize:
        raise reader.garbled(f"{name} {shape} has {size} bytes of type {code}")
    tensor = torch.from_numpy(reader.take(size, name).copy()).view(dtype)
    if not tensor.isfinite().all():
        raise reader.garbled(f"{name} is not finite")
    return tensor.reshape(shape)


def _dimensions(tensors: dict[str, Tensor]) -> ModelDimensions:
    """What the shapes say, and how many heads the file does."""
    width, mels, _ = tensors["encoder/conv1/weight"].shape
    vocabulary, text_width = tensors["decoder/embeddings/weight"].shape
    audio, text = (
        {int(match[1]) for name in tensors if (match := re.match(rf"{side}/layer_(\d+)/", name))}
        for side in ("encoder", "decoder")
    )
    return ModelDimensions(
        n_mels=mels,
        n_audio_ctx=len(tensors["encoder/position_encodings/encodings"]),
        n_audio_state=width,
        n_audio_head=int(tensors["encoder/num_heads"]),
        n_audio_layer=len(audio),
        n_vocab=vocabulary,
        n_text_ctx=len(tensors["decoder/position_encodings/encodings"]),
        n_text_state=text_width,
        n_text_head=int(tensors["decoder/num_heads"]),
        n_text_layer=len(text),
    )


def _state(tensors: dict[str, Tensor], dims: ModelDimensions) -> dict[str, Tensor]:
    """The tensors under openai-whisper's names."""
    state = {
        "encoder.positional_embedding": tensors["encoder/position_encodings/encodings"],
        "decoder.positional_embedding": tensors["decoder/position_encodings/encodings"],
        "decoder.token_embedding.weight": tensors["decoder/embeddings/weight"],
    }

    def take(source: str, *targets: str, kinds: tuple[str, str] = ("weight", "bias")) -> None:
        """What ``source`` holds, one above the other."""
        for kind, stored in zip(("weight", "bias"), kinds, strict=True):
            chunks = tensors[f"{source}/{stored}"].chunk(len(targets))
            names = (f"{target}.{kind}" for target in targets)
            state.update(zip(names, chunks, strict=True))

    def norm(source: str, target: str) -> None:
        take(f"{source}/layer_norm", target, kinds=("gamma", "beta"))

    def attention(source: str, target: str, *stacks: str) -> None:
        norm(source, f"{target}_ln")
        for i, stack in enumerate((*stacks, "out")):
            take(f"{source}/linear_{i}", *(f"{target}.{part}" for part in stack.split()))

    take("encoder/conv1", "encoder.conv1")
    take("encoder/conv2", "encoder.conv2")
    norm("encoder", "encoder.ln_post")
    norm("decoder", "decoder.ln")
    for side, count in (("encoder", dims.n_audio_layer), ("decoder", dims.n_text_layer)):
        for i in range(count):
            source, target = f"{side}/layer_{i}", f"{side}.blocks.{i}"
            norm(f"{source}/ffn", f"{target}.mlp_ln")
            take(f"{source}/ffn/linear_0", f"{target}.mlp.0")
            take(f"{source}/ffn/linear_1", f"{target}.mlp.2")
            attention(f"{source}/self_attention", f"{target}.attn", "query key value")
            if side == "decoder":
                attention(f"{source}/attention", f"{target}.cross_attn", "query", "key value")
    for name in [name for name in state if name.endswith(".key.bias")]:
        if state.pop(name).any():
            raise ValueError(f"{name.removesuffix('.bias')} has a bias, and Whisper's keys none")
    return state

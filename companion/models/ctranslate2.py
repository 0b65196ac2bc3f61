"""Whisper checkpoints of CTranslate2, faster-whisper's format: ``model.bin``, whole or in parts.

The file is a header (version, name and revision of the specification, number of tensors), then
every tensor's name, shape, type and bytes, then aliases. It is read as a stream, part after part:
nothing is joined on disk, and no code of the file is run. The layers' names say which weight of
openai-whisper's Whisper a tensor holds; queries, keys and values are stacked in one.
"""

import hashlib
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from whisper.model import ModelDimensions, Whisper

from companion.models.formats import described
from companion.models.vocabulary import Vocabulary, read_vocabulary

WEIGHTS = "model.bin"
_PART = re.compile(re.escape(WEIGHTS) + r"\.part(\d+)")
_VERSION, _SPECIFICATION = 6, "WhisperSpec"
_DTYPES = {
    0: torch.float32,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.float16,
    5: torch.bfloat16,
}
_EXACT = (torch.float32, torch.float16)
_LONGEST_NAME, _HIGHEST_RANK = 256, 8
_PIECE = 1 << 20

_ATTENTION = {
    "attn": ("self_attention", ("query", "key", "value"), ()),
    "cross_attn": ("attention", ("query",), ("key", "value")),
}


@dataclass(frozen=True)
class Conversion:
    """A checkpoint: the parts of its ``model.bin`` in order, and the folder of its vocabulary."""

    parts: tuple[Path, ...]
    folder: Path

    def read(self) -> tuple[Whisper, Vocabulary]:
        """The model and its tokens; raises as ``read_whisper`` and ``read_vocabulary`` do."""
        model = read_whisper(self.parts)
        return model, read_vocabulary(self.folder, model.dims.n_vocab)


def conversion_in(folder: Path) -> Conversion | None:
    """The checkpoint of a folder; None for one without its files, or with transformers' beside it.

    Raises ValueError where a part between others is missing.
    """
    if next(folder.glob("model*.safetensors"), None):
        return None
    if (folder / WEIGHTS).is_file():
        return Conversion((folder / WEIGHTS,), folder)
    parts = _parts(folder)
    return Conversion(parts, folder) if parts else None


def _parts(folder: Path) -> tuple[Path, ...]:
    numbered = {
        int(found[1]): path
        for path in folder.glob(f"{WEIGHTS}.part*")
        if (found := _PART.fullmatch(path.name)) and path.is_file()
    }
    first = min(numbered, default=1)
    for number in range(min(first, 1), max(numbered, default=0) + 1):
        if number not in numbered:
            raise ValueError(
                f"{folder / WEIGHTS}.part{number}: no such file, of parts up to {max(numbered)}; "
                "fetch the folder again"
            )
    return tuple(numbered[number] for number in sorted(numbered))


def digest(parts: tuple[Path, ...]) -> str:
    """The SHA-256 of the joined parts, in hexadecimal; read once per process and state of them."""
    return _digest(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in parts))


@lru_cache
def _digest(parts: tuple[tuple[Path, int, int], ...]) -> str:
    sha = hashlib.sha256()
    for path, _, _ in parts:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                sha.update(piece)
    return sha.hexdigest()


def read_whisper(parts: tuple[Path, ...]) -> Whisper:
    """The model of a file in one or several parts, float32, in evaluation mode.

    Raises ValueError, naming the file, for another format, a truncated file, parts in another
    order, quantised weights, NaN, and tensors that are no Whisper's.
    """
    tensors = dict(_tensors(_Stream(parts)))
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


class _Stream:
    """The bytes of several files, one after the other."""

    def __init__(self, parts: tuple[Path, ...]) -> None:
        self._waiting = list(parts)
        self._file: BinaryIO | None = None
        self.path = parts[0]
        self.order = ", its parts in order" if len(parts) > 1 else ""
        for path in parts:
            if not path.stat().st_size:
                raise ValueError(f"{path}: an empty file; fetch it again")

    def some(self, count: int) -> bytes:
        """At most so many bytes; fewer at the end."""
        found = b""
        while len(found) < count and (file := self._open()):
            piece = file.read(count - len(found))
            if not piece:
                file.close()
                self._file = None
            found += piece
        return found

    def exactly(self, count: int, what: str) -> bytes:
        """So many bytes; ValueError where the last file ends before."""
        found = self.some(count)
        if len(found) < count:
            raise ValueError(
                f"{self.path}: ends {count - len(found)} bytes short, inside {what}; it is "
                "truncated: fetch it again"
            )
        return found

    def number(self, form: str, what: str) -> int:
        """One little-endian number of a form that ``struct`` knows."""
        found: tuple[int] = struct.unpack(f"<{form}", self.exactly(struct.calcsize(form), what))
        return found[0]

    def text(self, what: str) -> str:
        """A string: its length, the bytes, and a zero."""
        length = self.number("H", what)
        raw = self.exactly(min(length, _LONGEST_NAME), what)
        if length > _LONGEST_NAME or not re.fullmatch(rb"[\w./]+\x00", raw):
            raise self.garbled(f"no {what} where one is due")
        return raw[:-1].decode()

    def garbled(self, what: str) -> ValueError:
        """What is said where ``what`` shows that these are not the bytes that are due here."""
        return ValueError(
            f"{self.path}: {what}; it or what comes before it is "
            f"truncated or damaged: fetch the whole {WEIGHTS} again{self.order}"
        )

    def _open(self) -> BinaryIO | None:
        """The file to read from; none after the last."""
        if self._file is None and self._waiting:
            self.path = self._waiting.pop(0)
            self._file = self.path.open("rb")
        return self._file


def _tensors(stream: _Stream) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name, as stored."""
    _check_header(stream)
    for _ in range(stream.number("I", "number of tensors")):
        name = stream.text("tensor's name")
        rank = stream.number("B", name)
        if rank > _HIGHEST_RANK:
            raise stream.garbled(f"{name} has rank {rank}")
        shape = tuple(stream.number("I", name) for _ in range(rank))
        code, size = stream.number("B", name), stream.number("I", name)
        dtype = _DTYPES.get(code)
        if rank and dtype not in _EXACT:
            kind = str(dtype or f"of type {code}").removeprefix("torch.")
            raise ValueError(
                f"{stream.path}: {name} is {kind}, rounded, and spectra need the weights "
                "themselves; convert the model again with --quantization float16 or float32"
            )
        if dtype is None or size != math.prod(shape) * dtype.itemsize:
            raise stream.garbled(f"{name} {shape} has {size} bytes of type {code}")
        tensor = torch.frombuffer(bytearray(stream.exactly(size, name)), dtype=dtype)
        if not tensor.isfinite().all():
            raise stream.garbled(f"{name} is not finite")
        yield name, tensor.reshape(shape)
    for _ in range(stream.number("I", "number of aliases")):
        stream.text("alias")
        stream.text("alias")
    if stream.some(1):
        raise stream.garbled("it goes on where it should end")


def _check_header(stream: _Stream) -> None:
    if stream.some(4) != struct.pack("<I", _VERSION):
        raise ValueError(
            f"{stream.path}: {described(stream.path)}, and CTranslate2's version {_VERSION} was "
            f"expected; give the {WEIGHTS} of faster-whisper{stream.order}"
        )
    name = stream.text("name of the specification")
    stream.number("I", "revision")
    if name != _SPECIFICATION:
        raise ValueError(
            f"{stream.path}: a model of {name}, not of {_SPECIFICATION}; give a Whisper's"
        )


def _dimensions(tensors: dict[str, Tensor]) -> ModelDimensions:
    """What the shapes say, and how many heads the file does."""
    width, mels, _ = tensors["encoder/conv1/weight"].shape
    vocabulary, text_width = tensors["decoder/embeddings/weight"].shape
    return ModelDimensions(
        n_mels=mels,
        n_audio_ctx=len(tensors["encoder/position_encodings/encodings"]),
        n_audio_state=width,
        n_audio_head=int(tensors["encoder/num_heads"]),
        n_audio_layer=_layers(tensors, "encoder"),
        n_vocab=vocabulary,
        n_text_ctx=len(tensors["decoder/position_encodings/encodings"]),
        n_text_state=text_width,
        n_text_head=int(tensors["decoder/num_heads"]),
        n_text_layer=_layers(tensors, "decoder"),
    )


def _layers(tensors: dict[str, Tensor], side: str) -> int:
    found = (re.match(rf"{side}/layer_(\d+)/", name) for name in tensors)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _state(tensors: dict[str, Tensor], dims: ModelDimensions) -> dict[str, Tensor]:
    """The tensors under openai-whisper's names."""
    state = {}
    for ours, theirs in {
        "encoder.positional_embedding": "encoder/position_encodings/encodings",
        "decoder.positional_embedding": "decoder/position_encodings/encodings",
        "decoder.token_embedding.weight": "decoder/embeddings/weight",
    }.items():
        state[ours] = tensors[theirs]
    for conv in ("conv1", "conv2"):
        state |= _pair(tensors, f"encoder.{conv}", f"encoder/{conv}", "weight", "bias")
    state |= _norm(tensors, "encoder.ln_post", "encoder/layer_norm")
    state |= _norm(tensors, "decoder.ln", "decoder/layer_norm")
    for layer in range(dims.n_audio_layer):
        state |= _block(tensors, "encoder", layer, ["attn"])
    for layer in range(dims.n_text_layer):
        state |= _block(tensors, "decoder", layer, list(_ATTENTION))
    return state


def _block(
    tensors: dict[str, Tensor], side: str, layer: int, attentions: list[str]
) -> dict[str, Tensor]:
    ours, theirs = f"{side}.blocks.{layer}", f"{side}/layer_{layer}"
    state = _norm(tensors, f"{ours}.mlp_ln", f"{theirs}/ffn/layer_norm")
    for own, other in ((0, 0), (2, 1)):
        linear = f"{theirs}/ffn/linear_{other}"
        state |= _pair(tensors, f"{ours}.mlp.{own}", linear, "weight", "bias")
    for attention in attentions:
        name, first, second = _ATTENTION[attention]
        state |= _norm(tensors, f"{ours}.{attention}_ln", f"{theirs}/{name}/layer_norm")
        stacks = [stack for stack in (first, second, ("out",)) if stack]
        for i, stack in enumerate(stacks):
            linear = f"{theirs}/{name}/linear_{i}"
            state |= _unstacked(tensors, f"{ours}.{attention}", linear, stack)
    return state


def _unstacked(
    tensors: dict[str, Tensor], ours: str, theirs: str, stack: tuple[str, ...]
) -> dict[str, Tensor]:
    """Projections stored one above the other; that of keys has no bias in Whisper."""
    state: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        chunks = tensors[f"{theirs}/{kind}"].chunk(len(stack))
        state |= {f"{ours}.{one}.{kind}": chunk for one, chunk in zip(stack, chunks, strict=True)}
    bias = state.pop(f"{ours}.key.bias", None)
    if bias is not None and bias.any():
        raise ValueError(f"{theirs}/bias gives keys a bias, and Whisper's have none")
    return state


def _norm(tensors: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    return _pair(tensors, ours, theirs, "gamma", "beta")


def _pair(
    tensors: dict[str, Tensor], ours: str, theirs: str, weight: str, bias: str
) -> dict[str, Tensor]:
    return {
        f"{ours}.weight": tensors[f"{theirs}/{weight}"],
        f"{ours}.bias": tensors[f"{theirs}/{bias}"],
    }

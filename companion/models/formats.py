"""What a file of weights is by its first bytes, for messages about those that cannot be read."""

import re
from pathlib import Path

_MAGIC = (
    (rb"\x06\x00\x00\x00..Whisper", "CTranslate2's model.bin"),
    (rb"(lmgg|ggml|fjgg|tjgg|algg)", "GGML, of whisper.cpp"),
    (rb"GGUF", "GGUF, of whisper.cpp"),
    (rb"\x08[\x01-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]", "ONNX"),
    (rb"....TFL3", "TensorFlow Lite"),
    (rb"\x89HDF", "HDF5, of Keras"),
    (rb".{8}\{\"", "safetensors"),
    (rb"PK\x03\x04", "a zip archive, as torch.save writes it"),
    (rb"\x80[\x02-\x05]", "a pickle"),
    (rb"version https://git-lfs", "a pointer of Git LFS, without the file itself"),
    (rb"\s*<", "a web page"),
)
_FIRST, _SHOWN = 64, 8
TORCH = ("a zip archive, as torch.save writes it", "a pickle")


def described(path: Path) -> str:
    """The format of a file, or how it begins."""
    with path.open("rb") as file:
        start = file.read(_FIRST)
    if not start:
        return "an empty file"
    for magic, name in _MAGIC:
        if re.match(magic, start, re.DOTALL):
            return name
    return f"of no known format, it starts with {start[:_SHOWN]!r}"


def foreign(folder: Path) -> str | None:
    """The first file of a folder that holds weights of whisper.cpp or ONNX, and what it is."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".bin", ".onnx", ".gguf", ".ggml", ".pt") and path.is_file():
            return f"{path.name} is {described(path)}"
    return None

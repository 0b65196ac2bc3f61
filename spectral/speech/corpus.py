"""Read speech in the LibriSpeech layout: speaker/chapter/*.flac beside a *.trans.txt of references.

The embedded corpus and LibriSpeech itself are read by the same functions.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

SAMPLE_RATE = 16_000
_AUDIO = (".flac", ".wav", ".mp3")
_ID3_HEADER, _MP3_FRAME = 10, 1441  # bytes: of the tag's header, of the longest frame
_RIFF_HEADER = 28  # bytes
_BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {
    b"RIFF": "little", b"RF64": "little", b"RIFX": "big", b"FORM": "big"
}  # fmt: skip
_CANCELLED = 1e-3  # of the loudest channel
_LONGEST_SECONDS = 3600  # a FLAC that was streamed states no length, which reads as 2^63 - 1
_LOUDEST = 2.0**31  # integers written as floats go so far; squares of much more leave float32


class UnusableUtterance(ValueError):
    """An utterance that cannot be measured; the message names file, value and remedy."""


@dataclass(frozen=True)
class Utterance:
    """One utterance of a corpus: what was said, by whom, and the file that holds it."""

    id: str
    speaker: str
    reference: str
    path: Path


@dataclass(frozen=True)
class Corpus:
    """The utterances of a folder, in order of their ids, and what had to be left out and why."""

    utterances: tuple[Utterance, ...]
    rejected: dict[str, str]


def find_utterances(folder: Path) -> Corpus:
    """List a LibriSpeech folder without reading its audio.

    A line of a transcript names an utterance even where its audio is missing (``read_wave`` then
    says so); audio that no transcript names, and a reference that is empty or not UTF-8, are
    rejected. Raises FileNotFoundError where there is no transcript at all, ValueError for an id
    given twice.
    """
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if not transcripts:
        raise FileNotFoundError(
            f"{folder}: no *.trans.txt below it; expected speaker/chapter/*.trans.txt beside "
            "*.flac (`make librispeech` fetches LibriSpeech)"
        )
    found: dict[str, Utterance] = {}
    rejected: dict[str, str] = {}
    for transcript in transcripts:
        for name, reference, fault in _entries(transcript):
            if name in found or name in rejected:
                raise ValueError(f"{transcript}: utterance {name} is listed twice; remove one line")
            if fault:
                rejected[name] = fault
                continue
            path = _audio_path(transcript.parent / name)
            found[name] = Utterance(name, name.split("-")[0], reference, path)
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _AUDIO):
        if path.stem not in found and path.stem not in rejected:
            rejected[path.stem] = f"{path}: no transcript names it; add a line to its *.trans.txt"
    return Corpus(tuple(found[name] for name in sorted(found)), rejected)


def read_wave(utterance: Utterance) -> np.ndarray:
    """The samples of an utterance: (samples,) float32, one channel, 16 kHz.

    Several channels are averaged, other rates resampled. Raises UnusableUtterance for a file that
    is missing, truncated, empty or silent, holds NaN or infinity, or is no utterance by its length
    or its level.
    """
    path = utterance.path
    if not path.exists():
        raise UnusableUtterance(f"{path}: no such file; restore it or drop its transcript line")
    samples, rate = _decoded(path)
    if len(samples) == 0:
        raise UnusableUtterance(f"{path}: no samples; fetch it again or drop its transcript line")
    bad = int(np.count_nonzero(~np.isfinite(samples)))
    if bad:
        raise UnusableUtterance(f"{path}: {bad} samples are NaN or infinite; repair the file")
    mono = samples.mean(axis=1, dtype=np.float64)
    peak = float(np.abs(mono).max())
    if not samples.any():
        raise UnusableUtterance(f"{path}: all {len(mono)} samples are zero; fetch it again")
    if peak < _CANCELLED * float(np.abs(samples).max()):
        raise UnusableUtterance(f"{path}: its {samples.shape[1]} channels cancel; keep one of them")
    if peak > _LOUDEST:
        raise UnusableUtterance(f"{path}: a sample is {peak:.1g}; scale the file to [-1, 1]")
    if rate != SAMPLE_RATE:
        from scipy.signal import resample_poly  # here: `make` lists corpora, scipy takes seconds

        mono = resample_poly(mono, SAMPLE_RATE, rate)
    return np.ascontiguousarray(mono, dtype=np.float32)


def _decoded(path: Path) -> tuple[np.ndarray, int]:
    """All samples (frames, channels) float32 of a file that is whole, and its rate."""
    try:
        header = soundfile.info(path)
        if header.frames > _LONGEST_SECONDS * header.samplerate:
            raise UnusableUtterance(
                f"{path}: {header.frames} frames by its header, more than an hour; cut it into "
                "utterances, or encode it again if its length was not known when it was written"
            )
        _require_whole_riff(path)
        _require_mp3_length(path)
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UnusableUtterance(f"{path}: cannot be decoded ({error}); fetch it again") from error
    if len(samples) != header.frames:
        raise UnusableUtterance(
            f"{path}: truncated, {len(samples)} of {header.frames} frames; fetch it again"
        )
    return samples, rate


def _require_whole_riff(path: Path) -> None:
    """Compare a WAV or AIFF file's size with its header: libsndfile takes a cut one for a shorter.

    A header without a size, as of a file that was written into a pipe, is refused like an MP3's.
    """
    with path.open("rb") as file:
        start = file.read(_RIFF_HEADER)
    kind = start[:4]
    if kind not in _BYTE_ORDERS:
        return
    size = start[20:28] if kind == b"RF64" else start[4:8]  # RF64 has a chunk of sizes of its own
    if set(size) == {0xFF}:
        raise UnusableUtterance(f"{path}: states no length in its header; convert it to FLAC")
    announced, found = int.from_bytes(size, _BYTE_ORDERS[kind]) + 8, path.stat().st_size
    if found < announced:
        raise UnusableUtterance(
            f"{path}: truncated, {found} of the {announced} bytes that its header announces; "
            "fetch it again"
        )


def _require_mp3_length(path: Path) -> None:
    """Refuse an MP3 that does not say how long it is: libsndfile would guess from a bit rate."""
    if path.suffix.lower() != ".mp3":
        return
    with path.open("rb") as file:
        tag = file.read(_ID3_HEADER)
        if tag[:3] == b"ID3":  # its size is in four digits of base 128
            file.seek(sum(byte << 7 * i for i, byte in enumerate(reversed(tag[6:]))), 1)
            tag = b""
        start = tag + file.read(_MP3_FRAME)
    if not any(name in start for name in (b"Xing", b"Info", b"VBRI")):
        raise UnusableUtterance(
            f"{path}: states no length (no Xing, Info or VBRI header); convert it to FLAC"
        )


def _entries(transcript: Path) -> Iterator[tuple[str, str, str]]:
    """Id, reference, and what is wrong with it ("" for nothing), of each line that is not blank."""
    for line in transcript.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines():
        words = line.decode("utf-8", errors="backslashreplace").split(maxsplit=1)
        if not words:
            continue
        name, reference = words[0], "".join(words[1:]).strip()
        fault = ""
        if not _is_utf8(line):
            fault = f"{transcript}: {name} is not in UTF-8; convert the file"
        elif not reference:
            fault = f"{transcript}: {name} has an empty reference; add its words"
        yield name, reference, fault


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _audio_path(stem: Path) -> Path:
    candidates = [stem.with_name(stem.name + suffix) for suffix in _AUDIO]
    return next((path for path in candidates if path.exists()), candidates[0])

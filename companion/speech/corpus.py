"""Read speech in the LibriSpeech layout: speaker/chapter/*.flac beside a *.trans.txt of references.

The embedded corpus and LibriSpeech itself are read by the same functions. libsndfile decodes what
it can, as it notices most damage; FFmpeg the rest.
"""

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile

SAMPLE_RATE = 16_000
_LIBSNDFILE = (".flac", ".wav", ".ogg", ".opus", ".oga", ".aif", ".aiff", ".au", ".caf")
_FFMPEG = (".mp3", ".m4a", ".mp4", ".aac", ".webm", ".mka", ".wma", ".amr", ".3gp")
AUDIO = (*_LIBSNDFILE, *_FFMPEG)
"""How the names of audio files end, in the order in which they are looked for."""

_ID3_HEADER, _MP3_FRAME = 10, 1441  # bytes: of the tag's header, of the longest frame
_RIFF_HEADER = 28  # bytes
_BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {
    b"RIFF": "little", b"RF64": "little", b"RIFX": "big", b"FORM": "big"
}  # fmt: skip
_OGG_HEADER, _OGG_PAGE = 27, 65_307  # bytes: of a page's fixed header, of the longest page
_UNRECOGNISED = 1  # libsndfile's number for a format that it does not know
_ESTIMATED = ("mp3", "aac")  # FFmpeg guesses the length of these from a bit rate
_CODEC_FRAME = 0.05  # seconds: a codec's last frame may end before the length that is stated
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


def find_utterances(place: Path) -> Corpus:
    """List a LibriSpeech folder, or the utterances of a list, without reading any audio.

    A list is a text file: its first line names the folder, seen from the list's own, and the others
    one utterance each, so that a part of LibriSpeech is the same corpus beside all of it. Audio
    that no transcript names, and a reference that is empty or not UTF-8, are rejected. Raises
    FileNotFoundError where there is no transcript at all, ValueError for an id given twice, or
    listed and not there.
    """
    if place.is_file():
        return _listed(place)
    folder = place
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; name the one with the speech (`make librispeech` fetches "
            "LibriSpeech into data/librispeech)"
        )
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if not transcripts:
        raise FileNotFoundError(
            f"{folder}: no *.trans.txt below it; expected speaker/chapter/*.trans.txt beside "
            "*.flac (`make librispeech` fetches LibriSpeech)"
        )
    known: dict[str, Utterance] = {}
    rejected: dict[str, str] = {}
    for transcript in transcripts:
        for name, reference, fault in _entries(transcript):
            if name in known or name in rejected:
                raise ValueError(f"{transcript}: utterance {name} is listed twice; remove one line")
            if fault:
                rejected[name] = fault
                continue
            stem = transcript.parent / name  # the path itself where there is no audio
            paths = (stem.with_name(stem.name + suffix) for suffix in AUDIO)
            path = next((path for path in paths if path.exists()), stem)
            known[name] = Utterance(name, name.split("-")[0], reference, path)
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO):
        if path.stem not in known and path.stem not in rejected:
            rejected[path.stem] = f"{path}: no transcript names it; add a line to its *.trans.txt"
    return Corpus(tuple(known[name] for name in sorted(known)), rejected)


def _listed(path: Path) -> Corpus:
    """The utterances that a list names."""
    first, *names = path.read_text(encoding="utf-8").split()
    whole = find_utterances(path.parent / first)
    known = {utterance.id: utterance for utterance in whole.utterances}
    missing = [name for name in names if name not in known and name not in whole.rejected]
    if missing:
        raise ValueError(
            f"{path}: {path.parent / first} lacks {len(missing)} of its {len(names)} utterances, "
            f"the first {missing[0]}; fetch the rest (`make librispeech`), or name the folder "
            "itself as the corpus"
        )
    rejected = {name: whole.rejected[name] for name in names if name in whole.rejected}
    return Corpus(tuple(known[name] for name in sorted(names) if name in known), rejected)


def find_clips(folder: Path) -> Corpus:
    """The audio files below a folder in which nobody speaks, each its own speaker, by their names.

    Where CSV files in the folder have the columns ``file`` and ``note``, clips whose note speaks of
    voices are rejected: what a model writes of them need not be invented. Raises FileNotFoundError
    for a folder that is missing or has no audio, ValueError for two files of one name.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO]
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no audio below it; put clips without speech there, or set nonspeech to null"
        )
    notes = {
        row["file"]: row["note"]
        for table in sorted(folder.glob("*.csv"))
        for row in csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines())
        if row.get("file") and row.get("note")
    }
    clips: dict[str, Utterance] = {}
    rejected: dict[str, str] = {}
    for path in paths:
        name = path.stem
        if name in clips or name in rejected:
            raise ValueError(f"{path}: another clip is called {name} too; rename one of them")
        note = notes.get(path.relative_to(folder).as_posix(), "")
        if "voice" in note.lower():
            rejected[name] = f"{path}: left out, by its note ({note})"
        else:
            clips[name] = Utterance(name, name, "", path)
    return Corpus(tuple(clips.values()), rejected)


def read_wave(utterance: Utterance) -> np.ndarray:
    """The samples of an utterance: (samples,) float32, one channel, 16 kHz.

    Several channels are averaged, other rates resampled. Raises UnusableUtterance for a file that
    is missing, truncated, empty or silent, holds NaN or infinity, or is no utterance by its length
    or its level.
    """
    path = utterance.path
    if not path.exists():
        others = ", ".join(sorted(other.name for other in path.parent.glob(f"{path.name}.*")))
        raise UnusableUtterance(
            f"{path}: no audio file of that name{f', only {others}' if others else ''}; restore it "
            f"({', '.join(AUDIO)}) or drop its transcript line"
        )
    samples, rate = _decoded(path)
    if bad := int(np.count_nonzero(~np.isfinite(samples))):
        raise UnusableUtterance(f"{path}: {bad} samples are NaN or infinite; repair the file")
    mono = samples.mean(axis=1, dtype=np.float64)
    peak, loudest = (float(np.abs(wave).max(initial=0)) for wave in (mono, samples))
    faults = {
        "no samples; fetch it again or drop its transcript line": len(samples) == 0,
        f"all {len(mono)} samples are zero; fetch it again": not samples.any(),
        f"its {samples.shape[1]} channels cancel; keep one of them": peak < _CANCELLED * loudest,
        f"a sample is {peak:.1g}; scale the file to [-1, 1]": peak > _LOUDEST,
    }
    if fault := next((fault for fault, is_one in faults.items() if is_one), ""):
        raise UnusableUtterance(f"{path}: {fault}")
    if rate != SAMPLE_RATE:
        from scipy.signal import resample_poly  # here: `make` lists corpora, scipy takes seconds

        mono = resample_poly(mono, SAMPLE_RATE, rate)
    return np.ascontiguousarray(mono, dtype=np.float32)


def _decoded(path: Path) -> tuple[np.ndarray, int]:
    """All samples (frames, channels) float32 of a file that is whole, and its rate."""
    try:
        header = soundfile.info(path)
        if header.format == "MP3" and not _states_mp3_length(path):
            return _decoded_by_ffmpeg(path)  # libsndfile guesses, and leaves out what is beyond
        _require_at_most_an_hour(path, header.frames, header.samplerate)
        _require_whole_riff(path)
        _require_ogg_end(path)
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        if path.suffix.lower() in _FFMPEG and error.code == _UNRECOGNISED:
            return _decoded_by_ffmpeg(path)
        raise UnusableUtterance(f"{path}: cannot be decoded ({error}); fetch it again") from error
    if len(samples) != header.frames:
        raise UnusableUtterance(
            f"{path}: truncated, {len(samples)} of {header.frames} frames; fetch it again"
        )
    return samples, rate


def _decoded_by_ffmpeg(path: Path) -> tuple[np.ndarray, int]:
    """The same by FFmpeg; a file that states no length is taken to end where it ends."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise UnusableUtterance(f"{path}: holds no audio; fetch it again")
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="fltp")
            pieces, rate, frames = [np.zeros((1, 0), np.float32)], SAMPLE_RATE, 0
            for frame in container.decode(stream):
                rate = frame.sample_rate
                frames += frame.samples
                _require_at_most_an_hour(path, frames, rate)
                pieces += [part.to_ndarray() for part in resampler.resample(frame)]
            pieces += [part.to_ndarray() for part in resampler.resample(None)] if frames else []
            stated = _stated_seconds(container, stream)
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, UnusableUtterance):
            raise
        text = " ".join(str(error).split())
        raise UnusableUtterance(f"{path}: cannot be decoded ({text}); fetch it again") from error
    samples = np.concatenate(pieces[1:] or pieces, axis=1).T
    if len(samples) < (stated - _CODEC_FRAME) * rate:
        raise UnusableUtterance(
            f"{path}: truncated, {len(samples) / rate:.2f} of {stated:.2f} s; fetch it again"
        )
    return samples[: round(stated * rate) or None], rate


def _stated_seconds(container: av.container.InputContainer, stream: av.AudioStream) -> float:
    """How long a file says it is, 0 where it does not say."""
    if container.format.name in _ESTIMATED:
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _require_at_most_an_hour(path: Path, frames: int, rate: int) -> None:
    if frames > _LONGEST_SECONDS * rate:
        raise UnusableUtterance(
            f"{path}: {frames} frames, more than an hour; cut it into utterances, or encode it "
            "again if its length was not known when it was written"
        )


def _require_whole_riff(path: Path) -> None:
    """Compare a WAV or AIFF file's size with its header: to libsndfile a cut one is a shorter."""
    with path.open("rb") as file:
        start = file.read(_RIFF_HEADER)
    kind = start[:4]
    if kind not in _BYTE_ORDERS:
        return
    size = start[20:28] if kind == b"RF64" else start[4:8]  # RF64 has a chunk of sizes of its own
    if set(size) == {0xFF}:
        raise UnusableUtterance(f"{path}: states no length in its header; convert it to FLAC")
    announced, there = int.from_bytes(size, _BYTE_ORDERS[kind]) + 8, path.stat().st_size
    if there < announced:
        raise UnusableUtterance(
            f"{path}: truncated, {there} of the {announced} bytes that its header announces; "
            "fetch it again"
        )


def _require_ogg_end(path: Path) -> None:
    """Refuse an Ogg file without a last page: to libsndfile and FFmpeg a cut one is a shorter."""
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return
        file.seek(max(path.stat().st_size - _OGG_PAGE, 0))
        end = file.read()
    page = end[end.rfind(b"OggS") :]
    sizes = page[_OGG_HEADER : _OGG_HEADER + page[26]] if len(page) >= _OGG_HEADER else b""
    whole = len(page) == _OGG_HEADER + len(sizes) + sum(sizes)
    if not (whole and page[5] & 4):  # the flag of a last page
        raise UnusableUtterance(f"{path}: truncated, its last page is missing; fetch it again")


def _states_mp3_length(path: Path) -> bool:
    """Whether an MP3 says how long it is, in its first frame."""
    with path.open("rb") as file:
        tag = file.read(_ID3_HEADER)
        if tag[:3] == b"ID3":  # its size is in four digits of base 128
            file.seek(sum(byte << 7 * i for i, byte in enumerate(reversed(tag[6:]))), 1)
            tag = b""
        start = tag + file.read(_MP3_FRAME)
    return any(name in start for name in (b"Xing", b"Info", b"VBRI"))


def _entries(transcript: Path) -> Iterator[tuple[str, str, str]]:
    """Id, reference, and what is wrong with it ("" for nothing), of each line that is not blank."""
    for line in transcript.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines():
        text = line.decode("utf-8", errors="backslashreplace")
        words = text.split(maxsplit=1)
        if not words:
            continue
        name, reference = words[0], "".join(words[1:]).strip()
        fault = ""
        if text.encode() != line:
            fault = f"{transcript}: {name} is not in UTF-8; convert the file"
        elif not reference:
            fault = f"{transcript}: {name} has an empty reference; add its words"
        yield name, reference, fault

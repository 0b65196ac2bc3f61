"""Read speech in the LibriSpeech layout: speaker/chapter/*.flac beside a *.trans.txt of references.

The embedded corpus and LibriSpeech itself are read by the same functions.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

SAMPLE_RATE = 16_000
_AUDIO = (".flac", ".wav")


class UnusableUtterance(ValueError):
    """An utterance that cannot be measured; its message names the file, the value and the remedy."""


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
    says so); audio that no transcript names, and a reference without words, are rejected. Raises
    FileNotFoundError where there is no transcript at all, ValueError for an id given twice.
    """
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if not transcripts:
        raise FileNotFoundError(
            f"{folder}: no *.trans.txt below it; expected speaker/chapter/*.trans.txt beside *.flac"
        )
    found: dict[str, Utterance] = {}
    rejected: dict[str, str] = {}
    for transcript in transcripts:
        for line in transcript.read_text(encoding="utf-8").splitlines():
            if not line.strip():
                continue
            name, _, reference = line.strip().partition(" ")
            if name in found or name in rejected:
                raise ValueError(f"{transcript}: utterance {name} is listed twice; remove one line")
            if not reference.strip():
                rejected[name] = f"{transcript}: {name} has an empty reference; add its words"
                continue
            path = _audio_path(transcript.parent / name)
            found[name] = Utterance(name, name.split("-")[0], reference.strip(), path)
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _AUDIO):
        if path.stem not in found and path.stem not in rejected:
            rejected[path.stem] = f"{path}: no transcript names it; add a line to its *.trans.txt"
    return Corpus(tuple(found[name] for name in sorted(found)), rejected)


def read_wave(utterance: Utterance) -> np.ndarray:
    """The samples of an utterance: (samples,) float32, one channel, 16 kHz.

    Several channels are averaged, other rates resampled. Raises UnusableUtterance for a file that
    is missing, truncated, empty, or holds NaN or infinity.
    """
    path = utterance.path
    if not path.exists():
        raise UnusableUtterance(f"{path}: no such file; restore it or drop its transcript line")
    try:
        expected = soundfile.info(path).frames
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UnusableUtterance(f"{path}: cannot be decoded ({error}); fetch it again") from error
    if len(samples) != expected:
        raise UnusableUtterance(
            f"{path}: truncated, {len(samples)} of {expected} frames; fetch it again"
        )
    if len(samples) == 0:
        raise UnusableUtterance(f"{path}: no samples; fetch it again or drop its transcript line")
    bad = int(np.count_nonzero(~np.isfinite(samples)))
    if bad:
        raise UnusableUtterance(f"{path}: {bad} samples are NaN or infinite; repair the file")
    if not samples.any():
        raise UnusableUtterance(f"{path}: all {len(samples)} samples are zero; fetch it again")
    mono = samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        mono = resample_poly(mono.astype(np.float64), SAMPLE_RATE, rate)
    return np.ascontiguousarray(mono, dtype=np.float32)


def _audio_path(stem: Path) -> Path:
    candidates = [stem.with_name(stem.name + suffix) for suffix in _AUDIO]
    return next((path for path in candidates if path.exists()), candidates[0])

"""Inputs on which Whisper is known to write what nobody said, made from a clip or from nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from companion.speech.corpus import SAMPLE_RATE
from companion.stress.stretching import METHODS, stretched

ROOM_TONE = 1e-3  # RMS: 60 dB below full scale, a quiet room
RATES = (1.5, 2.0, 2.5, 3.0, 3.5)
_CHORD = (261.63, 329.63, 392.0)  # C major, Hz
_CLIPPED = 0.1  # of the peak


@dataclass(frozen=True, eq=False)
class Input:
    """A wave (samples,) float32 at 16 kHz, what it is called, and what is said in it."""

    name: str
    wave: np.ndarray
    reference: str = ""


def without_speech(seed: int) -> Iterator[Input]:
    """Zeros, white noise by its RMS, a tone and a chord; the same seed gives the same samples."""
    for seconds in (1, 2, 5, 10, 20, 30):
        yield Input(f"zeros, {seconds} s", np.zeros(seconds * SAMPLE_RATE, np.float32))
    rng = np.random.default_rng(seed)
    for seconds in (5, 30):
        noise = rng.standard_normal(seconds * SAMPLE_RATE)
        for level in (1e-4, 1e-3, 1e-2, 1e-1):
            yield _input(f"white noise of RMS {level:g}, {seconds} s", level * noise)
    yield _input("tone of 440 Hz, 5 s", _sines([440.0], 5))
    yield _input("chord, 20 s", _sines(_CHORD, 20))


def from_speech(name: str, wave: np.ndarray, reference: str, seed: int) -> Iterator[Input]:
    """A clip (samples,) as it is, and what commonly happens to one; ``name`` begins every name."""
    yield _input(f"{name}", wave, reference)
    rng = np.random.default_rng(seed)
    for seconds in (29, 30, 31):
        rest = max(seconds * SAMPLE_RATE - wave.size, 0)
        room = np.concatenate([wave, ROOM_TONE * pink_noise(rest, rng)])
        yield _input(f"{name}, then room tone to {seconds} s", room, reference)
    late = np.concatenate([np.zeros(3 * SAMPLE_RATE), wave])
    yield _input(f"{name} after 3 s of zeros", late, reference)
    from librosa import resample  # here: it takes two seconds

    narrow = resample(wave, orig_sr=SAMPLE_RATE, target_sr=8000, res_type="soxr_hq")
    wide = resample(narrow, orig_sr=8000, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    yield _input(f"{name} at 8 kHz", wide, reference)
    limit = _CLIPPED * np.abs(wave).max()
    clipped = wave.clip(-limit, limit)
    yield _input(f"{name}, clipped at {_CLIPPED:g} of its peak", clipped, reference)
    for method in METHODS:
        for rate in RATES:
            faster = stretched(wave, rate, method)
            yield _input(f"{name}, {rate:g} times faster ({method})", faster, reference)
    yield _input(f"{name}, ten times", np.tile(wave, 10), " ".join([reference] * 10))


def pink_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise (samples,) of RMS 1 whose power falls as 1/f, without a constant part."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequencies = np.arange(len(spectrum))
    spectrum[1:] /= np.sqrt(frequencies[1:])
    spectrum[:1] = 0
    noise = np.fft.irfft(spectrum, samples)
    return noise / np.sqrt(np.mean(noise**2))


def _sines(pitches: tuple[float, ...] | list[float], seconds: int) -> np.ndarray:
    time = np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    return 0.1 * np.sum([np.sin(2 * np.pi * pitch * time) for pitch in pitches], axis=0)


def _input(name: str, wave: np.ndarray, reference: str = "") -> Input:
    return Input(name, wave.astype(np.float32), reference)

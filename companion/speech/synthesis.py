"""Speech from text with eSpeak NG: the same requests in the same order give the same samples.

eSpeak keeps state between calls, so that one text sounds different the second time. A shard of
requests therefore always runs from its first to its last in a process of its own. The breathy
variants f2, f3, f5, Alicia and victor do not repeat even so, and are not used.
"""

import ctypes
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache

import espeakng_loader
import numpy as np
from scipy.signal import resample_poly

from companion.speech.corpus import SAMPLE_RATE

TRAINING_ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland")
HELD_OUT_ACCENT = "en-gb-x-gbclan"
TRAINING_VARIANTS = (
    "m1", "m2", "m3", "m4", "m5", "m7", "m8", "f1", "f4",
    "Alex", "Andy", "Annie", "Jacky", "linda", "max", "paul",
)  # fmt: skip
HELD_OUT_VARIANTS = ("m6", "anika", "belinda", "steph", "Gene", "Michael")

_SYNCHRONOUS, _UTF8, _CHARACTER_POSITION = 2, 1, 1
_RATE, _PITCH = 1, 3
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Speaker:
    """One synthetic speaker: accent, timbre, speaking rate (words/min) and pitch (0-99)."""

    accent: str
    variant: str
    rate: int
    pitch: int


@dataclass(frozen=True)
class Request:
    """A text and the speaker who is to say it."""

    text: str
    speaker: Speaker


def synthesise_shards(
    shards: Sequence[Sequence[Request]], workers: int
) -> Iterator[list[np.ndarray]]:
    """Waves of each shard in order, (samples,) float32 in [-1, 1] at 16 kHz; a process per shard.

    Raises ValueError for a voice that eSpeak does not know, RuntimeError where it fails.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        yield from pool.map(_synthesise, shards)


def _synthesise(requests: Sequence[Request]) -> list[np.ndarray]:
    return list(map(_speak, requests))


@cache
def _engine() -> tuple[ctypes.CDLL, int, list[np.ndarray], object]:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
    if rate <= 0:
        raise RuntimeError(f"eSpeak NG did not start (code {rate}); reinstall espeakng-loader")
    chunks: list[np.ndarray] = []

    def receive(samples, count, events):  # type: ignore[no-untyped-def]
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _CALLBACK(receive)
    library.espeak_SetSynthCallback(callback)
    return library, rate, chunks, callback  # the callback must outlive this function


def _speak(request: Request) -> np.ndarray:
    library, rate, chunks, _ = _engine()
    speaker = request.speaker
    name = f"{speaker.accent}+{speaker.variant}"
    if library.espeak_SetVoiceByName(name.encode()) != 0:
        raise ValueError(f"eSpeak NG has no voice {name!r}; see its espeak-ng-data/voices folder")
    library.espeak_SetParameter(_RATE, speaker.rate, 0)
    library.espeak_SetParameter(_PITCH, speaker.pitch, 0)
    chunks.clear()
    text = request.text.encode()
    code = library.espeak_Synth(
        text, ctypes.c_size_t(len(text) + 1), 0, _CHARACTER_POSITION, 0, _UTF8, None, None
    )
    if code != 0 or library.espeak_Synchronize() != 0 or not chunks:
        raise RuntimeError(f"eSpeak NG failed on {request.text!r} with voice {name!r} ({code})")
    wave = np.concatenate(chunks).astype(np.float64) / 32768.0
    return resample_poly(wave, SAMPLE_RATE, rate).astype(np.float32)

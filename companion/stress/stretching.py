"""Three ways of playing a wave faster or slower, so that an effect of one is known from speed's."""

import math

import av
import numpy as np
from av.filter import Graph

from companion.speech.corpus import SAMPLE_RATE

VOCODER, WSOLA, RESAMPLED = "vocoder", "wsola", "resampled"
METHODS = (VOCODER, WSOLA, RESAMPLED)
_TAIL = 8192  # samples of silence after the wave: FFmpeg drops what does not fill a last window


def stretched(wave: np.ndarray, rate: float, method: str) -> np.ndarray:
    """A wave (samples,) played ``rate`` times faster: (round(samples / rate),) float64.

    vocoder: librosa's phase vocoder, at the same pitch; it smears voices. wsola: FFmpeg's
    ``atempo``, overlapping pieces of the wave itself (Verhelst & Roelands 1993), at the same pitch.
    resampled: SoX's resampler; pitch and formants rise with the rate, as on a tape. Only ``wsola``
    and ``resampled`` keep the power.
    """
    from librosa import resample  # here: it takes two seconds, and few stresses stretch
    from librosa.effects import time_stretch

    samples = round(wave.size / rate)
    wave = wave.astype(np.float64)  # in float32 near-silent bins magnify rounding to 1e-3
    if method == VOCODER:
        return time_stretch(wave, rate=rate)
    if method == WSOLA:
        return _overlapped(wave, rate)[:samples]
    played = resample(wave, orig_sr=SAMPLE_RATE * rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    return played[:samples]


def _overlapped(wave: np.ndarray, rate: float) -> np.ndarray:
    """The wave through as many ``atempo`` as keep each between 0.5 and 2: above, it drops audio."""
    # their correlations are in float32, so the wave is scaled by a power of two, which is undone
    _, exponent = np.frexp(np.abs(wave).max())
    padded = np.concatenate([np.ldexp(wave, -exponent), np.zeros(_TAIL)])
    count = max(1, math.ceil(abs(math.log2(rate))))
    tempo = min(max(rate ** (1 / count), 0.5), 2.0)
    graph = Graph()
    graph.link_nodes(
        graph.add_abuffer(sample_rate=SAMPLE_RATE, format="dbl", layout="mono"),
        *(graph.add("atempo", repr(tempo)) for _ in range(count)),
        graph.add("abuffersink"),
    ).configure()
    frame = av.AudioFrame.from_ndarray(padded[None], format="dbl", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    graph.push(frame)
    graph.push(None)
    return np.ldexp(np.concatenate(_frames(graph)), exponent)


def _frames(graph: Graph) -> list[np.ndarray]:
    frames = []
    while True:
        try:
            frames.append(graph.pull().to_ndarray()[0])
        except av.error.EOFError:
            return frames

"""Audio without speech: silence, Gaussian noise, and chords of tones."""

import numpy as np

from companion.speech.corpus import SAMPLE_RATE

NO_SPEECH = ("silence", "noise", "tones")


def no_speech(kind: str, rng: np.random.Generator, samples: int) -> np.ndarray:
    """A clip without speech, (samples,) float32; ``kind`` is one of ``NO_SPEECH``.

    Silence is noise of 1e-6 to 1e-4 of full scale, noise of 1e-3 to 0.1; tones are one to four
    sines of 80 to 2000 Hz. Raises ValueError for another kind.
    """
    if kind == "silence":
        return (rng.standard_normal(samples) * 10 ** rng.uniform(-6, -4)).astype(np.float32)
    if kind == "noise":
        return (rng.standard_normal(samples) * 10 ** rng.uniform(-3, -1)).astype(np.float32)
    if kind != "tones":
        raise ValueError(f"no audio called {kind!r}; choose from {', '.join(NO_SPEECH)}")
    seconds = np.arange(samples) / SAMPLE_RATE
    chord = sum(
        np.sin(2 * np.pi * pitch * seconds + rng.uniform(0, 2 * np.pi))
        for pitch in rng.uniform(80, 2000, size=rng.integers(1, 5))
    )
    return (0.05 * np.asarray(chord)).astype(np.float32)

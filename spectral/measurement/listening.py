"""Measure listening: the same reference with its own audio, another's, and audio without speech."""

from collections.abc import Sequence

import numpy as np

from spectral.measurement.run import Summary, measure
from spectral.measurement.schemas import LISTENING
from spectral.measurement.settings import REFERENCE_CONDITION, Settings
from spectral.measurement.texts import Row, text_columns
from spectral.models.decoding import greedy
from spectral.models.forcing import teacher_forced
from spectral.models.view import SpeechModel
from spectral.speech.nothing import NO_SPEECH, no_speech
from spectral.stress.mixture import Mixture, digest

OWN, SWAPPED = "own", "swapped"


def measure_listening(settings: Settings) -> Summary:
    """Word error and teacher-forced loss by audio: :func:`measure` with ``listening_rows``."""
    return measure(settings, listening_rows, LISTENING)


def listening_rows(
    model: SpeechModel, batch: dict[str, Sequence[Mixture]], settings: Settings
) -> list[Row]:
    """All rows of a batch of clean utterances.

    swapped: the audio of the utterance half a batch further, against the own reference; a batch of
    one has no such rows. Silence, noise and tones are as long as the utterance.
    """
    mixtures = batch[REFERENCE_CONDITION]
    waves = {OWN: [mixture.wave for mixture in mixtures]}
    half = len(mixtures) // 2
    if half:
        waves[SWAPPED] = waves[OWN][half:] + waves[OWN][:half]
    for kind in NO_SPEECH:
        waves[kind] = [_nothing(kind, mixture, settings.seed) for mixture in mixtures]
    rows: list[Row] = []
    for audio, heard in waves.items():
        features = model.features(heard)
        transcripts = greedy(model, features)
        texts = [mixture.target.reference.lower() for mixture in mixtures]
        forced = teacher_forced(model, features, texts)
        for mixture, transcript, score in zip(mixtures, transcripts, forced, strict=True):
            columns = text_columns(model, mixture, transcript) | {"audio": audio}
            columns |= {"forced_loss": score.loss, "forced_token_error": score.token_error}
            rows.append({name: columns[name] for name in LISTENING.names})
    return rows


def _nothing(kind: str, mixture: Mixture, seed: int) -> np.ndarray:
    rng = np.random.default_rng(int.from_bytes(digest(seed, mixture.target.id, kind)))
    return no_speech(kind, rng, len(mixture.wave))

"""Measure listening: what a model writes, and how well it predicts a reference, by condition."""

from collections.abc import Sequence

from spectral.measurement.run import Summary, measure
from spectral.measurement.schemas import LISTENING
from spectral.measurement.settings import Settings
from spectral.measurement.texts import Row, text_columns
from spectral.models.decoding import greedy
from spectral.models.forcing import teacher_forced
from spectral.models.view import SpeechModel
from spectral.stress.mixture import Mixture


def measure_listening(settings: Settings) -> Summary:
    """Word error and teacher-forced loss: :func:`measure` with ``listening_rows``."""
    return measure(settings, listening_rows, LISTENING)


def listening_rows(
    model: SpeechModel, batch: dict[str, Sequence[Mixture]], settings: Settings
) -> list[Row]:
    """All rows of a batch of utterances; ``batch`` holds their mixtures by condition."""
    rows: list[Row] = []
    for condition, mixtures in batch.items():
        features = model.features([mixture.wave for mixture in mixtures])
        transcripts = greedy(model, features)
        texts = [mixture.target.reference.lower() for mixture in mixtures]
        forced = teacher_forced(model, features, texts)
        for mixture, transcript, score in zip(mixtures, transcripts, forced, strict=True):
            columns = text_columns(model, mixture, transcript) | {"condition": condition}
            columns |= {"forced_loss": score.loss, "forced_token_error": score.token_error}
            rows.append({name: columns[name] for name in LISTENING.names})
    return rows

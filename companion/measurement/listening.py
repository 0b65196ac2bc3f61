"""Measure listening: what a model writes, and how well it predicts a reference, by condition."""

import math
from collections.abc import Sequence

from companion.measurement.run import Summary, measure
from companion.measurement.schemas import LISTENING
from companion.measurement.settings import ListeningSettings
from companion.measurement.texts import Row, text_columns
from companion.models.decoding import transcribe
from companion.models.forcing import teacher_forced
from companion.models.view import SpeechModel
from companion.stress.mixture import Mixture


def measure_listening(settings: ListeningSettings) -> Summary:
    """Word error and teacher-forced loss: :func:`measure` with ``listening_rows``."""
    return measure("listening", settings, listening_rows, LISTENING)


def listening_rows(
    model: SpeechModel, batch: dict[str, Sequence[Mixture]], settings: ListeningSettings
) -> list[Row]:
    """All rows of a batch of utterances; ``batch`` holds their mixtures by condition.

    A reference is spoken in one window or not scored: of longer audio the loss is NaN. So it is of
    clips without speech, which have none.
    """
    rows: list[Row] = []
    for condition, mixtures in batch.items():
        waves = [mixture.wave for mixture in mixtures]
        transcripts = transcribe(model, waves, settings.rule)
        texts = [mixture.target.reference.lower() for mixture in mixtures]
        forced = teacher_forced(model, model.features(waves), texts)
        for mixture, transcript, score in zip(mixtures, transcripts, forced, strict=True):
            columns = text_columns(model, mixture, transcript) | {"condition": condition}
            loss, error = (
                (math.nan, math.nan)
                if transcript.breaks or not mixture.target.reference
                else (score.loss, score.token_error)
            )
            columns |= {"forced_loss": loss, "forced_token_error": error}
            rows.append({name: columns[name] for name in LISTENING.names})
    return rows

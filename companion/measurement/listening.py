"""Measure listening: what a model writes, and how well it predicts a reference, by condition."""

import math

from companion.measurement.schemas import LISTENING
from companion.measurement.settings import ListeningSettings
from companion.measurement.spectra import of_schema
from companion.measurement.texts import Batch, Row, text_columns
from companion.models.decoding import transcribe
from companion.models.forcing import teacher_forced
from companion.models.view import SpeechModel


def listening_rows(model: SpeechModel, batch: Batch, settings: ListeningSettings) -> list[Row]:
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
            scored = mixture.target.reference and not transcript.breaks
            rows.append(
                text_columns(model, mixture, transcript)
                | {"condition": condition}
                | {"forced_loss": score.loss if scored else math.nan}
                | {"forced_token_error": score.token_error if scored else math.nan}
            )
    return list(of_schema(LISTENING, rows))

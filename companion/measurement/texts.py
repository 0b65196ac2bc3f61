"""What an utterance and its transcript say, whatever else is measured of it; and listening.

Listening is what a model writes, and how well it predicts a reference, by condition.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa

from companion.measurement.schemas import CONFIDENCES, LISTENING
from companion.measurement.settings import ListeningSettings
from companion.models.decoding import Transcript, transcribe
from companion.models.forcing import teacher_forced
from companion.models.view import SpeechModel
from companion.speech.grammar import vocabulary
from companion.stress.mixture import Mixture
from companion.stress.scoring import outcome, score

Row = dict[str, object]
Batch = Mapping[str, Sequence[Mixture]]
"""Utterances' mixtures by condition."""


def names_of(model: SpeechModel, mixture: Mixture, transcript: Transcript) -> Row:
    """Who wrote what of which utterance."""
    return {
        "model": model.name,
        "parameters": model.parameters,
        "utterance": mixture.target.id,
        "speaker": mixture.target.speaker,
        "reference": mixture.target.reference,
        "transcript": transcript.text,
    }


def text_columns(model: SpeechModel, mixture: Mixture, transcript: Transcript) -> Row:
    """What an utterance and its transcript have in common with all rows."""
    known = vocabulary() if model.spells else None
    errors = score(mixture.references, transcript.text)
    return {
        **names_of(model, mixture, transcript),
        "wer": errors.target,
        "interferers": [part.utterance.id for part in mixture.parts[1:]],
        "interferer_wers": list(errors.interferers),
        "candidate": errors.is_candidate,
        "outcome": str(outcome(mixture.references, transcript.text, known)),
        **{name: getattr(transcript, name) for name in CONFIDENCES},
        "compression_ratio": transcript.compression_ratio,
        "no_speech_probability": transcript.no_speech_probability,
        "finished": transcript.finished,
        "windows": len(transcript.windows),
    }


def of_schema(schema: pa.Schema, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of the columns of a schema alone."""
    return ({name: row[name] for name in schema.names} for row in rows)


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
        for mixture, transcript, given in zip(mixtures, transcripts, forced, strict=True):
            scored = mixture.target.reference and not transcript.breaks
            rows.append(
                text_columns(model, mixture, transcript)
                | {"condition": condition}
                | {"forced_loss": given.loss if scored else math.nan}
                | {"forced_token_error": given.token_error if scored else math.nan}
            )
    return list(of_schema(LISTENING, rows))

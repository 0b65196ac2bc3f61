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

_OTHERS = ("compression_ratio", "no_speech_probability", "finished")
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
        **{name: getattr(transcript, name) for name in (*CONFIDENCES, *_OTHERS)},
        "windows": len(transcript.windows),
    }


def of_schema(schema: pa.Schema, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of the columns of a schema alone."""
    return ({name: row[name] for name in schema.names} for row in rows)


def listening_rows(model: SpeechModel, batch: Batch, settings: ListeningSettings) -> list[Row]:
    """All rows of a batch of utterances; ``batch`` holds their mixtures by condition.

    The loss is NaN of audio of several windows, and of clips without speech.
    """
    rows: list[Row] = []
    for condition, mixtures in batch.items():
        waves = [mixture.wave for mixture in mixtures]
        transcripts = transcribe(model, waves, settings.rule)
        texts = [mixture.target.reference.lower() for mixture in mixtures]
        forced = teacher_forced(model, model.features(waves), texts)
        for mixture, transcript, numbers in zip(mixtures, transcripts, forced, strict=True):
            scored = mixture.target.reference and not transcript.breaks
            loss, error = numbers if scored else (math.nan, math.nan)
            columns = text_columns(model, mixture, transcript) | {"condition": condition}
            rows.append(columns | {"forced_loss": loss, "forced_token_error": error})
    return list(of_schema(LISTENING, rows))

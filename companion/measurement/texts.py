"""What an utterance, its transcript and its errors say, whatever else is measured of it."""

from collections.abc import Mapping, Sequence

from companion.measurement.schemas import CONFIDENCES
from companion.models.decoding import Transcript
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

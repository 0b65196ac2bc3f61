"""Measure many stresses, alone, together and in steps: spectra without graphs, in slim rows."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from companion.measurement.observables import kept_lengths, spectral_columns
from companion.measurement.run import Summary, measure
from companion.measurement.schemas import REFERENCE_CONDITION, STRESSES
from companion.measurement.settings import SpectralSettings
from companion.measurement.spectra import Decoded, decode
from companion.measurement.texts import Row
from companion.models.capture import COMPONENTS
from companion.models.view import SpeechModel
from companion.stress.mixture import Mixture


def measure_stresses(settings: SpectralSettings) -> Summary:
    """Spectra under every condition: :func:`measure` with ``stress_rows``."""
    return measure("stresses", settings, stress_rows, STRESSES)


def stress_rows(
    model: SpeechModel, batch: Mapping[str, Sequence[Mixture]], settings: SpectralSettings
) -> list[Row]:
    """All rows of a batch of utterances; of many conditions two recordings are held at a time."""
    clean = decode(model, batch[REFERENCE_CONDITION], settings.rule)
    lengths = {REFERENCE_CONDITION: clean.lengths}
    rows: list[Row] = []
    for name, mixtures in batch.items():
        if name != REFERENCE_CONDITION:
            decoded = decode(model, mixtures, settings.rule)
            lengths[name] = decoded.lengths
            rows += _rows(name, decoded, lengths, settings)
    return [*_rows(REFERENCE_CONDITION, clean, lengths, settings), *rows]


def _rows(
    condition: str, decoded: Decoded, lengths_of: Mapping[str, Tensor], settings: SpectralSettings
) -> Iterator[Row]:
    for component in COMPONENTS:
        activations, _ = decoded.recording.text_rows(component, decoded.transcripts)
        for partner, lengths in kept_lengths(condition, lengths_of).items():
            shared = {"condition": condition, "matched_with": partner, "component": component}
            for i, _, columns in spectral_columns(activations, lengths, settings):
                row = {**decoded.texts[i], **shared, **columns}
                yield {column: row[column] for column in STRESSES.names}

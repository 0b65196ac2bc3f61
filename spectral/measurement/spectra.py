"""Measure spectra: one decoded batch of utterances, every condition, all components and layers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from spectral.graphs import attention_graph, graph_kirchhoff_index, similarity_graph
from spectral.measurement.run import Summary, measure
from spectral.measurement.schemas import SPECTRA
from spectral.measurement.settings import REFERENCE_CONDITION, SpectralSettings
from spectral.measurement.texts import Row, text_columns
from spectral.models.capture import COMPONENTS, HIDDEN_STATE, Recording, capture
from spectral.models.decoding import Transcript, transcribe
from spectral.models.view import SpeechModel
from spectral.spectra import (
    effective_rank,
    eigenvalues,
    kirchhoff_index,
    resolved_kirchhoff_index,
    resolved_modes,
    spectral_slope,
)
from spectral.stress.mixture import Mixture


@dataclass(frozen=True)
class Decoded:
    """One batch under one condition: what was said and written, and what went on inside."""

    texts: Sequence[Row]
    transcripts: Sequence[Transcript]
    recording: Recording

    @property
    def lengths(self) -> Tensor:
        """T of every utterance, (batch,)."""
        return torch.tensor([len(transcript.tokens) for transcript in self.transcripts])


def measure_spectra(settings: SpectralSettings) -> Summary:
    """Spectra of every utterance under every condition: :func:`measure` with ``spectral_rows``."""
    return measure(settings, spectral_rows, SPECTRA)


def spectral_rows(
    model: SpeechModel, batch: dict[str, Sequence[Mixture]], settings: SpectralSettings
) -> list[Row]:
    """All rows of a batch of utterances; ``batch`` holds their mixtures by condition."""
    decoded = {name: _decode(model, mixtures) for name, mixtures in batch.items()}
    return [
        row
        for name, this in decoded.items()
        for partner, lengths in _lengths(name, decoded).items()
        for row in _condition_rows(name, partner, this, lengths, settings)
    ]


def _decode(model: SpeechModel, mixtures: Sequence[Mixture]) -> Decoded:
    with capture(model) as recording:
        transcripts = transcribe(model, [mixture.wave for mixture in mixtures])
    pairs = zip(mixtures, transcripts, strict=True)
    return Decoded([text_columns(model, *pair) for pair in pairs], transcripts, recording)


def _lengths(name: str, decoded: dict[str, Decoded]) -> dict[str, Tensor]:
    """Rows to keep per utterance: all of them (""), and as many as both sides of a pair have."""
    own = decoded[name].lengths
    others = [key for key in decoded if key != REFERENCE_CONDITION]
    partners = others if name == REFERENCE_CONDITION else [REFERENCE_CONDITION]
    return {"": own} | {other: torch.minimum(own, decoded[other].lengths) for other in partners}


def _condition_rows(
    condition: str,
    partner: str,
    decoded: Decoded,
    lengths: Tensor,
    settings: SpectralSettings,
) -> Iterator[Row]:
    graphs = _graph_columns(decoded, lengths)
    for component in COMPONENTS:
        activations, _ = decoded.recording.text_rows(component, decoded.transcripts)
        spectra = _spectra(activations, lengths.to(activations.device))
        resolved = resolved_modes(spectra)
        spectra = _largest(spectra, max(settings.modes))
        for k in settings.modes:
            numbers = _spectral_columns(spectra, k, settings.epsilon)
            for i, layer in product(range(len(decoded.texts)), range(activations.shape[1])):
                yield {
                    **decoded.texts[i],
                    "condition": condition,
                    "matched_with": partner,
                    "component": component,
                    "layer": layer + 1,
                    "modes": k,
                    "tokens": int(lengths[i]),
                    "resolved": int(resolved[i, layer]),
                    "alpha_reason": _alpha_reason(int(resolved[i, layer]), k),
                    "eigenvalues": spectra[i, layer].tolist(),
                    **{name: column[i][layer] for name, column in (numbers | graphs).items()},
                }


def _spectra(activations: Tensor, lengths: Tensor) -> Tensor:
    """Eigenvalues of the first ``lengths`` rows: (batch, layers, modes)."""
    mask = _mask(lengths, activations.shape[2])[:, None].expand(activations.shape[:-1])
    return eigenvalues(activations, mask)


def _largest(spectra: Tensor, modes: int) -> Tensor:
    """So many modes, zeros where there are fewer, however long the batch's other answers are."""
    return functional.pad(spectra[..., :modes], (0, max(0, modes - spectra.shape[-1])))


def _mask(lengths: Tensor, longest: int) -> Tensor:
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def _spectral_columns(spectra: Tensor, k: int, epsilon: float) -> dict[str, list[list[float]]]:
    columns = {
        "n_eff": effective_rank(spectra, k),
        "n_eff_singular": effective_rank(spectra, k, of="singular_values"),
        "alpha": spectral_slope(spectra, 1, k),
        "kirchhoff": kirchhoff_index(spectra, k, epsilon),
        "kirchhoff_resolved": resolved_kirchhoff_index(spectra, k, epsilon),
    }
    return {name: column.tolist() for name, column in columns.items()}


def _alpha_reason(resolved: int, k: int) -> str:
    return "" if resolved >= k else f"{resolved} resolved modes, the fit needs {k}"


def _graph_columns(decoded: Decoded, lengths: Tensor) -> dict[str, list[list[float]]]:
    """Kirchhoff indices of the latent graphs over the text's tokens, by utterance and layer."""
    states, _ = decoded.recording.text_rows(HIDDEN_STATE, decoded.transcripts)
    mask = _mask(lengths.to(states.device), states.shape[2])
    by_layer = [_graphs(decoded, states[:, i], i, mask) for i in range(states.shape[1])]
    return {
        name: torch.stack([graphs[name] for graphs in by_layer], -1).tolist()
        for name in by_layer[0]
    }


def _graphs(decoded: Decoded, states: Tensor, layer: int, mask: Tensor) -> dict[str, Tensor]:
    """One layer at a time: the graphs of all heads are the largest thing a measurement holds."""
    attention = decoded.recording.attention(decoded.transcripts, layer)
    by_head = mask[:, None].expand(attention.shape[:3])
    averaged, single = attention_graph(attention.mean(1), mask), attention_graph(attention, by_head)
    return {
        "attention_kirchhoff": graph_kirchhoff_index(averaged, mask),
        "attention_kirchhoff_heads": graph_kirchhoff_index(single, by_head).mean(-1),
        "similarity_kirchhoff": graph_kirchhoff_index(similarity_graph(states, mask), mask),
    }

"""Measure spectra: one decoded batch of utterances, every condition, all components and layers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from companion.measurement.observables import first_rows, kept_lengths, spectral_columns
from companion.measurement.run import Summary, measure
from companion.measurement.schemas import SPECTRA
from companion.measurement.settings import SpectralSettings
from companion.measurement.texts import Row, text_columns
from companion.models.capture import COMPONENTS, HIDDEN_STATE, Recording, capture
from companion.models.decoding import Heard, Transcript, hear, transcribe_heard
from companion.models.rules import Rule
from companion.models.view import SpeechModel
from companion.stress.mixture import Mixture
from spectral.graphs import attention_graph, graph_kirchhoff_index, similarity_graph


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
    return measure("measure", settings, spectral_rows, SPECTRA)


def spectral_rows(
    model: SpeechModel, batch: dict[str, Sequence[Mixture]], settings: SpectralSettings
) -> list[Row]:
    """All rows of a batch of utterances; ``batch`` holds their mixtures by condition."""
    decoded = {name: decode(model, mixtures, settings.rule) for name, mixtures in batch.items()}
    lengths_of = {name: this.lengths for name, this in decoded.items()}
    return [
        {**this.texts[i], "condition": name, "matched_with": partner, **numbers}
        for name, this in decoded.items()
        for partner, i, numbers in _partnered(this, kept_lengths(name, lengths_of), settings)
    ]


def decode(model: SpeechModel, mixtures: Sequence[Mixture], rule: Rule) -> Decoded:
    """Transcribe a batch under one condition and record what goes on inside."""
    return decode_heard(model, mixtures, hear(model, [each.wave for each in mixtures]), rule)


def decode_heard(
    model: SpeechModel, mixtures: Sequence[Mixture], heard: Heard, rule: Rule
) -> Decoded:
    """:func:`decode` of a batch that the same model has encoded."""
    with capture(model) as recording:
        transcripts = transcribe_heard(model, heard, rule)
    pairs = zip(mixtures, transcripts, strict=True)
    return Decoded([text_columns(model, *pair) for pair in pairs], transcripts, recording)


def _partnered(
    decoded: Decoded, kept: dict[str, Tensor], settings: SpectralSettings
) -> Iterator[tuple[str, int, Row]]:
    """Partner, utterance and numbers; who loses no token to a partner has the own numbers again."""
    own = list(_numbers(decoded, list(range(len(decoded.texts))), kept[""], settings))
    for partner, lengths in kept.items():
        cut = (lengths < kept[""]).nonzero()[:, 0].tolist()
        again = _numbers(decoded, cut, lengths, settings)
        for i, numbers in own:
            yield partner, i, next(again)[1] if i in cut else numbers


def _numbers(
    decoded: Decoded, chosen: list[int], lengths: Tensor, settings: SpectralSettings
) -> Iterator[tuple[int, Row]]:
    """Utterance and numbers of the chosen ones' first ``lengths`` (batch,) rows."""
    graphs = _graph_columns(decoded, chosen, lengths[chosen]) if chosen else {}
    for component in COMPONENTS if chosen else ():
        activations, _ = decoded.recording.text_rows(component, decoded.transcripts)
        for i, layer, columns in spectral_columns(activations[chosen], lengths[chosen], settings):
            by_graph = {name: column[i][layer] for name, column in graphs.items()}
            yield chosen[i], {"component": component, **columns, **by_graph}


def _graph_columns(
    decoded: Decoded, chosen: list[int], lengths: Tensor
) -> dict[str, list[list[float]]]:
    """Kirchhoff indices of the latent graphs over the text's tokens, by utterance and layer."""
    states = decoded.recording.text_rows(HIDDEN_STATE, decoded.transcripts)[0][chosen]
    mask = first_rows(lengths.to(states.device), states.shape[2])
    attention = decoded.recording.attention
    by_layer = [
        _graphs(attention(decoded.transcripts, i)[chosen], states[:, i], mask)
        for i in range(states.shape[1])
    ]
    return {
        name: torch.stack([graphs[name] for graphs in by_layer], -1).tolist()
        for name in by_layer[0]
    }


def _graphs(attention: Tensor, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """One layer at a time: the graphs of all heads are the largest thing a measurement holds."""
    by_head = mask[:, None].expand(attention.shape[:3])
    averaged, single = attention_graph(attention.mean(1), mask), attention_graph(attention, by_head)
    return {
        "attention_kirchhoff": graph_kirchhoff_index(averaged, mask),
        "attention_kirchhoff_heads": graph_kirchhoff_index(single, by_head).mean(-1),
        "similarity_kirchhoff": graph_kirchhoff_index(similarity_graph(states, mask), mask),
    }

"""Measure spectra: one decoded batch of utterances, every condition, all components and layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from companion.measurement.schemas import REFERENCE_CONDITION, STRESSES
from companion.measurement.settings import SpectralSettings
from companion.measurement.texts import Batch, Row, of_schema, text_columns
from companion.models.capture import COMPONENTS, HIDDEN_STATE, Recording, capture
from companion.models.decoding import Heard, Transcript, hear, transcribe_heard
from companion.models.rules import Rule
from companion.models.view import SpeechModel
from companion.stress.mixture import Mixture
from spectral.graphs import attention_graph, graph_kirchhoff_index, similarity_graph
from spectral.spectra import eigenvalues, observables, slope_reason

Numbers = Callable[[list[int], Tensor], Iterator[tuple[int, Row]]]
"""Utterance and columns of the chosen utterances' first rows, as many as each one's length."""


def kept_lengths(condition: str, lengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows to keep per utterance, (batch,): all of them (""), and as many as both sides have."""
    whole = lengths[condition]
    others = [name for name in lengths if name != REFERENCE_CONDITION]
    partners = others if condition == REFERENCE_CONDITION else [REFERENCE_CONDITION]
    return {"": whole} | {other: torch.minimum(whole, lengths[other]) for other in partners}


def matched_rows(
    condition: str, lengths: Mapping[str, Tensor], numbers: Numbers
) -> Iterator[tuple[int, Row]]:
    """Utterance and columns, of all T rows and length-matched with every partner."""
    kept = kept_lengths(condition, lengths)
    whole = list(numbers(list(range(len(kept[""]))), kept[""]))
    for partner, limits in kept.items():
        cut = (limits < kept[""]).nonzero()[:, 0].tolist()
        again = numbers(cut, limits[cut])
        for i, columns in whole:  # what loses no row has its own numbers again
            columns = next(again)[1] if i in cut else columns
            yield i, {"condition": condition, "matched_with": partner, **columns}


def first_rows(lengths: Tensor, longest: int) -> Tensor:
    """The mask of each utterance's first rows: lengths (batch,) -> (batch, longest), bool."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def spectra_of(activations: Tensor, lengths: Tensor, center: bool = True) -> Tensor:
    """Eigenvalues of the first ``lengths`` rows of activations (batch, layers, tokens, width)."""
    mask = first_rows(lengths.to(activations.device), activations.shape[2])
    return eigenvalues(activations, mask[:, None].expand(activations.shape[:-1]), center)


def component_numbers(component: str, activations: Tensor, settings: SpectralSettings) -> Numbers:
    """The columns of a component's activations (batch, layers, tokens, width), per K and layer."""

    def numbers(chosen: list[int], lengths: Tensor) -> Iterator[tuple[int, Row]]:
        if not chosen:
            return
        rows = activations[chosen, :, : max(1, int(lengths.max()))]
        spectra = spectra_of(rows, lengths)
        kept = largest(spectra, max(settings.modes))
        for k in settings.modes:
            columns = observables(spectra, k, settings.epsilon)
            values = {name: column.tolist() for name, column in columns.items()}
            for i, layer in product(*map(range, spectra.shape[:2])):
                yield chosen[i], {
                    "component": component, "layer": layer + 1, "modes": k,
                    "tokens": int(lengths[i]), "eigenvalues": kept[i, layer].tolist(),
                    "alpha_reason": slope_reason(values["resolved"][i][layer], k),
                    **{name: column[i][layer] for name, column in values.items()},
                }  # fmt: skip

    return numbers


def largest(spectra: Tensor, modes: int) -> Tensor:
    """So many modes, zeros where there are fewer, however long others of the batch are."""
    return functional.pad(spectra[..., :modes], (0, max(0, modes - spectra.shape[-1])))


@dataclass(frozen=True)
class Side:
    """One component under one condition."""

    texts: Sequence[Row]  # of every utterance, what all its rows have in common
    activations: Tensor  # (batch, layers, tokens, width)
    lengths: Tensor  # T of every utterance, (batch,)


Sides = Mapping[str, Side]
"""By condition, the reference condition first."""


@dataclass(frozen=True)
class Decoded:
    """One batch under one condition: the texts, and what went on inside."""

    texts: Sequence[Row]
    transcripts: Sequence[Transcript]
    recording: Recording

    @property
    def lengths(self) -> Tensor:
        """T of every utterance, (batch,)."""
        return torch.tensor([len(transcript.tokens) for transcript in self.transcripts])

    def activations(self, component: str) -> Tensor:
        """The rows that predict the texts: (batch, layers, T, width)."""
        return self.recording.text_rows(component, self.transcripts)[0]

    def side(self, component: str, whole: bool = False) -> Side:
        """A component's rows that predict the texts; ``whole``: those of prompts and ends too."""
        activations, real = self.recording.text_rows(component, self.transcripts, whole)
        return Side(self.texts, activations, real.sum(-1).cpu())


def decode(model: SpeechModel, mixtures: Sequence[Mixture], rule: Rule) -> Decoded:
    """Transcribe a batch under one condition and record what goes on inside."""
    return decode_heard(model, mixtures, hear(model, [mixture.wave for mixture in mixtures]), rule)


def decode_heard(
    model: SpeechModel, mixtures: Sequence[Mixture], heard: Heard, rule: Rule
) -> Decoded:
    """:func:`decode` of a batch that the same model has encoded."""
    with capture(model) as recording:
        transcripts = transcribe_heard(model, heard, rule)
    pairs = zip(mixtures, transcripts, strict=True)
    return Decoded([text_columns(model, *pair) for pair in pairs], transcripts, recording)


def spectral_rows(model: SpeechModel, batch: Batch, settings: SpectralSettings) -> list[Row]:
    """All rows of a batch of utterances; ``batch`` holds their mixtures by condition."""
    decoded = {name: decode(model, mixtures, settings.rule) for name, mixtures in batch.items()}
    lengths_of = {name: side.lengths for name, side in decoded.items()}
    return [
        {**side.texts[i], **columns}
        for name, side in decoded.items()
        for i, columns in matched_rows(name, lengths_of, _with_graphs(side, settings))
    ]


def stress_rows(model: SpeechModel, batch: Batch, settings: SpectralSettings) -> list[Row]:
    """The same without graphs, in slim rows; of many conditions two are held at a time."""
    clean = decode(model, batch[REFERENCE_CONDITION], settings.rule)
    lengths = {REFERENCE_CONDITION: clean.lengths}
    rows: list[Row] = []
    for name, mixtures in batch.items():
        if name != REFERENCE_CONDITION:
            decoded = decode(model, mixtures, settings.rule)
            lengths[name] = decoded.lengths
            rows += _slim_rows(name, decoded, lengths, settings)
    return [*_slim_rows(REFERENCE_CONDITION, clean, lengths, settings), *rows]


def _slim_rows(
    condition: str, decoded: Decoded, lengths: Mapping[str, Tensor], settings: SpectralSettings
) -> Iterator[Row]:
    for component in COMPONENTS:
        numbers = component_numbers(component, decoded.activations(component), settings)
        rows = matched_rows(condition, lengths, numbers)
        yield from of_schema(STRESSES, ({**decoded.texts[i], **columns} for i, columns in rows))


def _with_graphs(decoded: Decoded, settings: SpectralSettings) -> Numbers:
    """The spectral columns of all components, and the indices of the latent graphs beside them."""

    def numbers(chosen: list[int], lengths: Tensor) -> Iterator[tuple[int, Row]]:
        graphs = _graph_columns(decoded, chosen, lengths) if chosen else {}
        for component in COMPONENTS if chosen else ():
            spectral = component_numbers(component, decoded.activations(component), settings)
            for i, columns in spectral(chosen, lengths):
                at, layer = chosen.index(i), int(str(columns["layer"])) - 1
                yield i, columns | {name: column[at][layer] for name, column in graphs.items()}

    return numbers


def _graph_columns(
    decoded: Decoded, chosen: list[int], lengths: Tensor
) -> dict[str, list[list[float]]]:
    """Kirchhoff indices of the latent graphs over the text's tokens, by utterance and layer."""
    states = decoded.activations(HIDDEN_STATE)[chosen]
    mask = first_rows(lengths.to(states.device), states.shape[2])
    attention, texts = decoded.recording.attention, decoded.transcripts
    by_layer = [
        _graphs(attention(texts, i)[chosen], states[:, i], mask) for i in range(states.shape[1])
    ]
    columns = {name: [graphs[name] for graphs in by_layer] for name in by_layer[0]}
    return {name: torch.stack(layers, -1).tolist() for name, layers in columns.items()}


def _graphs(attention: Tensor, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """One layer at a time: the graphs of all heads are the largest thing a measurement holds."""
    by_head = mask[:, None].expand(attention.shape[:3])
    averaged, single = attention_graph(attention.mean(1), mask), attention_graph(attention, by_head)
    return {
        "attention_kirchhoff": graph_kirchhoff_index(averaged, mask),
        "attention_kirchhoff_heads": graph_kirchhoff_index(single, by_head).mean(-1),
        "similarity_kirchhoff": graph_kirchhoff_index(similarity_graph(states, mask), mask),
    }

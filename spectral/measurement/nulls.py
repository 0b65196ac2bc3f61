"""Measure nulls: the same changes where nothing but length, content or architecture can make them.

shuffled: the model's own rows in random order, so that truncation keeps a random subset of them.
gaussian: Gaussian rows of the same T and D, with the law of the clean utterance's eigenvalues.
twin: the same architecture at random weights, fed the same audio and the model's own tokens.
forced: the model itself, fed its clean text with the stressed audio: T is equal, the text too.
swapped: the model on another speaker's clean utterance, where that is among the conditions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spectral.measurement.observables import kept_lengths, spectra_of, spectral_columns
from spectral.measurement.run import Summary, measure
from spectral.measurement.schemas import (
    FORCED,
    GAUSSIAN,
    NULLS,
    REFERENCE_CONDITION,
    SHUFFLED,
    SWAPPED,
    TWIN,
)
from spectral.measurement.settings import SpectralSettings
from spectral.measurement.spectra import Decoded, decode
from spectral.measurement.surrogates import LEAST_MODES, continued, gaussian, generator, shuffled
from spectral.measurement.texts import Row
from spectral.measurement.twins import random_twin
from spectral.models.capture import COMPONENTS, capture
from spectral.models.decoding import Transcript, windows
from spectral.models.forcing import feed
from spectral.models.view import SpeechModel
from spectral.spectra import resolved_modes
from spectral.stress.mixture import Mixture

Batch = Mapping[str, Sequence[Mixture]]


@dataclass(frozen=True)
class Side:
    """One component under one condition: what a null has beside its counterpart."""

    texts: Sequence[Row]  # of every utterance, what all its rows have in common
    activations: Tensor  # (batch, layers, tokens, width)
    lengths: Tensor  # T of every utterance, (batch,)

    def of(self, keep: Sequence[int]) -> "Side":
        """Some of the utterances."""
        rows = torch.tensor(keep, dtype=torch.long)
        activations = self.activations[rows.to(self.activations.device)]
        return Side([self.texts[i] for i in keep], activations, self.lengths[rows])


Sides = Mapping[str, Side]
"""By condition, the reference condition first."""


def measure_nulls(settings: SpectralSettings) -> Summary:
    """Nulls of every utterance under every condition: :func:`measure` with ``null_rows``."""
    return measure("nulls", settings, null_rows, NULLS)


def null_rows(model: SpeechModel, batch: Batch, settings: SpectralSettings) -> list[Row]:
    """All rows of a batch of utterances; ``batch`` holds their mixtures by condition."""
    decoded = {name: decode(model, mixtures, settings.rule) for name, mixtures in batch.items()}
    own = {name: this for name, this in decoded.items() if name != SWAPPED}
    played = {name: batch[name] for name in own}
    rows: list[Row] = []
    for component in COMPONENTS:
        sides = {name: _side(this, component) for name, this in own.items()}
        rows += side_rows(SHUFFLED, component, shuffled_sides(sides, settings.seed), settings)
        gaussians = gaussian_sides(sides, component, settings.seed)
        rows += side_rows(GAUSSIAN, component, gaussians, settings)
    if SWAPPED in decoded:
        pair = {name: decoded[name] for name in (REFERENCE_CONDITION, SWAPPED)}
        rows += _decoded_rows(SWAPPED, pair, settings)
    twin = random_twin(settings, model.device)
    fed = {
        name: _fed(twin, this.transcripts, this.texts, played[name]) for name, this in own.items()
    }
    rows += _decoded_rows(TWIN, fed, settings)
    return rows + _decoded_rows(FORCED, forced_pair(model, own, played), settings)


def side_rows(null: str, component: str, sides: Sides, settings: SpectralSettings) -> Iterator[Row]:
    """The rows of one component of a null: of all T tokens, and cut to those of the other side."""
    lengths_of = {name: side.lengths for name, side in sides.items()}
    for name, side in sides.items():
        shared = {"null": null, "condition": name, "component": component}
        for partner, lengths in kept_lengths(name, lengths_of).items():
            for i, _, columns in spectral_columns(side.activations, lengths, settings):
                row = {**side.texts[i], **shared, "matched_with": partner, **columns}
                yield {column: row[column] for column in NULLS.names}


def shuffled_sides(sides: Sides, seed: int) -> dict[str, Side]:
    """Every utterance's rows in a random order of its own."""
    return {
        name: Side(
            side.texts,
            shuffled(
                side.activations,
                side.lengths,
                [generator(seed, SHUFFLED, name, str(text["utterance"])) for text in side.texts],
            ),
            side.lengths,
        )
        for name, side in sides.items()
    }


def gaussian_sides(sides: Sides, component: str, seed: int) -> dict[str, Side]:
    """Gaussian rows, as many as each side has, by the law of the clean utterance on every side.

    Utterances whose clean spectrum resolves too few modes for a law, in any layer, are left out.
    """
    clean = sides[REFERENCE_CONDITION]
    spectra = spectra_of(clean.activations, clean.lengths)
    usable = (resolved_modes(spectra) >= LEAST_MODES).all(-1)
    keep = usable.nonzero()[:, 0].tolist()
    width = clean.activations.shape[-1]
    laws = [torch.stack([continued(layer, width) for layer in spectra[i]]) for i in keep]
    drawn = {}
    for name, side in sides.items():
        kept = side.of(keep)
        activations = torch.zeros_like(kept.activations, dtype=torch.float64)
        for i, (law, length) in enumerate(zip(laws, kept.lengths.tolist(), strict=True)):
            utterance = str(kept.texts[i]["utterance"])
            rng = generator(seed, GAUSSIAN, component, name, utterance)
            activations[i, :, :length] = gaussian(law, length, rng)
        drawn[name] = Side(kept.texts, activations, kept.lengths)
    return drawn


def _side(decoded: Decoded, component: str) -> Side:
    activations, _ = decoded.recording.text_rows(component, decoded.transcripts)
    return Side(decoded.texts, activations, decoded.lengths)


def _decoded_rows(
    null: str, decoded: Mapping[str, Decoded], settings: SpectralSettings
) -> list[Row]:
    return [
        row
        for component in (COMPONENTS if decoded else ())
        for row in side_rows(
            null, component, {name: _side(this, component) for name, this in decoded.items()},
            settings,
        )
    ]  # fmt: skip


def _fed(
    network: SpeechModel,
    transcripts: Sequence[Transcript],
    texts: Sequence[Row],
    mixtures: Sequence[Mixture],
) -> Decoded:
    """What goes on in a network that is given these transcripts, and this audio to hear."""
    with capture(network) as recording:
        feed(network, [mixture.wave for mixture in mixtures], transcripts)
    return Decoded(texts, transcripts, recording)


def forced_pair(
    model: SpeechModel, own: Mapping[str, Decoded], played: Batch
) -> dict[str, Decoded]:
    """The clean texts with the audio of every condition, where all of it fits into one window."""
    clean = own[REFERENCE_CONDITION]
    keep = [
        i
        for i in range(len(clean.texts))
        if all(
            len(list(windows(mixtures[i].wave, model.window_samples))) == 1
            for mixtures in played.values()
        )
    ]
    if not keep:
        return {}
    transcripts, texts = [clean.transcripts[i] for i in keep], [clean.texts[i] for i in keep]
    return {
        name: _fed(model, transcripts, texts, [mixtures[i] for i in keep])
        for name, mixtures in played.items()
    }

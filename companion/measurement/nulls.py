"""Measure nulls: the same changes where nothing but length, content or architecture can make them.

shuffled: the model's own rows in random order, so that truncation keeps a random subset of them;
    of several orders the mean, for a Kirchhoff index that of its logarithm.
gaussian: Gaussian rows of the same T and D, with the law of the clean utterance's eigenvalues.
randomly initialised control: the same architecture at random weights, fed the same audio and the
model's own tokens. spectrum: the model with random singular vectors, all else of its weights kept,
fed alike. unpaired: networks of its architecture, trained on pairs of audio and text that do not
belong
    together, fed alike: they know the language and cannot have learned to listen.
forced: the model itself, fed its clean text with the stressed audio: T is equal, the text too.
swapped: the model on another speaker's clean utterance, where that is among the conditions.

Random networks are drawn several times for some of the utterances; the first randomly initialised
control hears all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from companion.measurement.controls import drawn_for, further_draws, random_control
from companion.measurement.observables import kept_lengths, spectra_of, spectral_columns
from companion.measurement.run import Summary, measure
from companion.measurement.schemas import (
    FORCED,
    GAUSSIAN,
    INITIALISED,
    NULLS,
    REFERENCE_CONDITION,
    SHUFFLED,
    SWAPPED,
)
from companion.measurement.settings import NullSettings, SpectralSettings
from companion.measurement.spectra import Decoded, decode
from companion.measurement.surrogates import LEAST_MODES, continued, gaussian, generator, shuffled
from companion.measurement.texts import Row
from companion.models.capture import COMPONENTS, capture
from companion.models.decoding import Transcript, windows
from companion.models.forcing import feed
from companion.models.view import SpeechModel
from companion.stress.mixture import Mixture
from spectral.spectra import resolved_modes

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


def measure_nulls(settings: NullSettings) -> Summary:
    """Nulls of every utterance under every condition: :func:`measure` with ``null_rows``."""
    return measure("nulls", settings, null_rows, NULLS)


def null_rows(model: SpeechModel, batch: Batch, settings: NullSettings) -> list[Row]:
    """All rows of a batch of utterances; ``batch`` holds their mixtures by condition."""
    decoded = {name: decode(model, mixtures, settings.rule) for name, mixtures in batch.items()}
    own = {name: this for name, this in decoded.items() if name != SWAPPED}
    played = {name: batch[name] for name in own}
    rows: list[Row] = []
    for component in COMPONENTS:
        sides = {name: _side(this, component) for name, this in own.items()}
        rows += shuffled_rows(component, sides, settings)
        gaussians = gaussian_sides(sides, component, settings.seed)
        rows += side_rows(GAUSSIAN, component, gaussians, settings)
    if SWAPPED in decoded:
        pair = {name: decoded[name] for name in (REFERENCE_CONDITION, SWAPPED)}
        rows += _decoded_rows(SWAPPED, pair, settings)
    everyone = range(len(played[REFERENCE_CONDITION]))
    fed = fed_alike(random_control(settings, model.device), own, played, everyone)
    rows += _decoded_rows(INITIALISED, fed, settings)
    rows += _decoded_rows(FORCED, forced_pair(model, own, played), settings)
    return rows + _drawn_rows(model, own, played, settings)


def side_rows(
    null: str,
    component: str,
    sides: Sides,
    settings: SpectralSettings,
    draw: int = 0,
    whole: bool = True,
) -> Iterator[Row]:
    """The rows of one component of a null: of all T tokens, and cut to those of the other side.

    Not ``whole``: those that are cut alone.
    """
    lengths_of = {name: side.lengths for name, side in sides.items()}
    for name, side in sides.items():
        shared = {"null": null, "draw": draw, "condition": name, "component": component}
        for partner, lengths in kept_lengths(name, lengths_of).items():
            if not partner and not whole:
                continue
            kept = side.activations[:, :, : max([1, *lengths.tolist()])]
            for i, _, columns in spectral_columns(kept, lengths, settings):
                row = {**side.texts[i], **shared, "matched_with": partner, **columns}
                yield {column: row[column] for column in NULLS.names}


def shuffled_rows(component: str, sides: Sides, settings: NullSettings) -> list[Row]:
    """The rows of the model's own in random order; what is cut is the mean of several orders."""
    first, *others = (
        list(side_rows(SHUFFLED, component, in_order, settings, whole=order == 0))
        for order in range(settings.orders)
        for in_order in (shuffled_sides(sides, settings.seed, order),)
    )
    again = zip(*others, strict=True)
    return [averaged([row, *next(again, ())]) if row["matched_with"] else row for row in first]


def averaged(rows: Sequence[Row]) -> Row:
    """Rows of one utterance as one: the mean, that of the logarithm for a Kirchhoff index.

    ``resolved`` is the fewest modes that any of them resolves.
    """
    if len(rows) == 1:
        return rows[0]
    mean = dict(rows[0]) | {"resolved": min(int(str(row["resolved"])) for row in rows)}
    for name in ("n_eff", "alpha", "kirchhoff", "kirchhoff_resolved"):
        values = np.array([row[name] for row in rows], dtype=float)
        if name.startswith("kirchhoff"):
            with np.errstate(divide="ignore"):  # an index of no modes is 0
                mean[name] = float(np.exp(np.log(values).mean()))
        else:
            mean[name] = float(values.mean())
    return mean


def shuffled_sides(sides: Sides, seed: int, order: int = 0) -> dict[str, Side]:
    """Every utterance's rows in a random order of its own; ``order`` is which of several."""
    which = [str(order)] if order else []
    return {
        name: Side(
            side.texts,
            shuffled(
                side.activations,
                side.lengths,
                [
                    generator(seed, SHUFFLED, name, str(text["utterance"]), *which)
                    for text in side.texts
                ],
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


def _drawn_rows(
    model: SpeechModel, own: Mapping[str, Decoded], played: Batch, settings: NullSettings
) -> list[Row]:
    """The random networks of several draws, of the utterances of this batch that they are for."""
    if not settings.draws:
        return []
    chosen, texts = drawn_for(settings), own[REFERENCE_CONDITION].texts
    keep = [i for i, text in enumerate(texts) if text["utterance"] in chosen]
    return [
        row
        for null, draw, network in (further_draws(model, settings) if keep else ())
        for row in _decoded_rows(null, fed_alike(network, own, played, keep), settings, draw)
    ]


def _decoded_rows(
    null: str, decoded: Mapping[str, Decoded], settings: SpectralSettings, draw: int = 0
) -> list[Row]:
    return [
        row
        for component in (COMPONENTS if decoded else ())
        for row in side_rows(
            null, component, {name: _side(this, component) for name, this in decoded.items()},
            settings, draw,
        )
    ]  # fmt: skip


def fed_alike(
    network: SpeechModel, own: Mapping[str, Decoded], played: Batch, keep: Sequence[int]
) -> dict[str, Decoded]:
    """A network given the model's own texts and audio, of some of the utterances."""
    return {
        name: _fed(
            network,
            [this.transcripts[i] for i in keep],
            [this.texts[i] for i in keep],
            [played[name][i] for i in keep],
        )
        for name, this in own.items()
    }


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

"""Measure nulls: the same changes where nothing but length, content or architecture can make them.

shuffled: the model's own rows in random order, so that truncation keeps a random subset of them;
    of several orders the mean, for a Kirchhoff index that of its logarithm.
gaussian: Gaussian rows of the same T and D, with the law of the clean utterance's eigenvalues.
randomly initialised control: the same architecture at random weights, fed the same audio and the
model's own tokens. spectrum: the model with random singular vectors, all else of its weights kept,
fed alike. unpaired: networks of its architecture, trained on pairs of audio and text that do not
    belong together, fed alike: they know the language and cannot have learned to listen.
forced: the model itself, fed its clean text with the stressed audio: T is equal, the text too.
swapped: the model on another speaker's clean utterance, where that is among the conditions.

Random networks are drawn several times for some of the utterances; the first randomly initialised
control hears all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from companion.measurement.controls import (
    LEAST_MODES,
    continued,
    further_draws,
    gaussian,
    generator,
    random_control,
    sampled,
)
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
from companion.measurement.spectra import (
    Decoded,
    Numbers,
    Side,
    Sides,
    component_numbers,
    decode,
    matched_rows,
    spectra_of,
)
from companion.measurement.texts import Batch, Row, of_schema
from companion.models.capture import COMPONENTS, capture
from companion.models.decoding import windows
from companion.models.forcing import feed
from companion.models.view import SpeechModel
from companion.stress.mixture import Mixture
from spectral.spectra import resolved_modes


def null_rows(model: SpeechModel, batch: Batch, settings: NullSettings) -> list[Row]:
    """All rows of a batch of utterances; ``batch`` holds their mixtures by condition."""
    decoded = {name: decode(model, mixtures, settings.rule) for name, mixtures in batch.items()}
    written = {name: this for name, this in decoded.items() if name != SWAPPED}
    played = {name: batch[name] for name in written}
    rows: list[Row] = []
    for component in COMPONENTS:
        sides = _sides(written, component)
        rows += shuffled_rows(component, sides, settings)
        gaussians = gaussian_sides(sides, component, settings.seed)
        rows += side_rows(GAUSSIAN, component, gaussians, settings)
    if SWAPPED in decoded:
        pair = {name: decoded[name] for name in (REFERENCE_CONDITION, SWAPPED)}
        rows += _decoded_rows(SWAPPED, pair, settings)
    everyone = range(len(played[REFERENCE_CONDITION]))
    fed = fed_alike(random_control(settings, model.device), written, played, everyone)
    rows += _decoded_rows(INITIALISED, fed, settings)
    rows += _decoded_rows(FORCED, forced_pair(model, written, played), settings)
    chosen = sampled(settings.corpus, settings.utterances, settings.draw_utterances)
    texts = written[REFERENCE_CONDITION].texts
    keep = [i for i, text in enumerate(texts) if text["utterance"] in chosen]
    for null, draw, network in further_draws(model, settings) if keep and settings.draws else ():
        rows += _decoded_rows(null, fed_alike(network, written, played, keep), settings, draw)
    return rows


def side_rows(
    null: str, component: str, sides: Sides, settings: SpectralSettings, draw: int = 0
) -> Iterator[Row]:
    """The rows of one component of a null: of all T tokens, and as many as the other side has."""
    numbers = {
        name: component_numbers(component, side.activations, settings)
        for name, side in sides.items()
    }
    return _rows(null, draw, sides, numbers)


def shuffled_rows(component: str, sides: Sides, settings: NullSettings) -> Iterator[Row]:
    """The rows of the model's own in random order; of what is cut the mean of several orders."""

    def of(name: str, side: Side) -> Numbers:
        def numbers(chosen: list[int], lengths: Tensor) -> Iterator[tuple[int, Row]]:
            cut = not torch.equal(lengths, side.lengths[chosen])
            orders = [
                shuffled_sides({name: side}, settings.seed, order)
                for order in range(settings.orders if cut else 1)
            ]
            by_order = [
                component_numbers(component, one[name].activations, settings)(chosen, lengths)
                for one in orders
            ]
            for same in zip(*by_order, strict=True):
                yield same[0][0], averaged([columns for _, columns in same])

        return numbers

    return _rows(SHUFFLED, 0, sides, {name: of(name, side) for name, side in sides.items()})


def _rows(null: str, draw: int, sides: Sides, numbers: Mapping[str, Numbers]) -> Iterator[Row]:
    lengths = {name: side.lengths for name, side in sides.items()}
    rows = (
        {**side.texts[i], "null": null, "draw": draw, **columns}
        for name, side in sides.items()
        for i, columns in matched_rows(name, lengths, numbers[name])
    )
    return of_schema(NULLS, rows)


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
    """Every utterance's rows in a random order, the same in all layers; ``order`` of several.

    A spectrum of all rows is what it was; the first rows are now a random subset.
    """
    found = {}
    for name, side in sides.items():
        rows = side.activations.clone()
        for i, (text, length) in enumerate(zip(side.texts, side.lengths.tolist(), strict=True)):
            key = [SHUFFLED, name, str(text["utterance"]), *([str(order)] if order else [])]
            permutation = torch.from_numpy(generator(seed, *key).permutation(length))
            rows[i, :, :length] = side.activations[i][:, permutation]
        found[name] = replace(side, activations=rows)
    return found


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


def _sides(decoded: Mapping[str, Decoded], component: str) -> Sides:
    return {name: this.side(component) for name, this in decoded.items()}


def _decoded_rows(
    null: str, decoded: Mapping[str, Decoded], settings: SpectralSettings, draw: int = 0
) -> Iterator[Row]:
    for component in COMPONENTS if decoded else ():
        yield from side_rows(null, component, _sides(decoded, component), settings, draw)


def fed_alike(
    network: SpeechModel, given: Mapping[str, Decoded], played: Batch, keep: Sequence[int]
) -> dict[str, Decoded]:
    """A network given the model's own texts and audio, of some of the utterances."""
    return {name: _fed(network, decoded, played[name], keep) for name, decoded in given.items()}


def forced_pair(
    model: SpeechModel, written: Mapping[str, Decoded], played: Batch
) -> dict[str, Decoded]:
    """The clean texts with the audio of every condition, where all of it fits into one window."""
    clean = written[REFERENCE_CONDITION]
    keep = [
        i
        for i, mixtures in enumerate(zip(*played.values(), strict=True))
        if all(len(list(windows(mixture.wave, model.window_samples))) == 1 for mixture in mixtures)
    ]
    return {name: _fed(model, clean, played[name], keep) for name in played} if keep else {}


def _fed(
    network: SpeechModel, given: Decoded, mixtures: Sequence[Mixture], keep: Sequence[int]
) -> Decoded:
    """What goes on in a network that is given some of these texts, and this audio to hear."""
    texts, transcripts = [given.texts[i] for i in keep], [given.transcripts[i] for i in keep]
    with capture(network) as recording:
        feed(network, [mixtures[i].wave for i in keep], transcripts)
    return Decoded(texts, transcripts, recording)

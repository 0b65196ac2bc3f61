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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from companion.measurement.controls import further_draws, random_control, sampled
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
from companion.stress.mixture import Mixture, generator
from spectral.spectra import resolved_modes, spectral_slope


def null_rows(model: SpeechModel, batch: Batch, settings: NullSettings) -> list[Row]:
    """All rows of a batch of utterances; ``batch`` holds their mixtures by condition."""
    decoded = {name: decode(model, mixtures, settings.rule) for name, mixtures in batch.items()}
    written = {name: side for name, side in decoded.items() if name != SWAPPED}
    played = {name: batch[name] for name in written}
    rows: list[Row] = []
    for component in COMPONENTS:
        sides = {name: side.side(component) for name, side in written.items()}
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

    def numbers(name: str) -> Numbers:
        return component_numbers(component, sides[name].activations, settings)

    return _rows(null, draw, sides, numbers)


def shuffled_rows(component: str, sides: Sides, settings: NullSettings) -> Iterator[Row]:
    """The rows of the model's own in random order; of what is cut the mean of several orders."""

    def numbers(name: str) -> Numbers:
        side = sides[name]

        def of_orders(chosen: list[int], lengths: Tensor) -> Iterator[tuple[int, Row]]:
            cut = not torch.equal(lengths, side.lengths[chosen])
            by_order = []
            for order in range(settings.orders if cut else 1):
                rows = shuffled(side, name, settings.seed, order).activations
                by_order.append(component_numbers(component, rows, settings)(chosen, lengths))
            for same in zip(*by_order, strict=True):
                yield same[0][0], averaged([columns for _, columns in same])

        return of_orders

    return _rows(SHUFFLED, 0, sides, numbers)


def _rows(null: str, draw: int, sides: Sides, numbers: Callable[[str], Numbers]) -> Iterator[Row]:
    lengths = {name: side.lengths for name, side in sides.items()}
    rows = (
        {**side.texts[i], "null": null, "draw": draw, **columns}
        for name, side in sides.items()
        for i, columns in matched_rows(name, lengths, numbers(name))
    )
    return of_schema(NULLS, rows)


def averaged(rows: Sequence[Row]) -> Row:
    """Rows of one utterance as one: the mean, of a Kirchhoff index the geometric one.

    ``resolved`` is the fewest modes that any of them resolves.
    """
    if len(rows) == 1:
        return rows[0]
    mean = dict(rows[0]) | {"resolved": min(int(str(row["resolved"])) for row in rows)}
    for name in ("n_eff", "alpha"):
        mean[name] = float(np.mean(np.array([row[name] for row in rows], dtype=float)))
    for name in ("kirchhoff", "kirchhoff_resolved"):
        with np.errstate(divide="ignore"):  # an index of no modes is 0, and so its mean
            logs = np.log(np.array([row[name] for row in rows], dtype=float))
        mean[name] = float(np.exp(logs.mean()))
    return mean


def shuffled(side: Side, condition: str, seed: int, order: int = 0) -> Side:
    """Every utterance's rows in a random order, the same in all layers; ``order`` of several."""
    rows = side.activations.clone()
    for i, (text, length) in enumerate(zip(side.texts, side.lengths.tolist(), strict=True)):
        key = [SHUFFLED, condition, str(text["utterance"]), *([str(order)] if order else [])]
        permutation = torch.from_numpy(generator(seed, *key).permutation(length))
        rows[i, :, :length] = side.activations[i][:, permutation]
    return replace(side, activations=rows)


LEAST_MODES = 4
"""Resolved modes without which a spectrum cannot be continued."""


def continued(spectrum: Tensor, width: int) -> Tensor:
    """The law that a spectrum (modes,) was drawn from, as far as it shows: (width,) eigenvalues.

    The lower half of the resolved modes of T rows bends down for want of rows. So the upper half
    is kept, and its own lower half continued as a power law to the full width. Raises ValueError
    below ``LEAST_MODES`` resolved modes.
    """
    resolved = int(resolved_modes(spectrum))
    if resolved < LEAST_MODES:
        raise ValueError(f"{resolved} resolved modes, a law takes {LEAST_MODES}; leave it out")
    half = resolved // 2
    slope = spectral_slope(spectrum, half // 2, half)
    beyond = torch.arange(half + 1, width + 1, dtype=spectrum.dtype, device=spectrum.device)
    return torch.cat([spectrum[:half], spectrum[half - 1] * (beyond / half) ** -slope])


def gaussian(law: Tensor, length: int, rng: np.random.Generator) -> Tensor:
    """Rows (layers, length, width) whose covariance has the eigenvalues ``law`` (layers, width)."""
    drawn = rng.standard_normal((law.shape[0], length, law.shape[1]))
    return torch.from_numpy(drawn).to(law.device) * law.sqrt()[:, None]


def gaussian_sides(sides: Sides, component: str, seed: int) -> dict[str, Side]:
    """Gaussian rows, as many as each side has, by the law of the clean utterance on every side.

    Utterances whose clean spectrum resolves too few modes for a law, in any layer, are left out.
    """
    clean = sides[REFERENCE_CONDITION]
    spectra = spectra_of(clean.activations, clean.lengths)
    keep = (resolved_modes(spectra) >= LEAST_MODES).all(-1).nonzero()[:, 0].tolist()
    width = clean.activations.shape[-1]
    laws = [torch.stack([continued(layer, width) for layer in spectra[i]]) for i in keep]
    drawn = {}
    for name, side in sides.items():
        texts, lengths = [side.texts[i] for i in keep], side.lengths[keep]
        activations = torch.zeros_like(side.activations[keep], dtype=torch.float64)
        for i, (text, law, length) in enumerate(zip(texts, laws, lengths.tolist(), strict=True)):
            rng = generator(seed, GAUSSIAN, component, name, str(text["utterance"]))
            activations[i, :, :length] = gaussian(law, length, rng)
        drawn[name] = Side(texts, activations, lengths)
    return drawn


def _decoded_rows(
    null: str, decoded: Mapping[str, Decoded], settings: SpectralSettings, draw: int = 0
) -> Iterator[Row]:
    for component in COMPONENTS if decoded else ():
        sides = {name: side.side(component) for name, side in decoded.items()}
        yield from side_rows(null, component, sides, settings, draw)


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

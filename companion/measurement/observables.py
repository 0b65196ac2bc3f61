"""Spectra of a component's activations, and what is read off them, as columns of measured rows."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from companion.measurement.schemas import REFERENCE_CONDITION
from companion.measurement.settings import SpectralSettings
from companion.measurement.texts import Row
from spectral.spectra import eigenvalues, observables, slope_reason

Numbers = Callable[[list[int], Tensor], Iterator[tuple[int, Row]]]
"""Utterance and columns of the chosen utterances' first rows, as many as each one's length."""


def kept_lengths(condition: str, lengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows to keep per utterance: all of them (""), and as many as both sides of a pair have.

    ``lengths`` holds T (batch,) by condition, the reference condition among them.
    """
    own = lengths[condition]
    others = [name for name in lengths if name != REFERENCE_CONDITION]
    partners = others if condition == REFERENCE_CONDITION else [REFERENCE_CONDITION]
    return {"": own} | {other: torch.minimum(own, lengths[other]) for other in partners}


def matched_rows(
    condition: str, lengths: Mapping[str, Tensor], numbers: Numbers
) -> Iterator[tuple[int, Row]]:
    """Utterance and columns, of all T rows and length-matched with every partner.

    What loses no row to a partner has its own numbers again.
    """
    kept = kept_lengths(condition, lengths)
    whole = list(numbers(list(range(len(kept[""]))), kept[""]))
    for partner, limits in kept.items():
        cut = (limits < kept[""]).nonzero()[:, 0].tolist()
        again = numbers(cut, limits[cut])
        for i, columns in whole:
            columns = next(again)[1] if i in cut else columns
            yield i, {"condition": condition, "matched_with": partner, **columns}


def first_rows(lengths: Tensor, longest: int) -> Tensor:
    """The mask of each utterance's first rows: lengths (batch,) -> (batch, longest), bool."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def spectra_of(activations: Tensor, lengths: Tensor, center: bool = True) -> Tensor:
    """Eigenvalues of the first ``lengths`` rows of activations (batch, layers, tokens, width)."""
    mask = first_rows(lengths.to(activations.device), activations.shape[2])
    return eigenvalues(activations, mask[:, None].expand(activations.shape[:-1]), center)


def spectral_columns(
    activations: Tensor, lengths: Tensor, settings: SpectralSettings
) -> Iterator[tuple[int, Row]]:
    """Utterance (from 0) and spectral columns of the first ``lengths`` rows, per K and layer."""
    spectra = spectra_of(activations, lengths)
    kept = largest(spectra, max(settings.modes))
    for k in settings.modes:
        columns = observables(spectra, k, settings.epsilon)
        numbers = {name: column.tolist() for name, column in columns.items()}
        for i, layer in product(*map(range, spectra.shape[:2])):
            yield i, {
                "layer": layer + 1,
                "modes": k,
                "tokens": int(lengths[i]),
                "alpha_reason": slope_reason(numbers["resolved"][i][layer], k),
                "eigenvalues": kept[i, layer].tolist(),
                **{name: column[i][layer] for name, column in numbers.items()},
            }  # fmt: skip


def component_numbers(component: str, activations: Tensor, settings: SpectralSettings) -> Numbers:
    """The spectral columns of one component's activations (batch, layers, tokens, width)."""

    def numbers(chosen: list[int], lengths: Tensor) -> Iterator[tuple[int, Row]]:
        if chosen:
            rows = activations[chosen, :, : max(1, int(lengths.max()))]
            for i, columns in spectral_columns(rows, lengths, settings):
                yield chosen[i], {"component": component, **columns}

    return numbers


def largest(spectra: Tensor, modes: int) -> Tensor:
    """So many modes, zeros where there are fewer, however long others of the batch are."""
    return functional.pad(spectra[..., :modes], (0, max(0, modes - spectra.shape[-1])))

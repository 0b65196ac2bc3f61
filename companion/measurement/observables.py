"""Spectra of a component's activations, and what is read off them, as columns of measured rows."""

from collections.abc import Iterator, Mapping
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from companion.measurement.schemas import REFERENCE_CONDITION
from companion.measurement.settings import SpectralSettings
from companion.measurement.texts import Row
from spectral.spectra import eigenvalues, observables, slope_reason


def kept_lengths(condition: str, lengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows to keep per utterance: all of them (""), and as many as both sides of a pair have.

    ``lengths`` holds T (batch,) by condition, the reference condition among them.
    """
    own = lengths[condition]
    others = [name for name in lengths if name != REFERENCE_CONDITION]
    partners = others if condition == REFERENCE_CONDITION else [REFERENCE_CONDITION]
    return {"": own} | {other: torch.minimum(own, lengths[other]) for other in partners}


def first_rows(lengths: Tensor, longest: int) -> Tensor:
    """The mask of each utterance's first rows: lengths (batch,) -> (batch, longest), bool."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def spectra_of(activations: Tensor, lengths: Tensor, center: bool = True) -> Tensor:
    """Eigenvalues of the first ``lengths`` rows of activations (batch, layers, tokens, width)."""
    mask = first_rows(lengths.to(activations.device), activations.shape[2])
    return eigenvalues(activations, mask[:, None].expand(activations.shape[:-1]), center)


def spectral_columns(
    activations: Tensor, lengths: Tensor, settings: SpectralSettings
) -> Iterator[tuple[int, int, Row]]:
    """Utterance, layer (both from 0) and spectral columns of the first ``lengths`` rows, per K."""
    spectra = spectra_of(activations, lengths)
    kept = largest(spectra, max(settings.modes))
    for k in settings.modes:
        found = observables(spectra, k, settings.epsilon)
        numbers = {name: column.tolist() for name, column in found.items()}
        for i, layer in product(*map(range, spectra.shape[:2])):
            yield i, layer, {
                "layer": layer + 1,
                "modes": k,
                "tokens": int(lengths[i]),
                "alpha_reason": slope_reason(numbers["resolved"][i][layer], k),
                "eigenvalues": kept[i, layer].tolist(),
                **{name: column[i][layer] for name, column in numbers.items()},
            }  # fmt: skip


def largest(spectra: Tensor, modes: int) -> Tensor:
    """So many modes, zeros where there are fewer, however long the batch's other transcripts
    are."""
    return functional.pad(spectra[..., :modes], (0, max(0, modes - spectra.shape[-1])))

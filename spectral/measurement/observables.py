"""Spectra of a component's activations, and what is read off them, as columns of measured rows."""

from collections.abc import Iterator, Mapping
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from spectral.measurement.schemas import REFERENCE_CONDITION
from spectral.measurement.settings import SpectralSettings
from spectral.measurement.texts import Row
from spectral.spectra import (
    effective_rank,
    eigenvalues,
    kirchhoff_index,
    resolved_kirchhoff_index,
    resolved_modes,
    spectral_slope,
)


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
    resolved = resolved_modes(spectra).tolist()
    spectra = largest(spectra, max(settings.modes))
    for k in settings.modes:
        numbers = _numbers(spectra, k, settings.epsilon)
        for i, layer in product(*map(range, spectra.shape[:2])):
            yield i, layer, {
                "layer": layer + 1,
                "modes": k,
                "tokens": int(lengths[i]),
                "resolved": resolved[i][layer],
                "alpha_reason": _alpha_reason(resolved[i][layer], k),
                "eigenvalues": spectra[i, layer].tolist(),
                **{name: column[i][layer] for name, column in numbers.items()},
            }  # fmt: skip


def largest(spectra: Tensor, modes: int) -> Tensor:
    """So many modes, zeros where there are fewer, however long the batch's other answers are."""
    return functional.pad(spectra[..., :modes], (0, max(0, modes - spectra.shape[-1])))


def _numbers(spectra: Tensor, k: int, epsilon: float) -> dict[str, list[list[float]]]:
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

"""All that is read off a spectrum, by every choice about it that the paper leaves open."""

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from spectral.spectra import (
    effective_rank,
    kirchhoff_index,
    resolved_kirchhoff_index,
    spectral_slope,
)

MODES = (10, 20, 50)
RANGES = ((1, 10), (2, 10), (1, 20), (1, 50), (10, 50))
EPSILONS = (1e-3, 1e-6, 1e-9)

Reading = tuple[str, dict[str, str], Tensor]
"""An observable, the choices made, and its values (utterances, layers)."""


def readings(spectra: Tensor) -> Iterator[Reading]:
    """All that is read off spectra (utterances, layers, modes), by every choice about them."""
    for k, of in product(MODES, ("eigenvalues", "singular_values")):
        choices = {"K": str(k), "p": of.replace("_", " ")}
        yield "n_eff", choices, effective_rank(spectra, k, of=of)  # type: ignore[arg-type]
    for first, last in RANGES:
        yield "alpha", {"modes fitted": f"{first}-{last}"}, spectral_slope(spectra, first, last)
    kernels = {"padded": kirchhoff_index, "resolved": resolved_kirchhoff_index}
    for k, epsilon in product(MODES, EPSILONS):
        kept = spectra[..., :k]
        total = kept.sum(-1, keepdim=True)
        scales = {"as they are": kept, "shares": kept / total.where(total > 0, 1.0)}
        for missing, scale in product(kernels, scales):
            choices = {"K": str(k), "missing modes": missing, "eigenvalues": scale}
            index = kernels[missing](scales[scale], k, epsilon).log10()
            yield "log10_kf", choices | {"epsilon": f"{epsilon:.0e}"}, index


def column_of(observable: str, choices: dict[str, str]) -> str:
    """The name of a reading's column, such as ``n_eff, 50, singular values``."""
    return ", ".join([observable, *choices.values()])


READINGS = {
    column_of(observable, choices): (observable, choices)
    for observable, choices, _ in readings(torch.ones(1, 1, max(MODES)))
}
"""Every reading's observable and choices, by the name of its column."""


def layer_mean_columns(spectra: Tensor) -> dict[str, list[float]]:
    """Every reading's mean over layers: spectra (utterances, layers, modes) -> (utterances,).

    Not finite where the reading of some layer is not.
    """
    return {
        column_of(observable, choices): values.mean(-1).tolist()
        for observable, choices, values in readings(spectra)
    }

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

PROPORTION = 50 / 384
"""K over the width of the paper's Tiny; K = 50 is nearly all of a model of width 56."""

IN_PROPORTION = "50/384 of the width"

Reading = tuple[str, dict[str, str], Tensor]
"""An observable, the choices made, and its values (utterances, layers)."""


def readings(spectra: Tensor, width: int | None = None) -> Iterator[Reading]:
    """All that is read off spectra (utterances, layers, modes), by every choice about them.

    Of a ``width``, K in proportion to it alone, named ``IN_PROPORTION``; nothing where the spectra
    hold fewer modes than that.
    """
    named = {str(k): k for k in MODES}
    ranges = {f"{first}-{last}": (first, last) for first, last in RANGES}
    if width is not None:
        named = {IN_PROPORTION: modes_in_proportion(width)}
        ranges = {f"1 to {IN_PROPORTION}": (1, named[IN_PROPORTION])}
        if named[IN_PROPORTION] > spectra.shape[-1]:
            return
    for (name, k), of in product(named.items(), ("eigenvalues", "singular_values")):
        choices = {"K": name, "p": of.replace("_", " ")}
        yield "n_eff", choices, effective_rank(spectra, k, of=of)  # type: ignore[arg-type]
    for name, fitted in ranges.items():
        yield "alpha", {"modes fitted": name}, spectral_slope(spectra, *fitted)
    kernels = {"padded": kirchhoff_index, "resolved": resolved_kirchhoff_index}
    for (name, k), epsilon in product(named.items(), EPSILONS):
        kept = spectra[..., :k]
        total = kept.sum(-1, keepdim=True)
        scales = {"as they are": kept, "fractions": kept / total.where(total > 0, 1.0)}
        for missing, scale in product(kernels, scales):
            choices = {"K": name, "missing modes": missing, "eigenvalues": scale}
            index = kernels[missing](scales[scale], k, epsilon).log10()
            yield "log10_kf", choices | {"epsilon": f"{epsilon:.0e}"}, index


def modes_in_proportion(width: int) -> int:
    """K for a model of this width, as 50 is for the paper's Tiny."""
    return round(PROPORTION * width)


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

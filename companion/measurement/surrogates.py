"""Surrogate activations: what they would be if just one thing about them were true."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from companion.stress.mixture import digest
from spectral.spectra import resolved_modes, spectral_slope

LEAST_MODES = 4
"""Resolved modes without which a spectrum cannot be continued."""


def generator(seed: int, *key: str) -> np.random.Generator:
    """A generator that depends on the seed and the key alone, not on batches."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest(seed, *key))))


def shuffled(
    activations: Tensor, lengths: Tensor, generators: Sequence[np.random.Generator]
) -> Tensor:
    """The real rows of each utterance in another order, the same in all layers.

    A spectrum of all rows is what it was; the first rows are now a random subset. activations
    (batch, layers, tokens, width), lengths (batch,), a generator per utterance.
    """
    order = torch.arange(activations.shape[2]).repeat(len(lengths), 1)
    for row, length, rng in zip(order, lengths.tolist(), generators, strict=True):
        row[:length] = torch.from_numpy(rng.permutation(length))
    layers = torch.arange(activations.shape[1])[:, None]
    batch = torch.arange(len(lengths))[:, None, None]
    return activations[batch, layers, order[:, None]]


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
    """Independent Gaussian rows whose covariance has these eigenvalues.

    law (layers, width) -> (layers, length, width).
    """
    drawn = rng.standard_normal((law.shape[0], length, law.shape[1]))
    return torch.from_numpy(drawn).to(law.device) * law.sqrt()[:, None]

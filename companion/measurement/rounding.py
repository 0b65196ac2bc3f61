"""How precisely rows that come with the project are kept."""

from collections.abc import Mapping

import numpy as np

BITS = 12
OTHERS: Mapping[str, int] = {
    "choices": 7, "nulls": 7, "stresses": 7, "warnings": 10, "contest": 10, "fitting": 10,
    "recordings": 10, "pooling": 24,
}  # fmt: skip
"""Bits of the kinds with thousands of spectra: read as means over utterances, warnings and the
contest as ranks; of pooled ones a jackknife reads how little they change without a speaker."""


def bits_of(kind: str) -> int:
    """How many significant bits the rows of a kind of measurement keep."""
    return OTHERS.get(kind, BITS)


def rounded(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Floating-point numbers to ``bits`` significant bits.

    None moves by more than 2^-(bits + 1) of itself. What is not finite stays; shape
    and dtype are those of ``numbers``.
    """
    finite = np.isfinite(numbers)
    fraction, exponent = np.frexp(np.where(finite, numbers, 0))
    near = np.ldexp(np.round(fraction * 2**bits), exponent - bits)
    return np.where(finite, near, numbers)

"""How precisely rows that come with the project are kept."""

import numpy as np

BITS = 12


def rounded(numbers: np.ndarray) -> np.ndarray:
    """Floating-point numbers to ``BITS`` significant bits: none moves by over 1.2e-4 of itself.

    What is not finite stays; shape and dtype are those of ``numbers``.
    """
    finite = np.isfinite(numbers)
    share, exponent = np.frexp(np.where(finite, numbers, 0))
    near = np.ldexp(np.round(share * 2**BITS), exponent - BITS)
    return np.where(finite, near, numbers)

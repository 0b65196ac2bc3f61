"""Paired permutation tests that respect voices, and Holm's correction for many of them."""

from functools import lru_cache

import numpy as np

EXACT_SPEAKERS = 16
"""Up to so many voices all 2^voices assignments are looked at."""

DRAWS = 99_999
"""Random assignments for more voices; p is then at least 1 / (DRAWS + 1)."""

_CHUNK = 10_000
_ROUNDING = 1e-9


def paired_p(differences: np.ndarray, speakers: np.ndarray, seed: int) -> float:
    """Two-sided p-value of paired differences (utterances,), stressed minus clean.

    Under the null hypothesis the two sides of a voice may be exchanged, of all its utterances at
    once: utterances of one voice are not independent. The statistic is the absolute sum of
    differences; as an exchange leaves the sum of both sides alone, it orders the assignments as a
    ratio of the two means does, so that p is that of a change in % as well. Exact up to
    ``EXACT_SPEAKERS`` voices, else (count + 1) / (draws + 1) of seeded random assignments (Phipson
    & Smyth 2010). Differences that are not finite are left out; NaN where none is left.
    """
    finite = np.isfinite(differences)
    if not finite.any():
        return float("nan")
    _, speaker = np.unique(speakers[finite], return_inverse=True)
    sums = np.bincount(speaker, weights=differences[finite])
    observed = abs(sums.sum()) - _ROUNDING * np.abs(sums).sum()
    signs = _signs(len(sums), seed)
    count = sum(
        int((np.abs(signs[i : i + _CHUNK] @ sums) >= observed).sum())
        for i in range(0, len(signs), _CHUNK)
    )
    return count / len(signs) if len(sums) <= EXACT_SPEAKERS else (count + 1) / (len(signs) + 1)


@lru_cache(maxsize=8)
def _signs(voices: int, seed: int) -> np.ndarray:
    """Signs (assignments, voices): all of them, the first voice's fixed by symmetry, or draws."""
    if voices <= EXACT_SPEAKERS:
        numbers = np.arange(2 ** (voices - 1))[:, None]
        bits = numbers >> np.arange(voices) & 1
    else:
        bits = np.random.default_rng(seed).integers(2, size=(DRAWS, voices))
    signs = 1.0 - 2.0 * bits  # as wide as what it multiplies, else each product converts it
    signs.setflags(write=False)  # it is shared between calls
    return signs


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's (1979) adjusted p-values of one family (tests,); NaN stays and does not count."""
    adjusted = np.full(len(p), np.nan)
    order = np.flatnonzero(np.isfinite(p))
    order = order[np.argsort(p[order], kind="stable")]
    steps = (len(order) - np.arange(len(order))) * p[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted

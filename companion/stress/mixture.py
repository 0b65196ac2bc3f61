"""Speech under stress: a wave, everyone who speaks in it, and the corpus they are drawn from."""

import hashlib
import operator
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from companion.speech.corpus import UnusableUtterance, Utterance, read_wave


@dataclass(frozen=True)
class Part:
    """One utterance in a mixture, and its level in dB relative to the target's RMS."""

    utterance: Utterance
    level_db: float


@dataclass(frozen=True, eq=False)
class Mixture:
    """A wave (samples,) float32 at 16 kHz and the utterances audible in it, the target first.

    target_rms: of the target alone, whatever was added to it. applied: names of the perturbations
    that changed it, in order. Samples may exceed 1: nothing is clipped or rescaled. Raises
    UnusableUtterance, naming the target, for a wave that is not mono or not floating point, is
    empty or silent, or holds NaN or infinity.
    """

    wave: np.ndarray
    parts: tuple[Part, ...]
    target_rms: float
    applied: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "wave", checked_wave(self.target.id, self.wave))

    @classmethod
    def of(cls, utterance: Utterance, wave: np.ndarray) -> "Mixture":
        """An utterance alone: its samples (samples,), not copied where they are float32 already."""
        wave = checked_wave(utterance.id, wave)
        return cls(wave, (Part(utterance, 0.0),), rms(wave))

    @property
    def target(self) -> Utterance:
        """The utterance that a model is asked to write down."""
        return self.parts[0].utterance

    @property
    def references(self) -> tuple[str, ...]:
        """What each speaker says, the target first."""
        return tuple(part.utterance.reference for part in self.parts)

    def key(self, name: str) -> tuple[str, str, int]:
        """What the randomness of its next perturbation called ``name`` depends on, bar the seed.

        Noise alone and noise after a mix are the same draw: conditions differ by what they name.
        """
        return self.target.id, name, self.applied.count(name)

    def after(
        self, name: str, wave: np.ndarray, parts: tuple[Part, ...] = (),
        target_rms: float | None = None,
    ) -> "Mixture":  # fmt: skip
        """This mixture once the perturbation ``name`` has made ``wave`` of it and added parts."""
        return replace(
            self,
            wave=wave.astype(np.float32, copy=False),
            parts=self.parts + parts,
            target_rms=self.target_rms if target_rms is None else target_rms,
            applied=(*self.applied, name),
        )


class Speakers:
    """The utterances of a corpus by speaker, from which interfering speakers are drawn.

    Give it the whole corpus, also where a part of it is measured: who interferes depends on it.
    """

    def __init__(
        self, utterances: Iterable[Utterance], read: Callable[[Utterance], np.ndarray] = read_wave
    ) -> None:
        self._read = read
        self._utterances: dict[str, list[Utterance]] = {}
        for utterance in utterances:
            self._utterances.setdefault(utterance.speaker, []).append(utterance)

    def draw(
        self, present: Iterable[str], count: int, seed: int, key: tuple[str, str, int]
    ) -> list[tuple[Utterance, np.ndarray]]:
        """One utterance, with its samples, of each of ``count`` speakers who are not ``present``.

        Ranked by a hash of seed, key and name (rendezvous hashing), so that what joins or leaves
        the corpus changes only the draws that it is in. Utterances that cannot be read are passed
        over. Raises ValueError where too few speakers remain.
        """
        others = sorted(
            set(self._utterances) - set(present), key=lambda speaker: digest(seed, *key, speaker)
        )
        drawn: list[tuple[Utterance, np.ndarray]] = []
        for speaker in others:
            if len(drawn) == count:
                break
            utterances = self._utterances[speaker]
            for utterance in sorted(utterances, key=lambda u: digest(seed, *key, u.speaker, u.id)):
                with suppress(UnusableUtterance):
                    drawn.append((utterance, checked_wave(utterance.id, self._read(utterance))))
                    break
        if len(drawn) < count:
            raise ValueError(
                f"{key[0]}: a mix with {count} interferers needs as many other speakers, the "
                f"corpus has {len(others)}, {len(drawn)} of them usable; add speakers or lower "
                "`interferers`"
            )
        return drawn


def checked_wave(utterance: str, wave: np.ndarray) -> np.ndarray:
    """``wave`` as (samples,) float32, the same object if it is so already; see ``Mixture``."""

    def refused(why: str) -> UnusableUtterance:
        return UnusableUtterance(f"{utterance}: {why}")

    if not isinstance(wave, np.ndarray):
        raise refused(f"the wave is a {type(wave).__name__}; pass a numpy array of samples")
    if wave.ndim != 1:
        raise refused(f"the wave has shape {wave.shape}, expected (samples,); average its channels")
    if not np.issubdtype(wave.dtype, np.floating):
        raise refused(
            f"samples are {wave.dtype}, expected float32 in [-1, 1]; divide int16 by 32768"
        )
    if wave.size == 0:
        raise refused("no samples; leave the utterance out")
    with np.errstate(over="ignore"):
        wave = wave.astype(np.float32, copy=False)
    bad = int(np.count_nonzero(~np.isfinite(wave)))
    if bad:
        raise refused(f"{bad} of {wave.size} samples are NaN or infinite in float32; repair them")
    if not wave.any():
        raise refused(
            f"all {wave.size} samples are zero, levels relative to it mean nothing; leave the "
            "utterance out"
        )
    return wave


def rms(wave: np.ndarray) -> float:
    """The root mean square of samples (samples,), taken in float64."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def digest(seed: int, *key: str | int) -> bytes:
    """32 bytes that depend on the seed and the key alone: the same in any process and version."""
    return hashlib.sha256(repr((operator.index(seed), *key)).encode()).digest()


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """A generator of random numbers by ``digest``."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest(seed, *key))))

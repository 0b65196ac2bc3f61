"""Perturbations of speech: seeded, composable in any order, each with a severity.

Whatever a perturbation draws depends on the seed, the target's id, the perturbation's name and how
often that name was applied before: not on other utterances, nor on batches, nor on what else is
applied. The milder forms of a perturbation use the same draw as the full one.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, Protocol

import numpy as np

from companion.speech.corpus import SAMPLE_RATE, UnusableUtterance
from companion.speech.nothing import NO_SPEECH, no_speech
from companion.stress.mixture import Mixture, Part, Speakers, generator, rms
from companion.stress.stretching import METHODS, VOCODER, stretched

FAINT_DB = -30.0  # where the mildest mix and noise begin: audible, hardly a cause of errors
SHORTEST_STRETCH = 2048  # samples: librosa's STFT frame
_DECIBELS = 100.0  # beyond this float32 holds nothing of the weaker signal
_BAND = (300.0, 3400.0)  # Hz, what a telephone line passes (ITU-T G.712)
_LINE_RATE = 8000  # Hz
_ORDER = 4


class Perturbation(Protocol):
    """What is done to a mixture; ``name`` is its name in parameter files."""

    name: ClassVar[str]

    def apply(self, mixture: Mixture, speakers: Speakers, seed: int) -> Mixture:
        """The perturbed mixture; the mixture itself where there is nothing to do."""
        ...

    def at_severity(self, severity: float) -> "Perturbation":
        """A milder form: 0 does nothing at all, 1 is the perturbation itself."""
        return self


@dataclass(frozen=True)
class TimeStretch:
    """Play all that is audible so far ``rate`` times faster by one of the ``METHODS``.

    A wave of n samples becomes round(n / rate) long; of the power it loses or gains, each part is
    taken to have the same fraction.
    """

    rate: float = 3.5
    method: str = VOCODER
    name: ClassVar[str] = "stretch"

    def __post_init__(self) -> None:
        _set(self, "rate", 0.1, 10.0, "3.5 is 3.5 times faster, 0.2857 slower")
        if self.method not in METHODS:
            raise ValueError(f"stretch method is {self.method!r}; choose from {', '.join(METHODS)}")

    def apply(self, mixture: Mixture, speakers: Speakers, seed: int) -> Mixture:
        """The stretched mixture; raises UnusableUtterance below ``SHORTEST_STRETCH`` samples."""
        if self.rate == 1:
            return mixture
        before = mixture.wave
        if before.size < SHORTEST_STRETCH:
            raise UnusableUtterance(
                f"{mixture.target.id}: {before.size} samples are too few to stretch, "
                f"{SHORTEST_STRETCH} at least; leave the utterance out"
            )
        wave = stretched(before, self.rate, self.method)
        return mixture.after(
            self.name, wave, target_rms=mixture.target_rms * rms(wave) / rms(before)
        )

    def at_severity(self, severity: float) -> "TimeStretch":
        """Rate to the power of severity: equal steps are equal factors of speed."""
        return TimeStretch(self.rate ** _fraction(severity), self.method)


@dataclass(frozen=True)
class SpeakerMix:
    """Add ``interferers`` other speakers, each at ``level_db`` dB relative to the target's RMS.

    The mix is as long as its longest utterance (LibriMix's "max" mode), so that all of every
    reference is audible. Levels compare each utterance's RMS over its own length.
    """

    interferers: int = 5
    level_db: float = 0.0
    name: ClassVar[str] = "mix"

    def __post_init__(self) -> None:
        count = self.interferers
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0:
            raise ValueError(
                f"mix interferers is {count!r}; give a whole number from 0 (five interferers "
                "and the target are six speakers)"
            )
        object.__setattr__(self, "interferers", int(count))
        _set(self, "level_db", -_DECIBELS, _DECIBELS, "0.0 is as loud as the target")

    def apply(self, mixture: Mixture, speakers: Speakers, seed: int) -> Mixture:
        """The mix; raises ValueError where the corpus has too few other speakers."""
        if self.interferers == 0:
            return mixture
        present = {part.utterance.speaker for part in mixture.parts}
        drawn = speakers.draw(present, self.interferers, seed, mixture.key(self.name))
        level = mixture.target_rms * 10 ** (self.level_db / 20)
        longest = max(mixture.wave.size, *(wave.size for _, wave in drawn))
        total = np.zeros(longest)
        total[: mixture.wave.size] = mixture.wave
        for _, wave in drawn:
            total[: wave.size] += level / rms(wave) * wave.astype(np.float64)
        parts = tuple(Part(utterance, self.level_db) for utterance, _ in drawn)
        return mixture.after(self.name, total, parts)

    def at_severity(self, severity: float) -> "SpeakerMix":
        """The same speakers, from ``FAINT_DB`` to the full level, linear in dB; 0: nobody."""
        if _fraction(severity) == 0:
            return SpeakerMix(0, self.level_db)
        return SpeakerMix(self.interferers, _between(FAINT_DB, self.level_db, severity))


@dataclass(frozen=True)
class GaussianNoise:
    """Add white Gaussian noise with an RMS ``snr_db`` dB below that of everything so far."""

    snr_db: float = 0.0
    name: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        if self.snr_db != math.inf:
            _set(self, "snr_db", -_DECIBELS, _DECIBELS, "0.0 is as loud as the speech, .inf none")

    def apply(self, mixture: Mixture, speakers: Speakers, seed: int) -> Mixture:
        if self.snr_db == math.inf:
            return mixture
        rng = generator(seed, *mixture.key(self.name))
        noise = rng.standard_normal(mixture.wave.size)
        gain = rms(mixture.wave) / rms(noise) * 10 ** (-self.snr_db / 20)
        return mixture.after(self.name, mixture.wave + gain * noise)

    def at_severity(self, severity: float) -> "GaussianNoise":
        """The same noise, from ``FAINT_DB`` to the full level, linear in dB; 0: none."""
        if _fraction(severity) == 0 or self.snr_db == math.inf:
            return GaussianNoise(math.inf)
        return GaussianNoise(-_between(FAINT_DB, -self.snr_db, severity))


@dataclass(frozen=True)
class Substitute:
    """Exchange all audio for another speaker's utterance, or for audio without speech.

    by: ``speech``, whose speaker joins the mixture, or one of ``NO_SPEECH``, as long as what it
    replaces; ``none`` leaves the audio. The target's reference stays, though nobody says it.
    """

    by: str = "speech"
    name: ClassVar[str] = "substitute"

    def __post_init__(self) -> None:
        if self.by not in _SUBSTITUTES:
            raise ValueError(f"substitute by is {self.by!r}; choose from {', '.join(_SUBSTITUTES)}")

    def apply(self, mixture: Mixture, speakers: Speakers, seed: int) -> Mixture:
        """The exchanged audio; raises ValueError where the corpus has no other speaker."""
        key = mixture.key(self.name)
        if self.by == "none":
            return mixture
        if self.by == "speech":
            present = {part.utterance.speaker for part in mixture.parts}
            ((utterance, wave),) = speakers.draw(present, 1, seed, key)
            return mixture.after(self.name, wave, (Part(utterance, 0.0),), rms(wave))
        wave = no_speech(self.by, generator(seed, *key), mixture.wave.size)
        return mixture.after(self.name, wave, target_rms=rms(wave))

    def at_severity(self, severity: float) -> "Substitute":
        """There is no half of it: 0 leaves the audio, more exchanges all of it."""
        return self if _fraction(severity) > 0 else Substitute("none")


@dataclass(frozen=True)
class Gain(Perturbation):
    """Everything audible so far by ``gain_db`` louder, or quieter where it is negative."""

    gain_db: float
    name: ClassVar[str] = "gain"

    def apply(self, mixture: Mixture, speakers: Speakers, seed: int) -> Mixture:
        factor = 10 ** (self.gain_db / 20)
        target_rms = mixture.target_rms * factor
        return mixture.after(self.name, mixture.wave * factor, target_rms=target_rms)


@dataclass(frozen=True)
class Clip(Perturbation):
    """Samples cut off at the fraction ``peak`` of the largest, as an overdriven recorder does."""

    peak: float
    name: ClassVar[str] = "clip"

    def apply(self, mixture: Mixture, speakers: Speakers, seed: int) -> Mixture:
        limit = self.peak * float(np.abs(mixture.wave).max())
        return mixture.after(self.name, mixture.wave.clip(-limit, limit))


@dataclass(frozen=True)
class Telephone(Perturbation):
    """What a telephone line passes: 300 to 3400 Hz, sampled at 8 kHz and brought back to 16."""

    name: ClassVar[str] = "telephone"

    def apply(self, mixture: Mixture, speakers: Speakers, seed: int) -> Mixture:
        from librosa import resample  # here: to import them takes a second
        from scipy.signal import butter, sosfiltfilt

        bands = butter(_ORDER, _BAND, "bandpass", fs=_LINE_RATE, output="sos")
        wave = mixture.wave.astype(np.float64)
        line = resample(wave, orig_sr=SAMPLE_RATE, target_sr=_LINE_RATE, res_type="soxr_hq")
        passed = sosfiltfilt(bands, line)
        back = resample(passed, orig_sr=_LINE_RATE, target_sr=SAMPLE_RATE, res_type="soxr_hq")
        return mixture.after(self.name, back[: mixture.wave.size])


_SUBSTITUTES = ("speech", *NO_SPEECH, "none")


def _between(faint: float, full: float, severity: float) -> float:
    faint = min(faint, full)  # what is fainter still at full severity never gets louder below it
    return full - (1 - severity) * (full - faint)


def _fraction(severity: float) -> float:
    return _number("severity", severity, 0, 1, "none to full")


def _set(perturbation: Perturbation, field: str, low: float, high: float, hint: str) -> None:
    what, value = f"{perturbation.name} {field}", getattr(perturbation, field)
    object.__setattr__(perturbation, field, _number(what, value, low, high, hint))


def _number(what: str, value: object, low: float, high: float, hint: str) -> float:
    """A number in these limits; ValueError, naming ``what`` it is, for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high:
        raise ValueError(f"{what} is {value!r}; give a number from {low:g} to {high:g} ({hint})")
    return float(value)

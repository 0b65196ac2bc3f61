"""What commonly happens to recordings and leaves their words as they are, as perturbations."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from companion.speech.corpus import SAMPLE_RATE
from companion.stress.mixture import Mixture, Speakers
from companion.stress.perturbations import Perturbation

_BAND = (300.0, 3400.0)  # Hz, what a telephone line passes (ITU-T G.712)
_LINE_RATE = 8000  # Hz
_ORDER = 4


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

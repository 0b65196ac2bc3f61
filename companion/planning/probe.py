"""Short timings on the machine at hand, and what they say about what was not timed."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from companion.benchmarks.throughput import Size
from companion.measurement.jacobians import paired_rows
from companion.measurement.kinds import KINDS
from companion.measurement.memory import Batch
from companion.measurement.run import stressed
from companion.measurement.settings import JacobianSettings, Settings, SpectralSettings
from companion.measurement.spectra import spectral_rows
from companion.models.loading import initialised, load
from companion.models.openai_model import OpenAIModel
from companion.models.rules import UNRESTRICTED
from companion.planning.costs import LONGEST, encoding, linearising, peak_memory, writing
from companion.planning.profile import Work
from companion.speech.corpus import SAMPLE_RATE, Utterance
from companion.stress.mixture import Mixture, Speakers

SHORT = 32
"""The tokens of a text that ends by itself: LibriSpeech's mean is about 25."""

PATIENCE = 60.0
"""Seconds: a size whose timing would take longer is extrapolated."""

_SECONDS = 10  # of noise, where there is no speech
_FEW = 4
_WINDOWS = {"listening": 2, "nulls": 3, "choices": 2, "dynamics": 7, "warnings": 2}
"""How often each window is heard: once more to be scored, or by a twin and with another's text;
slow speech has some more."""

_PASSES = 30
"""Of a singular direction, about: six steps of a product with a Jacobian and with its transpose."""


@dataclass(frozen=True)
class Estimate:
    """Seconds per utterance of one kind of measurement, between which a run will lie."""

    low: float
    high: float

    def times(self, count: int) -> "Estimate":
        """Of so many utterances."""
        return Estimate(self.low * count, self.high * count)


@dataclass(frozen=True)
class Timing:
    """Seconds per utterance of one size: hearing a window, writing a token, Jacobians at one."""

    size: Size
    hearing: float
    token: float
    jacobians: float

    def scaled(self, size: Size) -> "Timing":
        """Another size's, by the ratios of operations."""
        return Timing(
            size,
            self.hearing * encoding(size) / encoding(self.size),
            self.token * writing(size) / writing(self.size),
            self.jacobians * linearising(size) / linearising(self.size),
        )

    def estimate(self, work: Work) -> Estimate:
        """Texts of 32 tokens, or every batch with one that goes on to the limit."""
        windows, texts = float(_WINDOWS.get(work.kind, 1)), 1
        if work.kind == "nudges":  # each is written, and heard by model and twin
            levels = len(work.values["levels_db"])
            texts = 1 + levels * work.directions
            windows = texts + 2 * levels * work.batch + _PASSES * len(work.values["tokens"])
        if work.kind == "pooling":  # heard once for all rules
            texts = len(work.values["decodings"])
        linear = self.jacobians * work.values["tokens"] if work.kind == "jacobians" else 0.0
        if work.kind == "nulls":
            windows += work.further_draws
        low, high = (
            windows * self.hearing + texts * tokens * self.token + linear
            for tokens in (SHORT, LONGEST)
        )
        return Estimate(low, high).times(len(work.conditions))

    @property
    def seconds(self) -> float:
        """What timing it takes, about."""
        return _FEW * (3 * self.hearing + 2 * SHORT * self.token) + 2 * self.jacobians


def time_model(name: str, work: Work, speech: Sequence[Utterance], device: torch.device) -> float:
    """Seconds per utterance of the measurement itself, of a model and speech that are there."""
    settings = _settings(name, work, output=Path())
    model = load(name, work.ladder, device)
    chosen = tuple(speech[i * len(speech) // _FEW] for i in range(_FEW))
    batch, _ = stressed(chosen, Speakers(speech), settings)
    rows = KINDS[work.kind].rows_of
    rows(model, {key: mixtures[:1] for key, mixtures in batch.items()}, settings)  # warms up
    return _seconds(lambda: rows(model, batch, settings), device) / _FEW


def time_size(size: Size, batch: int, device: torch.device) -> Timing:
    """Time a size on random weights and noise: two lengths of text tell hearing from writing."""
    model = OpenAIModel("probe", initialised(size.dimensions(), 0).to(device))
    twin = OpenAIModel("probe-random", initialised(size.dimensions(), 1).to(device))
    count = batch if device.type == "cuda" else min(batch, _FEW)
    mixtures = list(_noise(count))
    shared: dict[str, Any] = {
        "model": "probe", "ladder": Path(), "corpus": Path(), "output": Path(),
        "conditions": ("clean",), "decoding": UNRESTRICTED.name, "seed": 0, "batch": 1,
        "device": "auto", "utterances": None,
    }  # fmt: skip
    spectral = SpectralSettings(**shared, modes=(10, 50), epsilon=1e-6)
    jacobian = JacobianSettings(**shared, tokens=1, probes=8)

    def took(tokens: int) -> float:
        model.limit = tokens
        return _seconds(lambda: spectral_rows(model, {"clean": mixtures}, spectral), device) / count

    model.limit = 2
    one: Batch = {"clean": mixtures[:1]}
    spectral_rows(model, one, spectral)  # warms up
    short, long = took(SHORT // 8), took(SHORT)
    token = max(0.0, (long - short) / (SHORT - SHORT // 8))
    hearing = max(0.0, short - SHORT // 8 * token)
    model.limit = 2
    pair = _seconds(lambda: paired_rows(model, twin, one, jacobian), device)
    return Timing(size, hearing, token, max(0.0, pair - 2 * hearing))


def timings(
    sizes: Sequence[Size], batch: int, device: torch.device
) -> dict[Size, tuple[str, Timing]]:
    """Every size's timing, and how it was had: "timed" or "extrapolated".

    The smallest is timed, and larger ones while that takes less than ``PATIENCE`` and half of the
    memory; the others follow from the largest that was.
    """
    found: dict[Size, tuple[str, Timing]] = {}
    last: Timing | None = None
    for size in sorted(set(sizes), key=encoding):
        guess = last.scaled(size) if last else None
        fits = peak_memory(size, batch, jacobians=True) < memory(device) / 2
        if last is None or (guess and guess.seconds < PATIENCE and fits):
            last = time_size(size, batch, device)
            found[size] = ("timed", last)
        else:
            assert guess is not None
            found[size] = ("extrapolated", guess)
    return found


def memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, or that the computer has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _settings(name: str, work: Work, output: Path) -> Settings:
    values = {**work.values, "ladder": work.ladder, "corpus": work.corpus}
    return KINDS[work.kind].settings(model=name, output=output, **values)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _noise(count: int) -> Iterator[Mixture]:
    rng = np.random.default_rng(0)
    for i in range(count):
        wave = rng.standard_normal(_SECONDS * SAMPLE_RATE).astype(np.float32)
        yield Mixture.of(Utterance(f"{i}-1-0000", str(i), "A WORD", Path(f"{i}.flac")), wave)

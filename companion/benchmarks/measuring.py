"""Measuring beside openai-whisper's own decoding: ``python -m companion.benchmarks.measuring``.

On OpenAI's weights and the embedded corpus, clean and in Hell, where openai-whisper keeps a batch
together until its longest text has ended.
"""

from pathlib import Path

import pandas as pd
import torch
import whisper
from whisper import DecodingOptions, DecodingResult

from companion.benchmarks.timing import (
    CORPUS,
    OURS,
    Case,
    Way,
    machine,
    measured,
    of_openai,
    options,
    time_all,
)
from companion.measurement.run import spread
from companion.measurement.settings import SpectralSettings
from companion.measurement.spectra import spectral_rows
from companion.models.loading import choose_device
from companion.models.openai_model import OpenAIModel
from companion.models.rules import OPENAI, Rule
from companion.speech.corpus import find_utterances, read_wave
from companion.stress.conditions import condition
from companion.stress.mixture import Mixture, Speakers

CONDITIONS = ("clean", "hell")
BATCH = 16  # utterances, all at once
LIBRARY = "openai-whisper, decoding alone"


def main() -> None:
    """Time tiny.en and base under clean speech alone, and under both conditions."""
    given = options("companion.benchmarks.measuring", __doc__, 3).parse_args()
    device, batch = choose_device(given.device), stressed_speech(CORPUS, BATCH)
    sides = [{name: batch[name] for name in names} for names in (CONDITIONS[:1], CONDITIONS)]

    def timed(name: str) -> pd.DataFrame:
        cases = (measuring_case(of_openai(name, device), chosen) for chosen in sides)
        return pd.concat(measured(case, given.repeats, device) for case in cases)

    time_all(("tiny.en", "base"), timed, machine(device), f"measuring-{device.type}")


def in_memory(model: str, conditions: tuple[str, ...], decoding: Rule) -> SpectralSettings:
    """Settings of the committed rows, for speech in memory and rows that are timed, not kept."""
    return SpectralSettings(
        model=model, ladder=Path(), corpus=Path(), output=Path(), conditions=conditions,
        decoding=decoding.name, seed=0, batch=1, device="auto", utterances=None,
        modes=(10, 50), epsilon=1e-6,
    )  # fmt: skip


def stressed_speech(corpus: Path, count: int) -> dict[str, list[Mixture]]:
    """``count`` utterances spread over a corpus, by condition."""
    utterances = find_utterances(corpus).utterances
    clean = [Mixture.of(target, read_wave(target)) for target in spread(utterances, count)]
    speakers = Speakers(utterances)
    return {
        name: [condition(name).apply(mixture, speakers, seed=0) for mixture in clean]
        for name in CONDITIONS
    }


def measuring_case(model: OpenAIModel, batch: dict[str, list[Mixture]]) -> Case:
    """All observables of these conditions, beside texts alone by the library.

    ``difference``: how many of the texts are not the same.
    """
    settings = in_memory(model.name, tuple(batch), OPENAI)
    waves = [[mixture.wave for mixture in mixtures] for mixtures in batch.values()]

    def ours() -> list[dict[str, object]]:
        return spectral_rows(model, dict(batch), settings)

    def library() -> list[DecodingResult]:
        options = DecodingOptions(language="en", without_timestamps=True, fp16=False)
        with torch.inference_mode():  # what fits one window, all of a condition in one batch
            decoded = [whisper.decode(model.module, model.features(w), options) for w in waves]
        return [result for results in decoded for result in results]

    def difference() -> float:
        written = {(row["condition"], row["utterance"]): row["transcript"] for row in ours()}
        return float(sum(a != b.text for a, b in zip(written.values(), library(), strict=True)))

    size: dict[str, int | str] = {
        "model": model.name,
        "condition": "+".join(batch),
        "batch": len(waves[0]),
    }
    return Case("measuring", size, {OURS: Way(ours), LIBRARY: Way(library)}, 0, difference)


if __name__ == "__main__":
    main()

"""How much of each sound of the contest is speech, to a detector of it: an optional rival.

    pip install silero-vad
    python -m companion.contest.speech_activity

measures, by the sections of params/whisper.yml that the contest's rows are measured by, the same
sounds, and writes data/results/whisper/speech_activity.parquet. The detector is no part of the
environment.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from tqdm import tqdm

from companion.measurement.contest import all_conditions
from companion.measurement.keys import read_meta, speech_digest
from companion.measurement.run import batches, stressed
from companion.measurement.schemas import schema
from companion.measurement.settings import ContestSettings
from companion.measurement.store import write
from companion.measurement.texts import Row
from companion.speech.corpus import SAMPLE_RATE, Utterance, find_utterances
from companion.stress.conditions import in_turn
from companion.stress.mixture import Mixture, Speakers

SPEECH = schema(
    "utterance", "condition", "speech_mean", "speech_fraction", "speech_most", numbers=pa.float32()
)
"""Of the probabilities of speech in frames of 32 ms: mean, fraction above 0.5, largest."""

WINDOW_SAMPLES = 30 * SAMPLE_RATE
"""Whisper's window of 30 s."""


def sound(rows: Path, corpus: Path, utterance: str, condition: str) -> Mixture:
    """What one row was measured on, sample for sample, from the speech itself.

    Raises ValueError where the rows' parameters have no such utterance or condition.
    """
    values: dict[str, Any] = dict(read_meta(rows)["key"]["parameters"])
    values |= {"ladder": corpus, "corpus": corpus, "output": rows, "device": "cpu"}
    settings = ContestSettings(**values)
    speech = find_utterances(settings.corpus).utterances
    chosen = [spoken for spoken in speech if spoken.id == utterance]
    batch, _ = stressed(chosen, Speakers(speech), settings)
    for names, mixtures in all_conditions(WINDOW_SAMPLES, batch, settings):
        for mixture in mixtures:
            if in_turn(names, utterance, settings.seed) == condition:
                return mixture
    raise ValueError(f"{rows}: no {condition!r} of {utterance!r}; take a row's own")


PARAMETERS = Path("params/whisper.yml")
KINDS = ("contest", "fitting", "recordings")
OUTPUT = Path("data/results/whisper/speech_activity.parquet")


def speech_rows(settings: ContestSettings) -> Iterator[Row]:
    """A row per sound, in the order in which the contest measures them."""
    detector = import_module("silero_vad").load_silero_vad()  # it is not in the environment
    corpus, clips = find_utterances(settings.corpus), settings.clips()
    speakers = Speakers(corpus.utterances)
    groups = [*batches(corpus.utterances, settings), clips.utterances]
    for group in tqdm([group for group in groups if group]):
        batch, _ = stressed(group, speakers, settings)
        for names, mixtures in all_conditions(WINDOW_SAMPLES, batch, settings):
            for mixture in mixtures:
                with torch.inference_mode():
                    wave = torch.from_numpy(mixture.wave)
                    frames = detector.audio_forward(wave, sr=SAMPLE_RATE)
                chances = frames.numpy().astype(np.float64).ravel()
                yield {
                    "utterance": mixture.target.id,
                    "condition": in_turn(names, mixture.target.id, settings.seed),
                    "speech_mean": float(chances.mean()),
                    "speech_fraction": float((chances > 0.5).mean()),
                    "speech_most": float(chances.max()),
                }


def main() -> None:
    """Measure the sounds of the sections ``KINDS``."""
    sections = yaml.safe_load(PARAMETERS.read_text(encoding="utf-8"))
    rows: list[Row] = []
    parameters: dict[str, object] = {}
    utterances: list[Utterance] = []
    for kind in KINDS:
        values = sections[kind]
        for name in {"ladder", "corpus", "nonspeech"} & values.keys():
            values[name] = PARAMETERS.parent / values[name]
        settings = ContestSettings(model="none", output=OUTPUT, **values)
        utterances += [*find_utterances(settings.corpus).utterances, *settings.clips().utterances]
        parameters[kind] = {k: v for k, v in settings.plain().items() if k != "model"}
        rows += speech_rows(settings)
    meta = {"kind": "voice", "speech": speech_digest(utterances), "parameters": parameters}
    meta["detector"] = version("silero-vad")
    write(rows, OUTPUT, meta, SPEECH)
    print(OUTPUT)


if __name__ == "__main__":
    main()

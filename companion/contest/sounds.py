"""The sounds that a file of the contest's rows is of, made again to be heard."""

from pathlib import Path
from typing import Any

from companion.measurement.contest import ContestSettings, all_conditions
from companion.measurement.keys import read_meta
from companion.measurement.run import stressed
from companion.speech.corpus import SAMPLE_RATE as SAMPLE_RATE
from companion.speech.corpus import find_utterances
from companion.stress.conditions import in_turn
from companion.stress.mixture import Mixture, Speakers

WINDOW_SAMPLES = 480_000
"""Whisper's window of 30 s."""


def sound(rows: Path, corpus: Path, utterance: str, condition: str) -> Mixture:
    """What one row was measured on, sample for sample, from the speech itself.

    Raises ValueError where the rows' parameters have no such utterance or condition.
    """
    values: dict[str, Any] = dict(read_meta(rows)["key"]["parameters"])
    values |= {"ladder": corpus, "corpus": corpus, "output": rows, "device": "cpu"}
    settings = ContestSettings(**values)
    speech = find_utterances(settings.corpus).utterances
    own = [each for each in speech if each.id == utterance]
    batch, _ = stressed(own, Speakers(speech), settings)
    for names, mixtures in all_conditions(WINDOW_SAMPLES, batch, settings, settings.windows):
        for mixture in mixtures:
            if in_turn(names, utterance, settings.seed) == condition:
                return mixture
    raise ValueError(f"{rows}: no {condition!r} of {utterance!r}; take a row's own")

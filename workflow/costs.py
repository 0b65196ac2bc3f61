"""What every kind of measurement takes: ``python workflow/costs.py``, for `make plan` to show.

It writes data/benchmarks/kinds-cpu.csv: of OpenAI's models on LibriSpeech, as params/whisper.yml
has the kinds, the processor's seconds for an utterance under all conditions, on one thread.
"""

import time
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from sections import Profile, from_root

from companion.benchmarks.timing import machine, time_all
from companion.measurement.kinds import KINDS
from companion.measurement.run import spread, stressed
from companion.models.loading import load
from companion.speech.corpus import find_utterances
from companion.stress.mixture import Speakers

MODELS = ("tiny.en", "base")
UTTERANCES = 2  # which are measured at once
CPU = torch.device("cpu")


def main() -> None:
    """Measure some utterances in every kind."""
    torch.set_num_threads(1)
    sections = Profile("whisper", models="", utterances="").values

    def timed(run: tuple[str, str]) -> pd.DataFrame:
        kind, model = run
        values = {
            name: from_root(value) if str(value).startswith("../") else value
            for name, value in sections[kind].items()
        }
        settings = KINDS[kind].settings(**values, model=model, output=Path())  # type: ignore[arg-type]
        speech, network = find_utterances(settings.corpus).utterances, load(model, Path(), CPU)
        batch, _ = stressed(spread(speech, UTTERANCES), Speakers(speech), settings)
        began = time.process_time()
        KINDS[kind].rows_of(network, batch, settings)
        taken = (time.process_time() - began) / UTTERANCES
        return pd.DataFrame([{"kind": kind, "model": model, "seconds": taken}])

    time_all(list(product(KINDS, MODELS)), timed, machine(CPU), "kinds-cpu")


if __name__ == "__main__":
    main()

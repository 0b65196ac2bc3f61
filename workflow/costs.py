"""What every kind of measurement takes: ``python workflow/costs.py``, for `make plan` to show.

It writes data/benchmarks/kinds-cpu.csv: of OpenAI's models on LibriSpeech, as params/whisper.yml
has the kinds, the processor's seconds for an utterance under all conditions, on one thread.
"""

import argparse
import os
import time
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from sections import Profile
from tqdm import tqdm

from companion.benchmarks.timing import keep, machine, product_rate
from companion.measurement.kinds import KINDS
from companion.measurement.run import spread, stressed
from companion.models.loading import load
from companion.speech.corpus import find_utterances
from companion.stress.mixture import Speakers

ROOT = Path(__file__).parents[1]
MODELS = ("tiny.en", "base")


def seconds(kind: str, model: str, values: dict[str, object], utterances: int) -> float:
    """For one of so many utterances, which are measured at once."""
    settings = KINDS[kind].settings(**values, model=model, output=Path())  # type: ignore[arg-type]
    speech = find_utterances(settings.corpus).utterances
    network = load(model, settings.ladder, torch.device("cpu"))
    batch, _ = stressed(spread(speech, utterances), Speakers(speech), settings)
    began = time.process_time()
    KINDS[kind].rows_of(network, batch, settings)
    return (time.process_time() - began) / utterances


def main() -> None:
    """Measure some utterances in every kind, and keep what that took beside the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(ROOT)
    values = Profile("whisper", models="", utterances="").values
    described, rows = machine(torch.device("cpu"), product_rate(torch.device("cpu"))), []
    os.chdir(ROOT / "notebooks")  # to which the parameters' paths are relative
    for kind, model in tqdm(list(product(KINDS, MODELS))):
        taken = seconds(kind, model, values[kind], asked.utterances)
        rows.append(
            {"kind": kind, "model": model, "utterances": asked.utterances, "seconds": taken}
        )
        keep(pd.DataFrame(rows), described, ROOT / "data" / "benchmarks" / "kinds-cpu")


if __name__ == "__main__":
    main()

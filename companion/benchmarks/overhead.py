"""What ``spectral.Monitor`` costs: ``python -m companion.benchmarks.overhead``.

openai-whisper's own ``decode`` of one utterance of the embedded corpus with and without it, in
turns, by the processor's time, which other programs on the machine hardly change.
"""

import time
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from whisper.decoding import DecodingOptions

from companion.benchmarks.timing import CORPUS, machine, of_openai, options, time_all
from companion.models.loading import choose_device
from companion.speech.corpus import find_utterances, read_wave
from spectral import Monitor


def main() -> None:
    """Time tiny.en and base with and without it."""
    given = options("companion.benchmarks.overhead", __doc__, 11, "cpu").parse_args()
    device = choose_device(given.device)
    timed = partial(overheads, repeats=given.repeats, device=device)
    time_all(("tiny.en", "base"), timed, machine(device), f"monitor-{device.type}")


@torch.inference_mode()
def overheads(name: str, repeats: int, device: torch.device) -> pd.DataFrame:
    """A row per part of the model: median seconds without and with, and the ratio's quartiles."""
    model = of_openai(name, device)
    whisper: Any = model.module
    features = model.features([read_wave(find_utterances(CORPUS).utterances[0])])
    context = model.encode(features)
    chosen = DecodingOptions(language="en", without_timestamps=True, fp16=False)
    tokens = len(whisper.decode(context, chosen)[0].tokens)
    rows = []
    for part, given in (("decoder", context), ("encoder and decoder", features)):

        def seconds(watched: bool, given: torch.Tensor = given) -> float:
            before = time.process_time()
            with Monitor(whisper) if watched else nullcontext():
                whisper.decode(given, chosen)
            return time.process_time() - before

        both = (False, True)
        pairs = np.array([[seconds(watched) for watched in both] for _ in range(repeats)])
        low, middle, high = np.percentile(pairs[:, 1] / pairs[:, 0], [25, 50, 75])
        plain, watched = np.median(pairs, 0)
        rows.append(
            {"model": name, "part": part, "tokens": tokens, "repeats": repeats, "plain": plain,
             "watched": watched, "ratio": middle, "ratio_low": low, "ratio_high": high}
        )  # fmt: skip
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()

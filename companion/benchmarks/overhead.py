"""What ``spectral.Monitor`` costs: ``python -m companion.benchmarks.overhead``.

openai-whisper's own ``decode`` of one utterance of the embedded corpus with and without it, in
turns, by the processor's time, which other programs on the machine hardly change.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from whisper.decoding import DecodingOptions

from companion.benchmarks.timing import keep, machine, product_rate
from companion.models.loading import choose_device, load
from companion.models.openai_model import OpenAIModel
from companion.speech.corpus import find_utterances, read_wave
from spectral import Monitor

DECODER, BOTH = "decoder", "encoder and decoder"


def overheads(name: str, device: torch.device, corpus: Path, repeats: int) -> pd.DataFrame:
    """A row per part of the model: median seconds without and with, and the ratio's quartiles."""
    model = load(name, Path("data/ladder"), device)
    if not isinstance(model, OpenAIModel):
        raise SystemExit(f"error: {name} is no model of openai-whisper; name one of its own")
    whisper: Any = model.module
    features = model.features([read_wave(find_utterances(corpus).utterances[0])])
    context = model.encode(features)
    options = DecodingOptions(language="en", without_timestamps=True, fp16=False)
    tokens = len(whisper.decode(context, options)[0].tokens)
    rows = []
    for part, given in ((DECODER, context), (BOTH, features)):

        def decode(watched: bool, given: torch.Tensor = given) -> None:
            with Monitor(whisper) if watched else nullcontext():
                whisper.decode(given, options)

        pairs = np.array(
            [[_seconds(decode, watched) for watched in (False, True)] for _ in range(repeats)]
        )
        ratio = pairs[:, 1] / pairs[:, 0]
        low, middle, high = np.percentile(ratio, [25, 50, 75])
        plain, watched = np.median(pairs, 0)
        rows.append(
            {"model": name, "part": part, "tokens": tokens, "repeats": repeats, "plain": plain,
             "watched": watched, "ratio": middle, "ratio_low": low, "ratio_high": high}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _seconds(decode: Callable[[bool], None], watched: bool) -> float:
    before = time.process_time()
    decode(watched)
    return time.process_time() - before


@torch.inference_mode()
def main() -> None:
    """Time every model, print the ratios, and keep them beside a description of the machine."""
    parser = argparse.ArgumentParser(
        prog="python -m companion.benchmarks.overhead", description=__doc__
    )
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument("--models", nargs="+", default=["tiny.en", "base"])
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--output", type=Path, default=Path("data/benchmarks"))
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    described = machine(device, product_rate(device))
    tables = [
        overheads(name, device, arguments.corpus, arguments.repeats)
        for name in tqdm(arguments.models, unit="model")
    ]
    table = pd.concat(tables, ignore_index=True)
    keep(table, described, arguments.output / f"monitor-{device.type}")
    print(table.to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()

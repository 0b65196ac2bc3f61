"""What measuring costs at Whisper's true sizes: ``python -m companion.benchmarks.throughput``.

On random weights, so its transcripts mean nothing: throughput and memory, never science.
"""

import resource
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from whisper.model import ModelDimensions

from companion.benchmarks.measuring import in_memory
from companion.benchmarks.timing import OURS, Case, Way, machine, measured, options, time_all
from companion.measurement.spectra import spectral_rows
from companion.models.decoding import transcribe
from companion.models.forcing import residual_streams
from companion.models.loading import choose_device
from companion.models.openai_model import OpenAIModel, initialised
from companion.models.rules import UNRESTRICTED
from companion.speech.corpus import SAMPLE_RATE, Utterance
from companion.stress.mixture import Mixture
from spectral.jacobians.propagators import linearise
from spectral.whisper import as_layer

TOKENS = 32
_SECONDS = 10  # of audio; the model hears 30 s whatever it is given


def size(
    width: int, encoder: int, decoder: int, mels: int = 80, vocabulary: int = 51865
) -> ModelDimensions:
    """A Whisper's architecture (Radford et al. 2022, table 1; the later ones by their files)."""
    heads = width // 64
    hears, writes = (mels, 1500, width, heads, encoder), (vocabulary, 448, width, heads, decoder)
    return ModelDimensions(*hears, *writes)


SIZES = {
    "tiny": size(384, 4, 4),
    "base": size(512, 6, 6),
    "small": size(768, 12, 12),
    "medium": size(1024, 24, 24),
    "large-v3-turbo": size(1280, 32, 4, 128, 51866),
    "large-v3": size(1280, 32, 32, 128, 51866),
}


def main() -> None:
    """Time every size, on a CPU tiny alone where none is named."""
    parser = options("companion.benchmarks.throughput", __doc__, 3)
    parser.add_argument("--models", nargs="+", choices=list(SIZES), help="tiny on a CPU, else all")
    parser.add_argument("--batch", type=int, default=8, help="utterances at once")
    given = parser.parse_args()
    device = choose_device(given.device)

    def timed(name: str) -> pd.DataFrame:
        return pd.DataFrame([throughput(name, given.batch, given.repeats, device)])

    names = given.models or (["tiny"] if device.type == "cpu" else list(SIZES))
    time_all(names, timed, machine(device), f"throughput-{device.type}")


def throughput(
    name: str, batch: int, repeats: int, device: torch.device
) -> dict[str, float | int | str]:
    """What a size costs on a device, medians of ``repeats`` turns after one that warms up.

    ``utterances_per_second``: decoded and measured, 32 tokens each. ``overhead``: capture and
    spectra on top of plain decoding, as a fraction of it. ``propagator_seconds``: exact propagators
    of every layer at every token of one utterance. ``peak_bytes``: the most memory in use, the
    weights among it; on a CPU, of the whole process.
    """
    model = OpenAIModel(name, initialised(SIZES[name], seed=0).to(device))
    model.limit = TOKENS  # a random one never ends by itself
    rng, spoken = np.random.default_rng(0), [f"{i}-1-0000" for i in range(batch)]
    waves = [rng.standard_normal(_SECONDS * SAMPLE_RATE).astype(np.float32) for _ in spoken]
    mixtures = [
        Mixture.of(Utterance(utterance, utterance[:-7], "A WORD", Path(f"{utterance}.flac")), wave)
        for utterance, wave in zip(spoken, waves, strict=True)
    ]
    settings = in_memory(name, ("clean",), UNRESTRICTED)
    streams = residual_streams(model, model.features(waves[:1]), list(range(TOKENS)))
    layers = [as_layer(layer.layer) for layer in model.layers]

    def every_propagator() -> None:
        for layer, hidden in zip(layers, streams.hidden, strict=True):
            linearise(layer, hidden, streams.context, tokens=streams.text).propagators()

    ways = {
        OURS: Way(lambda: spectral_rows(model, {"clean": mixtures}, settings)),
        "plain": Way(lambda: transcribe(model, waves, UNRESTRICTED)),
    }
    decoding, exact = (
        measured(Case("", {}, compared, 0, lambda: 0.0), repeats, device).set_index("way")
        for compared in (ways, {OURS: Way(every_propagator)})
    )
    taken, plain = decoding["median"][OURS], decoding["median"]["plain"]
    peak = max(decoding.peak_bytes.max(), exact.peak_bytes.max())
    return {
        "model": name,
        "parameters": model.parameters,
        "batch": batch,
        "tokens": TOKENS,
        "utterances_per_second": batch / taken,
        "overhead": taken / plain - 1,
        "propagator_seconds": exact["median"][OURS],
        "peak_bytes": int(peak) or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


if __name__ == "__main__":
    main()

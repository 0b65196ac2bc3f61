"""What measuring costs at Whisper's true sizes: ``python -m companion.benchmarks.throughput``.

On random weights, so its transcripts mean nothing: throughput and memory, never science.
"""

import resource
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from whisper.model import ModelDimensions

from companion.benchmarks.measuring import in_memory
from companion.benchmarks.timing import OURS, Case, Way, measured, options, time_models
from companion.measurement.spectra import spectral_rows
from companion.models.decoding import transcribe
from companion.models.forcing import residual_streams
from companion.models.openai_model import OpenAIModel, initialised
from companion.models.rules import UNRESTRICTED
from companion.speech.corpus import SAMPLE_RATE, Utterance
from companion.stress.mixture import Mixture
from spectral.jacobians.propagators import linearise
from spectral.whisper import as_layer

TOKENS = 32
_SECONDS = 10  # of audio; the model hears 30 s whatever it is given


@dataclass(frozen=True)
class Size:
    """A Whisper's architecture (Radford et al. 2022, table 1; the later ones by their files)."""

    width: int
    encoder_layers: int
    decoder_layers: int
    mels: int = 80
    vocabulary: int = 51865

    def dimensions(self) -> ModelDimensions:
        """The same in openai-whisper's words."""
        heads = self.width // 64
        return ModelDimensions(
            n_mels=self.mels,
            n_audio_ctx=1500,
            n_audio_state=self.width,
            n_audio_head=heads,
            n_audio_layer=self.encoder_layers,
            n_vocab=self.vocabulary,
            n_text_ctx=448,
            n_text_state=self.width,
            n_text_head=heads,
            n_text_layer=self.decoder_layers,
        )


SIZES = {
    "tiny": Size(384, 4, 4),
    "base": Size(512, 6, 6),
    "small": Size(768, 12, 12),
    "medium": Size(1024, 24, 24),
    "large-v3-turbo": Size(1280, 32, 4, 128, 51866),
    "large-v3": Size(1280, 32, 32, 128, 51866),
}


def main() -> None:
    """Time every size."""
    parser = options("companion.benchmarks.throughput", __doc__, repeats=3)
    parser.add_argument("--models", nargs="+", choices=list(SIZES), help="tiny on a CPU, else all")
    parser.add_argument("--batch", type=int, default=8, help="utterances at once")
    time_models(
        parser, "throughput", lambda device: ["tiny"] if device.type == "cpu" else list(SIZES), _row
    )


def _row(name: str, arguments: Namespace, device: torch.device) -> pd.DataFrame:
    return pd.DataFrame([throughput(name, arguments.batch, arguments.repeats, device)])


def throughput(
    name: str, batch: int, repeats: int, device: torch.device
) -> dict[str, float | int | str]:
    """What a size costs on a device, medians of ``repeats`` turns after one that warms up.

    ``utterances_per_second``: decoded and measured, 32 tokens each. ``overhead``: capture and
    spectra on top of plain decoding, as a fraction of it. ``propagator_seconds``: exact propagators
    of every layer at every token of one utterance. ``peak_bytes``: the most memory in use, the
    weights among it; on a CPU, of the whole process.
    """
    model = _random(name, device)
    mixtures = list(_speech(batch))
    waves = [mixture.wave for mixture in mixtures]
    settings = in_memory(name, ("clean",), UNRESTRICTED)
    ways = {
        OURS: Way(lambda: spectral_rows(model, {"clean": mixtures}, settings)),
        "plain": Way(lambda: transcribe(model, waves, UNRESTRICTED)),
    }
    decoding, exact = (
        measured(Case("", {}, each, 0, lambda: 0.0), repeats, device).set_index("way")
        for each in (ways, {OURS: Way(_propagators(model, mixtures))})
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


def _random(name: str, device: torch.device) -> OpenAIModel:
    model = OpenAIModel(name, initialised(SIZES[name].dimensions(), seed=0).to(device))
    model.limit = TOKENS  # a random one never ends by itself
    return model


def _speech(count: int) -> Iterator[Mixture]:
    rng = np.random.default_rng(0)
    for i in range(count):
        wave = rng.standard_normal(_SECONDS * SAMPLE_RATE).astype(np.float32)
        yield Mixture.of(Utterance(f"{i}-1-0000", str(i), "A WORD", Path(f"{i}.flac")), wave)


def _propagators(model: OpenAIModel, mixtures: Sequence[Mixture]) -> Callable[[], None]:
    features = model.features([mixtures[0].wave])
    streams = residual_streams(model, features, list(range(TOKENS)))
    layers = [as_layer(layer.layer) for layer in model.layers]

    def run() -> None:
        for layer, hidden in zip(layers, streams.hidden, strict=True):
            linearise(layer, hidden, streams.context, tokens=streams.text).propagators()

    return run


if __name__ == "__main__":
    main()

"""A tiny ladder and a small corpus, made once per session; tests that damage them copy them."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from checkpoints import TINY_WINDOW_SECONDS
from torch import Tensor

from companion.measurement.kinds import KINDS
from companion.models.ladder import (
    character_tokenizer,
    feature_extractor,
    initialise,
    ladder_config,
    save,
)
from companion.models.loading import load
from companion.models.view import SpeechModel
from companion.speech.corpus import SAMPLE_RATE, find_utterances, read_wave

THREADS = 1  # one transcript on every machine, and no more than one core
torch.set_num_threads(THREADS)

SENTENCES = (
    "THE OLD SAILOR FOUND A SMALL LETTER",
    "MY UNCLE NEVER SANG",
    "TWO SHIPS MOVED BEHIND THE HARBOUR",
)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """A command that was called as a function sets torch's threads for all tests to come."""
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder of one untrained model, ``tiny-0``, whose transcripts differ in text and in length.

    A fresh Whisper repeats one token to the limit, whatever it hears. Larger weights make it listen
    and larger positions make it vary; the end token starts as zeros, as the padding token does.
    """
    folder = tmp_path_factory.mktemp("ladder")
    tokenizer = character_tokenizer()
    config = ladder_config(
        width=32,
        heads=4,
        encoder_layers=2,
        decoder_layers=2,
        window_seconds=TINY_WINDOW_SECONDS,
        max_target_positions=28,
        tokenizer=tokenizer,
    )
    model = initialise(config, seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "decoder.embed_positions" in name:
                weight.mul_(15)
            elif weight.ndim > 1 and "embed" not in name and "conv" not in name:
                weight.mul_(3)
        tokens = model.model.decoder.embed_tokens.weight
        tokens[config.eos_token_id] = 2 * tokens[config.eos_token_id + 2]
    extractor = feature_extractor(TINY_WINDOW_SECONDS)
    save(folder / "tiny-0", model, tokenizer, extractor, {"size": "tiny"})
    return folder


@pytest.fixture(scope="session")
def tiny(ladder: Path) -> SpeechModel:
    """The model of ``ladder``, loaded as a measurement loads it."""
    return load("tiny-0", ladder, torch.device("cpu"))


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in the LibriSpeech layout: seven speakers, as a six-speaker mix needs, two each."""
    folder = tmp_path_factory.mktemp("speech")
    for speaker in range(1, 8):
        chapter = folder / str(speaker) / "1"
        chapter.mkdir(parents=True)
        lines = []
        for i in range(2):
            name = f"{speaker}-1-{i:04d}"
            soundfile.write(chapter / f"{name}.flac", _wave(name), SAMPLE_RATE)
            lines.append(f"{name} {SENTENCES[(speaker + i) % len(SENTENCES)]}\n")
        (chapter / f"{speaker}-1.trans.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def settings_of(
    ladder: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """The settings of a kind of measurement of ``tiny-0``, and how they differ from the usual."""

    def made(kind: str, **changes: object) -> Any:
        usual = {
            "model": "tiny-0", "ladder": ladder, "corpus": speech, "conditions": ("clean", "hell"),
            "output": tmp_path_factory.mktemp(kind) / "tiny-0.parquet",
            "decoding": "unrestricted", "seed": 3, "batch": 4, "device": "cpu", "utterances": None,
        }  # fmt: skip
        return KINDS[kind].settings(**usual | changes)  # type: ignore[arg-type]

    return made


@pytest.fixture(scope="session")
def waves(speech: Path) -> list[np.ndarray]:
    """All utterances of ``speech``, in order of their ids."""
    return [read_wave(utterance) for utterance in find_utterances(speech).utterances]


@pytest.fixture(scope="session")
def features(tiny: SpeechModel, waves: list[np.ndarray]) -> Tensor:
    """Their log-mels, from which ``tiny`` writes texts of many lengths."""
    return tiny.features(waves)


@pytest.fixture(scope="session")
def xs() -> SpeechModel:
    """The smallest trained model; leave it as it is."""
    return load("xs-0", Path(__file__).parents[1] / "data" / "ladder", torch.device("cpu"))


def _wave(name: str) -> np.ndarray:
    """A second or so of a voiced sound; its pitch, length and loudness depend on the name."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]))
    time = np.arange(int(rng.uniform(0.8, 1.6) * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = rng.uniform(80, 600) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 6) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    sound = sum(np.sin(k * phase) / k for k in range(1, 9)) * rng.uniform(0.02, 0.2)
    return (np.asarray(sound) * (1.2 + np.sin(2 * np.pi * 4 * time)) / 3).astype(np.float32)

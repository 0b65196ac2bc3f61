"""A random Whisper in memory through both libraries, and what decodes with it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import MULTILINGUAL, dimensions, random_whisper, write_transformers
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration
from whisper.decoding import DecodingOptions

from companion.models.openai_model import OpenAIModel

WIDTH, LAYERS = 32, 2
PROMPT = (50258, 50259, 50359, 50363)
SPECIAL = list(range(50258, MULTILINGUAL))


@dataclass(frozen=True)
class Case:
    """One model of a library, features of three sounds, and the library's own way to decode."""

    model: Any
    features: Tensor
    decode: Callable[[Tensor], list[list[int]]]
    forward: Callable[[Tensor, Tensor], object]  # features and tokens, prompt and all


def plain(steps: int, **options: object) -> DecodingOptions:
    """So many tokens of openai-whisper, without timestamps."""
    return DecodingOptions(
        language="en", without_timestamps=True, fp16=False, sample_len=steps, **options
    )


def openai_case(steps: int) -> Case:
    """A random Whisper of openai-whisper."""
    model = random_whisper(dimensions(WIDTH, 4, LAYERS, MULTILINGUAL, 80)).half().float()

    def decode(features: Tensor) -> list[list[int]]:
        return [result.tokens for result in model.decode(features, plain(steps))]

    return Case(model, OpenAIModel("random", model).features(sounds()), decode, model)


def transformers_case(other: Case, folder: Path, steps: int) -> Case:
    """The same weights in transformers."""
    write_transformers(folder, other.model)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return generating(model, other.features, steps)


def generating(
    model: WhisperForConditionalGeneration,
    features: Tensor,
    steps: int,
    never: tuple[int, ...] = (),
) -> Case:
    """A model of transformers, with what else it is never to write."""

    def decode(features: Tensor) -> list[list[int]]:
        prompt = torch.tensor([PROMPT] * len(features))
        suppressed = [*never, *SPECIAL]
        return model.generate(
            features, decoder_input_ids=prompt, max_new_tokens=steps, suppress_tokens=suppressed
        ).tolist()

    def forward(features: Tensor, tokens: Tensor) -> object:
        return model(input_features=features, decoder_input_ids=tokens)

    return Case(model, features, decode, forward)


def sounds() -> list[np.ndarray]:
    """Two tones and noise, of 1.5 s."""
    time = np.arange(24_000) / 16_000
    tones = [0.3 * np.sin(2 * np.pi * pitch * time * (1 + 0.1 * time)) for pitch in (220, 1330)]
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(time))
    return [wave.astype(np.float32) for wave in (*tones, noise)]


def require_clean(model: nn.Module) -> None:
    """No hook is left, nor any method of this model alone."""
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not {"decode", "transcribe", "generate"} & model.__dict__.keys()

"""A random Whisper in memory through both libraries, and what decodes with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from checkpoints import MULTILINGUAL, as_transformers, dimensions, random_whisper
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration
from whisper.decoding import DecodingOptions
from whisper.model import Whisper

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

    return Case(model, OpenAIModel("random", model).features(sounds()), decode)


def transformers_case(other: Case, steps: int) -> Case:
    """The same weights in transformers."""
    return generating(as_transformers(other.model), other.features, steps)


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

    return Case(model, features, decode)


def forward(model: nn.Module, features: Tensor, tokens: Tensor) -> object:
    """One pass of either library over tokens that are given, prompt and all."""
    if isinstance(model, Whisper):
        return model(features, tokens)
    return model(input_features=features, decoder_input_ids=tokens)


def sounds() -> list[np.ndarray]:
    """Two tones and noise, of 1.5 s."""
    time = np.arange(24_000) / 16_000
    tones = [0.3 * np.sin(2 * np.pi * pitch * time * (1 + 0.1 * time)) for pitch in (220, 1330)]
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(time))
    return [wave.astype(np.float32) for wave in (*tones, noise)]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal to 1e-5 of the largest magnitude, as float32 sums of another order are."""
    scale = max(float(expected.abs().max()), 1.0) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


def require_clean(model: nn.Module) -> None:
    """No hook is left, nor any method of this model alone."""
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not {"decode", "transcribe", "generate"} & model.__dict__.keys()

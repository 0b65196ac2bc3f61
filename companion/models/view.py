"""One view of a speech model: what decoding, capture and the Jacobians need to know of it.

A library's own classes are known to the one module that makes its view, and to no other.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from spectral.whisper import DecoderLayer, hooked

if TYPE_CHECKING:
    from companion.models.decoding import Transcript


@dataclass(frozen=True)
class Tokens:
    """Token numbers that decoding needs."""

    prompt: tuple[int, ...]
    end: int
    no_speech: int
    suppressed: tuple[int, ...]  # all that is no text, without the end
    non_speech: tuple[int, ...]  # text that nobody speaks, such as "(" or "[", by openai-whisper
    control: tuple[int, ...]  # what steers decoding: openai-whisper leaves languages out
    blank: tuple[int, ...]  # a space alone


class SpeechModel(ABC):
    """An encoder-decoder for speech behind the names that this project uses.

    ``limit``: how many tokens it can write after its prompt. ``module``: the whole network.
    ``final_norm``: what the last decoder layer's output passes before the logits; ``encoder_norm``:
    what makes the context of the last encoder layer's.
    """

    name: str
    module: nn.Module
    tokens: Tokens
    width: int
    heads: int
    limit: int
    layers: list[DecoderLayer]
    encoder_layers: list[nn.Module]
    final_norm: nn.Module
    encoder_norm: nn.Module
    window_samples: int
    spells: bool = False  # of a vocabulary of letters, so that it may write what is no word

    @property
    def parameters(self) -> int:
        """The number of weights, tied ones once."""
        return sum(weight.numel() for weight in self.module.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return next(self.module.parameters()).dtype

    @abstractmethod
    def features(self, waves: Sequence[np.ndarray]) -> Tensor:
        """What the network hears of waves (samples,) at 16 kHz: (batch, ...), on the device.

        One window: what is longer is cut. Of Whisper log-mel spectrograms, (batch, mels, frames),
        what is shorter padded with silence.
        """

    @abstractmethod
    def encode(self, features: Tensor) -> Tensor:
        """The context: features (batch, ...) -> (batch, S, width)."""

    @abstractmethod
    def embed(self, features: Tensor) -> Tensor:
        """What the first encoder layer gets: features (batch, ...) -> (batch, S, width)."""

    @abstractmethod
    def new_cache(self) -> Any:
        """An empty cache of keys and values for one batch."""

    @abstractmethod
    def step(self, tokens: Tensor, context: Tensor, cache: Any) -> Tensor:
        """Logits of the tokens that come next: tokens (batch, new) -> (batch, new, vocabulary).

        Several tokens only into an empty cache: afterwards one at a time.
        """

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """What ``step`` makes of the last layer's output: (..., width) -> (..., vocabulary)."""

    @abstractmethod
    def _keep(self, rows: Tensor, cache: Any) -> None:
        """Drop from a cache all rows of its batch but these, (kept,): by ``kept_rows``."""

    @cached_property
    def watchers(self) -> list[Callable[[Tensor], None]]:
        """Who is told the rows that a batch goes on with, numbered as they stood before."""
        return []

    def keep(self, rows: Tensor, context: Tensor, cache: Any) -> Tensor:
        """Go on with these rows of a batch, (kept,), in this order; returns their context.

        Context and cache are overwritten: what stays where it was is not copied.
        """
        self._keep(rows, cache)
        for watcher in self.watchers:
            watcher(rows)
        return kept_rows(context, rows)

    @abstractmethod
    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special tokens left out."""

    @abstractmethod
    def encode_text(self, text: str) -> list[int]:
        """The tokens of a text as the model would begin with it, without prompt or end.

        Raises ValueError for a text with characters that the vocabulary lacks.
        """

    def given_tokens(self, text: str) -> list[int] | None:
        """The tokens of a text to be given; None where the model cannot write all of it."""
        try:
            tokens = self.encode_text(text)
        except ValueError:
            return None
        return tokens if len(tokens) < self.limit else None

    def sounding(self, wave: np.ndarray, count: int) -> int:
        """How many of the window's ``count`` frames or positions have audio of a wave in them."""
        return min(count, max(1, -(-len(wave) * count // self.window_samples)))

    def windows_by_library(self, wave: np.ndarray, **options: Any) -> list["Transcript"]:
        """Each window of a wave (samples,) by openai-whisper's ``transcribe`` and its options.

        One that was skipped as silent has no tokens. Raises ValueError for another library's model.
        """
        raise ValueError(
            f"{self.name}: timestamps, temperatures and previous text are decoded by "
            "openai-whisper itself, for its own models alone; load one of those, or decode by the "
            "rule openai or unrestricted"
        )


def initial_std(width: int) -> float:
    """The standard deviation that weights start with, 1 / sqrt(3 width), as torch.nn.Linear's."""
    return float((3 * width) ** -0.5)


def embedded(encoder: Any, features: Tensor, positions: Tensor) -> Tensor:
    """Whisper's two convolutions of a log-mel and the positions: (batch, S, width).

    Both libraries call the convolutions of an encoder alike.
    """
    rows: Tensor = gelu(encoder.conv2(gelu(encoder.conv1(features)))).mT
    return rows + positions


@torch.no_grad()
def encoded(model: SpeechModel, features: Tensor) -> Tensor:
    """The context of features (batch, ...), without gradients: (batch, S, width)."""
    return model.encode(features)


@contextmanager
def last_logits(model: SpeechModel) -> Iterator[None]:
    """Steps inside give the last position's logits alone: to whoever reads none, others are work.

    With a vocabulary of 50000 the logits of a text cost more than small decoders do.
    """
    with hooked([(model.final_norm, lambda module, inputs, output: output[:, -1:])]):
        yield


def kept_rows(whole: Tensor, rows: Tensor) -> Tensor:
    """These rows, (kept,), of a tensor (batch, ...), as its first ones: overwrites it."""
    moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
    whole[moved] = whole[rows[moved]]
    return whole[: len(rows)]

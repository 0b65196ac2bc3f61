"""The residual stream before every decoder layer, for a text that is given."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from companion.models.capture import capture
from companion.models.forcing import forced
from companion.models.view import SpeechModel, last_logits


@dataclass(frozen=True)
class Streams:
    """What the Jacobian kernels linearise at."""

    context: Tensor  # (1, S, width)
    hidden: tuple[Tensor, ...]  # before each layer, (1, positions, width)
    last: Tensor  # after the last layer, as the final norm takes it, (1, positions, width)
    text: slice  # the positions that predict the text's tokens


@torch.no_grad()
def residual_streams(model: SpeechModel, features: Tensor, tokens: Sequence[int]) -> Streams:
    """Run the decoder over prompt and ``tokens`` at once: features (1, mels, frames).

    A model's own tokens give the streams that it decoded with; another model's give its randomly
    initialised control's at equal length.
    """
    return streams_in(model, model.encode(features), tokens)


@torch.no_grad()
def streams_in(model: SpeechModel, context: Tensor, tokens: Sequence[int]) -> Streams:
    """:func:`residual_streams` where the context (1, S, width) is there."""
    with last_logits(model):
        return given_streams(model, context, tokens)[0]


@torch.no_grad()
def given_streams(
    model: SpeechModel, context: Tensor, tokens: Sequence[int]
) -> tuple[Streams, Tensor]:
    """:func:`streams_in`, and the logits of the same pass, (1, positions, vocabulary)."""
    with capture(model) as recording:
        logits = forced(model, context, [tokens])
    *hidden, last = recording.streams()
    first = len(model.tokens.prompt) - 1
    text = slice(first, first + len(tokens))
    return Streams(context, tuple(hidden), last, text), logits

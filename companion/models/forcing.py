"""Teacher forcing: how well a model predicts a text that it is given, token by token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from companion.models.decoding import Transcript, windows
from companion.models.view import SpeechModel, last_logits

_IGNORE = -100


@dataclass(frozen=True)
class Forced:
    """Mean loss in nats per token, and the fraction of tokens that were not the most probable."""

    loss: float
    token_error: float


@torch.inference_mode()
def teacher_forced(model: SpeechModel, features: Tensor, texts: Sequence[str]) -> list[Forced]:
    """Score a text per utterance, end token included: features (batch, mels, frames).

    Texts are taken as they are: what a model would never write (lower case, for Whisper) costs it.
    A text that does not fit the model's length, or its vocabulary, has NaN for both.
    """
    encoded = [_encoded(model, text) for text in texts]
    given = [tokens or [] for tokens in encoded]
    logits = forced(model, model.encode(features), given).double()
    labels = torch.full(logits.shape[:2], _IGNORE, device=model.device)
    first = len(model.tokens.prompt) - 1
    for row, tokens in zip(labels, given, strict=True):
        written = torch.tensor([*tokens, model.tokens.end], device=model.device)
        row[first : first + len(written)] = written
    # what is no text takes no probability from the text, as in ``text_log_probability``
    suppressed = torch.tensor(model.tokens.suppressed, dtype=torch.long, device=model.device)
    logits = logits.index_fill(-1, suppressed, -torch.inf)
    losses = functional.cross_entropy(logits.mT, labels, ignore_index=_IGNORE, reduction="none")
    real = labels != _IGNORE
    wrong = (logits.argmax(-1) != labels) & real
    counts = real.sum(-1)
    columns = (losses.sum(-1) / counts).tolist(), (wrong.sum(-1) / counts).tolist()
    return [
        Forced(math.nan, math.nan) if tokens is None else Forced(*pair)
        for tokens, *pair in zip(encoded, *columns, strict=True)
    ]


@torch.inference_mode()
def feed(
    model: SpeechModel, waves: Sequence[np.ndarray], transcripts: Sequence[Transcript]
) -> None:
    """Run the decoder over texts, as if it were writing them while it heard these waves (samples,).

    Inside a ``capture`` block, the recording then holds what goes on in a model that is given
    another's text, up to the row that predicts its end, where there is room for one. Raises
    ValueError for a text that has not as many windows as its wave.
    """
    pieces, texts = [], []
    for wave, transcript in zip(waves, transcripts, strict=True):
        heard, written = list(windows(wave, model.window_samples)), transcript.windows
        if len(heard) != len(written):
            raise ValueError(
                f"a text of {len(written)} windows for a wave of {len(heard)}; cut the wave first"
            )
        pieces += heard
        texts += written
    feed_windows(model, model.features(pieces), texts)


@torch.inference_mode()
def feed_windows(model: SpeechModel, features: Tensor, texts: Sequence[Sequence[int]]) -> None:
    """Run the decoder over a text's tokens for each window of features (batch, ...)."""
    feed_contexts(model, model.encode(features), texts)


@torch.inference_mode()
def feed_contexts(model: SpeechModel, context: Tensor, texts: Sequence[Sequence[int]]) -> None:
    """Run the decoder over a text's tokens for each context (batch, S, width)."""
    with last_logits(model):
        forced(model, context, [tokens[: model.limit - 1] for tokens in texts])


def forced(model: SpeechModel, context: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
    """The one pass over texts that are given: logits (batch, positions, vocabulary).

    Of the prompt and a text's tokens for each context (batch, S, width), shorter ones padded with
    the end token, which no position before it sees.
    """
    inputs = [[*model.tokens.prompt, *tokens] for tokens in texts]
    longest = max(map(len, inputs))
    rows = torch.tensor([row + [model.tokens.end] * (longest - len(row)) for row in inputs])
    return model.step(rows.to(model.device), context, model.new_cache())


def _encoded(model: SpeechModel, text: str) -> list[int] | None:
    try:
        tokens = model.encode_text(text)
    except ValueError:
        return None
    return tokens if len(tokens) < model.limit else None

"""Teacher forcing: how well a model predicts a text that it is given, token by token."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from companion.models.decoding import Transcript, windows
from companion.models.view import SpeechModel, last_logits


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
    every = _scores(model, model.encode(features), [tokens or [] for tokens in encoded])
    results = [Forced(math.nan, math.nan)] * len(encoded)
    for i, (tokens, scores) in enumerate(zip(encoded, every, strict=True)):
        if tokens is None:
            continue
        labels = torch.tensor([*tokens, model.tokens.end], device=scores.device)
        loss = -scores.gather(-1, labels[:, None]).mean()
        wrong = (scores.argmax(-1) != labels).double().mean()
        results[i] = Forced(loss.item(), wrong.item())
    return results


@torch.inference_mode()
def token_log_probabilities(
    model: SpeechModel, waves: Sequence[np.ndarray], transcripts: Sequence[Transcript]
) -> list[Tensor]:
    """Natural log-probability of every text token, by utterance: (T,), float64, on the CPU.

    The model is given what it wrote of these waves (samples,). A window of text belongs to a window
    of audio.
    """
    pieces = [piece for wave in waves for piece in windows(wave, model.window_samples)]
    texts = [tokens for transcript in transcripts for tokens in transcript.windows]
    every = _scores(model, model.encode(model.features(pieces)), texts)
    pairs = zip(texts, every, strict=True)
    chosen = (scores[range(len(tokens)), list(tokens)].cpu() for tokens, scores in pairs)
    return [torch.cat([next(chosen) for _ in transcript.windows]) for transcript in transcripts]


def _scores(
    model: SpeechModel, context: Tensor, texts: Sequence[Sequence[int]]
) -> Iterator[Tensor]:
    """Log-probabilities of what comes next, from before each text to its end: (T + 1, vocabulary).

    In nats, float64. What is no text takes no probability from the text, as in
    ``text_log_probability``.
    """
    logits = forced(model, context, texts)
    suppressed = torch.tensor(model.tokens.suppressed, dtype=torch.long, device=model.device)
    first = len(model.tokens.prompt) - 1
    for tokens, rows in zip(texts, logits[:, first:], strict=True):
        kept = rows[: len(tokens) + 1].double().index_fill(-1, suppressed, -torch.inf)
        yield kept.log_softmax(-1)


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
    feed_contexts(model, model.encode(model.features(pieces)), texts)


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

"""Texts that a model is given: how well it predicts them, and its states while it hears a wave."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from companion.models.capture import HIDDEN_STATE, capture
from companion.models.decoding import Transcript, windows
from companion.models.view import SpeechModel, last_logits
from spectral import LinearisedLayers, linearise
from spectral.jacobians.layers import Layer
from spectral.whisper import hooked

STRIDE = 5
"""Every so many positions of the encoder, 0.1 s apart in Whisper, are kept."""

TOGETHER = 8
"""Windows that are heard at once: few, as the states of all utterances are kept."""


class Forced(NamedTuple):
    """Mean loss in nats per token, and the fraction of tokens that were not the most probable."""

    loss: float
    token_error: float


@torch.inference_mode()
def teacher_forced(model: SpeechModel, features: Tensor, texts: Sequence[str]) -> list[Forced]:
    """Score a text per utterance, end token included: features (batch, mels, frames).

    Texts are taken as they are: what a model would never write (lower case, for Whisper) costs it.
    A text that does not fit the model's length, or its vocabulary, has NaN for both.
    """
    encoded = [model.given_tokens(text) for text in texts]
    every = log_probabilities(model, model.encode(features), [tokens or [] for tokens in encoded])
    results = []
    for tokens, scores in zip(encoded, every, strict=True):
        labels = torch.tensor([*(tokens or []), model.tokens.end], device=scores.device)
        loss = -scores.gather(-1, labels[:, None]).mean()
        wrong = (scores.argmax(-1) != labels).double().mean()
        numbers = (math.nan, math.nan) if tokens is None else (loss.item(), wrong.item())
        results.append(Forced(*numbers))
    return results


@torch.inference_mode()
def token_log_probabilities(
    model: SpeechModel, waves: Sequence[np.ndarray], transcripts: Sequence[Transcript]
) -> list[Tensor]:
    """Natural log-probability of every text token, by utterance: (T,), float64, on the CPU.

    The model is given what it wrote of these waves (samples,), window by window.
    """
    pieces = [piece for wave in waves for piece in windows(wave, model.window_samples)]
    texts = [tokens for transcript in transcripts for tokens in transcript.windows]
    every = log_probabilities(model, model.encode(model.features(pieces)), texts)
    pairs = zip(texts, every, strict=True)
    chosen = (scores[range(len(tokens)), list(tokens)].cpu() for tokens, scores in pairs)
    return [torch.cat([next(chosen) for _ in transcript.windows]) for transcript in transcripts]


def log_probabilities(
    model: SpeechModel, context: Tensor, texts: Sequence[Sequence[int]]
) -> Iterator[Tensor]:
    """Of what comes next, from before each text to its end: (T + 1, vocabulary), nats, float64.

    What is no text takes no probability from the text, as in ``text_log_probability``.
    """
    logits = forced(model, context, texts)
    first = len(model.tokens.prompt) - 1
    for tokens, rows in zip(texts, logits[:, first:], strict=True):
        yield of_text(model, rows[: len(tokens) + 1])


def of_text(model: SpeechModel, logits: Tensor) -> Tensor:
    """Log-probabilities (..., vocabulary) among text tokens and the end, nats, float64."""
    suppressed = torch.tensor(model.tokens.suppressed, dtype=torch.long, device=model.device)
    return logits.double().index_fill(-1, suppressed, -torch.inf).log_softmax(-1)


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


@dataclass(frozen=True)
class Streams:
    """The residual stream of one text that is given: what the Jacobian kernels linearise at."""

    context: Tensor  # (1, S, width)
    hidden: tuple[Tensor, ...]  # before each layer, (1, positions, width)
    last: Tensor  # after the last layer, as the final norm takes it, (1, positions, width)
    text: slice  # the positions that predict the text's tokens

    def linearised(self, layers: Sequence[Layer], tokens: slice) -> LinearisedLayers:
        """All layers at some positions, in the layers' own dtype."""
        context, *hidden = (rows[0].to(layers[0].dtype) for rows in (self.context, *self.hidden))
        return linearise(layers, hidden, context, tokens=tokens)


def evenly_spread(text: slice, count: int) -> slice:
    """At most ``count`` positions of a text, evenly apart and centred."""
    length = text.stop - text.start
    step = -(-length // count)
    return slice(text.start + (length - 1) % step // 2, text.stop, step)


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


@dataclass(frozen=True)
class States:
    """One utterance in one network: F kept frames, T tokens, E and L layers."""

    features: Tensor  # (1, F, mels), as the network hears them
    encoder: Tensor  # (E, F, width), after each layer
    decoder: Tensor  # (L, T, width), at the positions that predict the text
    cross_attention: Tensor  # (L, T, width), what it adds there


@torch.inference_mode()
def states(
    model: SpeechModel, waves: Sequence[np.ndarray], texts: Sequence[Transcript]
) -> list[States]:
    """What goes on in a network that is given a text of one window for each wave (samples,).

    Frames count as far as the wave lasts, one in ``STRIDE``.
    """
    parts = [slice(start, start + TOGETHER) for start in range(0, len(waves), TOGETHER)]
    return [row for part in parts for row in _states_of(model, waves[part], texts[part])]


def _states_of(
    model: SpeechModel, waves: Sequence[np.ndarray], texts: Sequence[Transcript]
) -> Iterator[States]:
    features, encoded = model.features(waves), list[Tensor]()

    def keep(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        encoded.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    with capture(model) as recording, hooked((layer, keep) for layer in model.encoder_layers):
        feed_contexts(model, model.encode(features), [text.tokens for text in texts])
    hidden, real = recording.text_rows(HIDDEN_STATE, texts)
    added, _ = recording.text_rows("cross_attention", texts)
    heard = torch.stack(encoded, 1)
    step = features.shape[-1] // heard.shape[2]
    for i, wave in enumerate(waves):
        last = model.sounding(wave, heard.shape[2])
        yield States(
            features[i, :, : last * step : STRIDE * step].mT[None],
            heard[i, :, :last:STRIDE],
            hidden[i, :, real[i]],
            added[i, :, real[i]],
        )

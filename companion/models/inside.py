"""What a model hears of one window of sound, what it writes, how surely, and where it listens."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from companion.models.capture import COMPONENTS, capture
from companion.models.decoding import Heard, Transcript, transcribe_heard
from companion.models.forcing import Streams, evenly_spread, given_streams, of_text
from companion.models.rules import OPENAI, Rule
from companion.models.view import SpeechModel
from companion.speech.corpus import SAMPLE_RATE
from spectral import Monitor, layer_gains, top_singular_triplets
from spectral.jacobians.sublayers import without_mean
from spectral.monitor import THRESHOLDS, Segment
from spectral.whisper import as_layer, attention_parts, hooked

PROFILED = 4
"""Tokens whose propagators are looked at, evenly apart."""
_TOLERANCE = 1e-4  # of singular triplets in float32


@dataclass(frozen=True, eq=False)
class Inside:
    """What a model hears of one window of sound, writes, and how.

    wave: (samples,). mel: (mels, frames) of the window. pieces: the text token by token, and
    probabilities: (T,), of each among text tokens and the end, given what was written before.
    activations: by component, (layers, T, width). listening: cross-attention, mean over heads,
    (layers, T, S), of rows that sum to 1 over the S positions of the window. risk: what
    ``spectral.Monitor`` says of the text and, as ``risks``, of its tokens; None of a model or rule
    that it has no thresholds of. profile: over depth, means over ``PROFILED`` tokens: gain and
    alignment without sign, (layers - 1,), and singular value ratio, (layers,); none of no token.
    """

    wave: np.ndarray
    mel: np.ndarray
    transcript: Transcript
    pieces: tuple[str, ...]
    probabilities: np.ndarray
    activations: dict[str, Tensor]
    listening: np.ndarray
    window_seconds: float
    risk: Segment | None
    profile: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Window:
    """One window of sound as one model hears it, to be decoded by several rules.

    wave: (samples,). features: (1, mels, frames) of the log-mel. context: (1, S, width).
    """

    wave: np.ndarray
    features: Tensor
    context: Tensor


@torch.inference_mode()
def hear_window(model: SpeechModel, wave: np.ndarray) -> Window:
    """Encode the first window of a wave (samples,) at 16 kHz."""
    wave = wave[: model.window_samples]
    features = model.features([wave])
    return Window(wave, features, model.encode(features))


def inside(model: SpeechModel, wave: np.ndarray, rule: Rule) -> Inside:
    """Decode the first window of a wave (samples,) at 16 kHz, and look at what went on.

    Raises ValueError for a rule by which openai-whisper itself decodes.
    """
    return inside_window(model, hear_window(model, wave), rule)


@torch.inference_mode()
def inside_window(model: SpeechModel, window: Window, rule: Rule) -> Inside:
    """:func:`inside` of a window that the same model has encoded."""
    context = window.context
    monitor = Monitor(model.module, name=model.name) if is_monitored(model, rule) else None
    with capture(model) as recording, monitor or nullcontext():
        transcript = transcribe_heard(model, Heard(context, (1,)), rule)[0]
    tokens = transcript.tokens
    streams, probabilities, listening = _given(model, context, tokens)
    texts = [model.text(tokens[:i]) for i in range(len(tokens) + 1)]
    return Inside(
        window.wave,
        window.features[0].float().cpu().numpy(),
        transcript,
        tuple(text[len(before) :] for before, text in pairwise(texts)),
        probabilities.cpu().numpy(),
        {kind: recording.text_rows(kind, [transcript])[0][0] for kind in COMPONENTS},
        listening.cpu().numpy(),
        model.window_samples / SAMPLE_RATE,
        monitor.segments[0] if monitor else None,
        _profile(model, streams) if tokens else {},
    )


def is_monitored(model: SpeechModel, rule: Rule) -> bool:
    """Whether ``spectral.Monitor`` has thresholds of this model under this rule."""
    fitted = json.loads(THRESHOLDS.read_text(encoding="utf-8"))["models"]
    return rule == OPENAI and model.name in fitted


def _profile(model: SpeechModel, streams: Streams) -> dict[str, np.ndarray]:
    """Over depth, modulo the direction 1, in float32: means over some tokens of the text."""
    layers = [as_layer(layer.layer, torch.float32) for layer in model.layers]
    stack = streams.linearised(layers, evenly_spread(streams.text, PROFILED))
    matrices = without_mean(stack.sublayers().product())
    triplets = top_singular_triplets(matrices, tolerance=_TOLERANCE, limit=matrices.shape[-1])
    gains = layer_gains(triplets)
    of_tokens = {
        "gain": gains.gain,
        "alignment": gains.alignment.abs(),
        "ratio": gains.singular_value_ratio,
    }
    return {name: values.mean(-1).cpu().numpy() for name, values in of_tokens.items()}


def _given(
    model: SpeechModel, context: Tensor, tokens: Sequence[int]
) -> tuple[Streams, Tensor, Tensor]:
    """One pass over tokens that the model is given: streams, probability, cross-attention.

    Probability (T,) and cross-attention (layers, T, S).
    """
    heard: dict[nn.Module, Tensor] = {}
    queries_and_keys = [attention_parts(layer.cross_attention)[:2] for layer in model.layers]
    parts = [part for pair in queries_and_keys for part in pair]
    with hooked((part, lambda part, _, output: heard.update({part: output})) for part in parts):
        streams, logits = given_streams(model, context, tokens)
    scores = of_text(model, logits[0, streams.text])
    written = torch.tensor(tokens, dtype=torch.long, device=model.device)[:, None]
    query, key = (
        torch.unflatten(torch.stack([heard[part][0] for part in parts]), -1, (model.heads, -1))
        for parts in zip(*queries_and_keys, strict=True)
    )
    query = query[:, streams.text]
    weights = torch.einsum("ltha,lsha->lhts", query, key) * query.shape[-1] ** -0.5
    return streams, scores.gather(-1, written)[:, 0].exp(), weights.softmax(-1).mean(1)

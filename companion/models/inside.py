"""What a model hears of one window of sound, what it writes, how surely, and where it listens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from companion.models.capture import COMPONENTS, capture
from companion.models.decoding import Heard, Transcript, transcribe_heard
from companion.models.forcing import forced
from companion.models.rules import Rule
from companion.models.view import SpeechModel
from companion.speech.corpus import SAMPLE_RATE
from spectral.whisper import hooked, query_and_key


@dataclass(frozen=True, eq=False)
class Inside:
    """What a model hears of one window of sound, writes, and how.

    wave: (samples,). mel: (mels, frames) of the window. pieces: the text token by token, and
    probabilities: (T,), of each among text tokens and the end, given what was written before.
    activations: by component, (layers, T, width). listening: cross-attention, mean over heads,
    (layers, T, S), of rows that sum to 1 over the S positions of the window.
    """

    wave: np.ndarray
    mel: np.ndarray
    transcript: Transcript
    pieces: tuple[str, ...]
    probabilities: np.ndarray
    activations: dict[str, Tensor]
    listening: np.ndarray
    window_seconds: float


@torch.inference_mode()
def inside(model: SpeechModel, wave: np.ndarray, rule: Rule) -> Inside:
    """Decode the first window of a wave (samples,) at 16 kHz, and look at what went on.

    Raises ValueError for a rule by which openai-whisper itself decodes.
    """
    wave = wave[: model.window_samples]
    features = model.features([wave])
    context = model.encode(features)
    with capture(model) as recording:
        transcript = transcribe_heard(model, Heard(context, (1,)), rule)[0]
    probabilities, listening = _given(model, context, transcript.tokens)
    tokens = transcript.tokens
    texts = [model.text(tokens[:i]) for i in range(len(tokens) + 1)]
    return Inside(
        wave,
        features[0].float().cpu().numpy(),
        transcript,
        tuple(text[len(before) :] for before, text in pairwise(texts)),
        probabilities.cpu().numpy(),
        {kind: recording.text_rows(kind, [transcript])[0][0] for kind in COMPONENTS},
        listening.cpu().numpy(),
        model.window_samples / SAMPLE_RATE,
    )


def _given(model: SpeechModel, context: Tensor, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Probability (T,) and cross-attention (layers, T, S) of tokens that the model is given."""
    first = len(model.tokens.prompt) - 1
    heard: dict[nn.Module, Tensor] = {}
    asked = [query_and_key(layer.cross_attention) for layer in model.layers]
    parts = [part for pair in asked for part in pair]
    with hooked((part, lambda part, _, output: heard.update({part: output})) for part in parts):
        logits = forced(model, context, [tokens[:-1]])[0, first:].double()
    suppressed = torch.tensor(model.tokens.suppressed, dtype=torch.long, device=model.device)
    scores = logits.index_fill(-1, suppressed, -torch.inf).softmax(-1)[: len(tokens)]
    written = torch.tensor(tokens, dtype=torch.long, device=model.device)[:, None]
    query, key = (
        torch.unflatten(torch.stack([heard[part][0] for part in parts]), -1, (model.heads, -1))
        for parts in zip(*asked, strict=True)
    )
    query = query[:, first:][:, : len(tokens)]
    weights = torch.einsum("ltha,lsha->lhts", query, key) * query.shape[-1] ** -0.5
    return scores.gather(-1, written)[:, 0], weights.softmax(-1).mean(1)

"""Deterministic greedy decoding with Whisper's own confidences (Radford et al. 2022, sec. 4.5)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise

import numpy as np
import torch
from torch import Tensor
from whisper.audio import HOP_LENGTH

from spectral._validation import whole_number
from spectral.models.view import SpeechModel
from spectral.speech.text import compression_ratio


@dataclass(frozen=True)
class Transcript:
    """What a model wrote for one utterance, and how sure it was.

    tokens: the text's tokens, without prompt and end. average_log_probability: of those tokens and
    the end token, natural log. compression_ratio: bytes of the text over its zlib-compressed bytes.
    no_speech_probability: of the no-speech token after start-of-transcript, NaN for a model without
    one; of several windows the lowest. finished: false where the length limit cut a window off; the
    average then divides by one token too many, as Whisper's does. breaks: where in ``tokens`` each
    window after the first begins.
    """

    text: str
    tokens: tuple[int, ...]
    average_log_probability: float
    compression_ratio: float
    no_speech_probability: float
    finished: bool
    breaks: tuple[int, ...] = ()

    @property
    def windows(self) -> list[tuple[int, ...]]:
        """The tokens of each window."""
        edges = [0, *self.breaks, len(self.tokens)]
        return [self.tokens[first:last] for first, last in pairwise(edges)]

    @property
    def first_window(self) -> tuple[int, ...]:
        """The tokens of the first window; of a wave that fits into one, all."""
        return self.windows[0]


def transcribe(model: SpeechModel, waves: Sequence[np.ndarray]) -> list[Transcript]:
    """Transcripts of waves (samples,) of any length, all windows of all of them in one batch.

    What is longer than the model's window is cut into windows, each decoded by itself: what
    openai-whisper does without timestamps, fallback and previous text. Each window has its own
    log-mel, as in transformers; openai-whisper scales that of the whole wave by one maximum.
    """
    pieces = [list(windows(wave, model.window_samples)) for wave in waves]
    said = iter(greedy(model, model.features([piece for wave in pieces for piece in wave])))
    return [_joined(list(islice(said, len(wave)))) for wave in pieces]


def windows(wave: np.ndarray, samples: int) -> Iterator[np.ndarray]:
    """A wave (samples,) in pieces of at most so many ``samples``, each heard by itself."""
    for start in range(0, max(len(wave) - HOP_LENGTH + 1, 1), samples):  # of a frame or more
        yield wave[start : start + samples]


def _joined(windows: Sequence[Transcript]) -> Transcript:
    """One transcript of consecutive windows; of one window, itself."""
    if len(windows) == 1:
        return windows[0]
    text = " ".join(window.text for window in windows if window.text)
    sizes = [len(window.tokens) for window in windows]
    weighted = (window.average_log_probability * (len(window.tokens) + 1) for window in windows)
    return Transcript(
        text=text,
        tokens=tuple(token for window in windows for token in window.tokens),
        average_log_probability=sum(weighted) / (sum(sizes) + len(sizes)),
        compression_ratio=compression_ratio(text),
        no_speech_probability=min(window.no_speech_probability for window in windows),
        finished=all(window.finished for window in windows),
        breaks=tuple(accumulate(sizes))[:-1],
    )


@torch.inference_mode()
def greedy(model: SpeechModel, features: Tensor, limit: int | None = None) -> list[Transcript]:
    """Transcripts of a batch: features (batch, ...), at most ``limit`` tokens each.

    The most probable token is taken at every position; of equals the one with the lower number.
    An empty text is allowed, special tokens other than the end are not. openai-whisper's own
    decoding also suppresses blanks and non-speech symbols, and stops at half the positions: give
    that as ``limit`` to compare. Raises ValueError for a limit below 1, and for NaN logits.
    """
    limit = model.limit if limit is None else min(whole_number(limit, "limit", 1), model.limit)
    context = model.encode(features)
    cache = model.new_cache()
    batch = features.shape[0]
    prompt = torch.tensor(model.tokens.prompt, device=model.device).expand(batch, -1)
    logits = model.step(prompt, context, cache)
    no_speech = _no_speech_probability(model, logits[:, 0])
    suppressed = torch.tensor(model.tokens.suppressed, dtype=torch.long, device=model.device)
    chosen, log_probabilities = [], []
    finished = torch.zeros(batch, dtype=torch.bool, device=model.device)
    for position in range(limit):
        scores = logits[:, -1].double().index_fill(-1, suppressed, -torch.inf).log_softmax(-1)
        log_probability, token = scores.max(-1)
        log_probabilities.append(log_probability.masked_fill(finished, 0.0))
        token = token.masked_fill(finished, model.tokens.end)
        chosen.append(token)
        finished = finished | (token == model.tokens.end)
        if finished.all() or position == limit - 1:
            break
        logits = model.step(token[:, None], context, cache)
    totals = torch.stack(log_probabilities).sum(0)
    if totals.isnan().any():
        raise ValueError(f"{model.name}: its logits are NaN; check the weights and the features")
    return _transcripts(model, torch.stack(chosen, 1), totals, no_speech)


def _no_speech_probability(model: SpeechModel, logits: Tensor) -> Tensor:
    """Of logits (batch, vocabulary): (batch,)."""
    if model.tokens.no_speech is None:
        return torch.full(logits.shape[:1], torch.nan)
    return logits.double().softmax(-1)[:, model.tokens.no_speech]


def _transcripts(
    model: SpeechModel, chosen: Tensor, totals: Tensor, no_speech: Tensor
) -> list[Transcript]:
    rows: Sequence[Sequence[int]] = chosen.tolist()
    transcripts = []
    for row, total, silence in zip(rows, totals.tolist(), no_speech.tolist(), strict=True):
        finished = model.tokens.end in row
        tokens = tuple(row[: row.index(model.tokens.end)] if finished else row)
        text = model.text(tokens)
        transcripts.append(
            Transcript(
                text=text,
                tokens=tokens,
                average_log_probability=total / (len(tokens) + 1),
                compression_ratio=compression_ratio(text),
                no_speech_probability=silence,
                finished=finished,
            )
        )
    return transcripts

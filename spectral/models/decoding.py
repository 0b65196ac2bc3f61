"""Deterministic greedy decoding with Whisper's own confidences (Radford et al. 2022, sec. 4.5)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spectral._validation import whole_number
from spectral.models.view import SpeechModel
from spectral.speech.text import compression_ratio


@dataclass(frozen=True)
class Transcript:
    """What a model wrote for one utterance, and how sure it was.

    tokens: the text's tokens, without prompt and end. average_log_probability: of those tokens and
    the end token, natural log. compression_ratio: bytes of the text over its zlib-compressed bytes.
    no_speech_probability: of the no-speech token after start-of-transcript. finished: false where
    the length limit cut it off; the average then divides by one token too many, as Whisper's does.
    """

    text: str
    tokens: tuple[int, ...]
    average_log_probability: float
    compression_ratio: float
    no_speech_probability: float
    finished: bool


@torch.inference_mode()
def greedy(model: SpeechModel, features: Tensor, limit: int | None = None) -> list[Transcript]:
    """Transcripts of a batch: features (batch, mels, frames), at most ``limit`` tokens each.

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
    no_speech = logits[:, 0].double().softmax(-1)[:, model.tokens.no_speech]
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

"""Teacher forcing: how well a model predicts a text that it is given, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spectral.models.view import SpeechModel

_IGNORE = -100


@dataclass(frozen=True)
class Forced:
    """Mean loss in nats per token, and the share of tokens that were not the most probable."""

    loss: float
    token_error: float


@torch.inference_mode()
def teacher_forced(model: SpeechModel, features: Tensor, texts: Sequence[str]) -> list[Forced]:
    """Score a text per utterance, end token included: features (batch, mels, frames).

    Raises ValueError for a text that does not fit the model's length.
    """
    rows = [[*model.tokens.prompt, *model.encode_text(text), model.tokens.end] for text in texts]
    longest = max(len(row) for row in rows)
    limit = model.limit + len(model.tokens.prompt)
    if longest - 1 > limit:
        raise ValueError(f"a text of {longest} tokens, {model.name} takes {limit}; give less")
    first = len(model.tokens.prompt)
    inputs = torch.full((len(rows), longest - 1), model.tokens.end)
    labels = torch.full((len(rows), longest - 1), _IGNORE)
    for i, row in enumerate(rows):
        inputs[i, : len(row) - 1] = torch.tensor(row[:-1])
        labels[i, first - 1 : len(row) - 1] = torch.tensor(row[first:])
    inputs, labels = inputs.to(model.device), labels.to(model.device)
    logits = model.step(inputs, model.encode(features), model.new_cache()).double()
    losses = functional.cross_entropy(logits.mT, labels, ignore_index=_IGNORE, reduction="none")
    real = labels != _IGNORE
    wrong = (logits.argmax(-1) != labels) & real
    counts = real.sum(-1)
    return [
        Forced(*pair)
        for pair in zip(
            (losses.sum(-1) / counts).tolist(), (wrong.sum(-1) / counts).tolist(), strict=True
        )
    ]

"""What every head of a decoder's cross-attention looks at, from what was recorded."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from companion.models.decoding import Heard, Transcript
from companion.models.view import SpeechModel
from spectral.jacobians.layers import Attention, normalised
from spectral.whisper import as_layer


def head_columns(
    model: SpeechModel,
    before: Tensor,
    transcripts: Sequence[Transcript],
    heard: Heard,
    samples: Sequence[int],
) -> tuple[list[Tensor], list[Tensor]]:
    """Of cross-attention by text, layer, head and token, two tensors (layers, heads, T) a text.

    The first: the entropy in nats over the encoder's positions; the second: the fraction that is
    on positions in which there is sound, which padding follows. before: the residual stream before
    cross-attention, (batch, layers, T, width); samples: of each wave.
    """
    parts = [as_layer(layer.layer).cross_attention for layer in model.layers]
    entropies, fractions, window = [], [], 0
    for i, text in enumerate(transcripts):
        found, edges = [], [0, *text.breaks, len(text.tokens)]
        for which in range(heard.windows[i]):
            context = heard.context[window + which]
            left = min(samples[i] - which * model.window_samples, model.window_samples)
            real = math.ceil(left / model.window_samples * len(context))
            rows = before[i, :, edges[which] : edges[which + 1]]
            for_layers = [
                _looks_at(part, own, context, real)
                for part, own in zip(parts, rows, strict=True)
                if part is not None
            ]
            found.append(torch.stack(for_layers))
        window += heard.windows[i]
        entropy, fraction = torch.cat(found, 3).unbind(1)
        entropies.append(entropy)
        fractions.append(fraction)
    return entropies, fractions


def _looks_at(part: Attention, rows: Tensor, context: Tensor, real: int) -> Tensor:
    """Entropy and fraction on the first ``real`` positions: (2, heads, tokens)."""
    query, key = (
        torch.unflatten(linear(source, weight, bias), -1, (part.heads, -1)).transpose(0, 1)
        for source, weight, bias in (
            (normalised(part.norm, rows), part.query_weight, part.query_bias),
            (context, part.key_weight, part.key_bias),
        )
    )
    fractions = ((query * part.scale) @ key.mT).softmax(-1)
    entropy = -torch.xlogy(fractions, fractions).sum(-1)
    return torch.stack([entropy, fractions[..., :real].sum(-1)])

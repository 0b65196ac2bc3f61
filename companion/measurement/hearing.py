"""What a token hears: sensitivity over audio time, and directions of the log-mel that move it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp

from companion.measurement.tangents import (
    as_norm,
    layer_cotangents,
    layer_norm_jacobian,
    layer_tangents,
    run_all,
    total_sensitivity,
)
from companion.models.decoding import greedy
from companion.models.rules import Rule
from companion.models.streams import Streams, residual_streams
from companion.models.view import SpeechModel
from spectral import LinearOperator, linearise, top_singular_triplets
from spectral.jacobians.triplets import SingularTriplets
from spectral.whisper import as_layer


@dataclass(frozen=True)
class Hearing:
    """One utterance as a model hears it while it writes, T tokens and S frames of the encoder."""

    characters: list[str]  # what the T tokens stand for
    features: Tensor  # (mels, frames), the log-mel
    sensitivity: Tensor  # (T, S): Frobenius norm of each frame's block of J_L
    attention: Tensor  # (T, S): cross-attention weights, averaged over layers and heads
    streams: Streams

    def peaks_apart(self) -> Tensor:
        """Frames between the peaks of sensitivity and of attention, per token: (T,)."""
        return (self.sensitivity.argmax(-1) - self.attention.argmax(-1)).abs()


def hear(model: SpeechModel, features: Tensor, rule: Rule) -> Hearing:
    """Decode one utterance, features (1, mels, frames), and ask every token where it listened.

    Raises ValueError for an utterance that the model has no text for.
    """
    tokens = greedy(model, features, rule)[0].tokens
    if not tokens:
        raise ValueError(f"{model.name} writes nothing for this utterance; take another")
    streams = residual_streams(model, features, tokens)
    layers = [as_layer(layer.layer) for layer in model.layers]
    point = linearise(layers, streams.hidden, streams.context, tokens=streams.text)
    whole = point.sensitivity()
    return Hearing(
        [model.text([token]) or " " for token in tokens],
        features[0].cpu(),
        whole.frame_norms()[0].cpu(),
        whole.weights[0].mean(1).cpu(),
        streams,
    )


def encoder_operator(model: SpeechModel, features: Tensor) -> LinearOperator:
    """The encoder's Jacobian, context by log-mel: ``(S width, mels frames)``, matrix-free.

    In closed form from one pass of features (1, mels, frames), of which it holds the attention
    weights, S^2 per head and layer.
    """
    layers = [as_layer(layer) for layer in model.encoder_layers]
    features = features.detach()
    embedded, pull = torch.func.vjp(model.embed, features)[:2]
    passes = run_all(layers, embedded.detach())
    last = passes[-1].output
    norm = layer_norm_jacobian(as_norm(model.encoder_norm, features.dtype), last[:, None])

    def matmat(columns: Tensor) -> Tensor:
        rows = columns.mT.reshape(-1, *features.shape)
        moved = torch.stack([jvp(model.embed, (features,), (row,))[1] for row in rows], 1).detach()
        for seen in passes:
            moved = layer_tangents(seen, moved)
        return norm.tangents(moved)[0].flatten(1).mT

    def rmatmat(columns: Tensor) -> Tensor:
        rows = columns.mT.reshape(1, -1, *last.shape[1:])
        moved = norm.cotangents(rows)
        for seen in reversed(passes):
            moved = layer_cotangents(seen, moved)
        return torch.stack([pull(row)[0].flatten().detach() for row in moved.unbind(1)], -1)

    shape = torch.Size([last.numel(), features.numel()])
    return LinearOperator(shape, matmat, rmatmat, features.dtype, features.device)


def mel_operator(
    model: SpeechModel, streams: Streams, encoder: LinearOperator, token: int
) -> LinearOperator:
    """The total Jacobian of a token's last hidden state by the log-mel, matrix-free.

    Through the encoder, of whose :func:`encoder_operator` it is, and all decoder layers, earlier
    tokens' keys and values included. Shape ``(width, mels frames)``; the token counts from 0 in the
    text.
    """
    layers = [as_layer(layer.layer) for layer in model.layers]
    position = streams.text.start + token
    hidden = streams.hidden[0][0, : position + 1]
    decoder = total_sensitivity(layers, hidden, streams.context[0], slice(position, None))
    return LinearOperator(
        torch.Size([decoder.shape[0], encoder.shape[1]]),
        lambda columns: decoder.matmat(encoder.matmat(columns)),
        lambda columns: encoder.rmatmat(decoder.rmatmat(columns)),
        encoder.dtype,
        encoder.device,
    )


def mel_directions(
    model: SpeechModel, hearing: Hearing, tokens: list[int], k: int = 2
) -> list[SingularTriplets]:
    """The top singular triplets of :func:`mel_operator` at some tokens; v is a log-mel each."""
    encoder = encoder_operator(model, hearing.features[None].to(model.device))
    return [
        top_singular_triplets(
            mel_operator(model, hearing.streams, encoder, token), k=k, tolerance=1e-2, limit=60
        )
        for token in tokens
    ]

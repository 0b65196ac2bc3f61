"""What a token hears: sensitivity over audio time, and directions of the log-mel that move it."""

from dataclasses import dataclass

from torch import Tensor

from companion.models.decoding import greedy
from companion.models.rules import Rule
from companion.models.streams import Streams, residual_streams
from companion.models.view import SpeechModel
from spectral.jacobians.adapters import as_layer
from spectral.jacobians.injections import sensitivity
from spectral.jacobians.layers import forward
from spectral.jacobians.operators import LinearOperator, function_operator
from spectral.jacobians.triplets import SingularTriplets, top_singular_triplets


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
    whole = sensitivity(layers, streams.hidden, streams.context, tokens=streams.text)
    return Hearing(
        [model.text([token]) or " " for token in tokens],
        features[0].cpu(),
        whole.frame_norms()[0].cpu(),
        whole.weights[0].mean(1).cpu(),
        streams,
    )


def mel_operator(
    model: SpeechModel, streams: Streams, features: Tensor, token: int
) -> LinearOperator:
    """The total Jacobian of a token's last hidden state by the log-mel, matrix-free.

    Through the encoder and all decoder layers, earlier tokens' keys and values included. Shape
    ``(width, mels frames)`` for features (1, mels, frames); the token counts from 0 in the text.
    """
    layers = [as_layer(layer.layer) for layer in model.layers]
    position = streams.text.start + token
    stream = streams.hidden[0][:, : position + 1]

    def last(features: Tensor) -> Tensor:
        context, hidden = model.encode(features), stream
        for layer in layers:
            hidden = forward(layer, hidden, context)
        return hidden[0, -1]

    return function_operator(last, features)


def mel_directions(
    model: SpeechModel, hearing: Hearing, tokens: list[int], k: int = 2
) -> list[SingularTriplets]:
    """The top singular triplets of :func:`mel_operator` at some tokens; v is a log-mel each."""
    features = hearing.features[None].to(model.device)
    return [
        top_singular_triplets(
            mel_operator(model, hearing.streams, features, token), k=k, tolerance=1e-2, limit=60
        )
        for token in tokens
    ]

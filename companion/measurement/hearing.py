"""What a token hears: sensitivity over audio time, and directions of the log-mel that move it.

Perturbations are measured: an utterance's log-mel moved a little, what becomes of text and states.
Of -20 dB the change's Frobenius norm is a tenth of that of the frames in which there is audio.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor
from torch.func import jvp

from companion.measurement.controls import random_control
from companion.measurement.schemas import RANDOM_DIRECTION, SINGULAR_DIRECTION
from companion.measurement.settings import SubtleSettings
from companion.measurement.tangents import (
    as_norm,
    layer_cotangents,
    layer_norm_jacobian,
    layer_tangents,
    run_all,
    total_sensitivity,
)
from companion.measurement.texts import Batch, Row
from companion.models.capture import HIDDEN_STATE, capture
from companion.models.decoding import Heard, Transcript, greedy, transcribe_heard
from companion.models.forcing import Streams, feed_contexts, residual_streams, streams_in
from companion.models.rules import Rule
from companion.models.view import SpeechModel, encoded
from companion.speech.text import normalise
from companion.stress.mixture import Mixture, generator
from companion.stress.scoring import score
from spectral import LinearOperator, top_singular_triplets
from spectral.jacobians.triplets import SingularTriplets
from spectral.whisper import as_layer

_TOLERANCE, _VECTORS = 1e-2, 60  # of the singular triplets, relative to sigma_1


@dataclass(frozen=True)
class Hearing:
    """One utterance as a model hears it while it writes, T tokens and S frames of the encoder."""

    characters: list[str]  # what the T tokens stand for
    features: Tensor  # (mels, frames), the log-mel
    sensitivity: Tensor  # (T, S): Frobenius norm of each frame's block of J_L
    attention: Tensor  # (T, S): cross-attention weights, averaged over layers and heads
    streams: Streams


def hear(model: SpeechModel, features: Tensor, rule: Rule) -> Hearing:
    """Decode one utterance, features (1, mels, frames), and ask every token where it listened.

    Raises ValueError for an utterance that the model has no text for.
    """
    tokens = greedy(model, features, rule)[0].tokens
    if not tokens:
        raise ValueError(f"{model.name} writes nothing for this utterance; take another")
    streams = residual_streams(model, features, tokens)
    layers = [as_layer(layer.layer) for layer in model.layers]
    whole = streams.linearised(layers, streams.text).sensitivity()
    return Hearing(
        [model.text([token]) or " " for token in tokens],
        features[0].cpu(),
        whole.frame_norms().cpu(),
        whole.weights[0].mean(1).cpu(),
        streams,
    )


def encoder_operator(model: SpeechModel, features: Tensor) -> LinearOperator:
    """The encoder's Jacobian, context by log-mel: ``(S width, mels frames)``, matrix-free.

    In closed form from one pass of features (1, mels, frames), whose attention weights it holds.
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
        for point in passes:
            moved = layer_tangents(point, moved)
        return norm.tangents(moved)[0].flatten(1).mT

    def rmatmat(columns: Tensor) -> Tensor:
        rows = columns.mT.reshape(1, -1, *last.shape[1:])
        moved = norm.cotangents(rows)
        for point in reversed(passes):
            moved = layer_cotangents(point, moved)
        return torch.stack([pull(row)[0].flatten().detach() for row in moved.unbind(1)], -1)

    shape = torch.Size([last.numel(), features.numel()])
    return LinearOperator(shape, matmat, rmatmat, features.dtype, features.device)


def mel_operator(
    model: SpeechModel, streams: Streams, encoder: LinearOperator, token: int
) -> LinearOperator:
    """The total Jacobian of a token's last hidden state by the log-mel, ``(width, mels frames)``.

    Through the :func:`encoder_operator` and all decoder layers, earlier tokens' keys and values
    included; the token counts from 0 in the text.
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
    features = hearing.features[None].to(model.device)
    return list(_directions(model, features, hearing.streams, tokens, k))


def _directions(
    model: SpeechModel, features: Tensor, streams: Streams, tokens: Sequence[int], k: int
) -> Iterator[SingularTriplets]:
    encoder = encoder_operator(model, features)
    for token in tokens:
        operator = mel_operator(model, streams, encoder, token)
        yield top_singular_triplets(operator, k=k, tolerance=_TOLERANCE, limit=_VECTORS)


def subtle_rows(model: SpeechModel, batch: Batch, settings: SubtleSettings) -> list[Row]:
    """All rows of a batch of utterances; an utterance without a text in a condition has none.

    Of longer audio the first window counts. Raises TypeError for layers without a closed form.
    """
    initialised = random_control(settings, model.device)
    rows = (
        {"model": model.name, "parameters": model.parameters, "condition": condition}
        | {"utterance": mixture.target.id, "speaker": mixture.target.speaker}
        | row
        for condition, mixtures in batch.items()
        for mixture in mixtures
        for row in _rows(model, initialised, mixture, condition, settings)
    )
    return list(rows)


def _rows(
    model: SpeechModel, initialised: SpeechModel, mixture: Mixture, condition: str,
    settings: SubtleSettings,
) -> Iterator[Row]:  # fmt: skip
    features = model.features([mixture.wave])
    context = encoded(model, features)
    (text,) = transcribe_heard(model, Heard(context, (1,)), settings.rule)
    if not text.tokens:
        return
    sounding = model.sounding(mixture.wave, features.shape[-1])
    streams = streams_in(model, context, text.tokens)
    subtle = [
        *_random(features, sounding, settings, (condition, mixture.target.id)),
        *_singular(model, features, streams, settings.tokens),
    ]
    size = features[0, :, :sounding].norm()
    before = score(mixture.references, text.text)
    still = encoded(initialised, features)
    for level in settings.levels_db:
        fraction = 10 ** (-level / 20)
        moved = torch.stack([features[0] + fraction * size * delta for delta, _ in subtle])
        heard, other = (encoded(network, moved) for network in (model, initialised))
        written = transcribe_heard(model, Heard(heard, (1,) * len(subtle)), settings.rule)
        growth = [
            _growth(model, torch.cat([context, heard]), text, fraction),
            _growth(initialised, torch.cat([still, other]), text, fraction),
        ]
        for (_, moving), moved_text, grown, random in zip(subtle, written, *growth, strict=True):
            after = score(mixture.references, moved_text.text)
            yield moving | {
                "level_db": float(level), "tokens": len(text.tokens), "before": text.text,
                "transcript": moved_text.text, "unchanged": moved_text.text == text.text,
                "character_edits": Levenshtein.distance(text.text, moved_text.text),
                "reference_words": len(normalise(mixture.target.reference).split()),
                "wer_before": before.target, "wer": after.target,
                "candidate_before": before.is_candidate, "candidate": after.is_candidate,
                "growth": grown, "control_growth": random,
            }  # fmt: skip


def _random(
    features: Tensor, sounding: int, settings: SubtleSettings, key: tuple[str, str]
) -> Iterator[tuple[Tensor, Row]]:
    """Gaussian directions of norm one over the frames that have audio, and their columns."""
    for draw in range(1, settings.draws + 1):
        rng = generator(settings.seed, RANDOM_DIRECTION, *key, str(draw))
        delta = torch.zeros_like(features[0])
        drawn = torch.from_numpy(rng.standard_normal((features.shape[1], sounding)))
        delta[:, :sounding] = drawn.to(delta)
        named: Row = {"direction": RANDOM_DIRECTION, "index": draw, "sign": 1}
        yield delta / delta.norm(), named | {"sigma_1": math.nan, "converged": True}


def _singular(
    model: SpeechModel, features: Tensor, streams: Streams, tokens: Sequence[int]
) -> Iterator[tuple[Tensor, Row]]:
    """Both ways along the first right singular vector at tokens, from 1, that the text has."""
    there = [token for token in tokens if token <= streams.text.stop - streams.text.start]
    triplets = _directions(model, features, streams, [token - 1 for token in there], k=1)
    for token, top in zip(there, triplets, strict=False):  # none: no pass of the encoder
        delta = top.v[:, 0].reshape(features.shape[1:])
        for sign in (1, -1):
            yield sign * delta, {
                "direction": SINGULAR_DIRECTION, "index": token, "sign": sign,
                "sigma_1": top.sigma[0].item(), "converged": bool(top.converged),
            }  # fmt: skip


def _growth(
    network: SpeechModel, context: Tensor, text: Transcript, fraction: float
) -> list[list[float]]:
    """Relative change of states, (perturbations, layers); context[0] is of the mel as it was."""
    texts = [text] * len(context)
    with capture(network) as recording:
        feed_contexts(network, context, [text.tokens for text in texts])
    states = recording.text_rows(HIDDEN_STATE, texts)[0].double()
    apart = (states[1:] - states[:1]).flatten(2).norm(dim=-1)
    return (apart / states[:1].flatten(2).norm(dim=-1) / fraction).tolist()

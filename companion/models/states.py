"""Hidden states of encoder and decoder, utterance by utterance, for texts that are given."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from companion.models.capture import HIDDEN_STATE, capture
from companion.models.decoding import Transcript
from companion.models.forcing import feed_contexts
from companion.models.view import SpeechModel
from spectral.whisper import hooked

STRIDE = 5
"""Every so many positions of the encoder, 0.1 s apart in Whisper, are kept."""

TOGETHER = 8
"""Windows that are heard at once: few, as the states of all utterances are kept."""


@dataclass(frozen=True)
class States:
    """One utterance in one network: F kept frames, T tokens, E and L layers."""

    features: Tensor  # (1, F, mels), as the network hears them
    encoder: Tensor  # (E, F, width), after each layer
    decoder: Tensor  # (L, T, width), at the positions that predict the text
    cross_attention: Tensor  # (L, T, width), what it adds there


def text_of(tokens: Sequence[int]) -> Transcript:
    """Tokens that are given instead of written."""
    return Transcript("", tuple(tokens))


@torch.inference_mode()
def states(
    model: SpeechModel, waves: Sequence[np.ndarray], texts: Sequence[Transcript]
) -> list[States]:
    """What goes on in a network that is given a text of one window for each wave (samples,).

    Frames count as far as the wave lasts, one in ``STRIDE``.
    """
    parts = [slice(start, start + TOGETHER) for start in range(0, len(waves), TOGETHER)]
    return [one for part in parts for one in _together(model, waves[part], texts[part])]


def _together(
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
    positions = heard.shape[2]
    step = features.shape[-1] // positions
    for i, wave in enumerate(waves):
        last = min(positions, max(1, -(-len(wave) * positions // model.window_samples)))
        yield States(
            features[i, :, : last * step : STRIDE * step].mT[None],
            heard[i, :, :last:STRIDE],
            hidden[i, :, real[i]],
            added[i, :, real[i]],
        )

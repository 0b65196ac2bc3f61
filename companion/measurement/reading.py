"""What can be read from a layer: the next token of a reference that the network is given."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from companion.measurement.across import Group
from companion.measurement.dynamics_schemas import (
    CHANCE,
    CROSS_ATTENTION,
    DECODER,
    OWN,
    READOUT,
    SWAPPED_AUDIO,
)
from companion.measurement.linear_probes import majority_probe, ridge_probe
from companion.measurement.texts import Row
from companion.models.states import states, text_of
from companion.models.view import SpeechModel


def readable(model: SpeechModel, reference: str) -> bool:
    """Whether the model can be given a reference."""
    try:
        return 0 < len(model.encode_text(reference.lower())) < model.limit
    except ValueError:
        return False


def linear_probe_rows(
    network: SpeechModel, waves: Sequence[np.ndarray], group: Group, folds: int
) -> Iterator[Row]:
    """Share of an utterance's next tokens that a linear probe gets right, by source and layer.

    The network is given every reference with its own audio, or with the partner's. A linear probe
    is fitted to the speakers of all other folds, under the same condition and audio.
    """
    texts = [text_of(network.encode_text(reference.lower())) for reference in group.references]
    labels = torch.tensor([token for text in texts for token in text.tokens])
    lengths = [len(text.tokens) for text in texts]
    fold_of = {speaker: i % folds for i, speaker in enumerate(sorted(set(group.speakers)))}
    fold = torch.tensor([fold_of[speaker] for speaker in group.speakers])
    fold = fold.repeat_interleave(torch.tensor(lengths))
    yield from _rows(majority_probe(labels, fold) == labels, lengths, group, OWN, CHANCE, 0)
    swapped = [waves[partner] for partner in group.partners]
    for audio, played in ((OWN, waves), (SWAPPED_AUDIO, swapped)):
        seen = states(network, played, texts)
        sources = {
            DECODER: [one.decoder for one in seen],
            CROSS_ATTENTION: [one.cross_attention for one in seen],
        }
        for source, paths in sources.items():
            for layer, features in enumerate(torch.cat(paths, 1)):
                right = ridge_probe(features.cpu(), labels, fold) == labels
                yield from _rows(right, lengths, group, audio, source, layer + 1)


def _rows(
    right: Tensor, lengths: list[int], group: Group, audio: str, stage: str, layer: int
) -> Iterator[Row]:
    for i, own in enumerate(torch.split(right, lengths)):
        yield group.columns(i) | {
            "quantity": READOUT, "partner": group.names[group.partners[i]], "audio": audio,
            "stage": stage, "layer": layer, "step": 0, "count": len(own),
            "value": own.double().mean().item(), "without": float("nan"),
        }  # fmt: skip

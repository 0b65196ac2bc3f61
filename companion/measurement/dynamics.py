"""Measure dynamics: whether utterances grow alike through layers and steps, and what is readable.

All utterances are compared with each other, so they make one batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from companion.measurement.across import Group, centre, mean_rows, ranks_without, step_rows
from companion.measurement.controls import random_control
from companion.measurement.dynamics_schemas import (
    CENTRED_DISTANCE,
    DECODER,
    DISTANCE,
    DYNAMICS,
    ENCODER,
    INPUT,
    OWN,
    RANK,
)
from companion.measurement.jacobians import RANDOM, TRAINED
from companion.measurement.reading import linear_probe_rows, readable
from companion.measurement.run import Summary, measure
from companion.measurement.settings import DynamicsSettings
from companion.measurement.texts import Row
from companion.models.decoding import Transcript, transcribe
from companion.models.rules import Rule, recorded
from companion.models.states import TOGETHER, States, states
from companion.models.view import SpeechModel
from companion.stress.mixture import Mixture
from spectral._validation import as_float64, require_finite

Batch = Mapping[str, Sequence[Mixture]]
_STAGES = {INPUT: "features", ENCODER: "encoder", DECODER: "decoder"}


@dataclass(frozen=True)
class _Said:
    """The utterances that can be compared, and what the trained model wrote of them."""

    batch: Batch
    texts: Mapping[str, Sequence[Transcript]]


def measure_dynamics(settings: DynamicsSettings) -> Summary:
    """Distances, ranks and linear probes of all utterances: :func:`measure` with
    ``dynamics_rows``."""
    return measure("dynamics", settings, dynamics_rows, DYNAMICS)


def dynamics_rows(model: SpeechModel, batch: Batch, settings: DynamicsSettings) -> list[Row]:
    """All rows of the utterances of a batch; the randomly initialised control is fed the model's
    own tokens.

    An utterance is left out whose audio takes more than one window in some condition, of which
    nothing is written there, or whose reference the model cannot write. Fewer voices than there are
    folds have no rows. Raises ValueError where memory does not suffice: half of the
    utterances would be another measurement.
    """
    try:
        said = _said(model, batch, settings)
        group = Group.of(next(iter(said.batch.values())), settings.seed)
        if group.voices < settings.folds:
            return []
        networks = {TRAINED: model, RANDOM: random_control(settings, model.device)}
        return [
            {"model": model.name, "parameters": model.parameters} | row
            for name, network in networks.items()
            for condition in said.batch
            for row in _network_rows(network, said, condition, group, settings, name)
        ]
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ValueError(
            f"{model.name}: not enough memory for the states of {settings.utterances} utterances; "
            "take fewer, or device=cpu"
        ) from error


def _said(model: SpeechModel, batch: Batch, settings: DynamicsSettings) -> _Said:
    texts = {name: _written(model, side, recorded(settings.rule)) for name, side in batch.items()}
    references = [one.target.reference for one in next(iter(batch.values()))]
    keep = [
        i
        for i, reference in enumerate(references)
        if readable(model, reference)
        and all(side[i].tokens and not side[i].breaks for side in texts.values())
    ]
    return _Said(
        {name: [side[i] for i in keep] for name, side in batch.items()},
        {name: [side[i] for i in keep] for name, side in texts.items()},
    )


def _written(model: SpeechModel, mixtures: Sequence[Mixture], rule: Rule) -> list[Transcript]:
    waves = [mixture.wave for mixture in mixtures]
    starts = range(0, len(waves), TOGETHER)
    return [text for i in starts for text in transcribe(model, waves[i : i + TOGETHER], rule)]


def _network_rows(
    network: SpeechModel,
    said: _Said,
    condition: str,
    group: Group,
    settings: DynamicsSettings,
    name: str,
) -> Iterator[Row]:
    waves = [mixture.wave for mixture in said.batch[condition]]
    seen = states(network, waves, said.texts[condition])
    # the same utterances under every condition, so that ranks are of as many rows
    least = [min(len(side[i].tokens) for side in said.texts.values()) for i in range(len(waves))]
    rows = [
        *_distance_rows(seen, group, settings.steps),
        *_rank_rows(seen, group, settings.steps, least),
        *linear_probe_rows(network, waves, group, settings.folds),
    ]
    for row in rows:
        yield {"network": name, "condition": condition} | row


def _distance_rows(seen: Sequence[States], group: Group, steps: Sequence[int]) -> Iterator[Row]:
    """Each utterance and its partner, at every stage; the last decoder layer step by step too."""
    for stage, attribute in _STAGES.items():
        paths = [getattr(one, attribute) for one in seen]
        usual = sorted(path.shape[1] for path in paths)[len(paths) // 2]
        paths = [path[:, :usual] for path in paths]
        centred = centre(paths)
        for i, partner in enumerate(group.partners):
            shared = group.columns(i) | {"partner": group.names[partner], "stage": stage}
            for quantity, these in ((DISTANCE, paths), (CENTRED_DISTANCE, centred)):
                for layer, step, count, value in _pair(these[i], these[partner], stage, steps):
                    yield shared | {
                        "quantity": quantity, "layer": layer, "step": step, "count": count,
                        "value": value, "without": float("nan"), "audio": OWN,
                    }  # fmt: skip


def _pair(
    first: Tensor, second: Tensor, stage: str, steps: Sequence[int]
) -> Iterator[tuple[int, int, int, float]]:
    """Layer from 1, step (0 for all), number of positions, and distance; the input has layer 0."""
    count = min(first.shape[1], second.shape[1])
    apart = relative_distances(first[:, :count], second[:, :count])
    for i, whole in enumerate(apart.square().mean(-1).sqrt().tolist()):
        yield (0 if stage == INPUT else i + 1), 0, count, whole
    if stage == DECODER:
        for step in steps:
            if step <= count:
                yield len(apart), step, 1, apart[-1, step - 1].item()


def _rank_rows(
    seen: Sequence[States], group: Group, steps: Sequence[int], least: Sequence[int]
) -> Iterator[Row]:
    """Effective rank across utterances: of their mean states, and of their states at a step."""
    for stage, attribute in _STAGES.items():
        paths = [getattr(one, attribute) for one in seen]
        kept = {0: (list(range(len(paths))), mean_rows(paths))}
        if stage == DECODER:
            for step in steps:
                there = [i for i, length in enumerate(least) if length >= step]
                kept[step] = (there, step_rows([paths[i] for i in there], step))
        for step, (there, rows) in kept.items():
            voices = [group.speakers[i] for i in there]
            if len(set(voices)) < 2:
                continue
            for i, whole, without in ranks_without(rows, voices):
                for layer, (value, rest) in enumerate(zip(whole, without, strict=True)):
                    yield group.columns(there[i]) | {
                        "quantity": RANK, "partner": "", "audio": OWN, "stage": stage,
                        "layer": 0 if stage == INPUT else layer + 1, "step": step,
                        "count": len(there), "value": value, "without": rest,
                    }  # fmt: skip


def relative_distances(first: Tensor, second: Tensor) -> Tensor:
    r"""Distance of two sequences of states at every position, over their own RMS norm.

    .. math:: d_t = |a_t - b_t| \Big/ \sqrt{\tfrac{1}{2T} \sum_s (|a_s|^2 + |b_s|^2)}

    The root mean square of d_t over positions is their distance as a whole: 0 where they are equal,
    :math:`\sqrt 2` where they are orthogonal, 2 where they are opposite. Unchanged by a common
    factor and by a common rotation; a common offset brings states closer, so subtract what all
    states share where that is not meant. O(T D).

    Args:
        first: Shape ``(*batch, positions, width)``, finite.
        second: The same shape.

    Returns:
        Shape ``(*batch, positions)``, float64. 0 where both sequences are zero.

    Raises:
        ValueError: For other shapes, a dtype that is not floating, NaN or infinity.

    Example:
        >>> relative_distances(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([1.4142], dtype=torch.float64)
    """
    shape = "(*batch, positions, width)"
    a, b = as_float64(first, "first", shape), as_float64(second, "second", shape)
    if a.shape != b.shape:
        raise ValueError(
            f"first and second must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}: cut "
            "both to the shorter"
        )
    for name, rows in (("first", a), ("second", b)):
        require_finite(rows, name, "leave out what is not real")
    square = (a.square().sum(-1) + b.square().sum(-1)).mean(-1) / 2
    apart = (a - b).norm(dim=-1)
    return torch.where(square[..., None] > 0, apart / square[..., None].sqrt(), 0.0)

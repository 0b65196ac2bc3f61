"""Measure dynamics: whether utterances grow alike through layers and steps, and what is readable.

All utterances are compared with each other, so they make one batch.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

import numpy as np
import torch
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from companion.measurement import schemas as names
from companion.measurement.controls import random_control
from companion.measurement.run import is_lack_of_memory
from companion.measurement.settings import DynamicsSettings
from companion.measurement.texts import Batch, Row
from companion.models.decoding import Transcript, transcribe
from companion.models.forcing import TOGETHER, States, states
from companion.models.rules import Rule, recorded
from companion.models.view import SpeechModel
from companion.speech.corpus import Utterance
from companion.stress.mixture import Mixture, generator
from spectral._validation import as_float64, require_finite
from spectral.spectra import effective_rank, eigenvalues

RIDGE = 1e-2
"""The penalty, in units of the number of training rows: features have variance one."""

_STAGES = {names.INPUT: "features", names.ENCODER: "encoder", names.DECODER: "decoder"}


@dataclass(frozen=True)
class Group:
    """The utterances that are compared, each with a partner by another speaker."""

    utterances: Sequence[Utterance]
    partners: Sequence[int]  # every utterance is partner once; empty where there is none

    @property
    def speakers(self) -> list[str]:
        return [utterance.speaker for utterance in self.utterances]

    def row(self, i: int, quantity: str, stage: str, layer: int, **columns: object) -> Row:
        """One row; ``columns`` are the others, where they are not as usual."""
        return {
            "utterance": self.utterances[i].id, "speaker": self.utterances[i].speaker,
            "quantity": quantity, "stage": stage, "layer": layer, "step": 0, "partner": "",
            "audio": names.OWN, "without": math.nan, **columns,
        }  # fmt: skip

    def partner_of(self, i: int) -> str:
        return self.utterances[self.partners[i]].id


def partners(speakers: Sequence[str], seed: int) -> tuple[int, ...]:
    """Another speaker's utterance for each, all different; none where that is impossible.

    In a random order of speakers the partner is as far on as the largest group of one is long.
    """
    count = len(speakers)
    most = max(Counter(speakers).values(), default=0)
    if 2 * most > count:
        return ()
    rng = generator(seed, "partners")
    order_of = {name: i for i, name in enumerate(rng.permutation(sorted(set(speakers))))}
    shuffled = rng.permutation(count)
    order = np.array(sorted(range(count), key=lambda i: (order_of[speakers[i]], shuffled[i])))
    return tuple(np.roll(order, -most)[order.argsort()].tolist())


def dynamics_rows(model: SpeechModel, batch: Batch, settings: DynamicsSettings) -> list[Row]:
    """All rows of the utterances of a batch; the randomly initialised control is fed the model's
    own tokens.

    An utterance is left out whose audio takes more than one window in some condition, of which
    nothing is written there, or whose reference the model cannot write. Fewer speakers than there
    are folds, or one with more than half of the utterances, have no rows. Raises ValueError where
    memory does not suffice: half of the utterances would be another measurement.
    """
    try:
        return list(_all_rows(model, batch, settings))
    except (RuntimeError, MemoryError) as error:
        if not is_lack_of_memory(error):
            raise
        raise ValueError(
            f"{model.name}: not enough memory for the states of {settings.utterances} utterances; "
            "take fewer, or device=cpu"
        ) from error


def _all_rows(model: SpeechModel, batch: Batch, settings: DynamicsSettings) -> Iterator[Row]:
    texts = {name: _written(model, side, recorded(settings.rule)) for name, side in batch.items()}
    targets = [mixture.target for mixture in next(iter(batch.values()))]
    keep = [
        i
        for i, target in enumerate(targets)
        if model.given_tokens(target.reference.lower())
        and all(side[i].tokens and not side[i].breaks for side in texts.values())
    ]
    utterances = [targets[i] for i in keep]
    group = Group(utterances, partners([target.speaker for target in utterances], settings.seed))
    if not group.partners or len({*group.speakers}) < settings.folds:
        return
    # the same utterances under every condition, so that ranks are of as many rows
    least = [min(len(side[i].tokens) for side in texts.values()) for i in keep]
    networks = {names.TRAINED: model, names.RANDOM: random_control(settings, model.device)}
    for (name, network), condition in product(networks.items(), batch):
        waves = [batch[condition][i].wave for i in keep]
        all_states = states(network, waves, [texts[condition][i] for i in keep])
        shared: Row = {"model": model.name, "parameters": model.parameters}
        shared |= {"network": name, "condition": condition}
        for row in chain(
            _distance_rows(all_states, group, settings.steps),
            _rank_rows(all_states, group, settings.steps, least),
            _probe_rows(network, waves, group, settings.folds),
        ):
            yield shared | row


def _written(model: SpeechModel, mixtures: Sequence[Mixture], rule: Rule) -> list[Transcript]:
    waves = [mixture.wave for mixture in mixtures]
    starts = range(0, len(waves), TOGETHER)
    return [text for i in starts for text in transcribe(model, waves[i : i + TOGETHER], rule)]


def _distance_rows(
    all_states: Sequence[States], group: Group, steps: Sequence[int]
) -> Iterator[Row]:
    """Each utterance and its partner, at every stage; step 0 is the root mean square over all."""
    for stage, attribute in _STAGES.items():
        paths = [getattr(states_of, attribute) for states_of in all_states]
        usual = sorted(path.shape[1] for path in paths)[len(paths) // 2]
        paths = [path[:, :usual] for path in paths]
        kinds = {names.DISTANCE: paths, names.CENTRED_DISTANCE: centre(paths)}
        for (i, partner), quantity in product(enumerate(group.partners), kinds):
            pair = kinds[quantity][i], kinds[quantity][partner]
            count = min(path.shape[1] for path in pair)
            apart = relative_distances(*(path[:, :count] for path in pair))
            whole = apart.square().mean(-1).sqrt().tolist()
            values = [(layer, 0, count, x) for layer, x in enumerate(whole, stage != names.INPUT)]
            for step in steps if stage == names.DECODER else ():
                if step <= count:
                    values.append((len(apart), step, 1, apart[-1, step - 1].item()))
            for layer, step, positions, value in values:
                yield group.row(
                    i, quantity, stage, int(layer), step=step, count=positions, value=value,
                    partner=group.partner_of(i),
                )  # fmt: skip


def centre(paths: Sequence[Tensor]) -> list[Tensor]:
    """Paths (layers, positions, width) less the mean over all of them, layer by layer."""
    mean = torch.cat([path.double() for path in paths], 1).mean(1, keepdim=True)
    return [path.double() - mean for path in paths]


def _rank_rows(
    all_states: Sequence[States], group: Group, steps: Sequence[int], least: Sequence[int]
) -> Iterator[Row]:
    """Effective rank across utterances: of their mean states, and of their states at a step."""
    for stage, attribute in _STAGES.items():
        paths = [getattr(states_of, attribute).double() for states_of in all_states]
        for step in (0, *(steps if stage == names.DECODER else ())):
            there = [i for i, count in enumerate(least) if count >= step]
            speakers = [group.speakers[i] for i in there]
            if len({*speakers}) < 2:
                continue
            chosen = [paths[i][:, step - 1] if step else paths[i].mean(1) for i in there]
            for i, whole, without in ranks_without(torch.stack(chosen, 1), speakers):
                for layer, (value, rest) in enumerate(zip(whole, without, strict=True)):
                    yield group.row(
                        there[i], names.RANK, stage, layer + (stage != names.INPUT), step=step,
                        count=len(there), value=value, without=rest,
                    )  # fmt: skip


def ranks_without(
    rows: Tensor, speakers: Sequence[str]
) -> Iterator[tuple[int, list[float], list[float]]]:
    """N_eff by layer of rows (layers, utterances, width), and without each one's speaker."""
    whole = effective_rank(eigenvalues(rows)).tolist()
    without = {}
    for speaker in dict.fromkeys(speakers):
        kept = torch.tensor([other != speaker for other in speakers], device=rows.device)
        without[speaker] = effective_rank(eigenvalues(rows[:, kept])).tolist()
    for i, speaker in enumerate(speakers):
        yield i, whole, without[speaker]


def _probe_rows(
    network: SpeechModel, waves: Sequence[np.ndarray], group: Group, folds: int
) -> Iterator[Row]:
    """Fraction of next tokens that a probe gets right, with the own audio and the partner's."""
    references = [utterance.reference.lower() for utterance in group.utterances]
    texts = [Transcript("", tuple(network.encode_text(reference))) for reference in references]
    labels = torch.tensor([token for text in texts for token in text.tokens])
    lengths = [len(text.tokens) for text in texts]
    fold_of = {name: i % folds for i, name in enumerate(sorted(set(group.speakers)))}
    fold = torch.tensor([fold_of[name] for name in group.speakers])
    fold = fold.repeat_interleave(torch.tensor(lengths))

    def rows(predicted: Tensor, audio: str, stage: str, layer: int) -> Iterator[Row]:
        for i, right in enumerate(torch.split(predicted == labels, lengths)):
            yield group.row(
                i, names.READOUT, stage, layer, count=len(right), partner=group.partner_of(i),
                value=right.double().mean().item(), audio=audio,
            )  # fmt: skip

    yield from rows(majority(labels, fold), names.OWN, names.CHANCE, 0)
    swapped = [waves[partner] for partner in group.partners]
    for audio, played in ((names.OWN, waves), (names.SWAPPED_AUDIO, swapped)):
        all_states = states(network, played, texts)
        for source in (names.DECODER, names.CROSS_ATTENTION):
            joined = torch.cat([getattr(states_of, source) for states_of in all_states], 1)
            for layer, features in enumerate(joined):
                predicted = linear_probe(features.cpu(), labels, fold)
                yield from rows(predicted, audio, source, layer + 1)


def relative_distances(first: Tensor, second: Tensor) -> Tensor:
    r"""Distance of two sequences of states at every position, over their own RMS norm.

    .. math:: d_t = |a_t - b_t| \Big/ \sqrt{\tfrac{1}{2T} \sum_s (|a_s|^2 + |b_s|^2)}

    Its root mean square over positions is 0 where they are equal, :math:`\sqrt 2` where they are
    orthogonal, 2 where they are opposite. Both (*batch, positions, width) -> (*batch, positions),
    float64, 0 where both are zero. Raises ValueError for other shapes, a dtype that is not
    floating, NaN or infinity.
    """
    shape = "(*batch, positions, width)"
    a, b = as_float64(first, "first", shape), as_float64(second, "second", shape)
    if a.shape != b.shape:
        raise ValueError(
            f"first and second must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}: cut "
            "both to the shorter"
        )
    require_finite(a, "first", "leave out what is not real")
    require_finite(b, "second", "leave out what is not real")
    square = (a.square().sum(-1) + b.square().sum(-1)).mean(-1) / 2
    apart = (a - b).norm(dim=-1)
    return torch.where(square[..., None] > 0, apart / square[..., None].sqrt(), 0.0)


def linear_probe(features: Tensor, labels: Tensor, folds: Tensor) -> Tensor:
    r"""Labels predicted for each fold by a linear probe that was fitted to all the others.

    Features are scaled to mean 0 and variance 1 over the training rows; the weights minimise

    .. math:: |X W - Y|^2 + 10^{-2} N |W|^2

    with Y the labels as indicator columns less their means, and the largest score decides (Hastie,
    Tibshirani & Friedman 2009, sec. 4.2, with a penalty). N D^2 + D^3 operations per fold. Features
    are finite, (rows, width); labels, folds and what is returned are (rows,), int64. Raises
    ValueError for NaN, infinity, or one fold only.
    """

    def probe(rows: int) -> Any:
        return make_pipeline(StandardScaler(), RidgeClassifier(alpha=RIDGE * rows))

    return _by_fold(probe, features, labels, folds)


def majority(labels: Tensor, folds: Tensor) -> Tensor:
    """The chance of :func:`linear_probe`: the most frequent label of all other folds.

    All (rows,), int64; of equally frequent labels the smallest. Raises ValueError for one fold.
    """
    return _by_fold(lambda _: DummyClassifier(strategy="most_frequent"), labels, labels, folds)


def _by_fold(
    classifier: Callable[[int], Any], features: Tensor, labels: Tensor, folds: Tensor
) -> Tensor:
    """What is predicted of each fold from all other rows, of which there are so many."""
    rows, known, predicted = features.double().numpy(), labels.numpy(), torch.empty_like(labels)
    for train, test in LeaveOneGroupOut().split(rows, groups=folds.numpy()):
        fitted = classifier(len(train)).fit(rows[train], known[train])
        predicted[test] = torch.from_numpy(fitted.predict(rows[test]))
    return predicted

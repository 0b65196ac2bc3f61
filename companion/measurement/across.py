"""Utterances beside each other: who is paired with whom, and the rank of what they have."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from companion.measurement.surrogates import generator
from companion.measurement.texts import Row
from companion.stress.mixture import Mixture
from spectral.spectra import effective_rank, eigenvalues


@dataclass(frozen=True)
class Group:
    """The utterances that are compared, each with a partner by another voice."""

    names: tuple[str, ...]
    speakers: tuple[str, ...]
    references: tuple[str, ...]
    partners: tuple[int, ...]  # every utterance is partner once; empty where there is none

    @classmethod
    def of(cls, mixtures: Sequence[Mixture], seed: int) -> "Group":
        """Partners by the seed; none where one voice has more than half of the utterances."""
        targets = [mixture.target for mixture in mixtures]
        speakers = tuple(target.speaker for target in targets)
        return cls(
            tuple(target.id for target in targets),
            speakers,
            tuple(target.reference for target in targets),
            partners(speakers, seed),
        )

    @property
    def voices(self) -> int:
        """How many voices can be compared."""
        return len(set(self.speakers)) if self.partners else 0

    def columns(self, index: int) -> Row:
        """What all rows of an utterance have in common."""
        return {"utterance": self.names[index], "speaker": self.speakers[index]}


def partners(speakers: Sequence[str], seed: int) -> tuple[int, ...]:
    """Another voice's utterance for each, all different; none where that is impossible.

    Voices and their utterances stand in a random order, and the partner is as far on as the
    largest voice is long.
    """
    count = len(speakers)
    largest = max(Counter(speakers).values(), default=0)
    if 2 * largest > count:
        return ()
    rng = generator(seed, "partners")
    voices = {voice: i for i, voice in enumerate(rng.permutation(sorted(set(speakers))))}
    shuffled = rng.permutation(count)
    order = sorted(range(count), key=lambda i: (voices[speakers[i]], shuffled[i]))
    found = {order[i]: order[(i + largest) % count] for i in range(count)}
    return tuple(found[i] for i in range(count))


def centre(paths: Sequence[Tensor]) -> list[Tensor]:
    """Paths (layers, positions, width) less the mean over all of them, layer by layer."""
    mean = torch.cat([path.double() for path in paths], 1).mean(1, keepdim=True)
    return [path.double() - mean for path in paths]


def mean_rows(paths: Sequence[Tensor]) -> Tensor:
    """One row per utterance, its mean over positions: (layers, utterances, width)."""
    return torch.stack([path.double().mean(1) for path in paths], 1)


def step_rows(paths: Sequence[Tensor], step: int) -> Tensor:
    """One row per utterance, its state at a position that counts from 1."""
    return torch.stack([path[:, step - 1].double() for path in paths], 1)


def ranks_without(
    rows: Tensor, voices: Sequence[str]
) -> Iterator[tuple[int, list[float], list[float]]]:
    """N_eff by layer of rows (layers, utterances, width), and of them without each one's voice."""
    whole = effective_rank(eigenvalues(rows)).tolist()
    keep = {
        voice: torch.tensor([other != voice for other in voices], device=rows.device)
        for voice in dict.fromkeys(voices)
    }
    without = {
        voice: effective_rank(eigenvalues(rows[:, kept])).tolist() for voice, kept in keep.items()
    }
    for i, voice in enumerate(voices):
        yield i, whole, without[voice]

"""Batches that adapt to the memory at hand."""

from collections.abc import Callable, Sequence

import torch

from companion.measurement.texts import Row
from companion.speech.corpus import Utterance
from companion.stress.mixture import Mixture

Batch = dict[str, Sequence[Mixture]]
Together = Callable[[Utterance], str]
"""Neighbours for which this is equal stay in one batch."""

_CPU_ALLOCATOR = "can't allocate memory"  # torch has no class of error for it


def by_utterance(utterance: Utterance) -> str:
    """Every utterance by itself: batches may be cut anywhere."""
    return utterance.id


def by_speaker(utterance: Utterance) -> str:
    """All utterances of a speaker together."""
    return utterance.speaker


def fitting(utterances: Sequence[Utterance], size: int, together: Together) -> int:
    """How many of the first are taken at once: ``size``, or more where they belong together.

    Only the first of those that belong together may be more than ``size``.
    """
    keys = [together(utterance) for utterance in utterances]
    if len(keys) <= size:
        return len(keys)
    ends = [i for i in range(1, len(keys)) if keys[i] != keys[i - 1]] + [len(keys)]
    return max((end for end in ends if end <= size), default=ends[0])


class Halving:
    """Rows of batches, in halves, quarters and so on once memory did not suffice for whole ones.

    ``largest`` is how many utterances are measured at once, more only where more belong together;
    it only ever shrinks. Raises MemoryError, naming the utterance, where one alone, or what belongs
    together, does not fit.
    """

    def __init__(
        self,
        rows_of: Callable[[Batch], list[Row]],
        largest: int,
        together: Together = by_utterance,
    ) -> None:
        self._rows_of, self.largest, self._together = rows_of, largest, together

    def rows(self, batch: Batch) -> list[Row]:
        """The rows of a batch of utterances, its mixtures by condition."""
        utterances = [mixture.target for mixture in next(iter(batch.values()))]
        rows: list[Row] = []
        start = 0
        while start < len(utterances):
            count = fitting(utterances[start:], self.largest, self._together)
            part = slice(start, start + count)
            try:
                rows += self._rows_of({name: mixtures[part] for name, mixtures in batch.items()})
            except (RuntimeError, MemoryError) as error:
                self._halve(error, utterances[part])
                continue
            start = part.stop
        return rows

    def _halve(self, error: Exception, utterances: Sequence[Utterance]) -> None:
        if not _is_out_of_memory(error):
            raise error
        if len({self._together(utterance) for utterance in utterances}) == 1:
            count = len(utterances)
            what = "this one utterance" if count == 1 else f"the {count} utterances of its speaker"
            reason = str(error).splitlines()[0]
            raise MemoryError(
                f"{utterances[0].id}: not enough memory for {what} ({reason}); free memory, or "
                "take a smaller model or device=cpu"
            ) from error
        self.largest = len(utterances) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or _CPU_ALLOCATOR in str(error)

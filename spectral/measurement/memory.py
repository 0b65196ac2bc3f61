"""Batches that adapt to the memory at hand."""

from collections.abc import Callable, Sequence

import torch

from spectral.measurement.texts import Row
from spectral.stress.mixture import Mixture

Batch = dict[str, Sequence[Mixture]]

_CPU_ALLOCATOR = "can't allocate memory"  # torch has no class of error for it


class Halving:
    """Rows of batches, in halves, quarters and so on once memory did not suffice for whole ones.

    ``largest`` is how many utterances are measured at once; it only ever shrinks. Raises
    MemoryError, naming the utterance, where one alone does not fit.
    """

    def __init__(self, rows_of: Callable[[Batch], list[Row]], largest: int) -> None:
        self._rows_of, self.largest = rows_of, largest

    def rows(self, batch: Batch) -> list[Row]:
        """The rows of a batch of utterances, its mixtures by condition."""
        count = len(next(iter(batch.values())))
        rows: list[Row] = []
        start = 0
        while start < count:
            part = slice(start, start + self.largest)
            try:
                rows += self._rows_of({name: mixtures[part] for name, mixtures in batch.items()})
            except (RuntimeError, MemoryError) as error:
                self._halve(error, batch, min(self.largest, count - start), start)
                continue
            start = part.stop
        return rows

    def _halve(self, error: Exception, batch: Batch, size: int, start: int) -> None:
        if not _is_out_of_memory(error):
            raise error
        if size == 1:
            name = next(iter(batch.values()))[start].target.id
            reason = str(error).splitlines()[0]
            raise MemoryError(
                f"{name}: not enough memory for this one utterance ({reason}); free memory, or "
                "take a smaller model or device=cpu"
            ) from error
        self.largest = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or _CPU_ALLOCATOR in str(error)

"""Record what happens inside the decoder while a model decodes, without changing what it says."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor, nn

from spectral.models.decoding import Transcript
from spectral.models.view import SpeechModel

COMPONENTS = ("self_attention", "cross_attention", "ffn")
"""What a decoder layer adds to the residual stream, in order."""

HIDDEN_STATE = "hidden_state"
"""The residual stream after a layer."""

_QUERY, _KEY = "query", "key"


@dataclass(frozen=True)
class _Call:
    """What one call of a module gave: some windows of the batch, (held,), and their outputs."""

    held: Tensor
    output: Tensor  # (held, new positions, width)


class Recording:
    """The outputs of every decoder layer for one decoded batch, position by position.

    Position p is the decoder's input token p; it predicts token p + 1. The text's T tokens are
    predicted by the positions from the prompt's last token on, and these are the rows that the
    measurements use; the end token's position is left out.
    """

    def __init__(self, model: SpeechModel) -> None:
        self._prompt_length, self._heads = len(model.tokens.prompt), model.heads
        self._placed = model.placed
        self._calls: dict[tuple[str, int], list[_Call]] = {}
        self._held: Tensor | None = None  # which windows the next call is of; None for all

    def rows(self, kind: str) -> Tensor:
        """Outputs of ``kind`` at every position fed so far: (batch, layers, positions, width).

        kind: one of COMPONENTS or HIDDEN_STATE. Where a window had ended and others had not, zeros.
        Raises RuntimeError where nothing was decoded.
        """
        layers = sorted(layer for name, layer in self._calls if name == kind)
        if not layers:
            raise RuntimeError(f"no {kind} was recorded; decode inside the `with` block first")
        return torch.stack([self._outputs(kind, layer) for layer in layers], dim=1)

    def text_rows(
        self, kind: str, transcripts: Sequence[Transcript], whole: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The rows that predict text: (batch, layers, T, width), and which are real (batch, T).

        T is that of the longest transcript; rows after an utterance's own last are not real. An
        utterance of several windows has the rows of all, one window after the other. ``whole``
        adds those of each window's prompt and of its end token, where it wrote one.
        """
        rows = self.rows(kind)
        window, position, mask = self._places(transcripts, rows, whole)
        layers = torch.arange(rows.shape[1], device=rows.device)[:, None]
        return rows[window[:, None], layers, position[:, None]], mask

    def attention(self, transcripts: Sequence[Transcript], layer: int) -> Tensor:
        """One layer's self-attention among the text's rows: (batch, heads, T, T), float64.

        softmax(q k' / sqrt(d)) over all earlier positions and the own one, the prompt's among
        them; the prompt's columns are then dropped, so rows may sum to less than one. Between
        windows there is none.
        """
        query, key = (self._by_head(kind, layer) for kind in (_QUERY, _KEY))
        scores = query @ key.mT * query.shape[-1] ** -0.5
        positions = scores.shape[-1]
        future = torch.ones(positions, positions, dtype=torch.bool, device=scores.device).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        window, position, _ = self._places(transcripts, weights)
        heads = torch.arange(self._heads, device=weights.device)[:, None, None]
        chosen = weights[
            window[:, None, :, None], heads, position[:, None, :, None], position[:, None, None]
        ]
        apart = window[:, :, None] != window[:, None]
        return chosen.masked_fill(apart[:, None], 0.0)

    def _places(
        self, transcripts: Sequence[Transcript], rows: Tensor, whole: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The window and the position that predict each token, and which are real: (batch, T)."""
        first = 0 if whole else self._prompt_length - 1
        sizes = self._sizes(transcripts, whole)
        lengths = torch.tensor([sum(own) for own in sizes], device=rows.device)
        token = torch.arange(int(lengths.max()), device=rows.device)
        windows, positions, before = [], [], 0
        for counts in sizes:
            starts = torch.tensor([0, *accumulate(counts[:-1])], device=rows.device)
            own = torch.searchsorted(starts, token, right=True) - 1
            windows.append(before + own)
            positions.append((first + token - starts[own]).clamp(max=rows.shape[2] - 1))
            before += len(starts)
        return torch.stack(windows), torch.stack(positions), token < lengths[:, None]

    def _sizes(self, transcripts: Sequence[Transcript], whole: bool) -> list[list[int]]:
        """How many rows each window of each text has; one that was cut off has none for an end."""
        fed = iter(self._fed())
        sizes: list[list[int]] = []
        for transcript in transcripts:
            sizes.append([])
            for tokens in transcript.windows:
                most, before = next(fed, 0), self._prompt_length - 1
                if before + len(tokens) > most:
                    raise ValueError(
                        f"a text of {len(tokens)} tokens where {most} positions were recorded, "
                        f"{before} of them before the text; give the transcripts of this batch"
                    )
                sizes[-1].append(min(before + len(tokens) + 1, most) if whole else len(tokens))
        return sizes

    def _fed(self) -> list[int]:
        """How many positions of each window were recorded."""
        calls = next(iter(self._calls.values()))
        counts = torch.zeros(len(calls[0].output), dtype=torch.long)
        for call in calls:
            counts[call.held] += call.output.shape[1]
        found: list[int] = counts.tolist()
        return found

    def _outputs(self, kind: str, layer: int) -> Tensor:
        """Of one layer: (batch, positions, width), zeros where a window had ended."""
        calls = self._calls[kind, layer]
        batch, _, width = calls[0].output.shape
        positions = sum(call.output.shape[1] for call in calls)
        outputs, first = calls[0].output.new_zeros(batch, positions, width), 0
        for _, together in groupby(calls, lambda call: id(call.held)):
            same = list(together)
            part = torch.cat([call.output for call in same], dim=1)
            outputs[same[0].held, first : first + part.shape[1]] = part
            first += part.shape[1]
        return outputs

    def _by_head(self, kind: str, layer: int) -> Tensor:
        rows = self._outputs(kind, layer).double()
        return self._placed(rows.reshape(*rows.shape[:-1], self._heads, -1).transpose(-3, -2))

    def _record(self, kind: str, layer: int, output: Tensor | tuple[Tensor, ...]) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        calls = self._calls.setdefault((kind, layer), [])
        if calls and tensor.shape[1] > 1:
            raise RuntimeError("a second prompt in one capture block; open one block per batch")
        if self._held is None:
            self._held = torch.arange(len(tensor))
        # A copy: some layers hand out a buffer that a later operation overwrites in place.
        calls.append(_Call(self._held, tensor.detach().clone()))

    def _keep(self, rows: Tensor) -> None:
        """What the next calls are of, by the rows of the last one."""
        assert self._held is not None, "rows leave a batch after its first step"
        self._held = self._held[rows.cpu()]


@contextmanager
def capture(model: SpeechModel) -> Iterator[Recording]:
    """Record one batch: ``with capture(model) as recording: transcripts = greedy(...)``.

    Decoding a second batch inside the same block raises RuntimeError: open one block per batch.
    The recording stays on the model's device, usable after the block, and holds 6 x layers x
    positions x width numbers for every window, up to the end of its text.
    """
    recording = Recording(model)
    handles = [
        module.register_forward_hook(_hook(recording, kind, i))
        for i, layer in enumerate(model.layers)
        for kind, module in (
            ("self_attention", layer.self_attention),
            ("cross_attention", layer.cross_attention),
            ("ffn", layer.ffn),
            (HIDDEN_STATE, layer.layer),
            (_QUERY, layer.query),
            (_KEY, layer.key),
        )
    ]
    model.watchers.append(recording._keep)
    try:
        yield recording
    finally:
        model.watchers.remove(recording._keep)
        for handle in handles:
            handle.remove()


def _hook(recording: Recording, kind: str, layer: int):  # type: ignore[no-untyped-def]
    def record(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        recording._record(kind, layer, output)

    return record

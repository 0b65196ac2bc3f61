"""Record what happens inside the decoder while a model decodes, without changing what it says."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, groupby, product
from typing import Any

import torch
from torch import Tensor, nn

from companion.models.decoding import Transcript
from companion.models.view import SpeechModel
from spectral.whisper import COMPONENTS as COMPONENTS
from spectral.whisper import HIDDEN_STATE as HIDDEN_STATE
from spectral.whisper import KEY, KINDS, QUERY, past, watching


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
        self._layers = len(model.layers)
        self._calls: dict[tuple[str, int], list[_Call]] = {}
        self._held: Tensor | None = None  # which windows the next call is of; None for all

    def rows(self, kind: str) -> Tensor:
        """Outputs of ``kind`` at every position fed so far: (batch, layers, positions, width).

        kind: one of COMPONENTS or HIDDEN_STATE. Where a window had ended and others had not, zeros.
        Raises RuntimeError where nothing was decoded, or not every layer was heard, and ValueError
        for another kind.
        """
        if kind not in (*COMPONENTS, HIDDEN_STATE):
            raise ValueError(
                f"no kind {kind!r}; there are {', '.join((*COMPONENTS, HIDDEN_STATE))}"
            )
        self._require(kind)
        return torch.stack([self._outputs(kind, layer) for layer in range(self._layers)], dim=1)

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
        self._require(QUERY)
        if not 0 <= layer < self._layers:
            raise ValueError(f"no layer {layer}; there are 0 to {self._layers - 1}")
        query, key = (self._by_head(kind, layer) for kind in (QUERY, KEY))
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
        return rows.reshape(*rows.shape[:-1], self._heads, -1).transpose(-3, -2)

    def _require(self, kind: str) -> None:
        """RuntimeError unless every layer was heard at every call."""
        if not self._calls:
            raise RuntimeError(f"no {kind} was recorded; decode inside the `with` block first")
        counts = {
            place: len(self._calls.get(place, ())) for place in product(KINDS, range(self._layers))
        }
        silent = {layer for (_, layer), n in counts.items() if n < max(counts.values())}
        if silent:
            raise RuntimeError(
                f"layers {sorted(silent)} (from 0) of {self._layers} did not call every hook: "
                "compiled by torch.compile before the block, or skipped"
            )

    def _begin(self, before: int) -> None:
        """A call of the decoder after so many positions."""
        if self._calls and not before:
            raise RuntimeError("a second prompt in one capture block; open one block per batch")

    def _record(self, kind: str, layer: int, output: Tensor) -> None:
        if self._held is None:
            self._held = torch.arange(len(output))
        self._calls.setdefault((kind, layer), []).append(_Call(self._held, output.clone()))

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
    model.watchers.append(recording._keep)
    try:
        with (
            _positions_before(model, recording._begin),
            watching(model.layers, recording._record),
        ):
            yield recording
    finally:
        model.watchers.remove(recording._keep)


@contextmanager
def _positions_before(model: SpeechModel, sink: Callable[[int], None]) -> Iterator[None]:
    """Give ``sink`` the number of positions that are cached whenever the first layer is called."""

    def give(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        sink(past(named.get("kv_cache", named.get("past_key_values"))))

    handle = model.layers[0].layer.register_forward_pre_hook(give, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()

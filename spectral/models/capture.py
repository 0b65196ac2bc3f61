"""Record what happens inside the decoder while a model decodes, without changing what it says."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor, nn

from spectral.models.decoding import Transcript
from spectral.models.view import SpeechModel

COMPONENTS = ("self_attention", "cross_attention", "ffn")
"""What a decoder layer adds to the residual stream, in order."""

HIDDEN_STATE = "hidden_state"
"""The residual stream after a layer."""

_QUERY, _KEY = "query", "key"


class Recording:
    """The outputs of every decoder layer for one decoded batch, position by position.

    Position p is the decoder's input token p; it predicts token p + 1. The text's T tokens are
    predicted by the positions from the prompt's last token on, and these are the rows that the
    measurements use; the end token's position is left out.
    """

    def __init__(self, model: SpeechModel) -> None:
        self._prompt_length, self._heads = len(model.tokens.prompt), model.heads
        self._placed, self._limit = model.placed, model.limit
        self._calls: dict[tuple[str, int], list[Tensor]] = {}

    def rows(self, kind: str) -> Tensor:
        """Outputs of ``kind`` at every position fed so far: (batch, layers, positions, width).

        kind: one of COMPONENTS or HIDDEN_STATE. Raises RuntimeError where nothing was decoded.
        """
        layers = sorted(layer for name, layer in self._calls if name == kind)
        if not layers:
            raise RuntimeError(f"no {kind} was recorded; decode inside the `with` block first")
        return torch.stack([torch.cat(self._calls[kind, layer], dim=1) for layer in layers], dim=1)

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
        sizes = [self._sizes(transcript, whole) for transcript in transcripts]
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

    def _sizes(self, transcript: Transcript, whole: bool) -> list[int]:
        """How many rows each window has; one that the length limit cut off has none for an end."""
        tokens = [len(window) for window in transcript.windows]
        if not whole:
            return tokens
        return [self._prompt_length - 1 + count + (count < self._limit) for count in tokens]

    def _by_head(self, kind: str, layer: int) -> Tensor:
        rows = torch.cat(self._calls[kind, layer], dim=1).double()
        return self._placed(rows.reshape(*rows.shape[:-1], self._heads, -1).transpose(-3, -2))

    def _record(self, kind: str, layer: int, output: Tensor | tuple[Tensor, ...]) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        calls = self._calls.setdefault((kind, layer), [])
        if calls and tensor.shape[1] > 1:
            raise RuntimeError("a second prompt in one capture block; open one block per batch")
        # A copy: some layers hand out a buffer that a later operation overwrites in place.
        calls.append(tensor.detach().clone())


@contextmanager
def capture(model: SpeechModel) -> Iterator[Recording]:
    """Record one batch: ``with capture(model) as recording: transcripts = greedy(...)``.

    Decoding a second batch inside the same block raises RuntimeError: open one block per batch.
    The recording stays on the model's device, usable after the block, and holds 6 x layers x batch
    x positions x width numbers.
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
    try:
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def _hook(recording: Recording, kind: str, layer: int):  # type: ignore[no-untyped-def]
    def record(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        recording._record(kind, layer, output)

    return record

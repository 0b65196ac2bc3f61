"""Record what happens inside the decoder while a model decodes, without changing what it says.

The hooks are those of :func:`spectral.attach`; here rows are put together by batch, and by the
transcripts that a measurement has.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor

from companion.models.decoding import Transcript
from companion.models.view import SpeechModel
from spectral.tracing.runs import EMBEDDING, Recorder, Run, self_attention
from spectral.whisper import COMPONENTS as COMPONENTS
from spectral.whisper import HIDDEN_STATE as HIDDEN_STATE
from spectral.whisper import KEY, QUERY, recognise


class Recording(Recorder):
    """The outputs of every decoder layer for one decoded batch, position by position.

    Position p is the decoder's input token p and predicts token p + 1: the text's T tokens are
    predicted by the positions from the prompt's last token on, without the end token's.
    """

    def __init__(self, model: SpeechModel) -> None:
        prompt, end = model.tokens.prompt, model.tokens.end
        super().__init__(recognise(model.module, prompt[0], end))
        self._prompt_length, self._heads, self._layers = len(prompt), model.heads, len(model.layers)

    def began(self, run: Run, tokens: Tensor) -> None:
        """RuntimeError for a second batch."""
        if run not in self.runs[:1] and self.runs:
            self.forget([run])
            raise RuntimeError("a second prompt in one capture block; open one block per batch")

    def rows(self, kind: str) -> Tensor:
        """Outputs of ``kind`` at every position fed so far: (batch, layers, positions, width).

        kind: one of COMPONENTS or HIDDEN_STATE. Where a window had ended and others had not, zeros.
        Raises RuntimeError where nothing was decoded, and ValueError for another kind.
        """
        if kind not in (*COMPONENTS, HIDDEN_STATE):
            raise ValueError(
                f"no kind {kind!r}; there are {', '.join((*COMPONENTS, HIDDEN_STATE))}"
            )
        run = self._batch(kind)
        return torch.stack([run.whole(kind, layer) for layer in range(self._layers)], dim=1)

    def streams(self) -> list[Tensor]:
        """The residual stream before each layer and after the last, (batch, positions, width)."""
        run = self._batch(HIDDEN_STATE)
        return [run.whole(EMBEDDING, 0), *(run.whole(HIDDEN_STATE, i) for i in range(self._layers))]

    def text_rows(
        self, kind: str, transcripts: Sequence[Transcript], whole: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The rows that predict text: (batch, layers, T, width), and which are real (batch, T).

        T is that of the longest transcript, of all its windows one after the other. ``whole`` adds
        the rows of each window's prompt and of its end token, where it wrote one.
        """
        rows = self.rows(kind)
        window, position, mask = self._places(transcripts, rows, whole)
        layers = torch.arange(rows.shape[1], device=rows.device)[:, None]
        return rows[window[:, None], layers, position[:, None]], mask

    def attention(self, transcripts: Sequence[Transcript], layer: int) -> Tensor:
        """One layer's self-attention among the text's rows: (batch, heads, T, T), float64.

        softmax(q k' / sqrt(d)) over all earlier positions and the own one; the prompt's columns are
        then dropped, so rows may sum to less than one. Between windows there is none.
        """
        run = self._batch(QUERY)
        if not 0 <= layer < self._layers:
            raise ValueError(f"no layer {layer}; there are 0 to {self._layers - 1}")
        weights = self_attention(run.whole(QUERY, layer), run.whole(KEY, layer), self._heads)
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
        lengths = torch.tensor([sum(counts) for counts in sizes], device=rows.device)
        token = torch.arange(int(lengths.max()), device=rows.device)
        windows, positions, before = [], [], 0
        for counts in sizes:
            starts = torch.tensor([0, *accumulate(counts[:-1])], device=rows.device)
            window = torch.searchsorted(starts, token, right=True) - 1
            windows.append(before + window)
            positions.append((first + token - starts[window]).clamp(max=rows.shape[2] - 1))
            before += len(starts)
        return torch.stack(windows), torch.stack(positions), token < lengths[:, None]

    def _sizes(self, transcripts: Sequence[Transcript], whole: bool) -> list[list[int]]:
        """How many rows each window of each text has; one that was cut off has none for an end."""
        fed = iter(self.runs[0].fed())
        sizes: list[list[int]] = []
        for transcript in transcripts:
            sizes.append([])
            for tokens in transcript.windows:
                most, before = len(next(fed, [])), self._prompt_length - 1
                if before + len(tokens) > most:
                    raise ValueError(
                        f"a text of {len(tokens)} tokens where {most} positions were recorded, "
                        f"{before} of them before the text; give the transcripts of this batch"
                    )
                sizes[-1].append(min(before + len(tokens) + 1, most) if whole else len(tokens))
        return sizes

    def _batch(self, kind: str) -> Run:
        if not self.runs:
            raise RuntimeError(f"no {kind} was recorded; decode inside the `with` block first")
        return self.runs[0]


@contextmanager
def capture(model: SpeechModel) -> Iterator[Recording]:
    """Record one batch: ``with capture(model) as recording: transcripts = greedy(...)``.

    RuntimeError for a second batch inside the block, and for a layer that did not call its hooks.
    The recording stays on the model's device, usable after the block, and holds (6 layers + 1) x
    positions x width numbers for every window, up to the end of its text, and the context.
    """
    recording = Recording(model)
    with recording.listening(model.watchers):
        yield recording

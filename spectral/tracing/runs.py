"""Runs of a decoder over batches of windows, put together call by call from what its hooks see.

A run begins where the decoder has no past, as its cache says, and goes on where it is given the
same cache again. What does not fit together so is refused, and the run is forgotten.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectral.whisper import (
    COMPONENTS,
    KINDS,
    Decoder,
    decoder_inputs,
    fed_outside,
    first_keys,
    past,
    rearranged,
    watching,
)

EMBEDDING = "embedding"
"""The residual stream before the first layer."""

_UNFED = -1
_OPEN = 2  # runs that may go on: transformers asks for no-speech in the midst of another


@dataclass(frozen=True)
class Call:
    """What one call of the decoder gave, for the windows of the batch that were still in it."""

    held: Tensor  # (held,), which of the run's windows
    tokens: Tensor  # (held, new positions), the decoder's input
    outputs: dict[tuple[str, int], Tensor]  # by kind and layer, (held, new positions, width)


class Run:
    """One batch from its prompt to its last step: an attempt at each of its windows.

    attempt: which one, from 1. kept: by window, None where that is not known. chosen: (windows,),
    what was written after the last call, as far as the library said so, -1 elsewhere.
    """

    def __init__(self, cache: Any, context: Tensor | None, padding: Tensor | None, tokens: Tensor):
        self.cache, self.cached = cache, cache is not None
        self.context, self.padding = context, padding
        self.prompt, self.windows = tokens.shape[1], len(tokens)
        self.held = torch.arange(self.windows)
        self.calls: list[Call] = []
        self.steps = self.length = 0
        self.keys: Any = None
        self.chosen: Tensor | None = None
        self.attempt = 1
        self.temperature: float | None = None
        self.kept: list[bool | None] = [None] * self.windows
        self.reduced: list[dict[str, Tensor]] | None = None  # by window and component, (L, T, n)
        self._fed: list[list[int]] = []

    def add(self, call: Call) -> None:
        """One more call."""
        self.calls.append(call)
        self.steps += 1
        self.length += call.tokens.shape[1]
        self.chosen = None

    def fed(self) -> list[list[int]]:
        """The decoder's input of each window, prompt and all."""
        if self.calls:
            self.compact()
            rows: list[list[int]] = self.calls[0].tokens.tolist()
            self._fed = [[token for token in row if token != _UNFED] for row in rows]
        return self._fed

    def compact(self) -> None:
        """Put all calls into one, zeros and unfed tokens where a window had left the batch."""
        if len(self.calls) < 2:
            return
        whole = self._joined([call.tokens for call in self.calls], _UNFED)
        outputs = {
            place: self._joined([call.outputs.pop(place) for call in self.calls], 0)
            for place in list(self.calls[0].outputs)
        }
        self.calls = [Call(torch.arange(self.windows), whole, outputs)]

    def _joined(self, parts: list[Tensor], fill: int) -> Tensor:
        """What the calls gave, one after the other: (windows, positions, ...)."""
        lengths = [part.shape[1] for part in parts]
        whole = parts[0].new_full((self.windows, sum(lengths), *parts[0].shape[2:]), fill)
        places = torch.split(whole, lengths, dim=1)
        for call, part, place in zip(self.calls, parts, places, strict=True):
            place[call.held.to(place.device)] = part
        return whole

    def outputs(self, kind: str, layer: int, window: int) -> Tensor:
        """Of one window at every position fed, (positions, width)."""
        if self.reduced is not None:
            raise ValueError(f"no {kind} is kept, but Gram matrices: attach(model, keep='rows')")
        positions = len(self.fed()[window])
        return self.calls[0].outputs[kind, layer][window, :positions]

    def stacked(self, kind: str, layers: int, window: int, rows: Sequence[int]) -> Tensor:
        """Some positions of one window in all layers, (layers, rows, width)."""
        return torch.stack([self.outputs(kind, i, window)[list(rows)] for i in range(layers)])

    def close(self, rows: Sequence[Sequence[int]] | None, layers: int) -> None:
        """No more calls; ``rows``: the positions of each window's text, for Gram matrices alone.

        Of text rows A, less the first of them, is kept L of A = L Q with orthonormal rows in Q,
        (layers, T, min(T, width)) in float64: any first rows of L have the Gram matrix of A's.
        """
        self.cache = self.keys = None
        self.fed()
        if rows is None or self.reduced is not None:
            return
        reduced: list[dict[str, Tensor]] = []
        for window, chosen in enumerate(rows):
            reduced.append({})
            for kind in COMPONENTS:
                values = self.stacked(kind, layers, window, chosen).double()
                values = (values - values[:, :1]).mT
                reduced[-1][kind] = torch.linalg.qr(values, mode="r").R.mT
        self.reduced = reduced
        self.calls, self.context = [], None

    def text(self, window: int, start: int, end: int) -> tuple[list[int], list[int]]:
        """Positions that predict a window's text, and its tokens: those below ``end``, up to it.

        A token that was never fed counts where the library said what it was.
        """
        tokens = list(self.fed()[window])
        lone = self.steps == 1 and self.chosen is None
        first = self._end_of_prompt(tokens, start, end) if lone else self.prompt
        if self.chosen is not None and (last := int(self.chosen[window])) != _UNFED:
            tokens.append(last)
        stop = tokens.index(end, first) if end in tokens[first:] else len(tokens)
        positions = [p for p in range(first - 1, stop - 1) if tokens[p + 1] < end]
        return positions, [tokens[p + 1] for p in positions]

    def _end_of_prompt(self, tokens: list[int], start: int, end: int) -> int:
        """Of a text fed at once: after the last start token and the special ones that follow."""
        if start not in tokens:
            raise ValueError(
                f"a text of {len(tokens)} tokens that were fed at once without the start token "
                f"{start}: which of them are the prompt? give attach(model, start=...)"
            )
        first = len(tokens) - tokens[::-1].index(start)
        while first < len(tokens) and tokens[first] > end:
            first += 1
        return first


class Recorder:
    """Listens to a decoder and keeps its runs, in the order in which they began."""

    def __init__(self, decoder: Decoder, gram: bool) -> None:
        self.decoder, self.gram = decoder, gram
        self.runs: list[Run] = []
        self.attempted: tuple[Run, Tensor | None] | None = None  # the last one, with its context
        self._open: list[Run] = []
        self._call: Call | None = None
        self._run: Run | None = None
        self._fired: list[tuple[str, int]] = []
        self._skip = 0

    @contextmanager
    def listening(self, watchers: list[Any] | None) -> Iterator[None]:
        """Hooks for a while; ``watchers``: where a model says which rows its batch goes on with."""
        first, decoder = self.decoder.layers[0].layer, self.decoder.decoder
        handles = [
            decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            decoder.register_forward_hook(self._finish),
            first.register_forward_pre_hook(self._embedded, with_kwargs=True),
        ]
        if watchers is not None:
            watchers.append(self._dropped)
        try:
            with watching(self.decoder.layers, self._see):
                yield
        finally:
            for handle in handles:
                handle.remove()
            if watchers is not None:
                watchers.remove(self._dropped)
            self._call = None
            while self._open:
                run = self._open.pop()
                if run in self.runs:
                    self._close(run)

    def texts(self, run: Run) -> list[tuple[list[int], list[int]]]:
        """Positions and tokens of the text of each window of a run."""
        start, end = self.decoder.start, self.decoder.end
        return [run.text(window, start, end) for window in range(run.windows)]

    def forget(self, runs: Sequence[Run]) -> None:
        """As if they had never been."""
        self.runs = [run for run in self.runs if run not in runs]
        self._open = [run for run in self._open if run not in runs]

    def chose(self, tokens: Tensor, *_: object) -> Tensor:
        """A stopping criterion of transformers that stops nothing: tokens (windows, so far)."""
        fits = [
            run
            for run in self._open
            if (run.windows, run.length + 1) == tokens.shape and run.chosen is None
        ]
        for run in sorted(fits, key=lambda run: run.cached)[-1:]:
            run.chosen = tokens[:, -1].clone()
        return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)

    def _close(self, run: Run) -> None:
        rows = [rows for rows, _ in self.texts(run)] if self.gram else None
        run.close(rows, len(self.decoder.layers))

    def _begin(self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        tokens, context, mask, cache = decoder_inputs(module, arguments, named)
        before, self._skip, self._fired = past(cache), 0, []
        run = None
        if before:
            run = self._going_on(cache, tokens, before)
        elif cache is None:
            run = self._fed_again(tokens, context)
        if run is not None:
            self._open.remove(run)
            self._skip = 0 if before else run.length
        else:
            while len(self._open) >= _OPEN:
                self._close(self._open.pop(0))
            self._open = [one for one in self._open if one.calls]
            kept = context if self.gram or context is None else context.detach().clone()
            run = Run(cache, kept, _padding(mask, tokens), tokens)
        self._open.append(run)
        new = tokens[:, self._skip :].clone()
        self._run, self._call = run, Call(run.held, new, {})

    def _going_on(self, cache: Any, tokens: Tensor, before: int) -> Run:
        run = next((run for run in reversed(self._open) if run.cache is cache), None)
        if run is None:
            raise fed_outside(before)
        changed = run.keys is not None and first_keys(self.decoder, cache) is not run.keys
        if changed or run.length != before or len(run.held) != len(tokens):
            self.forget([run])
            raise rearranged()
        return run

    def _fed_again(self, tokens: Tensor, context: Tensor | None) -> Run | None:
        """The run that decodes without a cache, and is given its whole text at every step."""
        for run in reversed(self._open):
            longer = not run.cached and run.windows == len(tokens) and run.length < tokens.shape[1]
            if longer and context is not None and run.context is not None:
                run.compact()
                before = run.calls[0].tokens
                if torch.equal(tokens[:, : run.length], before) and torch.equal(
                    context, run.context
                ):
                    return run
        return None

    def _embedded(self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._keep(EMBEDDING, 0, (arguments[0] if arguments else named["hidden_states"]).detach())

    def _see(self, kind: str, layer: int, output: Tensor) -> None:
        self._fired.append((kind, layer))
        self._keep(kind, layer, output)

    def _keep(self, kind: str, layer: int, output: Tensor) -> None:
        if self._call is not None and (kind in COMPONENTS or not self.gram):
            new = self._call.tokens.shape[1]  # libraries' own hooks may append to what they cached
            self._call.outputs[kind, layer] = output[:, -new:].clone()

    def _finish(self, module: Any, inputs: Any, output: Any) -> None:
        assert self._run is not None
        assert self._call is not None
        run, call, layers = self._run, self._call, range(len(self.decoder.layers))
        self._run = self._call = None
        expected = [(kind, layer) for layer in layers for kind in KINDS]
        silent = sorted({layer for kind, layer in expected if (kind, layer) not in self._fired})
        if silent or len(self._fired) != len(expected):
            self.forget([run])
            which = ", ".join(f"decoder.{layer}" for layer in silent) or "a layer, more than once"
            raise RuntimeError(
                f"{which} did not call every hook once: compiled by torch.compile, skipped, or "
                "replaced since the block began; nothing of this batch is kept"
            )
        if not run.calls:
            self.runs.append(run)
        run.add(call)
        run.keys = first_keys(self.decoder, run.cache)

    def _dropped(self, rows: Tensor) -> None:
        run = self._open[-1]
        run.held, run.keys = run.held[rows.cpu()], None


def _padding(mask: Tensor | None, tokens: Tensor) -> Tensor | None:
    """Which positions of a prompt are real, (windows, prompt), where not all are."""
    if mask is None or not isinstance(mask, Tensor):
        return None
    seen = mask[:, 0, -1] if mask.ndim == 4 else mask
    seen = (seen if seen.dtype == torch.bool or mask.ndim == 2 else seen == 0).bool()
    seen = seen[:, : tokens.shape[1]]
    return None if seen.all() else seen

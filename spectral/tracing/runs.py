"""Runs of a decoder over batches of windows, put together call by call from what its hooks see.

A run begins where the decoder has no past, as its cache says, and goes on where it is given the
same cache again. What does not fit together so is refused, and the run is forgotten. Which attempts
are kept, and their last tokens, is what the libraries' own decoding says.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from spectral.whisper import (
    COMPONENTS,
    HIDDEN_STATE,
    KINDS,
    Decoder,
    decoder_inputs,
    first_keys,
    hooked,
    past,
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


@dataclass(eq=False)
class Run:
    """One batch from its prompt to its last step: an attempt at each of its windows.

    attempt: which one, from 1. kept: by window, None where that is not known. chosen: (windows,),
    what was written after the last call, as far as the library said so, -1 elsewhere. state: what
    else a recorder keeps of it.
    """

    cache: Any
    context: Tensor | None
    padding: Tensor | None
    windows: int
    prompt: int
    attempt: int
    calls: list[Call] = field(default_factory=list)
    steps: int = 0
    length: int = 0
    keys: Any = None
    chosen: Tensor | None = None
    temperature: float | None = None
    kept: Sequence[bool | None] = ()
    state: Any = None

    def __post_init__(self) -> None:
        self.cached, self.kept = self.cache is not None, [None] * self.windows
        self.held = torch.arange(self.windows)

    def fed(self) -> list[list[int]]:
        """The decoder's input of each window, prompt and all."""
        self.compact()
        rows: list[list[int]] = self.calls[0].tokens.tolist()
        return [[token for token in row if token != _UNFED] for row in rows]

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
        positions, first = sum(part.shape[1] for part in parts), 0
        whole = parts[0].new_full((self.windows, positions, *parts[0].shape[2:]), fill)
        pairs = zip(self.calls, parts, strict=True)
        for _, together in groupby(pairs, lambda pair: id(pair[0].held)):  # one copy for many calls
            same = list(together)
            part, held = torch.cat([part for _, part in same], dim=1), same[0][0].held
            whole[held.to(part.device), first : first + part.shape[1]] = part
            first += part.shape[1]
        return whole

    def whole(self, kind: str, layer: int) -> Tensor:
        """Of all windows at all positions, (windows, positions, width), zeros where unfed."""
        self.compact()
        if (kind, layer) not in self.calls[0].outputs:
            raise ValueError(f"no {kind} is kept, but Gram matrices: attach(model, keep='rows')")
        return self.calls[0].outputs[kind, layer]

    def outputs(self, kind: str, layer: int, window: int) -> Tensor:
        """Of one window at every position fed, (positions, width)."""
        return self.whole(kind, layer)[window, : len(self.fed()[window])]

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
    """Keeps the runs of a decoder, in the order in which they began, with copies of all they had.

    A subclass is told which run each call is of and what it gave, and may keep less. ``kinds``: of
    every layer's outputs. ``attempt``: of the runs that begin now, at this ``audio``. ``last``: the
    module whose end is the call's, and whose output is told; by default the decoder.
    """

    copies_context = True

    def __init__(
        self, decoder: Decoder, kinds: Sequence[str] = KINDS, last: nn.Module | None = None
    ) -> None:
        self.decoder, self.kinds, self._last = decoder, kinds, last or decoder.decoder
        self.runs: list[Run] = []
        self.audio: Any = None
        self.attempt = 1
        self._open: list[Run] = []
        self._call: tuple[Run, Call] | None = None
        self._again = False
        self._expected = {(kind, i) for i in range(len(decoder.layers)) for kind in kinds}

    def began(self, run: Run, tokens: Tensor) -> None:
        """A call of these tokens (held, new positions), of which nothing is computed yet."""

    def ended(self, run: Run, call: Call, output: Any) -> None:
        """What a call gave."""
        run.calls.append(call)

    def closed(self, run: Run) -> None:
        """No more calls."""

    def texts(self, run: Run) -> list[tuple[list[int], list[int]]]:
        """Positions and tokens of the text of each window of a run."""
        start, end = self.decoder.start, self.decoder.end
        return [run.text(window, start, end) for window in range(run.windows)]

    @contextmanager
    def listening(self, watchers: list[Any] | None = None) -> Iterator[None]:
        """Hooks for a while; ``watchers``: where a model says which rows its batch goes on with."""
        layers = self.decoder.layers
        after = [
            (
                layer.layer if kind == HIDDEN_STATE else getattr(layer, kind),
                functools.partial(self._heard, (kind, i)),
            )
            for i, layer in enumerate(layers)
            for kind in self.kinds
        ]
        before = [(self.decoder.decoder, self._begin)]
        if HIDDEN_STATE in self.kinds:
            before.append((layers[0].layer, self._embedded))
        if watchers is not None:
            watchers.append(self._dropped)
        try:
            with hooked([*after, (self._last, self._finish)], before):
                yield
        finally:
            if watchers is not None:
                watchers.remove(self._dropped)
            self._call = None
            self.close()

    def close(self) -> None:
        """No more calls of any run."""
        while self._open:
            self._close(self._open.pop())

    def forget(self, runs: Sequence[Run]) -> None:
        """As if they had never been."""
        self.runs = [run for run in self.runs if run not in runs]
        self._open = [run for run in self._open if run not in runs]

    def chose(self, tokens: Tensor, *_: object) -> Tensor:
        """A stopping criterion of transformers that stops nothing: tokens (windows, so far)."""
        for run in sorted(self._open[::-1], key=lambda run: not run.cached):
            if run.chosen is None and (run.windows, run.length + 1) == tokens.shape:
                run.chosen = tokens[:, -1].clone()
                break
        return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)

    def _close(self, run: Run) -> None:
        run.cache = run.keys = None
        if run in self.runs:
            self.closed(run)

    def _begin(self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        tokens, context, mask, cache = decoder_inputs(module, arguments, named)
        before, skip, run = past(cache), 0, None
        if before:
            run = self._going_on(cache, tokens, before)
        elif cache is None and (run := self._fed_again(tokens, context)) is not None:
            skip = run.length
        if run is not None:
            self._open.remove(run)
        else:
            self._open.sort(key=lambda run: run.cached)
            while len(self._open) >= _OPEN:
                self._close(self._open.pop(0))
            self._open = [run for run in self._open if run.steps]
            if self.copies_context and context is not None:
                context = context.detach().clone()
            windows, prompt = tokens.shape
            run = Run(cache, context, _padding(mask, tokens), windows, prompt, self.attempt)
        self._open.append(run)
        new = tokens[:, skip:].clone()
        self._again, self._call = False, (run, Call(run.held, new, {}))
        self.began(run, new)

    def _going_on(self, cache: Any, tokens: Tensor, before: int) -> Run:
        run = next((run for run in reversed(self._open) if run.cache is cache), None)
        if run is None:
            raise RuntimeError(
                f"the decoder goes on after {before} positions that were fed outside of the block, "
                "or that another call's cache holds: attach before decoding begins"
            )
        changed = run.keys is not None and first_keys(self.decoder, cache) is not run.keys
        if changed or run.length != before or len(run.held) != len(tokens):
            self.forget([run])
            raise RuntimeError(
                "the cache was rearranged between two steps, as beams and speculative decoding do, "
                "so that a row is no longer one text: decode greedily or by sampling"
            )
        return run

    def _fed_again(self, tokens: Tensor, context: Tensor | None) -> Run | None:
        """The run that decodes without a cache, and is given its whole text at every step."""
        for run in reversed(self._open):
            longer = not run.cached and run.windows == len(tokens) and run.length < tokens.shape[1]
            if longer and run.calls and context is not None and run.context is not None:
                run.compact()
                again = torch.equal(tokens[:, : run.length], run.calls[0].tokens)
                if again and torch.equal(context, run.context):
                    return run
        return None

    def _embedded(self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        stream = arguments[0] if arguments else named["hidden_states"]
        self._heard((EMBEDDING, 0), module, arguments, stream)

    def _heard(self, place: tuple[str, int], module: Any, inputs: Any, output: Any) -> None:
        if self._call is not None:
            call = self._call[1]
            self._again |= place in call.outputs
            rows = (output[0] if isinstance(output, tuple) else output).detach()
            # libraries' own hooks may append to what they cached
            call.outputs[place] = torch.slice_copy(rows, 1, -call.tokens.shape[1])

    def _finish(self, module: Any, inputs: Any, output: Any) -> None:
        if self._call is None:
            return
        (run, call), self._call = self._call, None
        missing = self._expected - call.outputs.keys()
        if missing or self._again:
            self.forget([run])
            silent = sorted({layer for _, layer in missing})
            which = ", ".join(f"decoder.{layer}" for layer in silent) or "a layer, more than once"
            raise RuntimeError(
                f"{which} did not call every hook once: compiled by torch.compile, skipped, or "
                "replaced since the block began; nothing of this batch is kept"
            )
        if not run.steps:
            self.runs.append(run)
        run.steps += 1
        run.length += call.tokens.shape[1]
        run.chosen, run.keys = None, first_keys(self.decoder, run.cache)
        self.ended(run, call, output)

    def _dropped(self, rows: Tensor) -> None:
        run = self._open[-1]
        run.held, run.keys = run.held[rows.cpu()], None


class GramRecorder(Recorder):
    """Keeps only what has the Gram matrices of a text's rows, as the state of a run that is over.

    By window and component, of rows A less the first of them, L of A = L Q with orthonormal rows in
    Q, (layers, T, min(T, width)) in float64: any first rows of L have the Gram matrix of A's.
    """

    copies_context = False

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder, COMPONENTS)

    def closed(self, run: Run) -> None:
        """All calls are made."""
        run.state = [
            {kind: self._reduced(run, kind, window, rows) for kind in COMPONENTS}
            for window, (rows, _) in enumerate(self.texts(run))
        ]
        run.calls, run.context = [Call(run.held, run.calls[0].tokens, {})], None

    def _reduced(self, run: Run, kind: str, window: int, rows: list[int]) -> Tensor:
        layers = range(len(self.decoder.layers))
        values = torch.stack([run.outputs(kind, i, window)[rows] for i in layers]).double()
        lower: Tensor = torch.linalg.qr((values - values[:, :1]).mT, mode="r").R.mT
        return lower


@contextmanager
def following(recorder: Recorder, watchers: list[Any] | None = None) -> Iterator[None]:
    """Its hooks, and an ear for openai-whisper's ``decode`` or transformers' ``generate``.

    That of the model itself, whose runs are closed when the call is over. Raises ValueError for
    more than one beam, before anything is decoded. ``watchers``: as of ``listening``.
    """
    model, name = recorder.decoder.model, recorder.decoder.entry
    if name is None:
        with recorder.listening(watchers):
            yield
        return
    original, before = getattr(model, name), model.__dict__.get(name)
    enter: Callable[..., Any] = _decode if name == "decode" else _generate

    @functools.wraps(original)
    def listening(*arguments: Any, **named: Any) -> Any:
        try:
            return enter(recorder, original, *arguments, **named)
        finally:
            recorder.close()

    setattr(model, name, listening)
    try:
        with recorder.listening(watchers):
            yield
    finally:
        delattr(model, name)
        if before is not None:
            setattr(model, name, before)


def _generate(
    recorder: Recorder, original: Callable[..., Any], *arguments: Any, **named: Any
) -> Any:
    """transformers' ``generate``: a stopping criterion that stops nothing hears every token."""
    names = ("input_features", "generation_config", "logits_processor", "stopping_criteria")
    named = dict(zip(names, arguments, strict=False)) | named
    config = named.get("generation_config") or recorder.decoder.model.generation_config
    _require_no_beams(named.get("num_beams") or getattr(config, "num_beams", None))
    named["stopping_criteria"] = [*(named.get("stopping_criteria") or []), recorder.chose]
    before = list(recorder.runs)
    result = original(*arguments[len(names) :], **named)
    new = [run for run in recorder.runs if run not in before]
    recorder.forget([run for run in new if run.chosen is None])  # language, no-speech
    temperature: Any = named.get("temperature")
    if not isinstance(temperature, list | tuple) or len(temperature) < 2:
        for run in new:
            run.kept = [True] * run.windows
            run.temperature = temperature if isinstance(temperature, float) else None
    return result


def _decode(
    recorder: Recorder, original: Callable[..., Any], mel: Any, *arguments: Any, **named: Any
) -> Any:
    """openai-whisper's ``decode``, which its ``transcribe`` calls for every attempt at a window."""
    options = arguments[0] if arguments else named.get("options")
    _require_no_beams(named.get("beam_size", getattr(options, "beam_size", None)))
    warmer = (named.get("temperature", getattr(options, "temperature", None)) or 0.0) > 0
    recorder.attempt = recorder.attempt + 1 if warmer and mel is recorder.audio else 1
    recorder.audio, before = mel, list(recorder.runs)
    result = original(mel, *arguments, **named)
    new = [run for run in recorder.runs if run not in before]
    recorder.forget([run for run in new if not run.cached])  # the language
    for run in (run for run in new if run.calls and run.cached):
        if run.attempt > 1 and before:
            before[-1].kept = [False] * before[-1].windows
        _tell(run, result if isinstance(result, list) else [result], recorder.decoder.end)
    return result


def _tell(run: Run, results: Sequence[Any], end: int) -> None:
    """What the run's windows wrote last, and which of them are kept."""
    run.temperature = results[0].temperature
    group, fed = run.windows // len(results), run.fed()
    chosen = [-1] * run.windows
    run.kept = [False] * run.windows
    for i, result in enumerate(results):
        for window in range(i * group, (i + 1) * group):
            own, said = fed[window][run.prompt :], list(result.tokens)
            own = own[: own.index(end)] if end in own else own
            if said[: len(own)] == own and len(said) - len(own) in (0, 1):
                run.kept[window] = True
                chosen[window] = said[-1] if len(said) > len(own) else end
                break
    run.chosen = torch.tensor(chosen)


def _require_no_beams(beams: int | None) -> None:
    if beams is not None and beams > 1:
        raise ValueError(
            f"{beams} beams: a row of the batch is then no longer one text; decode with one, or "
            "outside of the block"
        )


def self_attention(query: Tensor, key: Tensor, heads: int, real: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d)) over earlier positions and the own one, in float64.

    Of rows ``(*batch, positions, width)`` with all heads side by side: ``(*batch, heads, positions,
    positions)``. ``real``: which positions (positions,) others than themselves may see.
    """
    query, key = (
        torch.unflatten(rows.double(), -1, (heads, -1)).transpose(-3, -2) for rows in (query, key)
    )
    scores = query @ key.mT * query.shape[-1] ** -0.5
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if real is not None:
        seen &= real | seen.triu()
    return scores.masked_fill(~seen, -torch.inf).softmax(-1)


def _padding(mask: Tensor | None, tokens: Tensor) -> Tensor | None:
    """Which positions of a prompt are real, (windows, prompt), where not all are."""
    if mask is None or not isinstance(mask, Tensor):
        return None
    seen = mask[:, 0, -1] if mask.ndim == 4 else mask
    seen = (seen if seen.dtype == torch.bool or mask.ndim == 2 else seen == 0).bool()
    seen = seen[:, : tokens.shape[1]]
    return None if seen.all() else seen

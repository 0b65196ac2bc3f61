"""Runs of a decoder over batches of windows, put together call by call from what its hooks see.

A run begins where the decoder has no past, as its cache says, and goes on where it is given the
same cache again. What does not fit together so is refused, and the run is forgotten.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby, product
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
        tokens = self._joined([call.tokens for call in self.calls], _UNFED)
        outputs = {
            place: self._joined([call.outputs.pop(place) for call in self.calls], 0)
            for place in list(self.calls[0].outputs)
        }
        self.calls = [Call(torch.arange(self.windows), tokens, outputs)]

    def _joined(self, parts: list[Tensor], fill: int) -> Tensor:
        """What the calls gave, one after the other: (windows, positions, ...)."""
        positions, first = sum(part.shape[1] for part in parts), 0
        joined = parts[0].new_full((self.windows, positions, *parts[0].shape[2:]), fill)
        pairs = zip(self.calls, parts, strict=True)
        for _, together in groupby(pairs, lambda pair: id(pair[0].held)):  # one copy for many calls
            same = list(together)
            part, held = torch.cat([part for _, part in same], dim=1), same[0][0].held
            joined[held.to(part.device), first : first + part.shape[1]] = part
            first += part.shape[1]
        return joined

    def whole(self, kind: str, layer: int) -> Tensor:
        """Of all windows at all positions, (windows, positions, width), zeros where unfed."""
        self.compact()
        if (kind, layer) not in self.calls[0].outputs:
            raise ValueError(f"no {kind} is kept, but Gram matrices: attach(model, keep='rows')")
        return self.calls[0].outputs[kind, layer]

    def outputs(self, kind: str, layer: int, window: int) -> Tensor:
        """Of one window at every position fed, (positions, width)."""
        return self.whole(kind, layer)[window, : len(self.fed()[window])]

    def texts(self, start: int, end: int) -> list[tuple[list[int], list[int]]]:
        """Positions that predict each window's text, and its tokens: below ``end``, up to it."""
        at_once = self.length == self.prompt and self.chosen is None
        chosen = [_UNFED] * self.windows if self.chosen is None else self.chosen.tolist()
        texts = []
        for tokens, last in zip(self.fed(), chosen, strict=True):
            first = _end_of_prompt(tokens, start, end) if at_once else self.prompt
            written = tokens if last == _UNFED else [*tokens, last]
            stop = written.index(end, first) if end in written[first:] else len(written)
            positions = [p for p in range(first - 1, stop - 1) if written[p + 1] < end]
            texts.append((positions, [written[p + 1] for p in positions]))
        return texts


class Recorder:
    """Keeps the runs of a decoder, in the order in which they began, with copies of all they had.

    A subclass may keep less. ``kinds``: of every layer's outputs. ``attempt``: of the runs that
    begin now, at an ``audio`` and temperature. ``last``: the module whose end is the call's, and
    whose output is told; by default the decoder.
    """

    copies_context = True

    def __init__(
        self, decoder: Decoder, kinds: Sequence[str] = KINDS, last: nn.Module | None = None
    ) -> None:
        self.decoder, self.kinds, self._last = decoder, kinds, last or decoder.decoder
        self.runs: list[Run] = []
        self.audio: tuple[Any, float] = None, 0.0
        self.attempt = 1
        self._open: list[Run] = []
        self._call: tuple[Run, Call] | None = None
        self._repeated = False
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
        return run.texts(self.decoder.start, self.decoder.end)

    @contextmanager
    def listening(self, watchers: list[Any] | None = None) -> Iterator[None]:
        """Hooks for a while; ``watchers``: where a model says which rows its batch goes on with."""
        layers = self.decoder.layers
        after = [
            (
                layer.layer if kind == HIDDEN_STATE else getattr(layer, kind),
                functools.partial(self._keep_output, (kind, i)),
            )
            for i, layer in enumerate(layers)
            for kind in self.kinds
        ]
        before = [(self.decoder.decoder, self._begin)]
        if HIDDEN_STATE in self.kinds:
            before.append((layers[0].layer, self._embedded))
        watchers = [] if watchers is None else watchers
        watchers.append(self._dropped)
        try:
            with hooked([*after, (self._last, self._finish)], before):
                yield
        finally:
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
            while len(self._open) > 1:  # transformers asks for no-speech in the midst of a run
                self._close(self._open.pop(0))
            self._open = [run for run in self._open if run.length]
            if self.copies_context and context is not None:
                context = context.detach().clone()
            windows, prompt = tokens.shape
            run = Run(cache, context, _padding(mask, tokens), windows, prompt, self.attempt)
        self._open.append(run)
        new = tokens[:, skip:].clone()
        self._repeated, self._call = False, (run, Call(run.held, new, {}))
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
        self._keep_output((EMBEDDING, 0), module, arguments, stream)

    def _keep_output(self, place: tuple[str, int], module: Any, inputs: Any, output: Any) -> None:
        if self._call is not None:
            call = self._call[1]
            self._repeated |= place in call.outputs
            rows = (output[0] if isinstance(output, tuple) else output).detach()
            # libraries' own hooks may append to what they cached
            call.outputs[place] = torch.slice_copy(rows, 1, -call.tokens.shape[1])

    def _finish(self, module: Any, inputs: Any, output: Any) -> None:
        if self._call is None:
            return
        (run, call), self._call = self._call, None
        missing = self._expected - call.outputs.keys()
        if missing or self._repeated:
            self.forget([run])
            silent = sorted({layer for _, layer in missing})
            which = ", ".join(f"decoder.{layer}" for layer in silent) or "a layer, more than once"
            raise RuntimeError(
                f"{which} did not call every hook once: compiled by torch.compile, skipped, or "
                "replaced since the block began; nothing of this batch is kept"
            )
        if not run.length:
            self.runs.append(run)
        run.length += call.tokens.shape[1]
        run.chosen, run.keys = None, first_keys(self.decoder, run.cache)
        self.ended(run, call, output)

    def _dropped(self, rows: Tensor) -> None:
        run = self._open[-1]
        run.held, run.keys = run.held[rows.cpu()], None


class GramRecorder(Recorder):
    """Keeps only what has the Gram matrices of a text's rows, as the state of a run that is over.

    By window and component, L of A = L Q, (layers, T, min(T, width)), for rows A less their first
    and orthonormal rows in Q, in float64: any first rows of L have the Gram matrix of A's.
    """

    copies_context = False

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder, COMPONENTS)

    def closed(self, run: Run) -> None:
        """All calls are made."""
        layers, texts = range(len(self.decoder.layers)), self.texts(run)
        run.state = [{} for _ in texts]
        for (window, (rows, _)), kind in product(enumerate(texts), COMPONENTS):
            values = torch.stack([run.outputs(kind, i, window)[rows] for i in layers]).double()
            run.state[window][kind] = torch.linalg.qr((values - values[:, :1]).mT, mode="r").R.mT
        run.calls, run.context = [Call(run.held, run.calls[0].tokens, {})], None


@contextmanager
def following(recorder: Recorder, watchers: list[Any] | None = None) -> Iterator[None]:
    """Its hooks, and an ear for the model's own ``decode`` and ``transcribe``, or ``generate``.

    Their runs are closed when the call is over; what they may not decode by is a ValueError before.
    """
    calls: dict[str, Callable[..., Any]] = {"decode": _decode, "transcribe": _transcribe}
    if recorder.decoder.entry == "generate":
        calls = {"generate": _generate}
    with ExitStack() as block:
        for name, call in calls.items():
            if hasattr(recorder.decoder.model, name):
                block.callback(_replace(recorder, name, call))
        with recorder.listening(watchers):
            yield


def _replace(recorder: Recorder, name: str, call: Callable[..., Any]) -> Callable[[], None]:
    """Have a method of the model called by ``call``; returns what undoes that."""
    model = recorder.decoder.model
    original, before = getattr(model, name), model.__dict__.get(name)

    @functools.wraps(original)
    def replaced(*arguments: Any, **named: Any) -> Any:
        try:
            return call(recorder, original, arguments, named)
        finally:
            recorder.close()

    setattr(model, name, replaced)
    return lambda: delattr(model, name) if before is None else setattr(model, name, before)


def _generate(recorder: Recorder, original: Any, arguments: Any, named: dict[str, Any]) -> Any:
    """transformers' ``generate``: a stopping criterion that stops nothing hears every token."""
    names = ("input_features", "generation_config", "logits_processor", "stopping_criteria")
    named = dict(zip(names, arguments, strict=False)) | named
    config = named.get("generation_config") or recorder.decoder.model.generation_config
    _require_no_beams(named.get("num_beams") or getattr(config, "num_beams", None))
    for name in ("assistant_model", "assistant_early_exit", "prompt_lookup_num_tokens"):
        if named.get(name, getattr(config, name, None)) is not None:
            raise ValueError(
                f"{name}: the decoder is then given tokens that are not written yet; decode "
                "without it, or outside of the block"
            )
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


def _transcribe(recorder: Recorder, original: Any, arguments: Any, named: dict[str, Any]) -> Any:
    """openai-whisper's ``transcribe``: all that it does beside ``decode`` is to align words."""
    before = list(recorder.runs)
    result = original(*arguments, **named)
    recorder.forget([run for run in recorder.runs if run not in before and not run.cached])
    return result


def _decode(recorder: Recorder, original: Any, arguments: Any, named: dict[str, Any]) -> Any:
    """openai-whisper's ``decode``, which its ``transcribe`` calls for every attempt at a window."""
    inputs = dict(zip(("mel", "options"), arguments, strict=False)) | named
    mel, options = inputs.get("mel"), inputs.get("options")
    _require_no_beams(named.get("beam_size", getattr(options, "beam_size", None)))
    temperature = named.get("temperature", getattr(options, "temperature", None)) or 0.0
    audio, former = recorder.audio
    again = mel is audio and temperature not in (0.0, former)  # no second sample, but a fallback
    recorder.attempt = recorder.attempt + 1 if again else 1
    recorder.audio, before = (mel, temperature), list(recorder.runs)
    result = original(*arguments, **named)
    new = [run for run in recorder.runs if run not in before]
    recorder.forget([run for run in new if not run.cached])  # the language
    for run in (run for run in new if run.calls and run.cached):
        if run.attempt > 1 and before:
            before[-1].kept = [False] * before[-1].windows
        _compare(run, result if isinstance(result, list) else [result], recorder.decoder.end)
    return result


def _compare(run: Run, results: Sequence[Any], end: int) -> None:
    """With what the library returns: what a run's windows wrote last, and which it kept."""
    run.temperature = results[0].temperature
    group, fed = run.windows // len(results), run.fed()
    chosen, run.kept = [_UNFED] * run.windows, [False] * run.windows
    for i, result in enumerate(results):
        for window in range(i * group, (i + 1) * group):
            text = fed[window][run.prompt :]
            text = text[: text.index(end)] if end in text else text
            rest = list(result.tokens)[len(text) :]
            if [*text, *rest] == [*result.tokens] and len(rest) < 2:
                chosen[window], run.kept[window] = (rest or [end])[0], True
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
    visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if real is not None:
        visible &= real | visible.triu()
    return scores.masked_fill(~visible, -torch.inf).softmax(-1)


def _end_of_prompt(tokens: list[int], start: int, end: int) -> int:
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


def _padding(mask: Tensor | None, tokens: Tensor) -> Tensor | None:
    """Which positions of a prompt are real, (windows, prompt), where not all are."""
    if mask is None or not isinstance(mask, Tensor):
        return None
    real = mask[:, 0, -1] if mask.ndim == 4 else mask
    real = (real if real.dtype == torch.bool or mask.ndim == 2 else real == 0).bool()
    real = real[:, : tokens.shape[1]]
    return None if real.all() else real

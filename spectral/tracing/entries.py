"""What the libraries' own decoding says of its attempts: which are kept, and their last tokens."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from spectral.tracing.runs import Recorder, Run
from spectral.whisper import replaced, require_no_beams


@contextmanager
def told(recorder: Recorder) -> Iterator[None]:
    """Listen to openai-whisper's ``decode`` or transformers' ``generate`` of the model itself.

    Raises ValueError for more than one beam, before anything is decoded.
    """
    model, name = recorder.decoder.model, recorder.decoder.entry
    if name is None:
        yield
        return
    original = getattr(model, name)
    listen = functools.partial(_decode if name == "decode" else _generate, recorder, original)
    with replaced(model, name, functools.wraps(original)(listen)):
        yield


def _generate(
    recorder: Recorder, original: Callable[..., Any], *arguments: Any, **named: Any
) -> Any:
    """transformers' ``generate``: a stopping criterion that stops nothing hears every token."""
    names = ("input_features", "generation_config", "logits_processor", "stopping_criteria")
    named = dict(zip(names, arguments, strict=False)) | named
    config = named.get("generation_config") or recorder.decoder.model.generation_config
    require_no_beams(named.get("num_beams") or getattr(config, "num_beams", None))
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
    recorder: Recorder, original: Callable[..., Any], mel: Tensor, *arguments: Any, **named: Any
) -> Any:
    """openai-whisper's ``decode``, which its ``transcribe`` calls for every attempt at a window."""
    options = arguments[0] if arguments else named.get("options")
    require_no_beams(named.get("beam_size", getattr(options, "beam_size", None)))
    before = list(recorder.runs)
    result = original(mel, *arguments, **named)
    new = [run for run in recorder.runs if run not in before]
    recorder.forget([run for run in new if not run.cached])  # the language
    for run in (run for run in new if run.cached):
        _tell(recorder, run, result if isinstance(result, list) else [result])
    return result


def _tell(recorder: Recorder, run: Run, results: Sequence[Any]) -> None:
    """Which attempt the run is, what its windows wrote last, and which of them are kept."""
    context, last = run.context, recorder.attempted
    run.temperature = results[0].temperature
    warmer = last is not None and (last[0].temperature or 0.0) < run.temperature
    if last is not None and warmer and _same(last[1], context):
        run.attempt = last[0].attempt + 1
        last[0].kept = [False] * run.windows
    recorder.attempted = (run, context)
    group, fed, end = run.windows // len(results), run.fed(), recorder.decoder.end
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


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)

"""What the libraries' own decoding says of its attempts: which are kept, and their last tokens."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from spectral.tracing.runs import Follower, Run


@contextmanager
def following(follower: Follower, watchers: list[Any] | None = None) -> Iterator[None]:
    """Its hooks, and an ear for openai-whisper's ``decode`` or transformers' ``generate``.

    That of the model itself, whose runs are closed when the call is over. Raises ValueError for
    more than one beam, before anything is decoded. ``watchers``: as of ``listening``.
    """
    model, name = follower.decoder.model, follower.decoder.entry
    if name is None:
        with follower.listening(watchers):
            yield
        return
    original, before = getattr(model, name), model.__dict__.get(name)
    enter: Callable[..., Any] = _decode if name == "decode" else _generate

    @functools.wraps(original)
    def listening(*arguments: Any, **named: Any) -> Any:
        try:
            return enter(follower, original, *arguments, **named)
        finally:
            follower.close()

    setattr(model, name, listening)
    try:
        with follower.listening(watchers):
            yield
    finally:
        delattr(model, name)
        if before is not None:
            setattr(model, name, before)


def _generate(
    follower: Follower, original: Callable[..., Any], *arguments: Any, **named: Any
) -> Any:
    """transformers' ``generate``: a stopping criterion that stops nothing hears every token."""
    names = ("input_features", "generation_config", "logits_processor", "stopping_criteria")
    named = dict(zip(names, arguments, strict=False)) | named
    config = named.get("generation_config") or follower.decoder.model.generation_config
    _require_no_beams(named.get("num_beams") or getattr(config, "num_beams", None))
    named["stopping_criteria"] = [*(named.get("stopping_criteria") or []), follower.chose]
    before = list(follower.runs)
    result = original(*arguments[len(names) :], **named)
    new = [run for run in follower.runs if run not in before]
    follower.forget([run for run in new if run.chosen is None])  # language, no-speech
    temperature: Any = named.get("temperature")
    if not isinstance(temperature, list | tuple) or len(temperature) < 2:
        for run in new:
            run.kept = [True] * run.windows
            run.temperature = temperature if isinstance(temperature, float) else None
    return result


def _decode(
    follower: Follower, original: Callable[..., Any], mel: Any, *arguments: Any, **named: Any
) -> Any:
    """openai-whisper's ``decode``, which its ``transcribe`` calls for every attempt at a window."""
    options = arguments[0] if arguments else named.get("options")
    _require_no_beams(named.get("beam_size", getattr(options, "beam_size", None)))
    warmer = (named.get("temperature", getattr(options, "temperature", None)) or 0.0) > 0
    follower.attempt = follower.attempt + 1 if warmer and mel is follower.audio else 1
    follower.audio, before = mel, list(follower.runs)
    result = original(mel, *arguments, **named)
    new = [run for run in follower.runs if run not in before]
    follower.forget([run for run in new if not run.cached])  # the language
    for run in (run for run in new if run.calls and run.cached):
        if run.attempt > 1 and before:
            before[-1].kept = [False] * before[-1].windows
        _tell(run, result if isinstance(result, list) else [result], follower.decoder.end)
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

"""Measure the guard: every sound decoded in all the ways that a guard may choose from.

Rows say what each way writes and what a monitor would weigh of it; which text a guard then returns
(``companion.guard``) is decided from rows, so that other thresholds need no new rows.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
import whisper
from torch import Tensor
from whisper.utils import compression_ratio

from companion.guard import SHIFTED, TEMPERATURE, levelled, shifted
from companion.measurement.contest import mean, token_columns, transcript_columns
from companion.measurement.schemas import (
    DAMPED,
    DAMPED_RANDOM,
    GUARD,
    NO_REPEAT,
    REFERENCE_CONDITION,
    RESTORED,
    RESTORED_RANDOM,
    TRANSCRIBE,
    TRANSCRIBE_SILENCE,
)
from companion.measurement.settings import AlarmSettings, GuardSettings, TalkSettings
from companion.measurement.texts import Batch, Row, of_schema
from companion.models.capture import HIDDEN_STATE, capture
from companion.models.decoding import Heard, Transcript, hear, transcribe_heard, windows
from companion.models.interventions import (
    Damping,
    Randomly,
    Restoring,
    aligned_directions,
    intervening,
)
from companion.models.openai_model import OpenAIModel
from companion.models.rules import UNRESTRICTED, Rule
from companion.models.view import SpeechModel
from companion.speech.corpus import SAMPLE_RATE
from companion.stress.conditions import in_turn
from companion.stress.mixture import Mixture, Part
from companion.stress.outcomes import by_segment
from spectral.monitor import FEATURES
from spectral.whisper import COMPONENTS

Text = tuple[Transcript, Row]
"""What was written, and what of it is weighed."""

Ways = Iterator[tuple[str, list[Text]]]
"""Ways to decode by their names, and a text for every wave."""


def guard_rows(model: SpeechModel, batch: Batch, settings: GuardSettings) -> list[Row]:
    """All rows of a batch, in every way to decode."""
    return _by_condition(model, batch, settings, _every)


def alarm_rows(model: SpeechModel, batch: Batch, settings: AlarmSettings) -> list[Row]:
    """All rows of a batch, in the ways by which a guard confirms."""
    return _by_condition(model, batch, settings, _confirming)


@torch.inference_mode()
def talk_rows(model: SpeechModel, batch: Batch, settings: TalkSettings) -> list[Row]:
    """The same of every window of a talk: all utterances of a speaker, every second one stressed.

    A window's reference is what its text is aligned with of all that was said.
    """
    rows: list[Row] = []
    clean, places = batch[REFERENCE_CONDITION], dict[str, list[int]]()
    for place, mixture in enumerate(clean):
        places.setdefault(mixture.target.speaker, []).append(place)
    for names, mixtures in batch.items():
        talks = [
            _talk([(mixtures if i % 2 else clean)[k] for i, k in enumerate(chosen)], settings.pause)
            for chosen in places.values()
        ]
        pieces = [  # the last may be an utterance's silent end
            [piece for piece in windows(talk.wave, model.window_samples) if piece.any()]
            for talk in talks
        ]
        ways = [*_confirming(model, [piece for talk in pieces for piece in talk], settings)]
        texts = iter([transcript.text for transcript, _ in ways[0][1]])
        sounds: list[Mixture] = []
        for talk, waves in zip(talks, pieces, strict=True):
            parts = by_segment(talk.target.reference, [next(texts) for _ in waves])
            for i, (piece, reference) in enumerate(zip(waves, parts, strict=True)):
                target = replace(talk.target, id=f"{talk.target.id} {i}", reference=reference)
                whole = (Part(target, 0.0), *talk.parts[1:])
                sounds.append(replace(talk, wave=piece, parts=whole))
        rows += _rows(model, names, sounds, iter(ways), settings.seed)
    return rows


def _talk(mixtures: Sequence[Mixture], pause: float) -> Mixture:
    """One sound of several, silence between them, and everybody who speaks in it."""
    silence = np.zeros(round(pause * SAMPLE_RATE), np.float32)
    waves = [wave for mixture in mixtures for wave in (silence, mixture.wave)][1:]
    first = mixtures[0].target
    reference = " ".join(mixture.target.reference for mixture in mixtures)
    target = Part(replace(first, id=first.speaker, reference=reference), 0.0)
    others = [part for mixture in mixtures for part in mixture.parts[1:]]
    return replace(mixtures[0], wave=np.concatenate(waves), parts=(target, *others))


S = TypeVar("S", bound=AlarmSettings)


@torch.inference_mode()
def _by_condition(
    model: SpeechModel, batch: Batch, settings: S,
    ways_of: Callable[[SpeechModel, Sequence[np.ndarray], S], Ways],
) -> list[Row]:  # fmt: skip
    rows: list[Row] = []
    for names, mixtures in batch.items():
        ways = ways_of(model, [mixture.wave for mixture in mixtures], settings)
        rows += _rows(model, names, mixtures, ways, settings.seed)
    return rows


def _rows(
    model: SpeechModel, names: str, mixtures: Sequence[Mixture], ways: Ways, seed: int
) -> Iterator[Row]:
    nothing: Row = dict.fromkeys(FEATURES, math.nan)
    for rule, texts in ways:
        for mixture, (transcript, weighed) in zip(mixtures, texts, strict=True):
            condition = in_turn(names, mixture.target.id, seed)
            row = {**nothing, **transcript_columns(model, mixture, transcript), **weighed}
            yield from of_schema(GUARD, [row | {"condition": condition, "rule": rule}])


def _confirming(model: SpeechModel, waves: Sequence[np.ndarray], settings: AlarmSettings) -> Ways:
    """The ways by which a guard confirms, and a text for every wave."""
    rule, heard = settings.rule, hear(model, waves)
    yield rule.name, _weighed(model, heard, rule, settings.window)
    if rule is not UNRESTRICTED:
        loud = hear(model, [levelled(wave) for wave in waves])
        yield UNRESTRICTED.name, _texts(transcribe_heard(model, loud, UNRESTRICTED))
    later = [shifted(wave, settings.shift, model.window_samples) for wave in waves]
    yield SHIFTED, _texts(transcribe_heard(model, hear(model, later), rule))


def _every(model: SpeechModel, waves: Sequence[np.ndarray], settings: GuardSettings) -> Ways:
    """Every way by its name, and a text for every wave."""
    rule, heard = settings.rule, hear(model, waves)
    confirming = dict(_confirming(model, waves, settings))
    first = [transcript for transcript, _ in confirming[rule.name]]
    yield rule.name, confirming[rule.name]
    for temperature in settings.temperatures:
        sampling = replace(rule, temperatures=(temperature,))
        yield f"{TEMPERATURE}{temperature:g}", _weighed(model, heard, sampling, settings.window)
    if rule is not UNRESTRICTED:
        yield UNRESTRICTED.name, confirming[UNRESTRICTED.name]
    yield NO_REPEAT, _texts(_unrepeated(model, heard, first, settings))
    yield SHIFTED, confirming[SHIFTED]
    vectors, last = aligned_directions(model, heard, first, settings.tokens), len(model.layers)
    flattening = settings.window, settings.power
    changes: dict[str, tuple[Damping | Restoring | Randomly, int]] = {
        DAMPED: (Damping(vectors), last - 1),
        DAMPED_RANDOM: (Randomly(Damping(vectors), model.width, fixed=True), last - 1),
        RESTORED: (Restoring(*flattening), last),
        RESTORED_RANDOM: (Randomly(Restoring(*flattening), model.width, fixed=False), last),
    }
    for name, (change, layers) in changes.items():
        with intervening(model, change, layers):
            transcripts = transcribe_heard(model, heard, rule)
        yield name, _texts(transcripts)
    if isinstance(model, OpenAIModel):
        pairs = [_by_library(model, wave, settings.silence_threshold) for wave in waves]
        for i, name in enumerate((TRANSCRIBE, TRANSCRIBE_SILENCE)):
            yield name, _texts([pair[i] for pair in pairs])


def _unrepeated(
    model: SpeechModel, heard: Heard, first: Sequence[Transcript], settings: GuardSettings
) -> list[Transcript]:
    """Without repeated runs; a text that has none of them is what it was."""
    size, result, start = settings.no_repeat, [], 0
    rule = replace(settings.rule, no_repeat=size)
    for text, count in zip(first, heard.windows, strict=True):
        context = heard.context[start : start + count]
        runs = [[*zip(*(tokens[i:] for i in range(size)), strict=False)] for tokens in text.windows]
        again = any(len({*window}) < len(window) for window in runs)
        result += transcribe_heard(model, Heard(context, (count,)), rule) if again else [text]
        start += count
    return result


def _texts(transcripts: Sequence[Transcript]) -> list[Text]:
    """Texts of which nothing is weighed but what decoding says anyway."""
    return [(transcript, {}) for transcript in transcripts]


def _weighed(model: SpeechModel, heard: Heard, rule: Rule, window: int) -> list[Text]:
    """Texts, and what ``spectral.Monitor`` would weigh of each; NaN of one without tokens."""
    with capture(model) as recording:
        transcripts = transcribe_heard(model, heard, rule)
    states = recording.text_rows(HIDDEN_STATE, transcripts)[0][:, -1]
    parts = {kind: recording.text_rows(kind, transcripts)[0] for kind in COMPONENTS}
    texts = []
    for i, transcript in enumerate(transcripts):
        count = len(transcript.tokens)
        rows = {kind: part[i, :, :count] for kind, part in parts.items()}
        columns = token_columns(model, states[i, :count], rows, transcript, rule, window)
        weighed: Row = {name: mean(column) for name, column in columns.items()}
        texts.append((transcript, weighed))
    return texts


class _Remembering:
    """A model for openai-whisper's ``transcribe`` that decodes no window twice.

    With another hallucination_silence_threshold the same windows come, and are read otherwise.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._contexts, self._results = model, {}, {}  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *arguments: Any) -> Any:
        return self._model(*arguments)

    def decode(self, segment: Tensor, options: Any) -> Any:
        """As the library's own, which encodes a window again for every temperature."""
        window = hashlib.sha256(segment.numpy(force=True).tobytes()).digest()
        if window not in self._contexts:
            self._contexts[window] = self._model.encoder(segment[None])[0]
        key = (window, str(options))
        if key not in self._results:
            self._results[key] = self._model.decode(self._contexts[window], options)
        return self._results[key]


def _by_library(
    model: OpenAIModel, wave: np.ndarray, silence: float
) -> tuple[Transcript, Transcript]:
    """The texts of ``transcribe`` by its defaults, and with a threshold of silence."""
    module: Any = model.module
    if model.name in whisper._ALIGNMENT_HEADS:
        module.set_alignment_heads(whisper._ALIGNMENT_HEADS[model.name])
    remembering: Any = _Remembering(module)
    texts, threads = [], torch.get_num_threads()
    for options in ({}, {"word_timestamps": True, "hallucination_silence_threshold": silence}):
        with torch.random.fork_rng():
            torch.manual_seed(len(wave))
            result = whisper.transcribe(
                remembering, np.ascontiguousarray(wave, np.float32), language="en", fp16=False,
                **options,
            )  # fmt: skip
        texts.append(_text(model, result))
    torch.set_num_threads(threads)  # numba, by which words are aligned, sets all there are
    return texts[0], texts[1]


def _text(model: OpenAIModel, result: Mapping[str, Any]) -> Transcript:
    """A transcript of what the library returns, whose averages it says of each segment alone."""
    segments, nan = result["segments"], math.nan
    tokens = tuple(t for segment in segments for t in segment["tokens"] if t < model.tokens.end)
    text = " ".join(part for segment in segments if (part := segment["text"].strip()))
    return Transcript(text, tokens, nan, nan, nan, nan, compression_ratio(text), nan, True)

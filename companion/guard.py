"""A guard against invented text: what to return where a transcript is doubted, and why.

    guard = Guard(whisper.load_model("base"))  # or a Whisper of transformers, with its processor
    for part in guard.transcribe(wave):  # samples at 16 kHz, a part for every window of 30 s
        print(part.text, part.decision, part.why)

``spectral.Monitor`` says how great the risk is. What happens then is a policy, which decodes the
same sound in other ways and compares; none of them changes a text of little risk.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from whisper.model import Whisper

from companion.models.decoding import Heard, hear, transcribe_heard, windows
from companion.models.openai_model import OpenAIModel
from companion.models.rules import OPENAI, UNRESTRICTED, Rule, forbidden
from companion.models.view import SpeechModel
from companion.speech.corpus import SAMPLE_RATE
from companion.speech.text import normalise, without_annotations
from companion.stress.scoring import is_loop, wer
from spectral.monitor import THRESHOLDS, Monitor

SHIFTED = "shifted"
"""By the default rule, of the sound with silence before it."""

TEMPERATURE = "temperature-"
"""Before a temperature: a sample at it."""

SHIFT = 1.0
"""Seconds of silence before a sound that is heard once more."""

FAINT, LEVEL = 1e-3, 0.05
"""RMS about the mean below which a sound is made louder for a second opinion, and how loud.

Speech so faint is written the same when it is louder; near silence, of which Whisper's features
hold little but their floor, is then heard as the noise that it is.
"""

TEMPERATURES = (0.4, 0.8)
"""At which a text is drawn again, in turn."""

DISAGREEMENT = 0.5
"""WER between two texts of one sound up to which they agree, whichever is the reference."""


@dataclass(frozen=True)
class Attempt:
    """One way to decode a sound, what it writes, and what the monitor says of it.

    risk: from 0 to 1, NaN of a text without tokens. alarm, doubted: whether it reaches the score's
    threshold, or the lower one from which on a second opinion is asked. component: what raises the
    risk most.
    """

    way: str
    text: str
    risk: float
    alarm: bool
    doubted: bool
    component: str | None = None


class Decision(StrEnum):
    """What a guard does with a text.

    kept: it is not doubted. confirmed: it is, and another way to decode agrees. replaced: by what
    another way writes. dropped: nothing is returned. told: it alarms, and is returned.
    """

    KEPT = "kept"
    CONFIRMED = "confirmed"
    REPLACED = "replaced"
    DROPPED = "dropped"
    TOLD = "told"


@dataclass(frozen=True)
class Guarded:
    """The text to show, "" for none, the decision and its reason, and all that was decoded."""

    text: str
    decision: Decision
    why: str
    attempts: tuple[Attempt, ...]

    @property
    def alarm(self) -> bool:
        """Whether the text that the library would have returned alarms."""
        return self.attempts[0].alarm


Decode = Callable[[str], Attempt]
"""The sound in another way: ``unrestricted``, ``SHIFTED``, or ``TEMPERATURE`` and a number."""


def tell(first: Attempt, decode: Decode) -> Guarded:
    """Return the text, and say that it alarms."""
    return _judged(Decision.TOLD, first.text, "", first)


def drop(first: Attempt, decode: Decode) -> Guarded:
    """Return nothing."""
    return _judged(Decision.DROPPED, "", "", first)


def draw(first: Attempt, decode: Decode) -> Guarded:
    """Sample at rising temperatures until a text does not alarm; else return nothing."""
    attempts = [first]
    for temperature in TEMPERATURES:
        again = decode(f"{TEMPERATURE}{temperature:g}")
        attempts.append(again)
        if not again.alarm:
            why = f"a sample at temperature {temperature:g} does not alarm"
            return _judged(Decision.REPLACED, again.text, why, *attempts)
    return _judged(Decision.DROPPED, "", "so do samples at higher temperatures", *attempts)


def annotate(first: Attempt, decode: Decode) -> Guarded:
    """Return what is written where no token is forbidden, annotations left out."""
    again = decode(UNRESTRICTED.name)
    text = without_annotations(again.text).strip()
    if normalise(text) == normalise(first.text):
        why = "the same is written where no token is forbidden"
        return _judged(Decision.CONFIRMED, first.text, why, first, again)
    why = f"where no token is forbidden {_quoted(again)} is written"
    if normalise(text):
        return _judged(Decision.REPLACED, text, why, first, again)
    return _judged(Decision.DROPPED, "", why, first, again)


def confirm(first: Attempt, decode: Decode) -> Guarded:
    """Return the text if both other ways agree with it, and else nothing.

    Where no token is forbidden a sound without words is annotated; heard a second later, an
    invention is seldom the same. A loop is dropped at once, as it would only come again.
    """
    attempts = [first]
    if is_loop(without_annotations(first.text)):
        return _judged(Decision.DROPPED, "", "it repeats itself", first)
    ways = {UNRESTRICTED.name: "where no token is forbidden", SHIFTED: "heard later"}
    for way, when in ways.items():
        attempts.append(decode(way))
        if not agree(first.text, attempts[-1].text):
            why = f"{when} {_quoted(attempts[-1])} is written"
            return _judged(Decision.DROPPED, "", why, *attempts)
    why = f"{' and '.join(ways.values())} the same is written"
    return _judged(Decision.CONFIRMED, first.text, why, *attempts)


TELL, DEFAULT = "tell", "doubt"
POLICIES: Mapping[str, Callable[[Attempt, Decode], Guarded]] = {
    TELL: tell, "drop": drop, "draw": draw, "annotate": annotate, "confirm": confirm,
    DEFAULT: confirm,
}  # fmt: skip
"""What is done about a text that alarms; ``doubt`` confirms those that are doubted, too."""


def guarded(first: Attempt, decode: Decode, policy: str) -> Guarded:
    """The text where it is not doubted, and else what one of ``POLICIES`` makes of it."""
    if not (first.doubted if policy == DEFAULT else first.alarm):
        return Guarded(first.text, Decision.KEPT, "does not alarm", (first,))
    return POLICIES[policy](first, decode)


def agree(text: str, again: str) -> bool:
    """Whether two texts of one sound have the same words, but for half of them at most."""
    texts = [without_annotations(transcript) for transcript in (text, again)]
    if not all(map(normalise, texts)):
        return False
    return max(wer(*texts), wer(*reversed(texts))) <= DISAGREEMENT


class Guard:
    """Transcribe with a Whisper of either library, and return no text that nobody said.

    Args:
        model: A Whisper of openai-whisper or transformers, or a ``SpeechModel``.
        processor: Of a Whisper of transformers, its ``WhisperProcessor``.
        on_alarm: One of ``POLICIES``.
        name, thresholds: As of ``spectral.Monitor``, which is attached while it decodes.

    Raises:
        ValueError: For another ``on_alarm``, and what the monitor refuses.
        TypeError: For a model of another kind, or one of transformers without its processor.
    """

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        *,
        on_alarm: str = DEFAULT,
        name: str | None = None,
        thresholds: Path | str = THRESHOLDS,
    ) -> None:
        if on_alarm not in POLICIES:
            raise ValueError(f"on_alarm is {on_alarm!r}; choose from {', '.join(POLICIES)}")
        self._model, self._policy = _view(model, processor), on_alarm
        never = [*forbidden(self._model.tokens, first=False)]
        self._monitor: dict[str, Any] = {"name": name, "thresholds": thresholds}
        self._monitor["forbidden"] = never
        Monitor(self._model, **self._monitor)  # refuses now what it would refuse later

    def transcribe(self, wave: np.ndarray) -> list[Guarded]:
        """A part for every window of samples (samples,) at 16 kHz, English, without timestamps.

        Raises ValueError for a wave of another shape, or with NaN or infinity.
        """
        wave = np.asarray(wave, np.float32)
        missing, shape = int((~np.isfinite(wave)).sum()), f"shape {wave.shape}"
        if wave.ndim != 1 or missing:
            bad = f"{missing} samples that are NaN or infinite" if wave.ndim == 1 else shape
            raise ValueError(
                f"the wave has {bad}; give finite samples (samples,) at 16 kHz, of several "
                "channels the mean"
            )
        return [self._window(piece) for piece in windows(wave, self._model.window_samples)]

    def _window(self, piece: np.ndarray) -> Guarded:
        heard, loud = hear(self._model, [piece]), levelled(piece)
        first = self._attempt(OPENAI.name, heard, OPENAI)
        if not loud.any() and self._policy != TELL:
            return Guarded("", Decision.DROPPED, "the sound is silent", (first,))

        def decode(way: str) -> Attempt:
            if way == SHIFTED:
                later = shifted(piece, SHIFT, self._model.window_samples)
                return self._attempt(way, hear(self._model, [later]), OPENAI)
            if way == UNRESTRICTED.name:
                again = heard if loud is piece else hear(self._model, [loud])
                return self._attempt(way, again, UNRESTRICTED)
            sampling = replace(OPENAI, temperatures=(float(way.removeprefix(TEMPERATURE)),))
            return self._attempt(way, heard, sampling)

        return guarded(first, decode, self._policy)

    def _attempt(self, way: str, heard: Heard, rule: Rule) -> Attempt:
        with Monitor(self._model, **self._monitor) as monitor:
            (transcript,) = transcribe_heard(self._model, heard, rule)
        segment = monitor.segments[-1]
        doubted = segment.risk >= monitor.score.doubt
        risk, alarm, part = segment.risk, segment.alarm, segment.component
        return Attempt(way, transcript.text, risk, alarm, doubted, part)


def shifted(wave: np.ndarray, seconds: float, window_samples: int) -> np.ndarray:
    """The wave after so many seconds of zeros; of what fits one window, no more than a window."""
    later = np.concatenate([np.zeros(round(seconds * SAMPLE_RATE), wave.dtype), wave])
    return later[:window_samples] if len(wave) <= window_samples else later


def levelled(wave: np.ndarray) -> np.ndarray:
    """The wave about its mean at an RMS of ``LEVEL`` where it is fainter than ``FAINT``.

    All zeros of a wave that is constant; an empty one as it is.
    """
    if not wave.size:
        return wave
    about = wave - wave.mean()
    rms = float(np.sqrt(np.mean(np.square(about, dtype=np.float64))))
    if rms >= FAINT:
        return wave
    return about * np.float32(LEVEL / rms if np.ptp(wave) else 0.0)


def _view(model: Any, processor: Any) -> SpeechModel:
    if isinstance(model, SpeechModel):
        return model
    if isinstance(model, Whisper):
        return OpenAIModel("whisper", model)
    if processor is None:
        raise TypeError(
            f"a {type(model).__name__} without its processor: give Guard(model, processor), as "
            "WhisperProcessor.from_pretrained has it"
        )
    from companion.models.transformers_model import TransformersModel  # here: it takes seconds

    return TransformersModel("whisper", model, processor.tokenizer, processor.feature_extractor)


def _judged(decision: Decision, text: str, why: str, *attempts: Attempt) -> Guarded:
    """What is done about an alarm; ``why`` is told after the risk."""
    part = attempts[0].component
    raised = "" if part is None else f", raised most by {part.replace('_', '-')}"
    doubt = f"risk {attempts[0].risk:.2f}{raised}"
    return Guarded(text, decision, f"{doubt}; {why}" if why else doubt, attempts)


def _quoted(attempt: Attempt) -> str:
    return repr(attempt.text) if attempt.text else "nothing"

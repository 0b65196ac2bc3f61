"""Deterministic greedy decoding with Whisper's own confidences (Radford et al. 2022, sec. 4.5)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice, pairwise

import numpy as np
import torch
from torch import Tensor
from whisper.audio import HOP_LENGTH
from whisper.utils import compression_ratio

from companion.models.logits import Chooser, Preference
from companion.models.rules import Rule, recorded
from companion.models.view import SpeechModel
from spectral._validation import whole_number


@dataclass(frozen=True)
class Transcript:
    """What a model wrote for one utterance, and how sure it was.

    tokens: the text's tokens, without prompt and end. average_log_probability: of those tokens and
    the end token, natural log, as openai-whisper computes it: under ``openai`` of the tokens that
    are allowed, under ``unrestricted`` of all. text_log_probability: the same of text tokens and
    the end alone. forbidden_mass: the probability that the model gives at the first step to what
    ``openai`` forbids there, under any rule; mean over all steps, the end's too, in
    mean_forbidden_mass. These three are NaN where openai-whisper itself decodes.
    compression_ratio: bytes of the text over its zlib-compressed bytes. no_speech_probability: of
    the no-speech token after start-of-transcript. Of several windows this and forbidden_mass are
    the lowest. finished: false where the length limit cut a window off; the averages then divide
    by one token too many, as Whisper's does. breaks: where in ``tokens`` later windows begin.
    """

    text: str
    tokens: tuple[int, ...]
    average_log_probability: float = math.nan
    text_log_probability: float = math.nan
    forbidden_mass: float = math.nan
    mean_forbidden_mass: float = math.nan
    compression_ratio: float = math.nan
    no_speech_probability: float = math.nan
    finished: bool = True
    breaks: tuple[int, ...] = ()

    @property
    def windows(self) -> list[tuple[int, ...]]:
        """The tokens of each window."""
        edges = [0, *self.breaks, len(self.tokens)]
        return [self.tokens[first:last] for first, last in pairwise(edges)]


def transcribe(model: SpeechModel, waves: Sequence[np.ndarray], rule: Rule) -> list[Transcript]:
    """Transcripts of waves (samples,) of any length, all windows of all of them in one batch.

    What is longer than the model's window is cut into windows, each decoded by itself from its own
    log-mel (openai-whisper scales that of the whole wave by one maximum). Without timestamps a text
    may stop before its window does, so more than one window is a warning. Raises ValueError for a
    rule of openai-whisper's and a model that is not.
    """
    if rule.by_library:
        return [_joined(model.windows_by_library(wave, **rule.options)) for wave in waves]
    return transcribe_heard(model, hear(model, waves), rule)


@dataclass(frozen=True)
class Heard:
    """Waves as one model hears them, to be decoded by several rules without encoding them again.

    context: the encoder's output for every window, (windows, S, width); windows: how many each
    wave has. seeds: of what is drawn where a rule samples, one for every window; none are all 0.
    """

    context: Tensor
    windows: tuple[int, ...]
    seeds: tuple[int, ...] = ()


@torch.inference_mode()
def hear(model: SpeechModel, waves: Sequence[np.ndarray]) -> Heard:
    """Encode waves (samples,) of any length, all windows of all of them in one batch."""
    pieces = [list(windows(wave, model.window_samples)) for wave in waves]
    together = [piece for wave in pieces for piece in wave]
    context = model.encode(model.features(together))
    return Heard(context, tuple(map(len, pieces)), tuple(map(len, together)))


def transcribe_heard(model: SpeechModel, heard: Heard, rule: Rule) -> list[Transcript]:
    """:func:`transcribe` of waves that the same model has encoded."""
    limit = recorded(rule).limit(model)
    texts = iter(_greedy(model, heard.context.clone(), rule, limit, heard.seeds))
    return [_joined(list(islice(texts, count))) for count in heard.windows]


def windows(wave: np.ndarray, samples: int) -> Iterator[np.ndarray]:
    """A wave (samples,) in pieces of at most so many ``samples``, each heard by itself."""
    for start in range(0, max(len(wave) - HOP_LENGTH + 1, 1), samples):  # of a frame or more
        yield wave[start : start + samples]


def _joined(windows: Sequence[Transcript]) -> Transcript:
    """One transcript of consecutive windows; of one window, itself."""
    if len(windows) == 1:
        return windows[0]
    text = " ".join(window.text for window in windows if window.text)
    sizes = [len(window.tokens) for window in windows]

    def mean(name: str, counts: Sequence[int]) -> float:
        return float(np.average([getattr(window, name) for window in windows], weights=counts))

    counts = [size + 1 for size in sizes]
    steps = [size + window.finished for size, window in zip(sizes, windows, strict=True)]
    return Transcript(
        text=text,
        tokens=tuple(token for window in windows for token in window.tokens),
        average_log_probability=mean("average_log_probability", counts),
        text_log_probability=mean("text_log_probability", counts),
        forbidden_mass=min(window.forbidden_mass for window in windows),
        mean_forbidden_mass=mean("mean_forbidden_mass", steps),
        compression_ratio=compression_ratio(text),
        no_speech_probability=min(window.no_speech_probability for window in windows),
        finished=all(window.finished for window in windows),
        breaks=tuple(accumulate(sizes))[:-1],
    )


def greedy(
    model: SpeechModel, features: Tensor, rule: Rule, limit: int | None = None
) -> list[Transcript]:
    """Transcripts of a batch by a rule: features (batch, ...), at most ``limit`` tokens each.

    Of equally probable tokens the one of lower number is taken; rows that have ended leave the
    batch. Raises ValueError for a limit below 1, for NaN logits, and for a rule by which
    openai-whisper itself decodes.
    """
    most = recorded(rule).limit(model)
    limit = most if limit is None else min(whole_number(limit, "limit", 1), most)
    with torch.inference_mode():
        context = model.encode(features)
    return _greedy(model, context, rule, limit)


@torch.inference_mode()
def _greedy(
    model: SpeechModel, context: Tensor, rule: Rule, limit: int, seeds: Sequence[int] = ()
) -> list[Transcript]:
    """Transcripts from contexts (batch, S, width), which are overwritten as rows end."""
    cache = model.new_cache()
    texts = [_Written() for _ in range(len(context))]
    prompt = torch.tensor(model.tokens.prompt, device=model.device).expand(len(texts), -1)
    logits = model.step(prompt, context, cache)
    no_speech = logits[:, 0].double().softmax(-1)[:, model.tokens.no_speech].tolist()
    choose, held = Chooser(model, rule), texts
    preference = Preference(rule, seeds or [0] * len(texts))
    for position in range(limit):
        added = preference(logits[:, -1], [text.tokens for text in held])
        choices = [column.tolist() for column in choose(logits[:, -1], position == 0, added)]
        for text, token, *numbers in zip(held, *choices, strict=True):
            text.add(token, numbers, model.tokens.end)
        going = _moved_up([not text.finished for text in held])
        if position == limit - 1 or not going:
            break
        if len(going) < len(held):
            context = model.keep(torch.tensor(going, device=model.device), context, cache)
            held = [held[i] for i in going]
            preference.keep(going)
        last = torch.tensor([text.tokens[-1:] for text in held], device=model.device)
        logits = model.step(last, context, cache)
    pairs = zip(texts, no_speech, strict=True)
    return [text.transcript(model, probability) for text, probability in pairs]


@dataclass
class _Written:
    """One text while it is written; ``steps``: the numbers of every choice, the end's too."""

    tokens: list[int] = field(default_factory=list)
    steps: list[list[float]] = field(default_factory=list)
    finished: bool = False

    def add(self, token: int, numbers: list[float], end: int) -> None:
        self.steps.append(numbers)
        self.finished = token == end
        if not self.finished:
            self.tokens.append(token)

    def transcript(self, model: SpeechModel, no_speech: float) -> Transcript:
        """The text and its confidences; raises ValueError where they are NaN."""
        count, text = len(self.tokens) + 1, model.text(self.tokens)
        of_all, of_text, forbidden = map(sum, zip(*self.steps, strict=True))
        if math.isnan(no_speech + of_all + forbidden):
            raise ValueError(
                f"{model.name}: its logits are NaN; check the weights and the features"
            )
        return Transcript(
            text=text,
            tokens=tuple(self.tokens),
            average_log_probability=of_all / count,
            text_log_probability=of_text / count,
            forbidden_mass=self.steps[0][-1],
            mean_forbidden_mass=forbidden / len(self.steps),
            compression_ratio=compression_ratio(text),
            no_speech_probability=no_speech,
            finished=self.finished,
        )


def _moved_up(going: Sequence[bool]) -> list[int]:
    """The rows that go on, in an order that moves few: the last ones take the places of others."""
    rows = [i for i, goes in enumerate(going) if goes]
    return [i if going[i] else rows.pop() for i in range(len(rows))]

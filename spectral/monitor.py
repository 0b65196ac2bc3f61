"""``spectral.Monitor``: a risk that a Whisper invents text, token by token while it decodes.

What it weighs, and how much, was fitted elsewhere and is read from a file of thresholds. It holds
the last few rows of every component and their Gram matrices, updated by one row a token, so that
its memory and its work a token do not grow with the text.
"""

import importlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from spectral.tracing.entries import told
from spectral.tracing.runs import Call, Follower, Run
from spectral.whisper import COMPONENTS, Decoder, recognise

THRESHOLDS = Path(__file__).with_name("thresholds.json")
"""The file that comes with the package."""

CONFIDENCE = "confidence"
"""In the place of a component: what the logits say."""

FIRST = ("forbidden_first", "no_speech_probability")
MEANS = ("entropy", "free_log_probability", "forbidden_mean")
SIZE, RANK = "window_log10_size", "window_n_eff"
_PROBABILITIES = {"forbidden_first", "no_speech_probability", "forbidden_mean"}
_LEAST_PROBABILITY = 1e-8
_MOST_ODDS = 700.0  # a float's exponential goes little farther

FEATURES = (*FIRST, *MEANS, *(f"{part}_{name}" for part in COMPONENTS for name in (SIZE, RANK)))
"""What a risk may be made of.

entropy of all tokens and log-probability of the one that was written, of all tokens, both in nats;
the probability of what the libraries forbid, at the first token of a text and on average, and that
of no speech, as log10; of the last rows of a component, not centred: log10 of their mean squared
norm and the effective rank of their Gram matrix, means over layers.
"""


@dataclass(frozen=True)
class Score:
    """A logistic regression of the invention of text on some ``FEATURES``, and its threshold.

    weights: of the features less their ``means``, by unit of the feature. window: rows and tokens
    that slide. threshold: the risk of a segment from which on it is an alarm.
    """

    weights: Mapping[str, float]
    means: Mapping[str, float]
    bias: float
    window: int
    threshold: float

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - set(FEATURES))
        if unknown or self.weights.keys() != self.means.keys() or not self.weights:
            raise ValueError(
                f"a score has weights of {sorted(self.weights)} and means of "
                f"{sorted(self.means)}; give both of the same features, of {', '.join(FEATURES)}"
            )

    @classmethod
    def read(cls, path: Path, name: str | None, size: Mapping[str, int] | None = None) -> "Score":
        """The score of a model in a file of thresholds, by its name, or else by its size."""
        models = json.loads(path.read_text(encoding="utf-8"))["models"]
        fitted = [
            model
            for other, model in models.items()
            if (name == other if name else size and all(model[key] == size[key] for key in size))
        ]
        if not fitted:
            raise ValueError(
                f"{path}: no thresholds of {repr(name) if name else f'a model of {size}'}; there "
                f"are {', '.join(models)}: name one of them, Monitor(model, name=...), or fit "
                "others and give their file as thresholds"
            )
        return cls(**{field: fitted[0][field] for field in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Reading:
    """One token of text as it is written.

    row: of the batch. risk: of the last tokens alone, from 0 to 1; segment_risk: of all of the
    segment so far. component: what raises the risk of the last tokens most.
    """

    row: int
    index: int
    token: int
    risk: float
    segment_risk: float
    component: str


@dataclass(frozen=True)
class Segment:
    """One text: a row of a batch in one run of the decoder.

    run, row: which batch and which of its rows, from 0. attempt: which one at this audio, from 1,
    where openai-whisper tries several temperatures. risks: of every token. risk: of all of it, NaN
    of a text without tokens, of which there is nothing to doubt; alarm: whether that reaches the
    threshold. contributions: to the log-odds, of every component and the confidence.
    """

    run: int
    row: int
    attempt: int
    tokens: tuple[int, ...]
    risks: tuple[float, ...]
    risk: float
    alarm: bool
    contributions: Mapping[str, float]

    @property
    def component(self) -> str | None:
        """What raises the risk most; None of a text without tokens."""
        return max(self.contributions, key=self.contributions.__getitem__, default=None)


class Monitor:
    """Watch a Whisper while its own library decodes with it: ``with Monitor(model) as monitor:``.

    Texts and confidences stay as they are without it. Inside the block the model may ``decode``,
    ``transcribe`` or ``generate``, window after window and in batches. A token counts once it is
    fed: the last one of a text that the length limit cuts off is not judged.

    Args:
        model: A Whisper of openai-whisper or transformers, or what has one as ``module``.
        name: Whose thresholds; by default of the model in the file with these layers, this width
            and this vocabulary.
        thresholds: The file that they stand in; by default the one of this package.
        watch: Is given every ``Reading`` at once.
        forbidden: Tokens that are forbidden at every step; by default as the library says.

    Raises:
        TypeError: For a model of another structure.
        ValueError: For a compiled one, one without thresholds, beams, or NaN in what is weighed.
        RuntimeError: Inside the block, where a layer was silent, or a cache was rearranged.

    Example:
        >>> with Monitor(model) as monitor:  # doctest: +SKIP
        ...     model.transcribe("talk.mp3")
        >>> [(s.risk, s.component) for s in monitor.segments if s.alarm]  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str | None = None,
        thresholds: Path | str = THRESHOLDS,
        watch: Callable[[Reading], None] | None = None,
        forbidden: Sequence[int] | None = None,
    ) -> None:
        decoder = recognise(model)
        if decoder.entry is None:
            raise ValueError("the model has neither `decode` nor `generate`: give the whole model")
        self.score = Score.read(Path(thresholds), name, _size(decoder))
        vocabulary = _Vocabulary.of(decoder, forbidden)
        self._follower = _Watcher(decoder, _Weighed(self.score), vocabulary, watch)
        self._block = ExitStack()

    @property
    def segments(self) -> list[Segment]:
        """All texts so far, in the order in which they began."""
        follower = self._follower
        present = [run.state for run in follower.runs if run.state is not None]
        found = [*follower.segments, *(s for batch in present for s in batch.segments())]
        return sorted(found, key=lambda segment: (segment.run, segment.row))

    def __enter__(self) -> "Monitor":
        with ExitStack() as block:
            block.enter_context(told(self._follower))
            block.enter_context(self._follower.listening())
            self._block = block.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._block.__exit__(kind, error, trace)


class _Watcher(Follower):
    """Weighs what every call of the decoder gave."""

    def __init__(
        self,
        decoder: Decoder,
        weighed: "_Weighed",
        words: "_Vocabulary",
        watch: Callable[[Reading], None] | None,
    ) -> None:
        model: Any = decoder.model
        last = model.proj_out if decoder.entry == "generate" else decoder.decoder
        super().__init__(decoder, weighed.heard, last)
        self.weighed, self.words, self.watch = weighed, words, watch
        self.segments: list[Segment] = []
        self.count = 0

    def began(self, run: Run, tokens: Tensor) -> None:
        """What these tokens say of the call before."""
        if run.state is not None:
            for reading in run.state.take(tokens[:, -1]):
                if self.watch is not None:
                    self.watch(reading)

    def ended(self, run: Run, call: Call, output: Any) -> None:
        """What a call says of the token to come; one that decodes nothing has no cache."""
        if not run.cached:
            return
        if run.state is None:
            run.state = _Batch(self.count, run, self.weighed, self.words)
            self.count += 1
        with torch.no_grad():
            run.state.give([rows[:, -1] for rows in call.outputs.values()], output, call.tokens)

    def closed(self, run: Run) -> None:
        """Its texts, which are all that stays of it."""
        self.runs.remove(run)
        if run.state is not None:
            self.segments += run.state.segments()


class _Weighed:
    """A score, which of the features it needs, and what it makes of them.

    Plain numbers: for a few rows of a few features tensors take longer.
    """

    def __init__(self, score: Score) -> None:
        self.bias, self.window, self.threshold = score.bias, score.window, score.threshold
        owner = {
            name: next((part for part in COMPONENTS if name.startswith(part)), CONFIDENCE)
            for name in score.weights
        }
        self.heard = [part for part in COMPONENTS if part in owner.values()]
        self.ranks = any(name.endswith(RANK) for name in owner)
        self.at_first = bool({*FIRST} & {*owner})
        self.at_every = bool({*MEANS} & {*owner})
        columns = [*FIRST, *MEANS, *(f"{part}_{SIZE}" for part in self.heard)]
        columns += [f"{part}_{RANK}" for part in self.heard] if self.ranks else []
        self.terms = [
            (name, columns.index(name), weight, score.means[name], owner[name])
            for name, weight in score.weights.items()
        ]

    def __call__(self, values: Sequence[float]) -> tuple[float, dict[str, float]]:
        """The risk, and every part's contribution to its log-odds."""
        parts = dict.fromkeys((CONFIDENCE, *COMPONENTS), 0.0)
        for name, column, weight, mean, owner in self.terms:
            value = values[column]
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}: check the weights of the model and the sound")
            if name in _PROBABILITIES:
                value = math.log10(max(value, _LEAST_PROBABILITY))
            parts[owner] += weight * (value - mean)
        odds = self.bias + sum(parts.values())
        return 1 / (1 + math.exp(-max(min(odds, _MOST_ODDS), -_MOST_ODDS))), parts


class _Batch:
    """One batch from its prompt on: the last rows, their Gram matrices, and sums."""

    def __init__(self, number: int, run: Run, weighed: _Weighed, words: "_Vocabulary") -> None:
        self.number, self.attempt, self.rows = number, run.attempt, run.windows
        self.weighed, self.words = weighed, words
        self.finished = [False] * self.rows
        self.tokens: list[list[int]] = [[] for _ in range(self.rows)]
        self.risks: list[list[float]] = [[] for _ in range(self.rows)]
        self.first = [[0.0] * len(FIRST) for _ in range(self.rows)]
        self.recent: list[deque[list[float]]] = [
            deque(maxlen=weighed.window) for _ in range(self.rows)
        ]
        self.sums: list[list[float]] = [[] for _ in range(self.rows)]
        self.ring: Tensor | None = None
        self.logits: Tensor | None = None

    def give(self, rows: Sequence[Tensor], output: Tensor, fed: Tensor) -> None:
        """What one call says of the next token: rows, (batch, width) each, and all logits."""
        weighed, words = self.weighed, self.words
        if self.ring is None:
            shape = (self.rows, len(rows), weighed.window, rows[0].shape[1] if rows else 0)
            self.ring = output.new_zeros(shape, dtype=torch.float32)
            self.grams = self.ring.new_zeros(*shape[:3], weighed.window)
            if weighed.at_first:
                for first, chance in zip(self.first, _no_speech(output, fed, words), strict=True):
                    first[1] = chance
        if rows:
            self.pending = torch.stack([*rows], 1).float()
        begins = weighed.at_first and not all(self.tokens)
        if not (begins or weighed.at_every):
            return
        self.logits = output[:, -1]
        scores = self.logits.float()
        largest = scores.amax(-1, keepdim=True)
        parts = (scores - largest).exp_()
        whole = parts.sum(-1)
        self.total = largest[:, 0] + whole.log()
        self.entropy = self.total - (parts[:, None] @ scores[..., None])[:, 0, 0] / whole
        self.mass = parts[:, words.forbidden].sum(-1) / whole
        if begins:
            masses = (parts[:, words.forbidden_first].sum(-1) / whole).tolist()
            for first, tokens, mass in zip(self.first, self.tokens, masses, strict=True):
                if not tokens:
                    first[0] = mass

    def take(self, tokens: Tensor) -> Iterator[Reading]:
        """The tokens (batch,) that were written: only now is it known which rows are of text."""
        written, weighed, end = tokens.tolist(), self.weighed, self.words.end
        who = [i for i, x in enumerate(written) if x < end and not self.finished[i]]
        self.finished = [over or x == end for over, x in zip(self.finished, written, strict=True)]
        if not who:
            return
        confidences = [[0.0] * len(MEANS)] * self.rows
        if weighed.at_every:
            assert self.logits is not None
            chosen = self.logits.gather(1, tokens[:, None])[:, 0].float() - self.total
            confidences = torch.stack([self.entropy, chosen, self.mass], 1).tolist()
        for row, spectral in zip(who, self._slide(who), strict=True):
            values = confidences[row] + spectral
            recent, sums = self.recent[row], self.sums[row]
            recent.append(confidences[row])
            self.sums[row] = [a + b for a, b in zip(sums, values, strict=True)] if sums else values
            self.tokens[row].append(written[row])
            means = [sum(column) / len(recent) for column in zip(*recent, strict=True)]
            risk, parts = weighed(self.first[row] + means + spectral)
            self.risks[row].append(risk)
            place, worst = len(self.tokens[row]) - 1, max(parts, key=parts.__getitem__)
            yield Reading(row, place, written[row], risk, self._judged(row)[0], worst)

    def segments(self) -> list[Segment]:
        """What is known of each row so far."""
        found = []
        for row, tokens in enumerate(self.tokens):
            risk, parts = self._judged(row) if tokens else (math.nan, {})
            alarm = risk >= self.weighed.threshold  # NaN is none
            what = tuple(tokens), tuple(self.risks[row]), risk, alarm, parts
            found.append(Segment(self.number, row, self.attempt, *what))
        return found

    def _judged(self, row: int) -> tuple[float, dict[str, float]]:
        """The risk of a row's text so far, and what contributes to it."""
        count = len(self.tokens[row])
        return self.weighed(self.first[row] + [total / count for total in self.sums[row]])

    def _slide(self, who: Sequence[int]) -> list[list[float]]:
        """One more row for these: sizes, and ranks where they count, by component."""
        weighed = self.weighed
        if not weighed.heard:
            return [[] for _ in who]
        assert self.ring is not None
        counts = [len(self.tokens[row]) for row in who]
        places = [count % weighed.window for count in counts]
        rows: Any = slice(None)
        at: Any = places[0]
        if len(who) < self.rows or len({*places}) > 1:  # slices are faster than indices
            rows, at = (torch.tensor(each, device=self.ring.device) for each in (who, places))
        new = self.pending[rows]
        self.ring[rows, :, at] = new
        products = (self.ring[rows] @ new[..., None])[..., 0]
        self.grams[rows, :, at] = products
        self.grams[rows, :, :, at] = products
        exact = self.grams[rows].double()
        held = [min(count + 1, weighed.window) for count in counts]
        squares = exact.diagonal(dim1=-2, dim2=-1).sum(-1)
        if not bool(squares.isfinite().all()):
            raise ValueError(
                f"{' or '.join(weighed.heard)} gave NaN or infinity: check the weights of the "
                "model and the sound"
            )
        columns = [(squares / squares.new_tensor(held)[:, None]).log10()]
        if weighed.ranks:
            modes = torch.linalg.eigvalsh(exact).clamp_(min=0)
            total = modes.sum(-1)
            columns.append((total.log() - torch.xlogy(modes, modes).sum(-1) / total).exp())
        parts = len(weighed.heard)
        by_layer = [each.reshape(len(who), -1, parts).mean(1) for each in columns]
        found: list[list[float]] = torch.cat(by_layer, 1).tolist()
        return found


@dataclass(frozen=True)
class _Vocabulary:
    """Tokens with a meaning: ``forbidden`` at every step, more at the first."""

    start: int
    end: int
    no_speech: int
    forbidden: Tensor
    forbidden_first: Tensor

    @classmethod
    def of(cls, decoder: Decoder, forbidden: Sequence[int] | None) -> "_Vocabulary":
        never, blank, no_speech = _said_by_library(decoder)
        if forbidden is not None:
            never = [*forbidden]
        if not never:
            raise ValueError(
                "the model's generation_config says nothing of suppress_tokens: give "
                "Monitor(model, forbidden=...), the tokens that are forbidden at every step"
            )
        device = next(decoder.model.parameters()).device
        first = sorted({*never, *blank, decoder.end})
        parts = (torch.tensor(each, device=device) for each in (sorted({*never}), first))
        return cls(decoder.start, decoder.end, no_speech, *parts)


def _said_by_library(decoder: Decoder) -> tuple[list[int], list[int], int]:
    """What is forbidden at every step, what also at the first, and the no-speech token."""
    model: Any = decoder.model
    if decoder.entry == "generate":
        config = model.generation_config
        blank = [*(getattr(config, "begin_suppress_tokens", None) or ())]
        last = getattr(config, "no_timestamps_token_id", None) or decoder.end
        return [*(getattr(config, "suppress_tokens", None) or ())], blank, last - 1
    library = type(model).__module__.partition(".")[0]
    tokenizer = importlib.import_module(f"{library}.tokenizer").get_tokenizer(
        model.is_multilingual,
        num_languages=model.num_languages,
        language="en" if model.is_multilingual else None,
        task="transcribe" if model.is_multilingual else None,
    )
    steering = [
        tokenizer.transcribe, tokenizer.translate, tokenizer.sot, tokenizer.sot_prev,
        tokenizer.sot_lm, tokenizer.no_speech,
    ]  # fmt: skip
    never = [*tokenizer.non_speech_tokens, *steering]
    return never, tokenizer.encode(" "), tokenizer.no_speech


def _no_speech(output: Tensor, fed: Tensor, words: _Vocabulary) -> list[float]:
    """Of the logits of a prompt (batch, positions, vocabulary), after its start token, by row."""
    starts = fed[0] == words.start
    if not bool(starts.any()):
        raise ValueError(f"a prompt {fed[0].tolist()} without the start token {words.start}")
    at = int(starts.nonzero()[-1])
    found: list[float] = output[:, at].double().softmax(-1)[:, words.no_speech].tolist()
    return found


def _size(decoder: Decoder) -> dict[str, int]:
    inner: Any = decoder.decoder
    openai = hasattr(inner, "blocks")
    rows, width = (inner.token_embedding if openai else inner.embed_tokens).weight.shape
    return {"layers": len(decoder.layers), "width": width, "vocabulary": rows}

"""``spectral.Monitor``: a risk that a Whisper invents text, token by token while it decodes.

What it weighs, and how much, was fitted elsewhere and is read from a file of thresholds. It holds
the last few rows of every component and their Gram matrices, updated by one row a token, so that
its memory and its work a token do not grow with the text.
"""

import functools
import importlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from spectral.whisper import (
    COMPONENTS,
    Decoder,
    decoder_inputs,
    fed_outside,
    first_keys,
    past,
    rearranged,
    recognise,
    replaced,
    require_no_beams,
)

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
    def read(cls, path: Path, name: str) -> "Score":
        """The score of a model in a file of thresholds; ValueError where there is none."""
        models = json.loads(Path(path).read_text(encoding="utf-8"))["models"]
        if name not in models:
            raise ValueError(
                f"{path}: no thresholds of {name!r}; there are {', '.join(models)}, or fit others "
                "and give their file as thresholds"
            )
        own = models[name]
        return cls(own["weights"], own["means"], own["bias"], own["window"], own["threshold"])


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
        self._decoder = recognise(model)
        path = Path(thresholds)
        self.score = Score.read(path, name or _fitted(path, self._decoder))
        self._watch = watch
        self._vocabulary = _Vocabulary.of(self._decoder, forbidden)
        self._weighed = _Weighed(self.score)
        self._segments: list[Segment] = []
        self._run: _Run | None = None
        self._runs = 0
        self._attempt = 1
        self._rows: list[Tensor] = []
        self._tokens: Tensor | None = None
        self._handles: list[Any] = []
        self._entry: Any = None

    @property
    def segments(self) -> list[Segment]:
        """All texts so far, in the order in which they began, the present ones last."""
        return [*self._segments, *(self._run.segments(self._weighed) if self._run else ())]

    def __enter__(self) -> "Monitor":
        if self._entry is not None:
            raise RuntimeError("this monitor is attached already: make another one")
        decoder = self._decoder
        self._entry = _told(decoder, self._attempted, self._close)
        self._entry.__enter__()
        whole: Any = decoder.model
        head = decoder.decoder if decoder.entry != "generate" else whole.proj_out
        self._handles = [
            decoder.decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            head.register_forward_hook(self._finish),
        ]
        for layer in decoder.layers:
            for part in self._weighed.heard:
                module = getattr(layer, part)
                self._handles.append(module.register_forward_hook(self._see))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        entry, self._handles, self._entry = self._entry, [], None
        self._close()
        entry.__exit__(kind, error, trace)

    def _attempted(self, attempt: int) -> None:
        self._attempt = attempt

    def _close(self) -> None:
        if self._run is not None:
            self._segments += self._run.segments(self._weighed)
            self._run = None
        self._rows, self._tokens = [], None

    def _begin(self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A call of the decoder: what its tokens say of the call before."""
        tokens, _, _, cache = decoder_inputs(module, arguments, named)
        self._rows, self._tokens = [], None
        if cache is None:  # the language, or a pass that decodes nothing
            return
        before, run = past(cache), self._run
        if not before:
            self._close()
            run = self._run = _Run(self._runs, len(tokens), self._attempt, cache)
            self._runs += 1
        elif run is None or run.cache is not cache or run.fed != before:
            self._run = None
            raise fed_outside(before)
        elif first_keys(self._decoder, cache) is not run.keys or len(tokens) != run.rows:
            self._run = None
            raise rearranged()
        else:
            for reading in run.take(tokens[:, -1], self._vocabulary.end, self._weighed):
                if self._watch is not None:
                    self._watch(reading)
        assert run is not None
        run.fed += tokens.shape[1]
        self._tokens = tokens

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._tokens is not None:
            self._rows.append((output[0] if isinstance(output, tuple) else output)[:, -1])

    def _finish(self, module: Any, inputs: Any, output: Tensor) -> None:
        """The end of a call: what it says of the token to come."""
        if self._tokens is None:
            return
        run, rows, tokens = self._run, self._rows, self._tokens
        self._rows, self._tokens = [], None
        assert run is not None
        expected = len(self._weighed.heard) * len(self._decoder.layers)
        if len(rows) != expected:
            self._run = None
            raise RuntimeError(
                f"{len(rows)} of {expected} components were heard: a layer was compiled by "
                "torch.compile, skipped, or replaced since the block began"
            )
        with torch.no_grad():
            run.give(rows, output, tokens, self._vocabulary, self._weighed)
        run.keys = first_keys(self._decoder, run.cache)


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


class _Run:
    """One batch from its prompt on: the last rows, their Gram matrices, and sums."""

    def __init__(self, number: int, rows: int, attempt: int, cache: Any) -> None:
        self.number, self.rows, self.attempt, self.cache = number, rows, attempt, cache
        self.fed, self.keys = 0, None
        self.finished = [False] * rows
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.risks: list[list[float]] = [[] for _ in range(rows)]
        self.first = [[0.0] * len(FIRST) for _ in range(rows)]
        self.recent: list[deque[list[float]]] = []
        self.sums: list[list[float]] = [[] for _ in range(rows)]
        self.ring: Tensor | None = None
        self.logits: Tensor | None = None

    def give(
        self,
        rows: Sequence[Tensor],
        output: Tensor,
        fed: Tensor,
        words: "_Vocabulary",
        weighed: _Weighed,
    ) -> None:
        """What one call says of the next token: rows, (batch, width) each, and all logits."""
        if self.ring is None:
            window, width = weighed.window, rows[0].shape[1] if rows else 0
            shape = (self.rows, len(rows), window, width)
            self.ring = output.new_zeros(shape, dtype=torch.float32)
            self.grams = self.ring.new_zeros(*shape[:3], window)
            self.recent = [deque(maxlen=window) for _ in range(self.rows)]
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
        fractions = (scores - largest).exp_()
        whole = fractions.sum(-1)
        self.total = largest[:, 0] + whole.log()
        self.entropy = self.total - (fractions[:, None] @ scores[..., None])[:, 0, 0] / whole
        self.mass = fractions[:, words.forbidden].sum(-1) / whole
        if begins:
            masses = (fractions[:, words.forbidden_first].sum(-1) / whole).tolist()
            for first, tokens, mass in zip(self.first, self.tokens, masses, strict=True):
                if not tokens:
                    first[0] = mass

    def take(self, tokens: Tensor, end: int, weighed: _Weighed) -> Iterator[Reading]:
        """The tokens (batch,) that were written: only now is it known which rows are of text."""
        written = tokens.tolist()
        who = [i for i, x in enumerate(written) if x < end and not self.finished[i]]
        self.finished = [over or x == end for over, x in zip(self.finished, written, strict=True)]
        if not who:
            return
        confidences = [[0.0] * len(MEANS)] * self.rows
        if weighed.at_every:
            assert self.logits is not None
            chosen = self.logits.gather(1, tokens[:, None])[:, 0].float() - self.total
            confidences = torch.stack([self.entropy, chosen, self.mass], 1).tolist()
        spectral = self._slide(who, weighed)
        for i, row in enumerate(who):
            values = confidences[row] + spectral[i]
            recent, sums = self.recent[row], self.sums[row]
            recent.append(confidences[row])
            self.sums[row] = [a + b for a, b in zip(sums, values, strict=True)] if sums else values
            self.tokens[row].append(written[row])
            means = [sum(column) / len(recent) for column in zip(*recent, strict=True)]
            risk, parts = weighed(self.first[row] + means + spectral[i])
            self.risks[row].append(risk)
            so_far, _ = self.judged(row, weighed)
            yield Reading(
                row, len(self.tokens[row]) - 1, written[row], risk, so_far,
                max(parts, key=parts.__getitem__),
            )  # fmt: skip

    def judged(self, row: int, weighed: _Weighed) -> tuple[float, dict[str, float]]:
        """The risk of a row's text so far, and what contributes to it."""
        count = len(self.tokens[row])
        return weighed(self.first[row] + [total / count for total in self.sums[row]])

    def _slide(self, who: Sequence[int], weighed: _Weighed) -> list[list[float]]:
        """One more row for these: sizes, and ranks where they count, by component."""
        if not weighed.heard:
            return [[] for _ in who]
        assert self.ring is not None
        counts = [len(self.tokens[row]) for row in who]
        places = [count % weighed.window for count in counts]
        if len(who) == self.rows and len({*places}) == 1:  # slices are faster than indices
            place, new = places[0], self.pending
            self.ring[:, :, place] = new
            products = (self.ring @ new[..., None])[..., 0]
            self.grams[:, :, place] = products
            self.grams[:, :, :, place] = products
            grams = self.grams
        else:
            rows, at = (torch.tensor(each, device=self.ring.device) for each in (who, places))
            new = self.pending[rows]
            self.ring[rows, :, at] = new
            products = (self.ring[rows] @ new[..., None])[..., 0]
            self.grams[rows, :, at] = products
            self.grams[rows, :, :, at] = products
            grams = self.grams[rows]
        exact = grams.double()
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

    def segments(self, weighed: _Weighed) -> list[Segment]:
        """What is known of each row so far."""
        found = []
        for row, tokens in enumerate(self.tokens):
            risk, parts = self.judged(row, weighed) if tokens else (math.nan, {})
            found.append(
                Segment(
                    self.number, row, self.attempt, tuple(tokens), tuple(self.risks[row]), risk,
                    bool(tokens) and risk >= weighed.threshold, parts,
                )
            )  # fmt: skip
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


def _fitted(path: Path, decoder: Decoder) -> str:
    """The model of a file of thresholds that is of this size; ValueError where there is none."""
    inner: Any = decoder.decoder
    openai = hasattr(inner, "blocks")
    rows, width = (inner.token_embedding if openai else inner.embed_tokens).weight.shape
    own = {"layers": len(decoder.layers), "width": width, "vocabulary": rows}
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    for name, model in models.items():
        if all(model[key] == value for key, value in own.items()):
            return str(name)
    raise ValueError(
        f"{path}: no thresholds of a model of {own}; there are {', '.join(models)}: name one of "
        "them, Monitor(model, name=...), or give a file of your own as thresholds"
    )


@contextmanager
def _told(
    decoder: Decoder, attempted: Callable[[int], None], ended: Callable[[], None]
) -> Iterator[None]:
    """Refuse beams before anything is decoded; count attempts of ``decode`` at the same audio.

    ``ended``: is called when the library's call is over, whose cache then need not be held.
    """
    model, name = decoder.model, decoder.entry
    if name is None:
        raise ValueError("the model has neither `decode` nor `generate`: give the whole model")
    original = getattr(model, name)
    last: list[Any] = [None, 1]

    @functools.wraps(original)
    def listening(*arguments: Any, **named: Any) -> Any:
        options = arguments[1] if len(arguments) > 1 else None
        options = named.get("options") or named.get("generation_config") or options
        if name == "generate" and options is None:
            options = model.generation_config
        for beams in ("beam_size", "num_beams"):
            require_no_beams(named.get(beams) or getattr(options, beams, None))
        if name == "decode" and arguments:
            warmer = (getattr(options, "temperature", None) or 0.0) > 0
            again = warmer and arguments[0] is last[0]
            last[:] = [arguments[0], last[1] + 1 if again else 1]
            attempted(last[1])
        try:
            return original(*arguments, **named)
        finally:
            ended()

    with replaced(model, name, listening):
        yield

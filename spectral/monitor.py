"""``spectral.Monitor``: a risk that a Whisper invents text, token by token while it decodes.

What it weighs is read from a file of thresholds. It holds the last few rows of every component, so
that its memory and its work a token do not grow with the text.
"""

import importlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectral.tracing.runs import Call, Recorder, Run, following
from spectral.whisper import COMPONENTS, Decoder, recognise

THRESHOLDS = Path(__file__).with_name("thresholds.json")
"""The file that comes with the package."""

CONFIDENCE = "confidence"
"""In the place of a component: what the logits say."""

FIRST = ("forbidden_first", "no_speech_probability")
MEANS = ("entropy", "free_log_probability", "forbidden_mean")
SIZE, RANK = "window_log10_size", "window_n_eff"
_PROBABILITIES = {"forbidden_first", "no_speech_probability", "forbidden_mean"}

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

    weights: of the features less their ``means``. window: rows and tokens that slide. threshold:
    the risk of a segment from which on it is an alarm; doubt: a lower one, for a second opinion.
    """

    weights: Mapping[str, float]
    means: Mapping[str, float]
    bias: float
    window: int
    threshold: float
    doubt: float

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - set(FEATURES))
        if unknown or self.weights.keys() != self.means.keys() or not self.weights:
            raise ValueError(
                f"a score has weights of {sorted(self.weights)} and means of "
                f"{sorted(self.means)}; give both of the same features, of {', '.join(FEATURES)}"
            )
        if not self.doubt <= self.threshold:
            raise ValueError(f"doubt is {self.doubt}, above the threshold, {self.threshold}")

    @classmethod
    def read(cls, path: Path, name: str | None, size: Mapping[str, int] | None = None) -> "Score":
        """The score of a model in a file of thresholds, by its name, or else by its size."""
        models = json.loads(path.read_text(encoding="utf-8"))["models"]
        alike = (other for other in models if size and size.items() <= models[other].items())
        fitted = models.get(name or next(alike, None))
        if fitted is None:
            raise ValueError(
                f"{path}: no thresholds of {repr(name) if name else f'a model of {size}'}; there "
                f"are {', '.join(models)}: name one of them, Monitor(model, name=...), or fit "
                "others and give their file as thresholds"
            )
        if missing := [field.name for field in fields(cls) if field.name not in fitted]:
            raise ValueError(f"{path}: a model lacks {', '.join(missing)}: fit it again")
        return cls(**{field.name: fitted[field.name] for field in fields(cls)})

    @cached_property
    def components(self) -> list[str]:
        """The components that it weighs."""
        return [part for part in COMPONENTS if any(n.startswith(part) for n in self.weights)]

    def risk(self, values: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """The risk of all features that it weighs, and every part's contribution to its log-odds.

        Raises ValueError for NaN or infinity.
        """
        parts = dict.fromkeys((CONFIDENCE, *COMPONENTS), 0.0)
        for name, weight in self.weights.items():
            value = values[name]
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}: check the weights of the model and the sound")
            if name in _PROBABILITIES:
                value = math.log10(max(value, 1e-8))
            owner = next((part for part in COMPONENTS if name.startswith(part)), CONFIDENCE)
            parts[owner] += weight * (value - self.means[name])
        odds = self.bias + sum(parts.values())
        return 1 / (1 + math.exp(min(-odds, 700.0))), parts  # a float's exponential ends at 709


@dataclass(frozen=True)
class Reading:
    """One token of text as it is written: ``index`` of the text in a ``row`` of the batch.

    risk: of the last tokens alone, from 0 to 1; segment_risk: of all of the segment so far.
    component: what raises the risk of the last tokens most.
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

    run, row: which batch and which of its rows, from 0. attempt: which one at this sound, from 1,
    where openai-whisper tries several temperatures. risks: of every token. risk: of all of it, NaN
    of a text without tokens; alarm: whether that reaches the threshold. contributions: to the
    log-odds, of every component and the confidence.
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


class Monitor(Recorder):
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

    Raises TypeError for a model of another structure; ValueError for a compiled one, one without
    thresholds, beams, speculative decoding, decoding without a cache, or NaN in what is weighed;
    RuntimeError inside the block, where a layer was silent, or a cache was rearranged.

    >>> with Monitor(model) as monitor:  # doctest: +SKIP
    ...     model.transcribe("talk.mp3")
    >>> [(s.risk, s.component) for s in monitor.segments if s.alarm]  # doctest: +SKIP
    """

    copies_context = False

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
        width = next(decoder.decoder.parameters()).shape[-1]
        size = {"layers": len(decoder.layers), "width": width, "vocabulary": decoder.vocabulary}
        self.score = Score.read(Path(thresholds), name, size)
        generates = decoder.entry == "generate"
        last: Any = decoder.model.proj_out if generates else decoder.decoder
        super().__init__(decoder, self.score.components, last)
        always, blank, self.no_speech = _forbidden_by_library(decoder)
        always = always if forbidden is None else [*forbidden]
        if not always:
            raise ValueError(
                "the model's generation_config says nothing of suppress_tokens: give "
                "Monitor(model, forbidden=...), the tokens that are forbidden at every step"
            )
        device = next(decoder.model.parameters()).device
        self.forbidden = torch.tensor(sorted({*always}), device=device)
        self.forbidden_first = torch.tensor(sorted({*always, *blank, decoder.end}), device=device)
        self.watch, self._past, self._count = watch, list[Segment](), 0

    @property
    def segments(self) -> list[Segment]:
        """All texts so far, in the order in which they began."""
        present = (run.state.segments() for run in self.runs if run.state is not None)
        segments = [*self._past, *(segment for batch in present for segment in batch)]
        return sorted(segments, key=lambda segment: (segment.run, segment.row))

    def __enter__(self) -> "Monitor":
        self._block = following(self)
        self._block.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._block.__exit__(*error)

    def chose(self, tokens: Tensor, *_: object) -> Tensor:
        """As of a recorder. Raises ValueError where ``generate`` decodes without a cache."""
        if not any(run.cached for run in self._open):
            raise ValueError("use_cache=False: a monitor follows decoding with a cache alone")
        return super().chose(tokens)

    def began(self, run: Run, tokens: Tensor) -> None:
        """What these tokens say of the call before."""
        for reading in run.state.take(tokens[:, -1]) if run.state is not None else ():
            if self.watch is not None:
                self.watch(reading)

    def ended(self, run: Run, call: Call, output: Any) -> None:
        """What a call says of the token to come; one that decodes nothing has no cache."""
        if not run.cached:
            return
        with torch.no_grad():
            if run.state is None:
                run.state = _Batch(self, self._count, run, output, call.tokens)
                self._count += 1
            rows = [*call.outputs.values()]
            run.state.give(torch.stack(rows, 1)[:, :, -1] if rows else None, output[:, -1])

    def closed(self, run: Run) -> None:
        """Its texts, which are all that stays of it."""
        self.runs.remove(run)
        if run.state is not None:
            self._past += run.state.segments()


class _Text:
    """What is known of one row of a batch: its tokens, and the numbers that a risk is made of."""

    def __init__(self, window: int, no_speech: float) -> None:
        self.tokens: list[int] = []
        self.risks: list[float] = []
        self.finished = False
        self.first = {"no_speech_probability": no_speech}
        self.recent: deque[dict[str, float]] = deque(maxlen=window)
        self.sums: dict[str, float] = {}
        self.rows: Tensor | None = None  # (window - 1, places, width), those before the next

    def add(
        self, token: int, confidences: dict[str, float], sliding: dict[str, float]
    ) -> dict[str, float]:
        """One more token, what its logits say, and what the last rows do: features of the last."""
        self.tokens.append(token)
        self.recent.append(confidences)
        self.sums = {n: self.sums.get(n, 0.0) + v for n, v in (confidences | sliding).items()}
        count = len(self.recent)
        means = {n: sum(values[n] for values in self.recent) / count for n in confidences}
        return self.first | means | sliding

    def averages(self) -> dict[str, float]:
        """Features of all tokens so far."""
        return self.first | {n: total / len(self.tokens) for n, total in self.sums.items()}


class _Batch:
    """One batch from its prompt on: its texts, and the steps that have not been judged yet."""

    def __init__(
        self, monitor: Monitor, number: int, run: Run, output: Tensor, fed: Tensor
    ) -> None:
        """From the logits of its prompt, ``fed``."""
        self.monitor, self.score = monitor, monitor.score
        self.number, self.attempt = number, run.attempt
        start = monitor.decoder.start
        at = (fed[0] == start).nonzero()
        if not len(at):
            raise ValueError(f"a prompt {fed[0].tolist()} without the start token {start}")
        no_speech = output[:, int(at[-1])].double().softmax(-1)[:, monitor.no_speech].tolist()
        self.texts = [_Text(self.score.window, probability) for probability in no_speech]
        self.begun = False
        self.steps: list[tuple[Tensor | None, dict[str, Tensor], Tensor]] = []

    def give(self, rows: Tensor | None, logits: Tensor) -> None:
        """What one call says of the next token: rows (batch, places, width), and its logits."""
        self.rows, self.logs = rows, logits.float().log_softmax(-1)
        probabilities = logits.float().softmax(-1)
        self.numbers = {
            "entropy": -torch.linalg.vecdot(probabilities, self.logs),
            "forbidden_mean": probabilities[:, self.monitor.forbidden].sum(-1),
            "forbidden_first": probabilities[:, self.monitor.forbidden_first].sum(-1),
        }

    def take(self, tokens: Tensor) -> Iterator[Reading]:
        """The tokens (batch,) that were written: only now is it known which rows are of text."""
        self.numbers["free_log_probability"] = self.logs.gather(1, tokens[:, None])[:, 0]
        self.steps.append((self.rows, self.numbers, tokens))
        together = 1 if self.monitor.watch is not None or not self.begun else 16
        return self.judge() if len(self.steps) >= together else iter(())

    def judge(self) -> Iterator[Reading]:
        """The steps since the last time, token by token."""
        steps, self.steps = self.steps, []
        if not steps:
            return
        end = self.monitor.decoder.end
        written = torch.stack([tokens for *_, tokens in steps]).tolist()
        numbers = {
            name: torch.stack([step[name] for _, step, _ in steps]).tolist() for name in steps[0][1]
        }
        for row, text in enumerate(self.texts):
            chosen = []
            for i, tokens in enumerate(written):
                if tokens[row] < end and not text.finished:
                    chosen.append(i)
                text.finished = text.finished or tokens[row] == end
            new = [rows[row] for rows, *_ in (steps[i] for i in chosen) if rows is not None]
            sliding = self._slide(text, torch.stack(new)) if new else [{} for _ in chosen]
            for i, now in zip(chosen, sliding, strict=True):
                confidences = {name: values[i][row] for name, values in numbers.items()}
                text.first.setdefault("forbidden_first", confidences.pop("forbidden_first"))
                risk, parts = self.score.risk(text.add(written[i][row], confidences, now))
                text.risks.append(risk)
                so_far, _ = self.score.risk(text.averages())
                place, worst = len(text.tokens) - 1, max(parts, key=parts.__getitem__)
                yield Reading(row, place, written[i][row], risk, so_far, worst)
        self.begun = all(text.tokens or text.finished for text in self.texts)

    def segments(self) -> list[Segment]:
        """What is known of each row so far."""
        deque(self.judge(), maxlen=0)
        segments = []
        for row, text in enumerate(self.texts):
            risk, parts = self.score.risk(text.averages()) if text.tokens else (math.nan, {})
            alarm = risk >= self.score.threshold  # NaN is none
            judged = tuple(text.tokens), tuple(text.risks), risk, alarm, parts
            segments.append(Segment(self.number, row, self.attempt, *judged))
        return segments

    def _slide(self, text: _Text, new: Tensor) -> list[dict[str, float]]:
        """Sizes and ranks by component, at each of so many more rows (n, places, width)."""
        components, window = self.score.components, self.score.window
        before = new.new_zeros(window - 1, *new.shape[1:]) if text.rows is None else text.rows
        rows = torch.cat([before, new])
        text.rows = rows[len(new) :].clone()
        by_place = rows.transpose(0, 1).float()
        grams = (by_place @ by_place.mT).unfold(1, window, 1).unfold(2, window, 1)
        exact = grams.diagonal(dim1=1, dim2=2).movedim(-1, 0).double()  # (n, places, w, w)
        squares = exact.diagonal(dim1=-2, dim2=-1).sum(-1)
        if not bool(squares.isfinite().all()):
            raise ValueError(
                f"{' or '.join(components)} gave NaN or infinity: check the weights of the "
                "model and the sound"
            )
        counts = range(len(text.tokens) + 1, len(text.tokens) + len(new) + 1)
        held = squares.new_tensor([min(count, window) for count in counts])
        sizes = (squares / held[:, None]).log10()
        modes = torch.linalg.eigvalsh(exact).clamp_(min=0)
        total = modes.sum(-1)
        ranks = (total.log() - torch.xlogy(modes, modes).sum(-1) / total).exp()
        means = [n.reshape(len(new), -1, len(components)).mean(1) for n in (sizes, ranks)]
        names = [f"{part}_{name}" for name in (SIZE, RANK) for part in components]
        return [dict(zip(names, row, strict=True)) for row in torch.cat(means, 1).tolist()]


def _forbidden_by_library(decoder: Decoder) -> tuple[list[int], list[int], int]:
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
    names = ("transcribe", "translate", "sot", "sot_prev", "sot_lm", "no_speech")
    steering = [getattr(tokenizer, name) for name in names]
    always = [*tokenizer.non_speech_tokens, *steering]
    return always, tokenizer.encode(" "), tokenizer.no_speech

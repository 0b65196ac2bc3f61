"""Measure the contest: one row per transcript, and per beginning of one, with all that might warn.

What became of a transcript is judged from texts (``companion.contest.outcomes``); every other
column is what one of the contestants looks at. Numbers of a beginning come from its first n tokens
alone, whatever follows.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from companion.contest.outcomes import count_words, kind_of
from companion.measurement.schemas import (
    CONTEST,
    HEADS,
    REFERENCE_CONDITION,
    REPEATED,
    ROOM_TONE,
    STEPS,
    WHOLE,
)
from companion.measurement.settings import ListeningSettings, Positive
from companion.measurement.spectra import Decoded, decode_heard
from companion.measurement.texts import Row
from companion.measurement.warnings import first_wrong_token, prefix_observables, words_begun
from companion.models.capture import COMPONENTS, HIDDEN_STATE
from companion.models.decoding import Heard, Transcript, hear
from companion.models.rules import Rule, forbidden
from companion.models.view import SpeechModel
from companion.speech.corpus import SAMPLE_RATE
from companion.speech.text import compression_ratio
from companion.stress.conditions import in_turn
from companion.stress.inputs import ROOM_TONE as ROOM_LEVEL
from companion.stress.inputs import pink_noise
from companion.stress.mixture import Mixture, digest, rms
from spectral.jacobians.layers import Attention, normalised
from spectral.spectra import effective_rank
from spectral.whisper import as_layer


def head_columns(
    model: SpeechModel,
    before: Tensor,
    transcripts: Sequence[Transcript],
    heard: Heard,
    samples: Sequence[int],
) -> tuple[list[Tensor], list[Tensor]]:
    """Of cross-attention by text, layer, head and token, two tensors (layers, heads, T) a text.

    The first: the entropy in nats over the encoder's positions; the second: the fraction that is
    on positions in which there is sound, which padding follows. before: the residual stream before
    cross-attention, (batch, layers, T, width); samples: of each wave.
    """
    parts = [as_layer(layer.layer).cross_attention for layer in model.layers]
    entropies, fractions, window = [], [], 0
    for i, text in enumerate(transcripts):
        found, edges = [], [0, *text.breaks, len(text.tokens)]
        for which in range(heard.windows[i]):
            context = heard.context[window + which]
            left = min(samples[i] - which * model.window_samples, model.window_samples)
            real = math.ceil(left / model.window_samples * len(context))
            rows = before[i, :, edges[which] : edges[which + 1]]
            for_layers = [
                _looks_at(part, own, context, real)
                for part, own in zip(parts, rows, strict=True)
                if part is not None
            ]
            found.append(torch.stack(for_layers))
        window += heard.windows[i]
        entropy, fraction = torch.cat(found, 3).unbind(1)
        entropies.append(entropy)
        fractions.append(fraction)
    return entropies, fractions


def _looks_at(part: Attention, rows: Tensor, context: Tensor, real: int) -> Tensor:
    """Entropy and fraction on the first ``real`` positions: (2, heads, tokens)."""
    query, key = (
        torch.unflatten(linear(source, weight, bias), -1, (part.heads, -1)).transpose(0, 1)
        for source, weight, bias in (
            (normalised(part.norm, rows), part.query_weight, part.query_bias),
            (context, part.key_weight, part.key_bias),
        )
    )
    fractions = ((query * part.scale) @ key.mT).softmax(-1)
    entropy = -torch.xlogy(fractions, fractions).sum(-1)
    return torch.stack([entropy, fractions[..., :real].sum(-1)])


LAST_TOKENS = 32
"""whisper.cpp's: of so many tokens, the last, it takes the entropy of how often each occurs."""

LARGEST = 5
"""Eigenvalues that LapEigvals keeps of every head (Binkowski et al. 2025 keep 5 to 100)."""

DIRECTIONS = 32
"""Random directions of the decoder's states that a linear probe is given."""

FRAME = 400
"""Samples, 25 ms: as long as one frame of Whisper's log-mel."""

_AT_ONCE = 32  # sounds: what each leaves behind while it is decoded is large
_LEAST_ROWS = 3  # two modes, which a slope needs
_SILENT_DB = -200.0


@dataclass(frozen=True, kw_only=True)
class ContestSettings(ListeningSettings):
    """Parameters: ``prefixes`` are numbers of tokens, ``window`` rows slide, ``epsilon`` is Kf's.

    Beside the ``conditions``: the clean utterance with room tone to ``room_tone`` seconds, or to
    one of several such lengths in turn, and the utterance said as often as fits into the model's
    window, or into ``windows`` of these where that is drawn, ``repeats`` times at most. Without
    lengths there is no room tone, and with one repeat no repetition.
    """

    prefixes: Annotated[tuple[int, ...], _LEAST_ROWS]
    window: Annotated[int, 2]
    room_tone: float | tuple[float, ...]
    repeats: Positive
    epsilon: float
    windows: Positive = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.room_tone, Sequence):
            object.__setattr__(self, "room_tone", tuple(self.room_tone))


@torch.inference_mode()
def contest_rows(
    model: SpeechModel, batch: Mapping[str, Sequence[Mixture]], settings: ContestSettings
) -> list[Row]:
    """All rows of a batch; a text of n tokens or fewer has none of its first n."""
    conditions = all_conditions(model.window_samples, batch, settings, settings.windows)
    every = [(names, mixture) for names, mixtures in conditions for mixture in mixtures]
    rows: list[Row] = []
    for start in range(0, len(every), _AT_ONCE):
        part = every[start : start + _AT_ONCE]
        mixtures = [mixture for _, mixture in part]
        heard = hear(model, [mixture.wave for mixture in mixtures])
        decoded = decode_heard(model, mixtures, heard, settings.rule)
        inside = _Inside(model, decoded, heard, [mixture.wave.size for mixture in mixtures])
        for i, (names, mixture) in enumerate(part):
            wrong = first_wrong_token(model, mixture.target.reference, decoded.transcripts[i])
            shared = _shared(decoded, i, mixture)
            shared["condition"] = in_turn(names, mixture.target.id, settings.seed)
            shared["first_wrong"] = wrong
            text = _Text(model, inside, i, decoded.transcripts[i], settings)
            count = len(decoded.transcripts[i].tokens)
            for prefix in (WHOLE, *(n for n in settings.prefixes if n < count)):
                numbers = text.numbers(prefix or count, settings)
                steps = text.steps() if prefix == WHOLE else dict.fromkeys((*STEPS, "word_starts"))
                rows.append(shared | numbers | steps | {"prefix": prefix})
    return [{name: row[name] for name in CONTEST.names} for row in rows]


class Honest(Protocol):
    """Settings with the conditions that are made of clean speech."""

    @property
    def seed(self) -> int:
        """Of what is drawn."""

    @property
    def room_tone(self) -> float | tuple[float, ...]:
        """Seconds, one or several in turn."""

    @property
    def repeats(self) -> int:
        """How often an utterance is said at most."""


def all_conditions(
    window_samples: int,
    batch: Mapping[str, Sequence[Mixture]],
    settings: Honest,
    windows: int = 1,
) -> Iterator[tuple[str, Sequence[Mixture]]]:
    """The mixtures of a batch by condition, those that are made of clean speech among them.

    An utterance is said as often as fits into one of the model's windows, or into ``windows``.
    """
    yield from batch.items()
    clean = batch.get(REFERENCE_CONDITION, ())
    seed, tones = settings.seed, settings.room_tone
    lengths = tones if isinstance(tones, Sequence) else (tones,)
    if clean and lengths:
        seconds = [lengths[_drawn(seed, each, ROOM_TONE, len(lengths))] for each in clean]
        yield (
            ROOM_TONE,
            [
                _with_room_tone(each, round(length * SAMPLE_RATE), seed)
                for each, length in zip(clean, seconds, strict=True)
            ],
        )
    room = [window_samples * (1 + _drawn(seed, each, REPEATED, windows)) for each in clean]
    times = [
        min(settings.repeats, n // each.wave.size) for each, n in zip(clean, room, strict=True)
    ]
    again = [_again(each, n) for each, n in zip(clean, times, strict=True) if n > 1]
    if again:
        yield REPEATED, again


def _drawn(seed: int, mixture: Mixture, what: str, count: int) -> int:
    return int.from_bytes(digest(seed, mixture.target.id, what)) % count


def _with_room_tone(mixture: Mixture, samples: int, seed: int) -> Mixture:
    """The wave, then pink noise of a quiet room until it has so many samples."""
    state = int.from_bytes(digest(seed, mixture.target.id, ROOM_TONE))
    rest = max(samples - mixture.wave.size, 0)
    noise = ROOM_LEVEL * pink_noise(rest, np.random.Generator(np.random.PCG64(state)))
    return mixture.after(ROOM_TONE, np.concatenate([mixture.wave, noise]))


def _again(mixture: Mixture, times: int) -> Mixture:
    reference = " ".join([mixture.target.reference] * times)
    return Mixture.of(replace(mixture.target, reference=reference), np.tile(mixture.wave, times))


def _shared(decoded: Decoded, i: int, mixture: Mixture) -> Row:
    """What is known of a transcript as a whole, and of the sound."""
    text, transcript = decoded.texts[i], decoded.transcripts[i]
    references = mixture.references
    return {
        **{name: text[name] for name in ("model", "parameters", "utterance", "speaker")},
        **{name: text[name] for name in ("reference", "transcript", "wer", "finished")},
        "kind": str(kind_of(references, transcript.text)),
        **vars(count_words(references, transcript.text)),
        "tokens": len(transcript.tokens),
        "windows": len(transcript.windows),
        "seconds": mixture.wave.size / SAMPLE_RATE,
        "no_speech_probability": transcript.no_speech_probability,
        "forbidden_first": transcript.forbidden_mass,
        "average_log_probability": transcript.average_log_probability,
        **sound_levels(mixture.wave),
    }


def sound_levels(wave: np.ndarray) -> dict[str, float]:
    """Of a wave (samples,): its level in dB of full scale, and how far its frames differ, in dB.

    The second is the 95th less the 5th percentile of the levels of frames of 25 ms: speech has
    pauses, steady noise has none.
    """
    frames = wave[: max(wave.size // FRAME, 1) * FRAME].reshape(-1, min(FRAME, wave.size))
    power = np.square(frames, dtype=np.float64).mean(1)
    levels = 10 * np.log10(power.clip(10 ** (_SILENT_DB / 10)))
    low, high = np.percentile(levels, [5, 95])
    return {"level_db": 20 * math.log10(rms(wave)), "level_range_db": float(high - low)}


class _Inside:
    """What went on inside while a batch was written, of the rows that predict its texts.

    rows: by component (batch, layers, T, width), and of the last layer's output (batch, T, width).
    diagonals: see ``_laplacian``, (batch, layers, heads, T). heads: by name of ``HEADS``, what
    each token's attention looks at, a tensor (layers, heads, T) for every text.
    """

    def __init__(
        self, model: SpeechModel, decoded: Decoded, heard: Heard, samples: Sequence[int]
    ) -> None:
        texts, recording = decoded.transcripts, decoded.recording
        self.rows = {kind: recording.text_rows(kind, texts)[0] for kind in COMPONENTS}
        self.states = recording.text_rows(HIDDEN_STATE, texts)[0][:, -1]
        counts = [len(text.tokens) for text in texts]
        longest = max(counts)
        self.diagonals = self.states.new_zeros(
            len(texts), len(model.layers), model.heads, longest, dtype=torch.float64
        )
        prompted = torch.zeros_like(self.diagonals)
        for layer in range(len(model.layers)):
            weights = recording.attention(texts, layer)
            for i, count in enumerate(counts):
                self.diagonals[i, layer, :, :count] = _laplacian(weights[i], count)
                prompted[i, layer, :, :count] = 1 - weights[i, :, :count, :count].sum(-1)
        before = recording.text_rows(HIDDEN_STATE, texts)[0]  # what the queries are made of
        before = before - self.rows["ffn"] - self.rows["cross_attention"]
        columns = head_columns(model, before, texts, heard, samples)
        self.heads = {HEADS[0]: list(prompted), **dict(zip(HEADS[1:], columns, strict=True))}


class _Text:
    """One transcript and what went on while it was written, token by token."""

    def __init__(
        self,
        model: SpeechModel,
        inside: _Inside,
        i: int,
        transcript: Transcript,
        settings: ContestSettings,
    ) -> None:
        self._model, self.transcript = model, transcript
        count = len(transcript.tokens)
        self._rows = {kind: rows[i, :, :count] for kind, rows in inside.rows.items()}
        self._states = inside.states[i, :count]
        self._diagonals = inside.diagonals[i]
        self._heads = {name: texts[i] for name, texts in inside.heads.items()}
        self._confidence = token_confidences(model, self._states, transcript, settings.rule)
        self._sliding = {
            kind: sliding_observables(rows, settings.window) for kind, rows in self._rows.items()
        }

    def steps(self) -> Row:
        """What every token shows, and the token with which each word begins."""
        begun = [*words_begun(self._model, self.transcript)]
        words = range(begun[-1] if begun else 0)
        return {
            "step_entropy": self._confidence["entropy"].tolist(),
            "step_n_eff": self._sliding["cross_attention"]["n_eff"].tolist(),
            "word_starts": [
                next(i for i, count in enumerate(begun) if count > word) for word in words
            ],
        }

    def numbers(self, count: int, settings: ContestSettings) -> Row:
        """What the first ``count`` tokens show; NaN of none, and of spectra of fewer than three."""
        tokens = self.transcript.tokens[:count]
        reference_words = self._model.text(tokens)
        sure = {name: column[:count] for name, column in self._confidence.items()}
        empty = not count
        found: Row = {
            "log_probability": _mean(sure["log_probability"]),
            "least_log_probability": math.nan if empty else sure["log_probability"].min().item(),
            "free_log_probability": _mean(sure["free_log_probability"]),
            "entropy": _mean(sure["entropy"]),
            "forbidden_mean": _mean(sure["forbidden"]),
            "compression_ratio": compression_ratio(reference_words),
            "token_entropy": repetition_entropy(tokens),
            "characters": len(reference_words),
            "laplacian": _means_of_largest(self._diagonals[:, :, :count], LARGEST),
            "state": [0.0] * DIRECTIONS,
        }
        for name, column in self._heads.items():
            means = column[..., :count].mean(-1).flatten()
            found[name] = means.tolist() if not empty else [0.0] * len(means)
        if not empty:
            mean = self._states[:count].double().mean(0)
            found["state"] = (mean.cpu() @ directions(len(mean))).tolist()
        for component in COMPONENTS:
            numbers = _spectral(self._rows[component][:, :count], settings.epsilon)
            found |= {f"{component}_{name}": value for name, value in numbers}
            for name, column in self._sliding[component].items():
                found[f"{component}_window_{name}"] = _mean(column[:count])
        return found


def _spectral(rows: Tensor, epsilon: float) -> Iterator[tuple[str, float]]:
    """Names and numbers of one component's rows (layers, tokens, width), means over layers."""
    names = ("n_eff", "alpha", "log10_kf_resolved", "log10_variance")
    if rows.shape[1] < _LEAST_ROWS:
        yield from ((name, math.nan) for name in names)
    else:
        numbers, _ = prefix_observables(rows[None], rows.shape[1], epsilon)
        yield from ((name, numbers[name].item()) for name in names)


def sliding_observables(rows: Tensor, window: int) -> dict[str, Tensor]:
    """Size and effective rank of the last rows at every token, not centred: (tokens,) float64.

    rows (layers, tokens, width); at token t of the last min(t, ``window``) rows R, from their Gram
    matrix RR'. log10_size is log10 of the mean of their squared norms, n_eff the effective rank of
    the Gram matrix's eigenvalues, both means over layers. One row has a size, and the rank 1: both
    are there from the first token on.
    """
    count, values = rows.shape[1], rows.double()
    last = torch.arange(count, device=rows.device)[:, None] - torch.arange(
        window - 1, -1, -1, device=rows.device
    )
    real = last >= 0
    chosen = values[:, last.clamp(min=0)] * real[..., None]
    grams = chosen @ chosen.mT
    norms = grams.diagonal(dim1=-2, dim2=-1).sum(-1) / real.sum(-1)
    modes = torch.linalg.eigvalsh(grams).flip(-1).clamp(min=0)
    return {"log10_size": norms.log10().mean(0), "n_eff": effective_rank(modes).mean(0)}


def token_confidences(
    model: SpeechModel, states: Tensor, transcript: Transcript, rule: Rule
) -> dict[str, Tensor]:
    """What the last layer's states (tokens, width) say at each token: (tokens,) float64 each.

    In nats: log_probability of the token among those that the rule allows, free_log_probability
    among all, entropy of all; forbidden: the probability of what ``openai`` forbids at that step.
    """
    tokens = torch.tensor(transcript.tokens, dtype=torch.long, device=states.device)
    scores = model.logits(states).double().log_softmax(-1)
    starts = {0, *transcript.breaks}
    first = torch.tensor([i in starts for i in range(len(tokens))], device=states.device)
    free = scores.gather(-1, tokens[:, None])[:, 0]
    allowed, mass = torch.zeros_like(free), torch.zeros_like(free)
    for begins in (True, False):
        unwritten, never = (
            torch.tensor(sorted(part), dtype=torch.long, device=states.device)
            for part in (rule.unwritten(model.tokens, begins), forbidden(model.tokens, begins))
        )
        own = first == begins
        mass[own] = scores[own][:, never].exp().sum(-1)
        allowed[own] = scores[own].index_fill(-1, unwritten, -torch.inf).logsumexp(-1)
    return {
        "log_probability": free - allowed,
        "free_log_probability": free,
        "entropy": -(scores.exp() * scores).sum(-1),
        "forbidden": mass,
    }


def repetition_entropy(tokens: Sequence[int]) -> float:
    """Entropy in nats of how often each of the last 32 tokens occurs; 0 of none (whisper.cpp)."""
    counts = np.array([*Counter(tokens[-LAST_TOKENS:]).values()], float)
    fractions = counts / counts.sum()
    return float(-(fractions * np.log(fractions)).sum())


def directions(width: int) -> Tensor:
    """Random directions, the same for every text of a model: (width, 32), norm about 1 each."""
    draw = torch.randn(width, DIRECTIONS, generator=torch.Generator().manual_seed(width))
    return draw.double() / math.sqrt(width)


def _laplacian(attention: Tensor, count: int) -> Tensor:
    """The eigenvalues of the attention's Laplacian by head and token: (heads, T), float64.

    Attention is causal, so that L = D - A is triangular and they are its diagonal: what later
    tokens give to token i on average, itself among them, less what it gives to itself.
    """
    weights = attention[:, :count, :count]
    after = torch.arange(count, 0, -1, device=weights.device)
    return weights.sum(1) / after - weights.diagonal(dim1=-2, dim2=-1)


def _means_of_largest(values: Tensor, count: int) -> list[float]:
    """Of (layers, heads, tokens): the ``count`` largest of every head, means over heads, in turn.

    Where there are fewer tokens, zeros.
    """
    there = min(count, values.shape[-1])
    largest = values.new_zeros(*values.shape[:2], count)
    largest[..., :there] = values.topk(there, -1).values
    found: list[float] = largest.mean(1).flatten().tolist()
    return found


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else math.nan

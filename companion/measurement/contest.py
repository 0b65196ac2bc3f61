"""Measure the contest: one row per transcript, and per beginning of one, with all that might warn.

What became of a transcript is judged from texts (``companion.stress.outcomes``); every other
column is what one of the contestants looks at. Numbers of a beginning come from its first n tokens
alone, whatever follows.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import entropy
from torch import Tensor
from torch.nn.functional import linear, pad
from whisper.utils import compression_ratio

from companion.measurement.schemas import (
    CONTEST,
    HEADS,
    REFERENCE_CONDITION,
    REPEATED,
    ROOM_TONE,
    STEPS,
    WHOLE,
)
from companion.measurement.settings import ContestSettings
from companion.measurement.spectra import Decoded, decode_heard
from companion.measurement.texts import Batch, Row, names_of, of_schema
from companion.measurement.warnings import first_wrong_token, prefix_observables, words_begun
from companion.models.capture import COMPONENTS, HIDDEN_STATE
from companion.models.decoding import Heard, Transcript, hear
from companion.models.rules import Rule, forbidden
from companion.models.view import SpeechModel
from companion.speech.corpus import SAMPLE_RATE
from companion.stress.conditions import in_turn
from companion.stress.inputs import ROOM_TONE as ROOM_LEVEL
from companion.stress.inputs import pink_noise
from companion.stress.mixture import Mixture, digest, generator, rms
from companion.stress.outcomes import count_words, kind_of
from companion.stress.scoring import wer
from spectral.jacobians.layers import Attention, normalised
from spectral.spectra import effective_rank
from spectral.whisper import as_layer

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


@torch.inference_mode()
def contest_rows(model: SpeechModel, batch: Batch, settings: ContestSettings) -> list[Row]:
    """All rows of a batch; a text of n tokens or fewer has none of its first n."""
    conditions = all_conditions(model.window_samples, batch, settings)
    every = [(names, mixture) for names, mixtures in conditions for mixture in mixtures]
    rows: list[Row] = []
    for start in range(0, len(every), _AT_ONCE):
        part = every[start : start + _AT_ONCE]
        mixtures = [mixture for _, mixture in part]
        heard = hear(model, [mixture.wave for mixture in mixtures])
        decoded = decode_heard(model, mixtures, heard, settings.rule)
        samples = [mixture.wave.size for mixture in mixtures]
        texts = _texts(model, decoded, heard, samples, settings)
        for text, (names, mixture) in zip(texts, part, strict=True):
            reference, count = mixture.target.reference, len(text.transcript.tokens)
            shared = {
                **transcript_columns(model, mixture, text.transcript),
                **sound_levels(mixture.wave),
                "first_wrong": first_wrong_token(model, reference, text.transcript),
                "condition": in_turn(names, mixture.target.id, settings.seed),
            }
            for prefix in (WHOLE, *(n for n in settings.prefixes if n < count)):
                numbers = _numbers(model, text, prefix or count, settings.epsilon)
                steps = dict.fromkeys((*STEPS, "word_starts")) if prefix else _steps(model, text)
                rows.append(shared | numbers | steps | {"prefix": prefix})
    return list(of_schema(CONTEST, rows))


def all_conditions(
    window_samples: int, batch: Batch, settings: ContestSettings
) -> Iterator[tuple[str, Sequence[Mixture]]]:
    """The mixtures of a batch by condition, those that are made of clean speech among them."""
    yield from batch.items()
    clean, seed, tones = batch.get(REFERENCE_CONDITION, ()), settings.seed, settings.room_tone
    lengths = tones if isinstance(tones, Sequence) else (tones,)
    if clean and lengths:
        yield (
            ROOM_TONE,
            [
                _with_room_tone(
                    mixture, lengths[_drawn(seed, mixture, ROOM_TONE, len(lengths))], seed
                )
                for mixture in clean
            ],
        )
    again = []
    for mixture in clean:
        room = window_samples * (1 + _drawn(seed, mixture, REPEATED, settings.windows))
        times = min(settings.repeats, room // mixture.wave.size)
        if times > 1:
            reference = " ".join([mixture.target.reference] * times)
            repeated = replace(mixture.target, reference=reference)
            again.append(Mixture.of(repeated, np.tile(mixture.wave, times)))
    if again:
        yield REPEATED, again


def _drawn(seed: int, mixture: Mixture, what: str, count: int) -> int:
    return int.from_bytes(digest(seed, mixture.target.id, what)) % count


def _with_room_tone(mixture: Mixture, seconds: float, seed: int) -> Mixture:
    """The wave, then pink noise of a quiet room until it is so long."""
    rest = max(round(seconds * SAMPLE_RATE) - mixture.wave.size, 0)
    noise = ROOM_LEVEL * pink_noise(rest, generator(seed, mixture.target.id, ROOM_TONE))
    return mixture.after(ROOM_TONE, np.concatenate([mixture.wave, noise]))


def transcript_columns(model: SpeechModel, mixture: Mixture, transcript: Transcript) -> Row:
    """What became of a sound, judged from its text, and what decoding says of it as a whole."""
    references = mixture.references
    return {
        **names_of(model, mixture, transcript),
        "kind": str(kind_of(references, transcript.text)),
        **count_words(references, transcript.text),
        "wer": wer(references[0], transcript.text),
        "finished": transcript.finished,
        "tokens": len(transcript.tokens),
        "windows": len(transcript.windows),
        "seconds": mixture.wave.size / SAMPLE_RATE,
        "no_speech_probability": transcript.no_speech_probability,
        "forbidden_first": transcript.forbidden_mass,
        "average_log_probability": transcript.average_log_probability,
        "compression_ratio": transcript.compression_ratio,
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


@dataclass(frozen=True)
class _Text:
    """One transcript of T tokens, and what went on while it was written, token by token."""

    transcript: Transcript
    rows: Mapping[str, Tensor]  # by component, (layers, T, width)
    states: Tensor  # of the last layer's output, (T, width)
    columns: Mapping[str, Tensor]  # of ``token_columns``, (T,)
    laplacian: Tensor  # see ``_laplacian``, (layers, heads, T)
    heads: Mapping[str, Tensor]  # by name of ``HEADS``, (layers, heads, T)


def _texts(
    model: SpeechModel, decoded: Decoded, heard: Heard, samples: Sequence[int],
    settings: ContestSettings,
) -> Iterator[_Text]:  # fmt: skip
    transcripts, lengths = decoded.transcripts, decoded.lengths.tolist()
    parts = {kind: decoded.activations(kind) for kind in COMPONENTS}
    states = decoded.activations(HIDDEN_STATE)
    among: list[list[Tensor]] = [[] for _ in transcripts]  # layers of self-attention, by text
    for layer in range(len(model.layers)):
        attention = decoded.recording.attention(transcripts, layer)
        for weights, layers, count in zip(attention, among, lengths, strict=True):
            text = weights[:, :count, :count]
            layers.append(torch.stack([_laplacian(text), 1 - text.sum(-1)]).double())
    before = states - parts["ffn"] - parts["cross_attention"]  # what the queries are made of
    crossed = head_columns(model, before, transcripts, heard, samples)
    for i, (transcript, count) in enumerate(zip(transcripts, lengths, strict=True)):
        rows = {kind: part[i, :, :count] for kind, part in parts.items()}
        last = states[i, -1, :count]
        laplacian, prompted = torch.stack(among[i], 1)
        columns = token_columns(model, last, rows, transcript, settings.rule, settings.window)
        heads = dict(zip(HEADS, (prompted, *crossed[i]), strict=True))
        yield _Text(transcript, rows, last, columns, laplacian, heads)


def _steps(model: SpeechModel, text: _Text) -> Row:
    """What every token shows, and the token with which each word begins."""
    begun = [*words_begun(model, text.transcript)]
    words = range(begun[-1] if begun else 0)
    return {
        "step_entropy": text.columns["entropy"].tolist(),
        "step_n_eff": text.columns["cross_attention_window_n_eff"].tolist(),
        "word_starts": [next(i for i, count in enumerate(begun) if count > word) for word in words],
    }


def _numbers(model: SpeechModel, text: _Text, count: int, epsilon: float) -> Row:
    """What the first ``count`` tokens show; NaN of none, and of spectra of fewer than three."""
    tokens = text.transcript.tokens[:count]
    written = model.text(tokens)
    log_probabilities = text.columns["log_probability"][:count]
    numbers: Row = {
        **{name: mean(column[:count]) for name, column in text.columns.items()},
        "least_log_probability": log_probabilities.min().item() if count else math.nan,
        "compression_ratio": compression_ratio(written),
        "token_entropy": repetition_entropy(tokens),
        "characters": len(written),
        "laplacian": _means_of_largest(text.laplacian[:, :, :count], LARGEST),
        **{name: _means(column, count).flatten().tolist() for name, column in text.heads.items()},
    }
    state = _means(text.states.double().mT, count).cpu()
    numbers["state"] = (state @ directions(len(state))).tolist()
    for component, rows in text.rows.items():
        names = ("n_eff", "alpha", "log10_kf_resolved", "log10_variance")
        spectra = dict.fromkeys(names, torch.tensor([math.nan]))
        if count >= _LEAST_ROWS:
            spectra, _ = prefix_observables(rows[None], count, epsilon)
        numbers |= {f"{component}_{name}": value.item() for name, value in spectra.items()}
    return numbers


def token_columns(
    model: SpeechModel, states: Tensor, rows: Mapping[str, Tensor], transcript: Transcript,
    rule: Rule, window: int,
) -> dict[str, Tensor]:  # fmt: skip
    """``token_confidences``, and ``sliding_observables`` of all components: (tokens,) float64."""
    columns = token_confidences(model, states, transcript, rule)
    for component, activations in rows.items():
        sliding = sliding_observables(activations, window)
        columns |= {f"{component}_window_{name}": column for name, column in sliding.items()}
    return columns


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
    among all, entropy of all; forbidden_mean: the probability of what ``openai`` forbids then.
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
        here = first == begins
        mass[here] = scores[here][:, never].exp().sum(-1)
        allowed[here] = scores[here].index_fill(-1, unwritten, -torch.inf).logsumexp(-1)
    return {
        "log_probability": free - allowed,
        "free_log_probability": free,
        "entropy": -(scores.exp() * scores).sum(-1),
        "forbidden_mean": mass,
    }


def repetition_entropy(tokens: Sequence[int]) -> float:
    """Entropy in nats of how often each of the last 32 tokens occurs; 0 of none (whisper.cpp)."""
    return float(entropy([*Counter(tokens[-LAST_TOKENS:]).values()]))


def directions(width: int) -> Tensor:
    """Random directions, the same for every text of a model: (width, 32), norm about 1 each."""
    draw = torch.randn(width, DIRECTIONS, generator=torch.Generator().manual_seed(width))
    return draw.double() / math.sqrt(width)


def head_columns(
    model: SpeechModel, before: Tensor, transcripts: Sequence[Transcript], heard: Heard,
    samples: Sequence[int],
) -> list[Tensor]:  # fmt: skip
    """Of cross-attention by text: (2, layers, heads, T).

    The first: the entropy in nats over the encoder's positions; the second: the fraction that is
    on positions in which there is sound, which padding follows. before: the residual stream before
    cross-attention, (batch, layers, T, width); samples: of each wave.
    """
    parts = [as_layer(layer.layer).cross_attention for layer in model.layers]
    columns, contexts = [], iter(heard.context)
    for i, text in enumerate(transcripts):
        edges, by_window = [0, *text.breaks, len(text.tokens)], []
        for which, (start, stop) in enumerate(pairwise(edges)):
            context = next(contexts)
            left = min(samples[i] - which * model.window_samples, model.window_samples)
            real = math.ceil(left / model.window_samples * len(context))
            pairs = zip(parts, before[i, :, start:stop], strict=True)
            layers = [_looks_at(part, rows, context, real) for part, rows in pairs if part]
            by_window.append(torch.stack(layers, 1))
        columns.append(torch.cat(by_window, 3))
    return columns


def _looks_at(part: Attention, rows: Tensor, context: Tensor, real: int) -> Tensor:
    """Entropy and fraction on the first ``real`` positions: (2, heads, tokens)."""
    query, key = (
        torch.unflatten(linear(source, weight, bias), -1, (part.heads, -1)).transpose(0, 1)
        for source, weight, bias in (
            (normalised(part.norm, rows), part.query_weight, part.query_bias),
            (context, part.key_weight, part.key_bias),
        )
    )
    weights = ((query * part.scale) @ key.mT).softmax(-1)
    return torch.stack([torch.special.entr(weights).sum(-1), weights[..., :real].sum(-1)])


def _laplacian(attention: Tensor) -> Tensor:
    """The eigenvalues of the attention's (heads, T, T) Laplacian by head and token: (heads, T).

    Attention is causal, so that L = D - A is triangular and they are its diagonal: what later
    tokens give to token i on average, itself among them, less what it gives to itself.
    """
    after = torch.arange(attention.shape[-1], 0, -1, device=attention.device)
    return attention.sum(1) / after - attention.diagonal(dim1=-2, dim2=-1)


def _means_of_largest(values: Tensor, count: int) -> list[float]:
    """Of (layers, heads, tokens): the ``count`` largest of every head, means over heads, in turn.

    Where there are fewer tokens, zeros.
    """
    largest = values.topk(min(count, values.shape[-1]), -1).values
    means: list[float] = pad(largest, (0, count - largest.shape[-1])).mean(1).flatten().tolist()
    return means


def _means(values: Tensor, count: int) -> Tensor:
    """Means over the first ``count`` tokens, which come last; zeros of none."""
    return values[..., :count].mean(-1) if count else values.new_zeros(values.shape[:-1])


def mean(values: Tensor) -> float:
    """Of (tokens,); NaN of none."""
    return float(values.mean()) if len(values) else math.nan

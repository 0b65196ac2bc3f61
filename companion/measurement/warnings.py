"""Measure warnings: what the first tokens of a text show, whatever becomes of it.

All numbers of a row come from the first n tokens alone, and n is the same for all utterances that
are compared: nothing here can follow from the length of a transcript.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from companion.measurement.schemas import REFERENCE_CONDITION, WARNINGS
from companion.measurement.settings import WarningSettings
from companion.measurement.spectra import Decoded, decode
from companion.measurement.texts import Batch, Row, of_schema
from companion.models.capture import COMPONENTS
from companion.models.decoding import Transcript
from companion.models.forcing import token_log_probabilities
from companion.models.view import SpeechModel
from companion.stress.first_error import first_wrong_word
from companion.stress.mixture import Mixture
from spectral.spectra import (
    effective_rank,
    eigenvalues,
    resolved_kirchhoff_index,
    resolved_modes,
    slope_reason,
    spectral_slope,
)


def warning_rows(model: SpeechModel, batch: Batch, settings: WarningSettings) -> list[Row]:
    """All rows of a batch of utterances; a text of n tokens or fewer has none of its first n."""
    rows = (
        row
        for condition, mixtures in batch.items()
        if condition != REFERENCE_CONDITION
        for row in _rows(model, condition, mixtures, settings)
    )
    return list(of_schema(WARNINGS, rows))


def _rows(
    model: SpeechModel, condition: str, mixtures: Sequence[Mixture], settings: WarningSettings
) -> Iterator[Row]:
    decoded = decode(model, mixtures, settings.rule)
    texts = decoded.transcripts
    sure = token_log_probabilities(model, [mixture.wave for mixture in mixtures], texts)
    answers = [
        decoded.texts[i]
        | {"condition": condition, "tokens": len(texts[i].tokens)}
        | {"first_wrong": first_wrong_token(model, mixtures[i].target.reference, texts[i])}
        for i in range(len(mixtures))
    ]
    for prefix in settings.prefixes:
        kept = [i for i, text in enumerate(texts) if len(text.tokens) > prefix]
        for i, columns in _spectral(decoded, kept, prefix, settings.epsilon):
            confidence = {
                "log_probability": sure[i][:prefix].mean().item(),
                "least_log_probability": sure[i][:prefix].min().item(),
            }
            yield answers[i] | columns | confidence | {"prefix": prefix}


def _spectral(
    decoded: Decoded, kept: list[int], prefix: int, epsilon: float
) -> Iterator[tuple[int, Row]]:
    """Utterance and spectral columns of the kept ones' first ``prefix`` rows, means over layers."""
    for component in COMPONENTS if kept else ():
        activations = decoded.activations(component)[kept]
        numbers, reasons = prefix_observables(activations, prefix, epsilon)
        for at, i in enumerate(kept):
            own = {name: column[at].item() for name, column in numbers.items()}
            yield i, {"component": component, "alpha_reason": reasons[at], **own}


def prefix_observables(
    activations: Tensor, prefix: int, epsilon: float
) -> tuple[dict[str, Tensor], list[str]]:
    """Observables of the first ``prefix`` rows, and why there is no slope ("" where there is).

    activations (batch, layers, tokens, width) -> (batch,), means over layers. So many rows less
    their mean have ``prefix - 1`` modes, or as many as the width: the slope is over all of these,
    NaN where not all are resolved in every layer. log10 Kf, over the resolved modes, is NaN where
    a layer has none, and so is log10 of the variance, the sum of all eigenvalues: the size of the
    activations, without any shape, which Kf depends on too.
    """
    spectra = eigenvalues(activations[..., :prefix, :])
    modes = min(prefix - 1, spectra.shape[-1])
    index, variance = resolved_kirchhoff_index(spectra, modes, epsilon), spectra.sum(-1)
    columns = {
        "n_eff": effective_rank(spectra),
        "alpha": spectral_slope(spectra, 1, modes),
        "log10_kf_resolved": index.where(index > 0, torch.nan).log10(),
        "log10_variance": variance.where(variance > 0, torch.nan).log10(),
    }
    reasons = [slope_reason(n, modes) for n in resolved_modes(spectra).amin(1).tolist()]
    return {name: column.mean(1) for name, column in columns.items()}, reasons


def first_wrong_token(model: SpeechModel, reference: str, text: Transcript) -> int | None:
    """The text's token, from 0, with which its first wrong word begins; None where none is wrong.

    The first n tokens hold nothing of that word just where n is at most this number.
    """
    word = first_wrong_word(reference, text.text)
    if word is None:
        return None
    return next(i for i, begun in enumerate(words_begun(model, text)) if begun > word)


def words_begun(model: SpeechModel, text: Transcript) -> Iterator[int]:
    """How many words the text has after each of its tokens."""
    before = 0
    for window in text.windows:
        begun = [len(model.text(window[: i + 1]).split()) for i in range(len(window))]
        yield from (before + count for count in begun)
        before += begun[-1] if begun else 0

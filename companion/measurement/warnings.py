"""Measure warnings: what the first tokens of a text show, whatever becomes of it.

All numbers of a row come from the first n tokens alone, and n is the same for all utterances that
are compared: nothing here can follow from the length of a transcript.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from companion.measurement.schemas import REFERENCE_CONDITION, WARNINGS
from companion.measurement.settings import WarningSettings
from companion.measurement.spectra import decode
from companion.measurement.texts import Batch, Row, of_schema
from companion.models.capture import COMPONENTS
from companion.models.decoding import Transcript
from companion.models.forcing import token_log_probabilities
from companion.models.view import SpeechModel
from companion.stress.mixture import Mixture
from companion.stress.scoring import first_wrong_word
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
    stressed = {name: side for name, side in batch.items() if name != REFERENCE_CONDITION}
    rows = (row for side in stressed.items() for row in _rows(model, *side, settings))
    return list(of_schema(WARNINGS, rows))


def _rows(
    model: SpeechModel, condition: str, mixtures: Sequence[Mixture], settings: WarningSettings
) -> Iterator[Row]:
    decoded = decode(model, mixtures, settings.rule)
    texts = decoded.transcripts
    scores = token_log_probabilities(model, [mixture.wave for mixture in mixtures], texts)
    wrong = [
        first_wrong_token(model, mixture.target.reference, text)
        for mixture, text in zip(mixtures, texts, strict=True)
    ]
    for prefix, component in product(settings.prefixes, COMPONENTS):
        kept = [i for i, text in enumerate(texts) if len(text.tokens) > prefix]
        if not kept:
            continue
        activations = decoded.activations(component)[kept]
        numbers, reasons = prefix_observables(activations, prefix, settings.epsilon)
        for at, i in enumerate(kept):
            spectral: Row = {name: column[at].item() for name, column in numbers.items()}
            yield decoded.texts[i] | spectral | {
                "condition": condition, "prefix": prefix, "component": component,
                "alpha_reason": reasons[at], "first_wrong": wrong[i],
                "tokens": len(texts[i].tokens),
                "log_probability": scores[i][:prefix].mean().item(),
                "least_log_probability": scores[i][:prefix].min().item(),
            }  # fmt: skip


def prefix_observables(
    activations: Tensor, prefix: int, epsilon: float
) -> tuple[dict[str, Tensor], list[str]]:
    """Observables of the first ``prefix`` rows, and why there is no slope ("" where there is).

    activations (batch, layers, tokens, width) -> (batch,), means over layers. The slope is over all
    ``prefix - 1`` modes, or as many as the width, NaN where not all are resolved in every layer.
    log10 Kf and log10 of the variance, the sum of all eigenvalues, are NaN where a layer has none.
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
    """The token, from 0, with which a text's first wrong word begins; None where none is wrong."""
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

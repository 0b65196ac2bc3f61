"""Measure choices that the paper leaves open and that stored eigenvalues cannot make again.

Centring, pooling, forcing and positions are crossed with one another for the first stress. Every
other stress (another order of its perturbations, another direction of its stretch) changes that
alone. Readings are means over layers. Pooled is one spectrum of the rows of all measured utterances
of a speaker, so that speakers can still be resampled; cut, every utterance to its shorter side.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

import torch
from torch.nn.utils.rnn import pad_sequence

from companion.measurement.nulls import forced_pair
from companion.measurement.readings import MODES, layer_mean_columns
from companion.measurement.schemas import CHOICES, REFERENCE_CONDITION
from companion.measurement.settings import Settings
from companion.measurement.spectra import Decoded, Side, decode, kept_lengths, largest, spectra_of
from companion.measurement.texts import Batch, Row, of_schema
from companion.models.capture import COMPONENTS
from companion.models.view import SpeechModel

FREE, FORCED = "free", "forced"
TEXT, WHOLE = "text", "with prompt and end"
ALONE, POOLED = "per utterance", "pooled"

DEFAULT: Row = {"forcing": FREE, "positions": TEXT, "centred": True, "pooling": ALONE}
"""The choices of ``measure``."""


def choice_rows(model: SpeechModel, batch: Batch, settings: Settings) -> list[Row]:
    """All rows of a batch of whole speakers; ``batch`` holds their mixtures by condition."""
    first, *others = (name for name in settings.conditions if name != REFERENCE_CONDITION)
    played = {name: batch[name] for name in (REFERENCE_CONDITION, first)}
    rule = settings.rule
    free = {name: decode(model, mixtures, rule) for name, mixtures in played.items()}
    forced = forced_pair(model, free, played)
    rows: list[Row] = []
    for positions, centred, pooling in product((TEXT, WHOLE), (True, False), (ALONE, POOLED)):
        chosen = {"positions": positions, "centred": centred, "pooling": pooling}
        rows += _chosen_rows(free, {"forcing": FREE, **chosen})
        rows += _chosen_rows(forced, {"forcing": FORCED, **chosen})
    for name in others:  # one at a time: a recording is the largest thing that a batch holds
        decoded = decode(model, batch[name], rule)
        pair = {REFERENCE_CONDITION: free[REFERENCE_CONDITION], name: decoded}
        changed = _chosen_rows(pair, DEFAULT)
        rows += [row for row in changed if {row["condition"], row["matched_with"]} - {"clean", ""}]
    return rows


def pooled(rows: Side) -> Side:
    """The kept rows of all utterances of a speaker, one after the other, as one."""
    speakers: dict[str, list[int]] = {}
    for i, text in enumerate(rows.texts):
        speakers.setdefault(str(text["speaker"]), []).append(i)
    texts, joined = [], []
    for members in speakers.values():
        windows = sum(int(str(rows.texts[i]["windows"])) for i in members)
        nobody: Row = {"utterance": "", "wer": None, "candidate": None}
        texts.append(rows.texts[members[0]] | nobody | {"windows": windows})
        kept = [rows.activations[i, :, : rows.lengths[i]] for i in members]
        joined.append(torch.cat(kept, dim=1).transpose(0, 1))
    lengths = torch.tensor([len(activations) for activations in joined])
    return Side(texts, pad_sequence(joined, batch_first=True).transpose(1, 2), lengths)


def _chosen_rows(decoded: Mapping[str, Decoded], chosen: Row) -> Iterator[Row]:
    """The rows of all components by one choice, raw and cut to the length of the other side."""
    for component in COMPONENTS if decoded else ():
        whole = chosen["positions"] == WHOLE
        sides = {name: side.side(component, whole) for name, side in decoded.items()}
        lengths_of = {name: side.lengths for name, side in sides.items()}
        for name, side in sides.items():
            for partner, lengths in kept_lengths(name, lengths_of).items():
                if partner and chosen["forcing"] == FORCED:
                    continue  # one text has one length
                shared = {"condition": name, "matched_with": partner, "component": component}
                rows = _spectral_rows(replace(side, lengths=lengths), chosen | shared)
                yield from of_schema(CHOICES, rows)


def _spectral_rows(rows: Side, shared: Row) -> Iterator[Row]:
    kept = pooled(rows) if shared["pooling"] == POOLED else rows
    spectra = spectra_of(kept.activations, kept.lengths, center=bool(shared["centred"]))
    columns = layer_mean_columns(largest(spectra, max(MODES)))
    for i, text in enumerate(kept.texts):
        numbers = {name: column[i] for name, column in columns.items()}
        yield {**text, **shared, "tokens": int(kept.lengths[i]), **numbers}

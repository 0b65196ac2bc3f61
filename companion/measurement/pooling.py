"""The paper's table under one convention: rows of all utterances pooled, one spectrum per layer.

Rows of *all* utterances under one condition are concatenated, and one covariance is taken per
layer. What is done about loops (transcripts that repeat themselves, which add hundreds of nearly
equal rows) decides much, so it is done in every way; so does how many rows either side has. Every
spectrum is also taken without each speaker in turn, for a jackknife over speakers, and between
random halves of clean speech, where nothing differs but who speaks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm

from companion.measurement.activations import (
    ACTIVATIONS,
    TEXT,
    activation_rows,
    control_rows,
    kept_rows,
)
from companion.measurement.controls import sampled
from companion.measurement.keys import staleness
from companion.measurement.moments import Moments
from companion.measurement.observables import largest
from companion.measurement.provenance import key_of_run
from companion.measurement.run import Summary, measure
from companion.measurement.schemas import REFERENCE_CONDITION, TRAINED, schema
from companion.measurement.settings import MODES, PoolingSettings
from companion.measurement.store import read_meta, write
from companion.measurement.surrogates import generator
from companion.measurement.texts import Batch, Row
from companion.models.capture import COMPONENTS
from companion.models.decoding import hear
from companion.models.rules import rule
from companion.models.view import SpeechModel
from companion.speech.corpus import find_utterances
from companion.stress.scoring import LOOP_COMPRESSION
from spectral.spectra import effective_rank, resolved_modes, spectral_slope

KEPT, DROPPED, CAPPED, MATCHED = "kept", "dropped", "capped", "matched"
"""Loops as they are; utterances left out that loop on either side; at most ``CAP`` rows of every
transcript; dropped, and as many random rows on either side of every utterance."""

CAP = 50
ALL, UNSEEN, SAMPLED = "all", "unseen", "sampled"
"""Every utterance; those on which the convention was not searched; those that controls heard."""

KIND = "pooling"
HALVES = "halves"
FIRST, SECOND = "first half", "second half"
"""Clean speech of random halves of the speakers, and its two sides."""

TOGETHER = 64  # unions whose moments are summed at once: so many D x D matrices are held

POOLING: pa.Schema = schema(
    "model", "parameters", "decoding", "network", "sample", "loops", "condition", "without",
    "component", "layer", "modes", "utterances", "speakers", "tokens", "resolved", "n_eff",
    "alpha", "kirchhoff_of_fractions", "eigenvalues",
).set(7, pa.field("without", pa.string()))  # fmt: skip
"""One row per sample, treatment of loops, condition, speaker left out, component, layer and K."""

_READ = ("n_eff", "alpha", "kirchhoff_of_fractions")


@dataclass(frozen=True)
class Union:
    """Rows that are pooled: those of some groups of utterances, and what they are called."""

    sample: str
    without: str  # the speaker left out
    condition: str  # what it is called in place of the condition, "" for that itself
    groups: np.ndarray  # (groups,), bool


def measure_pooling(settings: PoolingSettings) -> Summary:
    """Keep the activations of every utterance, then pool them: ``output`` has the pooled table.

    Activations of another key are measured again; those of this one are taken as they are.
    """
    utterances = find_utterances(settings.corpus).utterances
    path = settings.activations / settings.output.name
    summary = Summary(path, 0, 0, {}, settings.batch)
    if staleness(path, key_of_run(KIND, settings, utterances)):
        summary = measure(KIND, replace(settings, output=path), kept_activations, ACTIVATIONS)
    rows = [row for rule in settings.decodings for row in pooled_rows(path, settings, rule)]
    write(rows, settings.output, read_meta(path), POOLING)
    return summary


def kept_activations(model: SpeechModel, batch: Batch, settings: PoolingSettings) -> list[Row]:
    """The activations of a batch of utterances, by all rules; each audio is encoded once."""
    heard = {name: hear(model, [one.wave for one in played]) for name, played in batch.items()}
    sample = sampled(settings.corpus, settings.utterances, settings.control_utterances)
    rows: list[Row] = []
    for by in map(rule, settings.decodings):
        own, decoded = activation_rows(model, batch, heard, by)
        rows += own
        if by == settings.rule:
            how = (by, sample, settings.controls, settings.seed)
            rows += control_rows(model, batch, decoded, *how)
    return rows


def pooled_rows(activations: Path, settings: PoolingSettings, decoding: str) -> list[Row]:
    """All rows of the pooled table by one rule, from a file of ``kept_activations``."""
    table = pq.read_table(activations, columns=[*TEXT]).to_pandas()
    table = table[table.decoding == decoding]
    answers = _answers(table, frozenset(settings.searched))
    names = sorted(set(answers.group))
    unions = [*_samples(answers, names), *_halves(answers, names, settings)]
    plain = [union for union in unions if union.sample == SAMPLED and not union.without]
    networks = {name: unions if name == TRAINED else plain for name in table.network.unique()}
    first = table.iloc[0]
    shared = {"model": str(first["model"]), "parameters": int(first["parameters"])}
    places = list(product(networks, COMPONENTS, range(1, int(first["layers"]) + 1)))
    frames = []
    for network, component, layer in tqdm(places, desc=f"{shared['model']}, {decoding}"):
        kept = list(kept_rows(activations, component, layer, decoding, network))
        rows = _layer_rows(kept, answers, networks[network], settings)
        where = {"network": network, "component": component, "layer": layer}
        frames.append(pd.DataFrame(rows).assign(**where, decoding=decoding, **shared))
    return _with_means(pd.concat(frames, ignore_index=True))


def _answers(table: pd.DataFrame, seen: frozenset[str]) -> pd.DataFrame:
    """By utterance: speaker, subset, whether it was seen, tokens of the shorter side, loops.

    ``group`` numbers what is always taken together: a speaker's utterances, apart by sample.
    """
    sides = table[table.network == TRAINED]
    by_utterance = sides.groupby("utterance")
    answers = pd.DataFrame(
        {
            "speaker": by_utterance.speaker.first(),
            "subset": by_utterance.subset.first(),
            "least": by_utterance.tokens.min(),
            "loops": by_utterance.compression_ratio.max() > LOOP_COMPRESSION,
        }
    )
    answers["seen"] = answers.index.isin(seen)
    answers["sampled"] = answers.index.isin(table.utterance[table.network != TRAINED])
    answers["group"] = answers.groupby(["subset", "speaker", "seen", "sampled"]).ngroup()
    return answers


def _samples(answers: pd.DataFrame, names: Sequence[int]) -> Iterator[Union]:
    """Every sample, whole and without each of its speakers."""
    subsets = sorted(set(answers.subset))
    samples = {ALL: answers}
    if answers.seen.any() and not answers.seen.all():
        samples[UNSEEN] = answers[~answers.seen]
    if answers.sampled.any():
        samples[SAMPLED] = answers[answers.sampled]
    samples |= {name: answers[answers.subset == name] for name in subsets if len(subsets) > 1}
    for sample, own in samples.items():
        for without in ["", *sorted(set(own.speaker))]:
            left = own[own.speaker != without]
            yield Union(sample, without, "", np.isin(names, left.group))


def _halves(
    answers: pd.DataFrame, names: Sequence[int], settings: PoolingSettings
) -> Iterator[Union]:
    """Random halves of the speakers, by number of the draw."""
    speakers = sorted(set(answers.speaker))
    for draw in range(settings.halves):
        order = generator(settings.seed, HALVES, str(draw)).permutation(speakers)
        cut = len(speakers) // 2
        for name, own in ((FIRST, order[:cut]), (SECOND, order[cut:])):
            groups = answers.group[answers.speaker.isin(own)]
            yield Union(HALVES, str(draw), name, np.isin(names, groups))


def _layer_rows(
    kept: Sequence[tuple[str, str, Tensor]],
    answers: pd.DataFrame,
    unions: Sequence[Union],
    settings: PoolingSettings,
) -> list[Row]:
    """All pooled spectra of one network's component in one layer."""
    sides: dict[str, list[tuple[str, Tensor]]] = {}
    for condition, utterance, values in kept:
        sides.setdefault(condition, []).append((utterance, values))
    rows: list[Row] = []
    for loops, (condition, side) in product((KEPT, DROPPED, CAPPED, MATCHED), sides.items()):
        taken = _taken(side, condition, loops, answers, settings.seed)
        chosen = [u for u in unions if u.sample != HALVES or (loops, condition) == _HALVED]
        if taken:
            rows += _union_rows(taken, answers, chosen, settings.modes, condition, loops)
    return rows


_HALVED = (DROPPED, REFERENCE_CONDITION)


def _taken(
    side: Sequence[tuple[str, Tensor]],
    condition: str,
    loops: str,
    answers: pd.DataFrame,
    seed: int,
) -> list[tuple[str, Tensor]]:
    """The rows of each utterance that are pooled, by what is done about loops."""
    taken = []
    for utterance, values in side:
        answer = answers.loc[utterance]
        if answer.loops and loops in (DROPPED, MATCHED):
            continue
        if loops == CAPPED:
            values = values[:CAP]
        if loops == MATCHED:
            order = generator(seed, MATCHED, condition, utterance).permutation(len(values))
            values = values[torch.from_numpy(np.sort(order[: answer.least]))]
        taken.append((utterance, values))
    return taken


def _union_rows(
    taken: Sequence[tuple[str, Tensor]],
    answers: pd.DataFrame,
    unions: Sequence[Union],
    modes: Sequence[int],
    condition: str,
    loops: str,
) -> Iterator[Row]:
    names, values = zip(*taken, strict=True)
    group = answers.group[list(names)].to_numpy()
    lengths = torch.tensor([len(each) for each in values])
    rows = torch.cat(values)
    of_row = torch.tensor(group).repeat_interleave(lengths)
    weights = torch.from_numpy(np.stack([union.groups for union in unions])).double()
    moments = Moments.of(rows, of_row, weights.shape[1])
    spectra = torch.cat([moments.summed(w).eigenvalues() for w in torch.split(weights, TOGETHER)])
    tokens = (weights @ moments.count).long().tolist()
    speakers = answers.speaker[list(names)].to_numpy()
    for k in modes:
        numbers = pooled_numbers(spectra, k)
        for i, union in enumerate(unions):
            members = union.groups[group]
            yield {
                "sample": union.sample, "loops": loops, "without": union.without,
                "condition": union.condition or condition, "modes": k,
                "utterances": int(members.sum()), "speakers": len(set(speakers[members])),
                "tokens": tokens[i], "eigenvalues": largest(spectra[i], MODES).tolist(),
                **{name: column[i] for name, column in numbers.items()},
            }  # fmt: skip


def pooled_numbers(spectra: Tensor, k: int) -> dict[str, list[float]]:
    """What is read off pooled spectra (unions, modes), by its column.

    ``kirchhoff_of_fractions`` is the sum of 1 / p_i over the first k modes, p_i = lambda_i over the
    sum of these; NaN where fewer than k are resolved, as alpha is.
    """
    kept = spectra[..., :k]
    resolved = resolved_modes(spectra)
    fractions = kept / kept.sum(-1, keepdim=True)
    index = (1 / fractions).sum(-1).where(resolved >= k, torch.nan)
    columns = {
        "resolved": resolved,
        "n_eff": effective_rank(spectra, k),
        "alpha": spectral_slope(spectra, 1, k),
        "kirchhoff_of_fractions": index,
    }
    return {name: column.tolist() for name, column in columns.items()}


def _with_means(table: pd.DataFrame) -> list[Row]:
    """Every layer of whole samples, and the mean over layers (layer 0) of everything."""
    keys = [
        "model", "parameters", "decoding", "network", "sample", "loops", "condition", "without",
        "component", "modes",
    ]  # fmt: skip
    counts = {name: "first" for name in ("utterances", "speakers", "tokens")}
    means = dict.fromkeys(_READ, lambda layers: layers.mean(skipna=False))
    groups = table.groupby(keys, sort=False, as_index=False)
    averaged = groups.agg(counts | {"resolved": "min"} | means)
    averaged = averaged.assign(layer=0, eigenvalues=None)
    whole = table[table.without == ""]
    return pd.concat([whole, averaged], ignore_index=True).to_dict("records")

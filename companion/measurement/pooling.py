"""The paper's table under one convention: rows of all utterances pooled, one spectrum per layer.

What is done about loops (transcripts that repeat themselves, which add hundreds of nearly equal
rows) decides much, so it is done in every way; so does how many rows either side has. Every
spectrum is also taken without each speaker in turn, for a jackknife over speakers, and between
random halves of clean speech, where nothing differs but who speaks.
"""

from collections.abc import Iterator, Mapping, Sequence
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

from companion.measurement.controls import sampled
from companion.measurement.keys import staleness
from companion.measurement.nulls import fed_alike
from companion.measurement.run import Summary, key_of_run, measure
from companion.measurement.schemas import REFERENCE_CONDITION, TRAINED, schema
from companion.measurement.settings import MODES, PoolingSettings
from companion.measurement.spectra import Decoded, decode_heard, largest
from companion.measurement.store import read_meta, write
from companion.measurement.texts import Batch, Row
from companion.models.capture import COMPONENTS
from companion.models.controls import spectrum_preserving
from companion.models.decoding import hear
from companion.models.rules import rule
from companion.models.view import SpeechModel
from companion.speech.corpus import find_utterances
from companion.stress.mixture import generator
from companion.stress.scoring import LOOP_COMPRESSION
from spectral._validation import as_float64, require_finite
from spectral.spectra import NOISE, effective_rank, resolved_modes, spectral_slope

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
MOST_LAYERS = 32  # of a Whisper's decoder


def column_of(component: str, layer: int) -> str:
    """The column that holds the activations of a component in a layer, from 1."""
    return f"{component}_{layer}"


_COLUMNS = [column_of(*place) for place in product(COMPONENTS, range(1, MOST_LAYERS + 1))]
_TEXT = (
    "model", "parameters", "decoding", "network", "utterance", "speaker", "subset", "condition",
    "tokens", "layers", "compression_ratio", "outcome",
)  # fmt: skip
ACTIVATIONS = pa.schema([*schema(*_TEXT), *schema(*_COLUMNS, numbers=pa.binary())])
"""One row per decoding rule, network, utterance and condition, one column per component and layer.

A column holds (tokens, width) in float32; null beyond the last layer. One column is read at a time.
They are large and stay in build/.
"""

POOLING: pa.Schema = schema(
    "model", "parameters", "decoding", "network", "sample", "loops", "condition", "without",
    "component", "layer", "modes", "utterances", "speakers", "tokens", "resolved", "n_eff",
    "alpha", "kirchhoff_of_fractions", "eigenvalues",
).set(7, pa.field("without", pa.string()))  # fmt: skip
"""One row per sample, treatment of loops, condition, speaker left out, component, layer and K."""


@dataclass(frozen=True)
class Union:
    """Rows that are pooled: those of some groups of utterances, and what they are called."""

    sample: str
    without: str  # the speaker left out
    condition: str  # what it is called in place of the condition, "" for that itself
    groups: np.ndarray  # (groups,), bool


def measure_pooling(settings: PoolingSettings) -> Summary:
    """Keep the activations of every utterance, where this key has none yet, then pool them."""
    utterances = find_utterances(settings.corpus).utterances
    path = settings.activations / f"{settings.model.replace('/', '-')}.parquet"
    summary = Summary(path, 0, 0, {}, settings.batch)
    if staleness(path, key_of_run(KIND, settings, utterances)):
        summary = measure(KIND, replace(settings, output=path), kept_activations, ACTIVATIONS)
    rows = [row for rule in settings.decodings for row in pooled_rows(path, settings, rule)]
    write(rows, settings.output, read_meta(path), POOLING)
    return summary


def kept_activations(model: SpeechModel, batch: Batch, settings: PoolingSettings) -> list[Row]:
    """The activations of a batch of utterances, by all rules; each audio is encoded once.

    By the rule ``decoding`` also those of some utterances in random networks that keep the weights'
    spectra, fed the model's own texts and the same audio.
    """
    heard = {name: hear(model, [part.wave for part in side]) for name, side in batch.items()}
    sample = sampled(settings.corpus, settings.utterances, settings.control_utterances)
    mixtures = next(iter(batch.values()))
    keep = [i for i, mixture in enumerate(mixtures) if mixture.target.id in sample]
    kept = {name: [side[i] for i in keep] for name, side in batch.items()}
    rows: list[Row] = []
    for by in map(rule, settings.decodings):
        decoded = {name: decode_heard(model, batch[name], heard[name], by) for name in batch}
        rows += _activation_rows(decoded, batch, by.name, TRAINED)
        for draw in range(settings.controls if keep and by == settings.rule else 0):
            control = spectrum_preserving(model, draw, settings.seed)
            fed = fed_alike(control, decoded, batch, keep)
            rows += _activation_rows(fed, kept, by.name, control_name(draw))
    return rows


def control_name(draw: int) -> str:
    """What a control is called in the column ``network``."""
    return f"control {draw}"


def _activation_rows(
    decoded: Mapping[str, Decoded], batch: Batch, decoding: str, network: str
) -> Iterator[Row]:
    """``subset`` is the folder above the speaker's, such as test-clean."""
    for condition, side in decoded.items():
        parts = {name: side.activations(name).float().cpu().numpy() for name in COMPONENTS}
        for i, (text, mixture) in enumerate(zip(side.texts, batch[condition], strict=True)):
            count, layers = int(side.lengths[i]), parts["ffn"].shape[1]
            columns: Row = dict.fromkeys(_COLUMNS)
            for name, layer in product(COMPONENTS, range(layers)):
                columns[column_of(name, layer + 1)] = parts[name][i, layer, :count].tobytes()
            yield {
                **columns, **{name: text[name] for name in _TEXT if name in text},
                "decoding": decoding, "network": network, "condition": condition,
                "subset": mixture.target.path.parents[2].name, "tokens": count, "layers": layers,
            }  # fmt: skip


def kept_rows(
    path: Path, component: str, layer: int, decoding: str, network: str
) -> Iterator[tuple[str, str, Tensor]]:
    """Condition, utterance and activations (tokens, width) of one layer, where there are tokens."""
    name = column_of(component, layer)
    columns = ["decoding", "network", "condition", "utterance", "tokens", name]
    for batch in pq.ParquetFile(path).iter_batches(columns=columns, batch_size=256):
        for row in batch.to_pylist():
            if (row["decoding"], row["network"]) == (decoding, network) and row["tokens"]:
                values = torch.frombuffer(bytearray(row[name]), dtype=torch.float32)
                yield row["condition"], row["utterance"], values.reshape(row["tokens"], -1)


def pooled_rows(activations: Path, settings: PoolingSettings, decoding: str) -> list[Row]:
    """All rows of the pooled table by one rule, from a file of ``kept_activations``."""
    table = pq.read_table(activations, columns=[*_TEXT]).to_pandas()
    table = table[table.decoding == decoding]
    utterances = _utterances(table, frozenset(settings.seen.read_text(encoding="utf-8").split()))
    unions = [*_samples(utterances), *_halves(utterances, settings)]
    plain = [union for union in unions if union.sample == SAMPLED and not union.without]
    networks = {name: unions if name == TRAINED else plain for name in table.network.unique()}
    first = table.iloc[0]
    shared = {"model": str(first["model"]), "parameters": int(first["parameters"])}
    places = list(product(networks, COMPONENTS, range(1, int(first["layers"]) + 1)))
    frames = []
    for network, component, layer in tqdm(places, desc=f"{shared['model']}, {decoding}"):
        kept = kept_rows(activations, component, layer, decoding, network)
        rows = pd.DataFrame(_layer_rows(kept, utterances, networks[network], settings))
        where = {"network": network, "component": component, "layer": layer}
        frames.append(rows.assign(**where, decoding=decoding, **shared))
    return _with_means(pd.concat(frames, ignore_index=True))


def _utterances(table: pd.DataFrame, seen: frozenset[str]) -> pd.DataFrame:
    """By utterance: speaker, subset, sample, tokens of the shorter side, loops, and its group."""
    utterances = table[table.network == TRAINED].groupby("utterance").agg(
        speaker=("speaker", "first"), subset=("subset", "first"), least=("tokens", "min"),
        loops=("compression_ratio", lambda ratios: ratios.max() > LOOP_COMPRESSION),
    )  # fmt: skip
    utterances["seen"] = utterances.index.isin(seen)
    utterances["sampled"] = utterances.index.isin(table.utterance[table.network != TRAINED])
    # what is always taken together: a speaker's utterances, apart by sample
    utterances["group"] = utterances.groupby(["subset", "speaker", "seen", "sampled"]).ngroup()
    return utterances


def _samples(utterances: pd.DataFrame) -> Iterator[Union]:
    """Every sample, whole and without each of its speakers."""
    subsets = sorted(set(utterances.subset))
    samples = {ALL: utterances}
    if utterances.seen.any() and not utterances.seen.all():
        samples[UNSEEN] = utterances[~utterances.seen]
    if utterances.sampled.any():
        samples[SAMPLED] = utterances[utterances.sampled]
    samples |= {name: utterances[utterances.subset == name] for name in subsets if len(subsets) > 1}
    for sample, members in samples.items():
        for without in ["", *sorted(set(members.speaker))]:
            left = members[members.speaker != without]
            yield Union(sample, without, "", _groups(utterances, left))


def _halves(utterances: pd.DataFrame, settings: PoolingSettings) -> Iterator[Union]:
    """Random halves of the speakers, by number of the draw."""
    speakers = sorted(set(utterances.speaker))
    for draw in range(settings.halves):
        order = generator(settings.seed, HALVES, str(draw)).permutation(speakers)
        cut = len(speakers) // 2
        for name, half in ((FIRST, order[:cut]), (SECOND, order[cut:])):
            members = utterances[utterances.speaker.isin(half)]
            yield Union(HALVES, str(draw), name, _groups(utterances, members))


def _groups(utterances: pd.DataFrame, members: pd.DataFrame) -> np.ndarray:
    return np.isin(sorted(set(utterances.group)), members.group)


def _layer_rows(
    kept: Iterator[tuple[str, str, Tensor]],
    utterances: pd.DataFrame,
    unions: Sequence[Union],
    settings: PoolingSettings,
) -> Iterator[Row]:
    """All pooled spectra of one network's component in one layer."""
    sides: dict[str, dict[str, Tensor]] = {}
    for condition, utterance, values in kept:
        sides.setdefault(condition, {})[utterance] = values
    for loops, (condition, side) in product((KEPT, DROPPED, CAPPED, MATCHED), sides.items()):
        taken = {
            utterance: _taken(values, (condition, utterance), loops, utterances, settings.seed)
            for utterance, values in side.items()
            if loops in (KEPT, CAPPED) or not utterances.loops[utterance]
        }
        halved = (loops, condition) == (DROPPED, REFERENCE_CONDITION)
        chosen = [union for union in unions if union.sample != HALVES or halved]
        for row in _union_rows(taken, utterances, chosen, settings.modes) if taken else ():
            yield {**row, "loops": loops, "condition": row["condition"] or condition}


def _taken(
    values: Tensor, key: tuple[str, str], loops: str, utterances: pd.DataFrame, seed: int
) -> Tensor:
    """The rows of an utterance that are pooled, by what is done about loops."""
    if loops == MATCHED:
        order = generator(seed, MATCHED, *key).permutation(len(values))
        return values[torch.from_numpy(np.sort(order[: utterances.least[key[1]]]))]
    return values[:CAP] if loops == CAPPED else values


def _union_rows(
    taken: Mapping[str, Tensor], utterances: pd.DataFrame, unions: Sequence[Union],
    modes: Sequence[int],
) -> Iterator[Row]:  # fmt: skip
    members = utterances.loc[[*taken]]
    lengths = torch.tensor([len(values) for values in taken.values()])
    group = torch.tensor(members.group.to_numpy()).repeat_interleave(lengths)
    weights = torch.from_numpy(np.stack([union.groups for union in unions])).double()
    tokens, spectra = union_spectra(torch.cat([*taken.values()]), group, weights)
    for k in modes:
        numbers = pooled_numbers(spectra, k)
        for i, union in enumerate(unions):
            united = members[union.groups[members.group]]
            yield {
                "sample": union.sample, "without": union.without, "condition": union.condition,
                "modes": k, "utterances": len(united), "speakers": united.speaker.nunique(),
                "tokens": int(tokens[i]), "eigenvalues": largest(spectra[i], MODES).tolist(),
                **{name: column[i] for name, column in numbers.items()},
            }  # fmt: skip


def union_spectra(rows: Tensor, group: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""How many rows unions of groups have, (unions,), and their spectra, (unions, width).

    .. math:: \lambda_i\Bigl(\frac{A'A - T \bar a \bar a'}{T - 1}\Bigr)

    Those of :func:`spectral.eigenvalues`, noise set to zero alike, by sums of second moments; all
    zeros for one row or none. Rows whose mean is far larger than what they differ by lose digits
    here, by the square of that ratio times 1e-16. rows (tokens, width) are of the groups (tokens,),
    from 0, which unions take as often as weights (unions, groups) say. Raises ValueError for NaN,
    infinity, or a dtype that is not floating.
    """
    values = as_float64(rows, "rows", "(tokens, width)")
    require_finite(values, "rows", "leave out the rows that are not real")
    weights, groups, width = weights.to(values), weights.shape[1], values.shape[1]
    count = torch.bincount(group, minlength=groups).to(values)
    total = values.new_zeros(groups, width).index_add_(0, group, values)
    parts = torch.split(values[group.argsort(stable=True)], count.long().tolist())
    gram = torch.stack([part.mT @ part for part in parts])
    counts, spectra = weights @ count, []
    for block in torch.split(weights, TOGETHER):
        means, number = block @ total, (block @ count)[:, None, None]
        outer = means[:, :, None] * means[:, None, :] / number.clamp(min=1)
        moments = (block @ gram.flatten(-2)).reshape(-1, width, width)
        modes = torch.linalg.eigvalsh((moments - outer) / (number - 1).clamp(min=1)).flip(-1)
        real = (modes >= NOISE * modes[:, :1]) & (number[:, 0] > 1)
        spectra.append(modes.where(real & (modes > 0), 0.0))
    return counts, torch.cat(spectra)


def pooled_numbers(spectra: Tensor, k: int) -> dict[str, list[float]]:
    """What is read off the first k modes of pooled spectra (unions, modes), by its column.

    ``kirchhoff_of_fractions``, the sum of 1 / p_i with p_i = lambda_i over the sum of these, is NaN
    where fewer than k are resolved, as alpha is.
    """
    kept, resolved = spectra[..., :k], resolved_modes(spectra)
    index = kept.sum(-1) * (1 / kept).sum(-1)
    return {
        "resolved": resolved.tolist(),
        "n_eff": effective_rank(spectra, k).tolist(),
        "alpha": spectral_slope(spectra, 1, k).tolist(),
        "kirchhoff_of_fractions": index.where(resolved >= k, torch.nan).tolist(),
    }


def _with_means(table: pd.DataFrame) -> list[Row]:
    """Every layer of whole samples, and the mean over layers (layer 0) of everything."""
    counts = dict.fromkeys(("utterances", "speakers", "tokens"), "first")
    read = ("n_eff", "alpha", "kirchhoff_of_fractions")
    means = dict.fromkeys(read, lambda layers: layers.mean(skipna=False))
    rest = ["layer", "resolved", "eigenvalues", *counts, *read]
    groups = table.groupby([*table.columns.difference(rest)], sort=False, as_index=False)
    averaged = groups.agg(counts | {"resolved": "min"} | means).assign(layer=0, eigenvalues=None)
    whole = table[table.without == ""]
    return pd.concat([whole, averaged], ignore_index=True).to_dict("records")

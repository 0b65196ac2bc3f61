"""Keep activations themselves: the rows of every component and layer, utterance by utterance.

They are large and stay in build/: what is pooled over utterances is computed from them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from companion.measurement.nulls import fed_alike
from companion.measurement.schemas import TRAINED as TRAINED
from companion.measurement.schemas import schema
from companion.measurement.spectra import Decoded, decode_heard
from companion.measurement.texts import Row
from companion.models.capture import COMPONENTS
from companion.models.controls import spectrum_preserving
from companion.models.decoding import Heard
from companion.models.rules import Rule
from companion.models.view import SpeechModel
from companion.stress.mixture import Mixture

MOST_LAYERS = 32  # of a Whisper's decoder

_SHARED = ("model", "parameters", "utterance", "speaker", "compression_ratio", "outcome")


def column_of(component: str, layer: int) -> str:
    """The column that holds the activations of a component in a layer, from 1."""
    return f"{component}_{layer}"


_COLUMNS = [column_of(*place) for place in product(COMPONENTS, range(1, MOST_LAYERS + 1))]

TEXT = (
    "model", "parameters", "decoding", "network", "utterance", "speaker", "subset", "condition",
    "tokens", "layers", "compression_ratio", "outcome",
)  # fmt: skip
ACTIVATIONS: pa.Schema = schema(*TEXT, *_COLUMNS, numbers=pa.binary()).set(
    TEXT.index("compression_ratio"), pa.field("compression_ratio", pa.float64())
)
"""One row per decoding rule, network, utterance and condition, one column per component and layer.

A column holds (tokens, width) in float32; null beyond the last layer. One column is read at a time.
"""


def activation_rows(
    model: SpeechModel,
    batch: Mapping[str, Sequence[Mixture]],
    heard: Mapping[str, Heard],
    rule: Rule,
) -> tuple[list[Row], dict[str, Decoded]]:
    """All rows of a batch of utterances, and what they are rows of.

    ``batch`` holds their mixtures by condition, ``heard`` what the model hears of them. ``subset``
    is the folder above the speaker's, such as test-clean.
    """
    decoded = {name: decode_heard(model, batch[name], heard[name], rule) for name in batch}
    own: Row = {"decoding": rule.name, "network": TRAINED}
    rows = [row for name in batch for row in _rows(decoded[name], batch[name], name, own)]
    return rows, decoded


def control_rows(
    model: SpeechModel,
    batch: Mapping[str, Sequence[Mixture]],
    decoded: Mapping[str, Decoded],
    rule: Rule,
    utterances: Collection[str],
    controls: int,
    seed: int,
) -> Iterator[Row]:
    """The same of some utterances, of random networks that keep the weights' spectra.

    They are fed the model's own texts and the same audio.
    """
    played = next(iter(batch.values()))
    keep = [i for i, mixture in enumerate(played) if mixture.target.id in utterances]
    for draw in range(controls if keep else 0):
        control = spectrum_preserving(model, draw, seed)
        for name, given in fed_alike(control, decoded, batch, keep).items():
            mixtures = [batch[name][i] for i in keep]
            own: Row = {"decoding": rule.name, "network": control_name(draw)}
            yield from _rows(given, mixtures, name, own)


def control_name(draw: int) -> str:
    """What a control is called in the column ``network``."""
    return f"control {draw}"


def _rows(decoded: Decoded, mixtures: Sequence[Mixture], condition: str, own: Row) -> list[Row]:
    empty: Row = dict.fromkeys(_COLUMNS)
    rows = []
    for i, mixture in enumerate(mixtures):
        text = {name: decoded.texts[i][name] for name in _SHARED}
        subset = mixture.target.path.parents[2].name
        shared = own | {"condition": condition, "subset": subset}
        rows.append(empty | text | shared | {"tokens": int(decoded.lengths[i])})
    for component in COMPONENTS:
        activations = decoded.activations(component)
        for i, row in enumerate(rows):
            layers = activations[i, :, : decoded.lengths[i]].float().cpu().numpy()
            columns = {column_of(component, n + 1): each.tobytes() for n, each in enumerate(layers)}
            row |= columns | {"layers": len(layers)}
    return rows


def kept_rows(
    path: Path, component: str, layer: int, decoding: str, network: str
) -> Iterator[tuple[str, str, Tensor]]:
    """Condition, utterance and activations (tokens, width), float32, of one layer of a network.

    An utterance of which nothing was written has none.
    """
    name = column_of(component, layer)
    columns = ["decoding", "network", "condition", "utterance", "tokens", name]
    for batch in pq.ParquetFile(path).iter_batches(columns=columns, batch_size=256):
        for row in batch.to_pylist():
            if (row["decoding"], row["network"]) == (decoding, network) and row["tokens"]:
                values = torch.frombuffer(bytearray(row[name]), dtype=torch.float32)
                yield row["condition"], row["utterance"], values.reshape(row["tokens"], -1)

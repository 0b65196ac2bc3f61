"""Keep activations themselves: the rows of every component and layer, utterance by utterance.

They are large and stay in build/: what is pooled over utterances is computed from them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from spectral.measurement.settings import Settings
from spectral.measurement.spectra import Decoded, decode
from spectral.measurement.texts import Row
from spectral.models.capture import COMPONENTS
from spectral.models.view import SpeechModel
from spectral.stress.mixture import Mixture

ACTIVATIONS = pa.schema(
    [
        ("model", pa.string()),
        ("parameters", pa.int64()),
        ("utterance", pa.string()),
        ("speaker", pa.string()),
        ("subset", pa.string()),
        ("condition", pa.string()),
        ("component", pa.string()),
        ("layer", pa.int32()),
        ("tokens", pa.int32()),
        ("compression_ratio", pa.float64()),
        ("outcome", pa.string()),
        ("activations", pa.binary()),
    ]
)
"""One row per utterance, condition, component and layer; activations (tokens, width), float32."""

TEXT = [name for name in ACTIVATIONS.names if name != "activations"]
_SHARED = ("model", "parameters", "utterance", "speaker", "compression_ratio", "outcome")


def activation_rows(
    model: SpeechModel, batch: dict[str, Sequence[Mixture]], settings: Settings
) -> list[Row]:
    """All rows of a batch of utterances; ``batch`` holds their mixtures by condition.

    ``subset`` is the folder above the speaker's, such as test-clean.
    """
    rows: list[Row] = []
    for condition, mixtures in batch.items():
        decoded = decode(model, mixtures, settings.rule)
        subsets = [mixture.target.path.parents[2].name for mixture in mixtures]
        for i, columns in _components(decoded):
            shared = {name: decoded.texts[i][name] for name in _SHARED}
            rows.append(shared | {"condition": condition, "subset": subsets[i]} | columns)
    return rows


def _components(decoded: Decoded) -> Iterator[tuple[int, Row]]:
    for component in COMPONENTS:
        activations, _ = decoded.recording.text_rows(component, decoded.transcripts)
        for i, length in enumerate(decoded.lengths.tolist()):
            for layer, rows in enumerate(activations[i, :, :length].float().cpu().numpy()):
                yield i, {
                    "component": component, "layer": layer + 1, "tokens": length,
                    "activations": rows.tobytes(),
                }  # fmt: skip


def kept_rows(path: Path, component: str, layer: int) -> Iterator[tuple[Row, torch.Tensor]]:
    """Text columns and activations (tokens, width), float32, of one component's layer in a file.

    One row group is in memory at a time.
    """
    file = pq.ParquetFile(path)
    for i in range(file.num_row_groups):
        chosen = (pc.field("component") == component) & (pc.field("layer") == layer)
        for row in file.read_row_group(i).filter(chosen).to_pylist():
            values = torch.frombuffer(bytearray(row.pop("activations")), dtype=torch.float32)
            yield row, values.reshape(row["tokens"], -1)

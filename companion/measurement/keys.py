"""What measured rows are keyed by: what was measured, and never the code that measured it.

Whether the code still gives the same numbers is a measurement of its own (`verification`). This
file imports no torch, and neither does what it needs: `make` reads keys at every call.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from companion.speech.corpus import Utterance

VERSIONS: dict[str, int] = {
    "measure": 1,
    "pooling": 1,
    "listening": 1,
    "nulls": 1,
    "stresses": 1,
    "choices": 1,
    "jacobians": 2,
    "dynamics": 1,
    "subtle": 1,
    "warnings": 1,
    "contest": 1,
    "fitting": 1,
    "recordings": 1,
    "guards": 1,
    "alarms": 1,
    "doubts": 1,
    "talks": 1,
}
"""The kinds of measurement, what matters most first, and the version of what each measures.

A version is raised where a kind's numbers, rows or columns change: older rows are stale then.
"""

FORMER: dict[str, Mapping[str, object]] = {
    "nulls": {"orders": 1, "draws": 0, "draw_utterances": None, "unpaired": []},
    "contest": {"windows": 1},
    "fitting": {"windows": 1},
}
"""Parameters that older rows of a kind lack, and the values that they were measured with."""

META = b"spectral"  # of the entry in a Parquet file's metadata
_PLACES = (
    "ladder", "corpus", "nonspeech", "output", "device", "activations", "seen", "shard", "parts",
)  # fmt: skip

Key = Mapping[str, Any]


def key_of(
    kind: str, values: Mapping[str, object], weights: str | None, speech: str | None
) -> dict[str, object]:
    """The key of rows: ``values`` are all parameters of the kind.

    ``weights`` and ``speech`` are digests, None for what is not on this computer.
    """
    return {
        "kind": kind,
        "version": VERSIONS[kind],
        "parameters": parameters(values),
        "weights": weights,
        "speech": speech,
    }


def parameters(values: Mapping[str, object]) -> dict[str, object]:
    """The values that decide the numbers, as JSON has them: neither paths nor the device."""
    chosen = {name: value for name, value in values.items() if name not in _PLACES}
    return json.loads(json.dumps(chosen))


def unpaired_with(model: str, controls: Iterable[str]) -> tuple[str, ...]:
    """Those of ``controls`` that are a model's: ``xs-shuffled-0`` is one of ``xs-2``."""
    size = model.rpartition("-")[0]
    return tuple(name for name in controls if name.rpartition("-")[0] == f"{size}-shuffled")


def speech_digest(utterances: Iterable["Utterance"]) -> str:
    """A checksum of ids, references and audio; of the whole corpus, as anybody may interfere."""
    utterances = list(utterances)
    with ThreadPoolExecutor() as pool:
        audio = pool.map(_of_file, [utterance.path for utterance in utterances])
        lines = [f"{u.id} {u.reference} {sha}\n" for u, sha in zip(utterances, audio, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_meta(path: Path) -> dict[str, Any]:
    """The provenance of a file; raises ValueError for one that is cut short or not of this kind."""
    try:
        return json.loads((pq.read_schema(path).metadata or {})[META])
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(f"{path}: no measurement ({error}); remove it") from error


def staleness(rows: Path, key: Key) -> str | None:
    """Why rows are not what ``key`` asks for; None where they are."""
    if not rows.exists():
        return "not measured yet"
    try:
        return difference(read_meta(rows)["key"], key)
    except (ValueError, KeyError):
        return "does not say what was measured"


def difference(kept: Key, wanted: Key) -> str | None:
    """What differs between two keys, in words, None where nothing does or is on this computer."""
    if kept["kind"] != wanted["kind"]:
        return f"rows of {kept['kind']}"
    if kept["version"] != wanted["version"]:
        return f"version {kept['version']} of {kept['kind']}, which is at {wanted['version']}"
    former = FORMER.get(kept["kind"], {})
    before, after = ({**former, **key["parameters"]} for key in (kept, wanted))
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if names:
        return f"{names[0]} was {before.get(names[0])!r} and is {after.get(names[0])!r}"
    for what in ("weights", "speech"):
        if wanted[what] is not None and kept[what] != wanted[what]:
            return f"other {what}"
    return None


def _of_file(path: Path) -> str:
    """The SHA-256 of a file, "none" where it is missing."""
    if not path.exists():
        return "none"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

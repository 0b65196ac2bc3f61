"""The columns of measured files."""

import pyarrow as pa

from companion.measurement.contest_schema import HEADS, STEPS
from companion.measurement.readings import READINGS

REFERENCE_CONDITION = "clean"
"""What every other condition is compared with."""

NONSPEECH = "nonspeech"
"""The condition of clips in which nobody speaks: as they are."""

CONFIDENCES = (
    "average_log_probability", "text_log_probability", "forbidden_mass", "mean_forbidden_mass",
)  # fmt: skip
"""What a transcript says of how sure the model was, by the same names."""

LATER = ("average_log_probability", "forbidden_mass", "mean_forbidden_mass", "windows")
"""Columns that are empty in rows from before there were decoding rules."""

SPECTRA = pa.schema(
    [
        ("model", pa.string()),
        ("parameters", pa.int64()),
        ("utterance", pa.string()),
        ("speaker", pa.string()),
        ("condition", pa.string()),
        ("matched_with", pa.string()),
        ("component", pa.string()),
        ("layer", pa.int32()),
        ("modes", pa.int32()),
        ("tokens", pa.int32()),
        ("resolved", pa.int32()),
        ("n_eff", pa.float64()),
        ("n_eff_singular", pa.float64()),
        ("alpha", pa.float64()),
        ("alpha_reason", pa.string()),
        ("kirchhoff", pa.float64()),
        ("kirchhoff_resolved", pa.float64()),
        ("eigenvalues", pa.list_(pa.float32())),
        ("attention_kirchhoff", pa.float64()),
        ("attention_kirchhoff_heads", pa.float64()),
        ("similarity_kirchhoff", pa.float64()),
        ("reference", pa.string()),
        ("transcript", pa.string()),
        ("wer", pa.float64()),
        ("interferers", pa.list_(pa.string())),
        ("interferer_wers", pa.list_(pa.float64())),
        ("candidate", pa.bool_()),
        ("outcome", pa.string()),
        ("average_log_probability", pa.float64()),
        ("text_log_probability", pa.float64()),
        ("forbidden_mass", pa.float64()),
        ("mean_forbidden_mass", pa.float64()),
        ("compression_ratio", pa.float64()),
        ("no_speech_probability", pa.float64()),
        ("finished", pa.bool_()),
        ("windows", pa.int32()),
    ]
)
"""One row per utterance, condition, matched length, component, layer and K: data/README.md."""

_NULL, _DRAW = pa.field("null", pa.string()), pa.field("draw", pa.int32())
_OWN = {field.name: field for field in (_NULL, _DRAW)}
NULLS = pa.schema(
    [
        _OWN[name] if name in _OWN else SPECTRA.field(name)
        for name in (
            "model", "parameters", "utterance", "speaker", _NULL.name, _DRAW.name, "condition",
            "matched_with", "component", "layer", "modes", "tokens", "resolved", "n_eff", "alpha",
            "kirchhoff", "kirchhoff_resolved",
        )
    ]
)  # fmt: skip
"""One row per utterance, null, draw, condition, matched length, component, layer, K."""

ABSENT: dict[str, object] = {_DRAW.name: 0, **dict.fromkeys((*HEADS, *STEPS, "word_starts"))}
"""Columns that older rows lack, and what all of them would say there."""

SHUFFLED, GAUSSIAN, INITIALISED, FORCED, SWAPPED = (
    "shuffled",
    "gaussian",
    "initialised",
    "forced",
    "swapped",
)
SPECTRUM, UNPAIRED = "spectrum", "unpaired"
"""The nulls; ``swapped`` is the name of its condition too."""

STRESSES = pa.schema(
    [
        field.with_type(pa.float32()) if pa.types.is_floating(field.type) else field
        for field in map(
            SPECTRA.field,
            (
                "model", "parameters", "utterance", "speaker", "condition", "matched_with",
                "component", "layer", "modes", "tokens", "resolved", "n_eff", "alpha", "kirchhoff",
                "kirchhoff_resolved", "reference", "transcript", "wer", "candidate",
                "outcome", *CONFIDENCES, "compression_ratio", "no_speech_probability", "finished",
                "windows",
            ),
        )
    ]
)  # fmt: skip
"""One row per utterance, condition, matched length, component, layer, K; float32 to be small."""

CHOICES = pa.schema(
    [
        ("model", pa.string()),
        ("parameters", pa.int64()),
        ("utterance", pa.string()),
        ("speaker", pa.string()),
        ("condition", pa.string()),
        ("matched_with", pa.string()),
        ("forcing", pa.string()),
        ("pooling", pa.string()),
        ("positions", pa.string()),
        ("centred", pa.bool_()),
        ("component", pa.string()),
        ("tokens", pa.int32()),
        ("windows", pa.int32()),
        ("wer", pa.float64()),
        ("candidate", pa.bool_()),
        *[(name, pa.float32()) for name in READINGS],
    ]
)
"""One row per utterance or speaker, condition, matched length, choice, component:
data/README.md."""

LISTENING = pa.schema(
    [
        ("model", pa.string()),
        ("parameters", pa.int64()),
        ("utterance", pa.string()),
        ("speaker", pa.string()),
        ("condition", pa.string()),
        ("reference", pa.string()),
        ("transcript", pa.string()),
        ("wer", pa.float64()),
        ("outcome", pa.string()),
        ("average_log_probability", pa.float64()),
        ("text_log_probability", pa.float64()),
        ("forbidden_mass", pa.float64()),
        ("mean_forbidden_mass", pa.float64()),
        ("compression_ratio", pa.float64()),
        ("no_speech_probability", pa.float64()),
        ("finished", pa.bool_()),
        ("windows", pa.int32()),
        ("forced_loss", pa.float64()),
        ("forced_token_error", pa.float64()),
    ]
)
"""One row per utterance and condition, those without speech among them: data/README.md."""

_PARTS = ("self_attention", "cross_attention", "ffn")

JACOBIANS = pa.schema(
    [
        ("model", pa.string()),
        ("parameters", pa.int64()),
        ("network", pa.string()),
        ("utterance", pa.string()),
        ("speaker", pa.string()),
        ("condition", pa.string()),
        ("wer", pa.float64()),
        ("candidate", pa.bool_()),
        ("outcome", pa.string()),
        ("tokens", pa.int32()),
        ("position", pa.int32()),
        ("layer", pa.int32()),
        ("width", pa.int32()),
        ("sigma_1", pa.float64()),
        ("singular_value_ratio", pa.float64()),
        ("alignment", pa.float64()),
        ("gain", pa.float64()),
        ("converged", pa.bool_()),
        ("unstable", pa.float64()),
        ("growing", pa.float64()),
        ("state", pa.float64()),
        *[(f"{part}_sigma_1", pa.float64()) for part in _PARTS],
        *[(f"{part}_singular_value_ratio", pa.float64()) for part in _PARTS],
        ("injection", pa.float64()),
        ("arriving", pa.float64()),
        ("product_norm", pa.float64()),
        ("product_ratio", pa.float64()),
        ("ceiling", pa.float64()),
        ("floor", pa.float64()),
        ("rank_one_bound", pa.float64()),
        ("normed_injection", pa.float64()),
        ("normed_arriving", pa.float64()),
        ("normed_product_norm", pa.float64()),
        ("normed_product_ratio", pa.float64()),
        ("normed_direct", pa.float64()),
        ("sensitivity", pa.float64()),
        ("rank_one_fraction", pa.float64()),
        ("total_sensitivity", pa.float64()),
        ("explained", pa.float64()),
    ]
)
"""One row per utterance, condition, network (trained, random), token and layer: data/README.md."""

"""The columns of measured files, and the names that stand in them; what they mean: data/README.md.

A column has one type in all files. What is no text, flag, whole number or list is a number, in
float64 or, in files of many rows, in float32.
"""

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

ABSENT: dict[str, object] = {"draw": 0, **dict.fromkeys((*HEADS, *STEPS, "word_starts"))}
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

TRAINED, RANDOM = "trained", "random"
"""Networks: the model that is measured, and its architecture at random weights."""

_TEXTS = (
    "model", "utterance", "speaker", "condition", "matched_with", "component", "null", "network",
    "reference", "transcript", "outcome", "alpha_reason", "decoding", "forcing", "pooling",
    "positions", "sample", "loops", "subset", "quantity", "partner", "audio", "stage", "direction",
    "before", "input",
)  # fmt: skip
_FLAGS = ("candidate", "candidate_before", "finished", "centred", "converged", "unchanged")
_WHOLE = (
    "layer", "layers", "modes", "tokens", "resolved", "windows", "draw", "position", "width",
    "step", "count", "prefix", "first_wrong", "index", "sign", "character_edits",
    "reference_words", "utterances", "speakers",
)  # fmt: skip
_TYPES = {
    **dict.fromkeys(_TEXTS, pa.string()),
    **dict.fromkeys(_FLAGS, pa.bool_()),
    **dict.fromkeys(_WHOLE, pa.int32()),
    **dict.fromkeys(("interferer_wers", "growth", "control_growth"), pa.list_(pa.float64())),
    "parameters": pa.int64(),
    "eigenvalues": pa.list_(pa.float32()),
    "interferers": pa.list_(pa.string()),
}


def schema(*names: str, numbers: pa.DataType = pa.float64()) -> pa.Schema:  # noqa: B008
    """Columns by name: what is no text, flag, whole number or list is one of ``numbers``."""
    return pa.schema([(name, _TYPES.get(name, numbers)) for name in names])


_PLACE = ("model", "parameters", "utterance", "speaker", "condition")
_SPECTRUM = ("modes", "tokens", "resolved", "n_eff", "alpha", "kirchhoff", "kirchhoff_resolved")
_SURE = (*CONFIDENCES, "compression_ratio", "no_speech_probability", "finished", "windows")

SPECTRA = schema(
    *_PLACE, "matched_with", "component", "layer", "modes", "tokens", "resolved", "n_eff",
    "n_eff_singular", "alpha", "alpha_reason", "kirchhoff", "kirchhoff_resolved", "eigenvalues",
    "attention_kirchhoff", "attention_kirchhoff_heads", "similarity_kirchhoff", "reference",
    "transcript", "wer", "interferers", "interferer_wers", "candidate", "outcome",
    *_SURE,
)  # fmt: skip
"""One row per utterance, condition, matched length, component, layer and K."""

NULLS = schema(
    *_PLACE[:-1], "null", "draw", "condition", "matched_with", "component", "layer", *_SPECTRUM
)
"""One row per utterance, null, draw, condition, matched length, component, layer and K."""

STRESSES = schema(
    *_PLACE, "matched_with", "component", "layer", *_SPECTRUM, "reference", "transcript",
    "wer", "candidate", "outcome", *_SURE, numbers=pa.float32(),
)  # fmt: skip
"""One row per utterance, condition, matched length, component, layer and K."""

CHOICES = pa.schema(
    [
        *schema(
            *_PLACE, "matched_with", "forcing", "pooling", "positions", "centred", "component",
            "tokens", "windows", "wer", "candidate",
        ),
        *schema(*READINGS, numbers=pa.float32()),
    ]
)  # fmt: skip
"""One row per utterance or speaker, condition, matched length, choice and component."""

LISTENING = schema(
    *_PLACE, "reference", "transcript", "wer", "outcome", *_SURE, "forced_loss",
    "forced_token_error",
)  # fmt: skip
"""One row per utterance and condition, those without speech among them."""

WARNINGS = schema(
    *_PLACE, "prefix", "component", "n_eff", "alpha", "alpha_reason", "log10_kf_resolved",
    "log10_variance", "log_probability", "least_log_probability", "first_wrong", "tokens",
    "transcript", "wer", "candidate", "outcome", numbers=pa.float32(),
)  # fmt: skip
"""One row per utterance, condition, prefix and component."""

_PARTS = ("self_attention", "cross_attention", "ffn")

JACOBIANS = schema(
    "model", "parameters", "network", "utterance", "speaker", "condition", "wer",
    "candidate", "outcome", "tokens", "position", "layer", "width", "sigma_1",
    "singular_value_ratio", "alignment", "gain", "converged", "unstable", "growing", "state",
    *(f"{part}_sigma_1" for part in _PARTS), *(f"{part}_singular_value_ratio" for part in _PARTS),
    "injection", "arriving", "product_norm", "product_ratio", "ceiling", "floor", "rank_one_bound",
    "normed_injection", "normed_arriving", "normed_product_norm", "normed_product_ratio",
    "normed_direct", "sensitivity", "rank_one_fraction", "total_sensitivity", "explained",
)  # fmt: skip
"""One row per utterance, condition, network (trained, random), token and layer."""

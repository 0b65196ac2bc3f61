"""The columns of measured files, and the names that stand in them; what they mean: data/README.md.

A column has one type in all files. What is no text, flag, whole number or list is a number, in
float64 or, in files of many rows, in float32.
"""

import pyarrow as pa

from companion.measurement.readings import READINGS
from spectral.monitor import FEATURES
from spectral.whisper import COMPONENTS

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

HEADS = ("lookback", "cross_entropy", "cross_heard")
"""By layer and head, means over tokens: of attention to the prompt, and of that to the audio."""

STEPS = ("step_entropy", "step_n_eff")
"""Of whole texts, token by token: entropy, and cross-attention's sliding effective rank."""

ABSENT: dict[str, object] = {"draw": 0, **dict.fromkeys((*HEADS, *STEPS, "word_starts"))}
"""Columns that older rows lack, and what all of them would say there."""

SHUFFLED, GAUSSIAN, INITIALISED, FORCED = "shuffled", "gaussian", "initialised", "forced"
SWAPPED, SPECTRUM, UNPAIRED = "swapped", "spectrum", "unpaired"
"""The nulls; ``swapped`` is the name of its condition too."""

TRAINED, RANDOM = "trained", "random"
"""Networks: the model that is measured, and its architecture at random weights."""

DISTANCE, CENTRED_DISTANCE = "distance", "centred_distance"
RANK, READOUT = "effective_rank", "linear_probe"
"""Quantities of `dynamics`."""

INPUT, ENCODER, DECODER, CROSS_ATTENTION = "input", "encoder", "decoder", "cross_attention"
CHANCE = "chance"
"""Where they were taken: log-mel, residual streams, what cross-attention adds, or nowhere."""

OWN, SWAPPED_AUDIO = "own", "swapped"
"""Whose audio a network heard while it was given the utterance's reference."""

RANDOM_DIRECTION, SINGULAR_DIRECTION = "random", "singular"

WHOLE = 0
"""In the place of a number of tokens: all of them."""

ROOM_TONE, REPEATED = "room-tone", "repeated"
"""Conditions of the contest beside those of the parameters."""

EVERYDAY_CHANGES = "everyday changes"
"""In tables: room tone after speech, very quiet, clipped and telephone speech together."""

NO_REPEAT = "no-repeat-ngram"
TRANSCRIBE, TRANSCRIBE_SILENCE = "transcribe", "transcribe, silence threshold"
"""openai-whisper's ``transcribe`` by its defaults, and with hallucination_silence_threshold."""

INTERVENTIONS = DAMPED, DAMPED_RANDOM, RESTORED, RESTORED_RANDOM = (
    "damped", "damped, random", "restored", "restored, random",
)  # fmt: skip
"""Changes of cross-attention while it is decoded by the same rule, and their controls."""

_TEXTS = (
    "model", "utterance", "speaker", "condition", "matched_with", "component", "null", "network",
    "reference", "transcript", "outcome", "alpha_reason", "decoding", "forcing", "pooling",
    "positions", "sample", "loops", "subset", "quantity", "partner", "audio", "stage", "direction",
    "before", "input", "kind", "rule",
)  # fmt: skip
_FLAGS = ("candidate", "candidate_before", "finished", "centred", "converged", "unchanged")
_WHOLE = (
    "layer", "layers", "modes", "tokens", "resolved", "windows", "draw", "position", "width",
    "step", "count", "prefix", "first_wrong", "index", "sign", "character_edits",
    "reference_words", "utterances", "speakers", "characters", "transcript_words", "invented",
    "deleted",
)  # fmt: skip
_TYPES = {
    **dict.fromkeys(_TEXTS, pa.string()),
    **dict.fromkeys(_FLAGS, pa.bool_()),
    **dict.fromkeys(_WHOLE, pa.int32()),
    **dict.fromkeys(("interferer_wers", "growth", "control_growth"), pa.list_(pa.float64())),
    "parameters": pa.int64(),
    "eigenvalues": pa.list_(pa.float32()),
    "interferers": pa.list_(pa.string()),
    "word_starts": pa.list_(pa.int32()),
}


def schema(*names: str, numbers: pa.DataType = pa.float64()) -> pa.Schema:  # noqa: B008
    """Columns by name: what is no text, flag, whole number or list is one of ``numbers``."""
    return pa.schema([(name, _TYPES.get(name, numbers)) for name in names])


_PLACE = ("model", "parameters", "utterance", "speaker", "condition")
_SPECTRUM = ("modes", "tokens", "resolved", "n_eff", "alpha", "kirchhoff", "kirchhoff_resolved")
_CONFIDENCE = (*CONFIDENCES, "compression_ratio", "no_speech_probability", "finished", "windows")

SPECTRA = schema(
    *_PLACE, "matched_with", "component", "layer", "modes", "tokens", "resolved", "n_eff",
    "n_eff_singular", "alpha", "alpha_reason", "kirchhoff", "kirchhoff_resolved", "eigenvalues",
    "attention_kirchhoff", "attention_kirchhoff_heads", "similarity_kirchhoff", "reference",
    "transcript", "wer", "interferers", "interferer_wers", "candidate", "outcome",
    *_CONFIDENCE,
)  # fmt: skip
"""One row per utterance, condition, matched length, component, layer and K."""

NULLS = schema(
    *_PLACE[:-1], "null", "draw", "condition", "matched_with", "component", "layer", *_SPECTRUM
)
"""One row per utterance, null, draw, condition, matched length, component, layer and K."""

STRESSES = schema(
    *_PLACE, "matched_with", "component", "layer", *_SPECTRUM, "reference", "transcript",
    "wer", "candidate", "outcome", *_CONFIDENCE, numbers=pa.float32(),
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
    *_PLACE, "reference", "transcript", "wer", "outcome", *_CONFIDENCE, "forced_loss",
    "forced_token_error",
)  # fmt: skip
"""One row per utterance and condition, those without speech among them."""

WARNINGS = schema(
    *_PLACE, "prefix", "component", "n_eff", "alpha", "alpha_reason", "log10_kf_resolved",
    "log10_variance", "log_probability", "least_log_probability", "first_wrong", "tokens",
    "transcript", "wer", "candidate", "outcome", numbers=pa.float32(),
)  # fmt: skip
"""One row per utterance, condition, prefix and component."""

JACOBIANS = schema(
    "model", "parameters", "network", "utterance", "speaker", "condition", "wer",
    "candidate", "outcome", "tokens", "position", "layer", "width", "sigma_1",
    "singular_value_ratio", "alignment", "gain", "converged", "unstable", "growing", "state",
    *(f"{part}_sigma_1" for part in COMPONENTS),
    *(f"{part}_singular_value_ratio" for part in COMPONENTS),
    "injection", "arriving", "product_norm", "product_ratio", "ceiling", "floor", "rank_one_bound",
    "normed_injection", "normed_arriving", "normed_product_norm", "normed_product_ratio",
    "normed_direct", "sensitivity", "rank_one_fraction", "total_sensitivity", "explained",
)  # fmt: skip
"""One row per utterance, condition, network (trained, random), token and layer."""

DYNAMICS = schema(
    "model", "parameters", "quantity", "network", "condition", "utterance", "speaker", "partner",
    "audio", "stage", "layer", "step", "count", "value", "without",
)  # fmt: skip
"""One row per utterance, quantity, condition, network, audio, stage, layer and step."""

SUBTLE = schema(
    *_PLACE, "direction", "index", "sign", "level_db", "sigma_1", "converged", "tokens", "before",
    "transcript", "unchanged", "character_edits", "reference_words", "wer_before", "wer",
    "candidate_before", "candidate", "growth", "control_growth",
)  # fmt: skip
"""One row per utterance, condition, direction, index, sign and level: data/README.md."""

_WORDS = ("reference_words", "transcript_words", "invented", "deleted")
_SLIDING = (
    "n_eff", "alpha", "log10_kf_resolved", "log10_variance", "window_log10_size", "window_n_eff",
)  # fmt: skip

CONTEST = pa.schema(
    [
        *schema(
            *_PLACE, "prefix", "reference", "transcript", "kind", "finished", "tokens", "windows",
            "characters", *_WORDS, "first_wrong", "wer", "seconds", "no_speech_probability",
            "forbidden_first", "average_log_probability", "level_db", "level_range_db",
            "log_probability", "least_log_probability", "free_log_probability", "entropy",
            "forbidden_mean", "compression_ratio", "token_entropy",
            *(f"{component}_{name}" for component in COMPONENTS for name in _SLIDING),
            numbers=pa.float32(),
        ),
        *schema("laplacian", "state", *HEADS, *STEPS, numbers=pa.list_(pa.float32())),
        *schema("word_starts"),
    ]
)  # fmt: skip
"""One row per utterance or clip, condition and prefix: data/README.md."""

GUARD = schema(
    *_PLACE, "rule", "reference", "transcript", "kind", "finished", "tokens", *_WORDS, "wer",
    "seconds", "average_log_probability", "compression_ratio", *FEATURES, numbers=pa.float32(),
)  # fmt: skip
"""One row per utterance or clip, condition and rule: data/README.md."""

"""The columns of what is measured of dynamics: across utterances, and under small changes."""

import pyarrow as pa

from companion.measurement.schemas import schema

DISTANCE, CENTRED_DISTANCE, RANK, READOUT = (
    "distance", "centred_distance", "effective_rank", "linear_probe",
)  # fmt: skip
"""What ``value`` is."""

INPUT, ENCODER, DECODER, CROSS_ATTENTION, CHANCE = (
    "input", "encoder", "decoder", "cross_attention", "chance",
)  # fmt: skip
"""Where it was taken: log-mel, residual streams, what cross-attention adds, or nowhere."""

OWN, SWAPPED_AUDIO = "own", "swapped"
"""Whose audio a network heard while it was given the utterance's reference."""

DYNAMICS: pa.Schema = schema(
    "model", "parameters", "quantity", "network", "condition", "utterance", "speaker", "partner",
    "audio", "stage", "layer", "step", "count", "value", "without",
)  # fmt: skip
"""One row per utterance, quantity, condition, network, audio, stage, layer and step."""

SUBTLE: pa.Schema = schema(
    "model", "parameters", "utterance", "speaker", "condition", "direction", "index", "sign",
    "level_db", "sigma_1", "converged", "tokens", "before", "transcript", "unchanged",
    "character_edits", "reference_words", "wer_before", "wer", "candidate_before",
    "candidate", "growth", "control_growth",
)  # fmt: skip
"""One row per utterance, condition, direction, index, sign and level: data/README.md."""

RANDOM_DIRECTION, SINGULAR_DIRECTION = "random", "singular"

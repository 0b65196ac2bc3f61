"""The columns of what is measured of dynamics: across utterances, and under small changes."""

import pyarrow as pa

DYNAMICS = pa.schema(
    [
        ("model", pa.string()),
        ("parameters", pa.int64()),
        ("quantity", pa.string()),
        ("network", pa.string()),
        ("condition", pa.string()),
        ("utterance", pa.string()),
        ("speaker", pa.string()),
        ("partner", pa.string()),
        ("audio", pa.string()),
        ("stage", pa.string()),
        ("layer", pa.int32()),
        ("step", pa.int32()),
        ("count", pa.int32()),
        ("value", pa.float64()),
        ("without", pa.float64()),
    ]
)
"""One row per utterance, quantity, condition, network, audio, stage, layer and step."""

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

SUBTLE = pa.schema(
    [
        ("model", pa.string()),
        ("parameters", pa.int64()),
        ("utterance", pa.string()),
        ("speaker", pa.string()),
        ("condition", pa.string()),
        ("direction", pa.string()),
        ("index", pa.int32()),
        ("sign", pa.int32()),
        ("level_db", pa.float64()),
        ("sigma_1", pa.float64()),
        ("converged", pa.bool_()),
        ("tokens", pa.int32()),
        ("before", pa.string()),
        ("transcript", pa.string()),
        ("unchanged", pa.bool_()),
        ("character_edits", pa.int32()),
        ("reference_words", pa.int32()),
        ("wer_before", pa.float64()),
        ("wer", pa.float64()),
        ("candidate_before", pa.bool_()),
        ("candidate", pa.bool_()),
        ("growth", pa.list_(pa.float64())),
        ("control_growth", pa.list_(pa.float64())),
    ]
)
"""One row per utterance, condition, direction, index, sign and level: data/README.md."""

RANDOM_DIRECTION, SINGULAR_DIRECTION = "random", "singular"

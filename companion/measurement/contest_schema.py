"""The columns of what is measured for the contest, and the names that stand in them."""

import pyarrow as pa

WHOLE = 0
"""In the place of a number of tokens: all of them."""

ROOM_TONE, REPEATED = "room-tone", "repeated"
"""Conditions beside those of the parameters."""

EVERYDAY_CHANGES = "everyday changes"
"""In tables: room tone after speech, very quiet, clipped and telephone speech together."""

HEADS = ("lookback", "cross_entropy", "cross_heard")
"""By layer and head, means over tokens: of attention to the prompt, and of that to the audio."""

STEPS = ("step_entropy", "step_n_eff")
"""Of whole texts, token by token: entropy, and cross-attention's sliding effective rank."""

_SPECTRAL = (
    "n_eff", "alpha", "log10_kf_resolved", "log10_variance", "window_log10_size", "window_n_eff",
)  # fmt: skip
_NUMBERS = (
    "wer", "seconds", "no_speech_probability", "forbidden_first", "average_log_probability",
    "level_db", "level_range_db", "log_probability", "least_log_probability",
    "free_log_probability", "entropy", "forbidden_mean", "compression_ratio", "token_entropy",
    *(f"{component}_{name}" for component in ("self_attention", "cross_attention", "ffn")
      for name in _SPECTRAL),
)  # fmt: skip

CONTEST = pa.schema(
    [
        ("model", pa.string()),
        ("parameters", pa.int64()),
        ("utterance", pa.string()),
        ("speaker", pa.string()),
        ("condition", pa.string()),
        ("prefix", pa.int32()),
        ("reference", pa.string()),
        ("transcript", pa.string()),
        ("kind", pa.string()),
        ("finished", pa.bool_()),
        *[
            (name, pa.int32())
            for name in (
                "tokens", "windows", "characters", "reference_words", "transcript_words",
                "invented", "deleted",
                "first_wrong",
            )
        ],
        *[(name, pa.float32()) for name in _NUMBERS],
        ("laplacian", pa.list_(pa.float32())),
        ("state", pa.list_(pa.float32())),
        *[(name, pa.list_(pa.float32())) for name in HEADS],
        *[(name, pa.list_(pa.float32())) for name in STEPS],
        ("word_starts", pa.list_(pa.int32())),
    ]
)  # fmt: skip
"""One row per utterance or clip, condition and prefix: data/README.md."""

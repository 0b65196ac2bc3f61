"""The columns of what is measured for the guard, and the names of the ways to decode."""

import pyarrow as pa

from spectral.monitor import FEATURES

NO_REPEAT = "no-repeat-ngram"
TRANSCRIBE, TRANSCRIBE_SILENCE = "transcribe", "transcribe, silence threshold"
"""openai-whisper's ``transcribe`` by its defaults, and with hallucination_silence_threshold."""

DAMPED, DAMPED_RANDOM = "damped", "damped, random"
RESTORED, RESTORED_RANDOM = "restored", "restored, random"
INTERVENTIONS = (DAMPED, DAMPED_RANDOM, RESTORED, RESTORED_RANDOM)
"""Changes of cross-attention while it is decoded by the same rule, and their controls."""

GUARD = pa.schema(
    [
        ("model", pa.string()),
        ("parameters", pa.int64()),
        ("utterance", pa.string()),
        ("speaker", pa.string()),
        ("condition", pa.string()),
        ("rule", pa.string()),
        ("reference", pa.string()),
        ("transcript", pa.string()),
        ("kind", pa.string()),
        ("finished", pa.bool_()),
        *[
            (name, pa.int32())
            for name in (
                "tokens", "reference_words", "transcript_words", "invented", "deleted"
            )
        ],
        *[
            (name, pa.float32())
            for name in (
                "wer", "seconds", "average_log_probability", "compression_ratio", *FEATURES
            )
        ],
    ]
)  # fmt: skip
"""One row per utterance or clip, condition and rule: data/README.md."""

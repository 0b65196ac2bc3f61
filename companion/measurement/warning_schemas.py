"""The columns of what is measured of the beginnings of texts."""

import pyarrow as pa

WARNINGS = pa.schema(
    [
        ("model", pa.string()),
        ("parameters", pa.int64()),
        ("utterance", pa.string()),
        ("speaker", pa.string()),
        ("condition", pa.string()),
        ("prefix", pa.int32()),
        ("component", pa.string()),
        ("n_eff", pa.float32()),
        ("alpha", pa.float32()),
        ("alpha_reason", pa.string()),
        ("log10_kf_resolved", pa.float32()),
        ("log10_variance", pa.float32()),
        ("log_probability", pa.float32()),
        ("least_log_probability", pa.float32()),
        ("first_wrong", pa.int32()),
        ("tokens", pa.int32()),
        ("transcript", pa.string()),
        ("wer", pa.float32()),
        ("candidate", pa.bool_()),
        ("outcome", pa.string()),
    ]
)
"""One row per utterance, condition, prefix and component: data/README.md."""

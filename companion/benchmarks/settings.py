"""The settings of measurements that are timed, not kept."""

from pathlib import Path

from companion.measurement.settings import SpectralSettings
from companion.models.rules import Rule


def in_memory(model: str, conditions: tuple[str, ...], decoding: Rule) -> SpectralSettings:
    """Those of the committed rows, for speech that is in memory and rows that stay there."""
    return SpectralSettings(
        model=model,
        ladder=Path(),
        corpus=Path(),
        output=Path(),
        conditions=conditions,
        decoding=decoding.name,
        seed=0,
        batch=1,
        device="auto",
        utterances=None,
        modes=(10, 50),
        epsilon=1e-6,
    )

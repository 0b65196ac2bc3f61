"""What to measure: the parameters of the measure notebook, checked."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from spectral.stress.conditions import condition

REFERENCE_CONDITION = "clean"


@dataclass(frozen=True)
class Settings:
    """Parameters of one measurement; ``modes`` are the K to report, ``epsilon`` that of Kf."""

    model: str
    ladder: Path
    corpus: Path
    output: Path
    conditions: tuple[str, ...]
    modes: tuple[int, ...]
    epsilon: float
    seed: int
    batch: int
    device: str
    utterances: int | None

    def __post_init__(self) -> None:
        for name in self.conditions:
            condition(name)
        if self.conditions[:1] != (REFERENCE_CONDITION,):
            raise ValueError(
                f"conditions is {list(self.conditions)}; put {REFERENCE_CONDITION!r} first, every "
                "other one is compared with it"
            )
        for name, value in (("batch", self.batch), ("modes", min(self.modes, default=0))):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon is {self.epsilon}; it must be positive")
        if self.utterances is not None and self.utterances < 1:
            raise ValueError(f"utterances is {self.utterances}; give at least 1, or null for all")

    def plain(self) -> str:
        """The settings that decide the numbers, as JSON: neither paths nor the device."""
        values = asdict(self)
        for name in ("ladder", "corpus", "output", "device"):
            del values[name]
        return json.dumps(values, sort_keys=True)

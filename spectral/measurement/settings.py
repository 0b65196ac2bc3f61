"""What to measure: the parameters of the measure notebook, checked."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from spectral._validation import whole_number
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
        for name in ("ladder", "corpus", "output"):
            object.__setattr__(self, name, Path(getattr(self, name)))
        for name in ("conditions", "modes"):  # notebooks and YAML have lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in self.conditions:
            condition(name)
        if self.conditions[:1] != (REFERENCE_CONDITION,):
            raise ValueError(
                f"conditions is {list(self.conditions)}; put {REFERENCE_CONDITION!r} first, every "
                "other one is compared with it"
            )
        if not self.modes:
            raise ValueError("modes is empty; give the numbers of modes to report, such as 10, 50")
        for k in self.modes:
            whole_number(k, "modes", least=2)  # alpha is a slope over modes 1..k
        whole_number(self.batch, "batch", least=1)
        whole_number(self.seed, "seed", least=0)
        if self.utterances is not None:
            whole_number(self.utterances, "utterances", least=1)
        if not isinstance(self.epsilon, int | float) or not 0 < self.epsilon < math.inf:
            raise ValueError(
                f"epsilon is {self.epsilon!r}; give a number above 0 (YAML reads 1e-9 as text, "
                "write 1.0e-9)"
            )

    def plain(self) -> str:
        """The settings that decide the numbers, as JSON: neither paths nor the device."""
        values = asdict(self)
        for name in ("ladder", "corpus", "output", "device"):
            del values[name]
        return json.dumps(values, sort_keys=True)

"""The kinds of measurement: what each is told, how it makes rows, and their columns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from companion.measurement import checks, contest, guard, schemas, settings
from companion.measurement.choices import choice_rows
from companion.measurement.dynamics import dynamics_rows
from companion.measurement.hearing import subtle_rows
from companion.measurement.jacobians import jacobian_rows
from companion.measurement.nulls import null_rows
from companion.measurement.pooling import POOLING, kept_activations, measure_pooling
from companion.measurement.run import Summary, Together, by_speaker, by_utterance, measure
from companion.measurement.settings import Settings
from companion.measurement.spectra import spectral_rows, stress_rows
from companion.measurement.texts import Row, listening_rows
from companion.measurement.warnings import warning_rows


@dataclass(frozen=True)
class Kind:
    """One kind of measurement: ``rows_of`` makes the rows of a batch, with the schema's columns.

    ``check`` says what holds of the rows whatever the model, or raises AssertionError.
    ``compared``: rows say how utterances of one batch differ, so they belong to the batch.
    ``whole``: makes the file, where that is more than the rows of every batch.
    """

    name: str
    settings: type[Settings]
    rows_of: Callable[..., list[Row]]
    schema: pa.Schema
    check: Callable[[pd.DataFrame], str]
    together: Together = by_utterance
    compared: bool = False
    whole: Callable[..., Summary] | None = None

    def measure(self, settings: Any) -> Summary:
        """Write the file of these ``settings``: see :func:`companion.measurement.run.measure`."""
        if self.whole is not None:
            return self.whole(settings)
        return measure(self.name, settings, self.rows_of, self.schema, self.together)


_KINDS = (
    Kind("measure", settings.SpectralSettings, spectral_rows, schemas.SPECTRA, checks.spectra),
    Kind(
        "pooling", settings.PoolingSettings, kept_activations, POOLING, checks.pooling,
        compared=True, whole=measure_pooling,
    ),
    Kind(
        "listening", settings.ListeningSettings, listening_rows, schemas.LISTENING,
        checks.listening,
    ),
    Kind("nulls", settings.NullSettings, null_rows, schemas.NULLS, checks.nulls),
    Kind("choices", Settings, choice_rows, schemas.CHOICES, checks.choices, by_speaker),
    Kind("stresses", settings.SpectralSettings, stress_rows, schemas.STRESSES, checks.stresses),
    Kind(
        "jacobians", settings.JacobianSettings, jacobian_rows, schemas.JACOBIANS,
        checks.jacobians,
    ),
    Kind(
        "dynamics", settings.DynamicsSettings, dynamics_rows, schemas.DYNAMICS, checks.dynamics,
        compared=True,
    ),
    Kind("subtle", settings.SubtleSettings, subtle_rows, schemas.SUBTLE, checks.subtle),
    Kind("warnings", settings.WarningSettings, warning_rows, schemas.WARNINGS, checks.warnings),
    *(
        Kind(name, contest.ContestSettings, contest.contest_rows, schemas.CONTEST, checks.contest)
        for name in ("contest", "fitting", "recordings")
    ),
    Kind("guards", guard.GuardSettings, guard.guard_rows, schemas.GUARD, checks.guards),
    *(
        Kind(name, guard.AlarmSettings, guard.alarm_rows, schemas.GUARD, checks.guards)
        for name in ("alarms", "doubts")
    ),
    Kind("talks", guard.TalkSettings, guard.talk_rows, schemas.GUARD, checks.guards, by_speaker),
)  # fmt: skip
KINDS: dict[str, Kind] = {kind.name: kind for kind in _KINDS}

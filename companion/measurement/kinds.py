"""The kinds of measurement: what each is told, how it makes rows, and their columns."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from companion.measurement.choices import choice_rows
from companion.measurement.dynamics import dynamics_rows
from companion.measurement.dynamics_schemas import DYNAMICS, NUDGES
from companion.measurement.jacobians import jacobian_rows
from companion.measurement.listening import listening_rows
from companion.measurement.memory import Together, by_utterance, by_voice
from companion.measurement.nudges import nudge_rows
from companion.measurement.nulls import null_rows
from companion.measurement.pooling import POOLING, PoolingSettings, kept_activations
from companion.measurement.schemas import CHOICES, JACOBIANS, LISTENING, NULLS, SPECTRA, STRESSES
from companion.measurement.settings import (
    DynamicsSettings,
    JacobianSettings,
    ListeningSettings,
    NudgeSettings,
    NullSettings,
    Settings,
    SpectralSettings,
)
from companion.measurement.spectra import spectral_rows
from companion.measurement.stresses import stress_rows
from companion.measurement.texts import Row
from companion.measurement.warning_schemas import WARNINGS
from companion.measurement.warnings import WarningSettings, warning_rows


@dataclass(frozen=True)
class Kind:
    """One kind of measurement, called as its notebook is.

    ``compared``: rows say how utterances of one batch differ, so they belong to the batch.
    """

    settings: type[Settings]
    rows_of: Callable[..., list[Row]]
    schema: pa.Schema
    together: Together = by_utterance
    compared: bool = False


KINDS: dict[str, Kind] = {
    "measure": Kind(SpectralSettings, spectral_rows, SPECTRA),
    "pooling": Kind(PoolingSettings, kept_activations, POOLING, compared=True),
    "listening": Kind(ListeningSettings, listening_rows, LISTENING),
    "nulls": Kind(NullSettings, null_rows, NULLS),
    "choices": Kind(Settings, choice_rows, CHOICES, by_voice),
    "stresses": Kind(SpectralSettings, stress_rows, STRESSES),
    "jacobians": Kind(JacobianSettings, jacobian_rows, JACOBIANS),
    "dynamics": Kind(DynamicsSettings, dynamics_rows, DYNAMICS, compared=True),
    "nudges": Kind(NudgeSettings, nudge_rows, NUDGES),
    "warnings": Kind(WarningSettings, warning_rows, WARNINGS),
}

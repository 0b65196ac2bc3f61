"""The kinds of measurement: what each is told, how it makes rows, and their columns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd
import pyarrow as pa

from companion.measurement import checks
from companion.measurement.choices import choice_rows, measure_choices
from companion.measurement.contest import ContestSettings, contest_rows, measure_contest
from companion.measurement.contest_schema import CONTEST
from companion.measurement.dynamics import dynamics_rows, measure_dynamics
from companion.measurement.dynamics_schemas import DYNAMICS, SUBTLE
from companion.measurement.jacobians import jacobian_rows, measure_jacobians
from companion.measurement.listening import listening_rows, measure_listening
from companion.measurement.memory import Together, by_speaker, by_utterance
from companion.measurement.nulls import measure_nulls, null_rows
from companion.measurement.pooling import (
    POOLING,
    PoolingSettings,
    kept_activations,
    measure_pooling,
)
from companion.measurement.schemas import CHOICES, JACOBIANS, LISTENING, NULLS, SPECTRA, STRESSES
from companion.measurement.settings import (
    DynamicsSettings,
    JacobianSettings,
    ListeningSettings,
    NullSettings,
    Settings,
    SpectralSettings,
    SubtleSettings,
)
from companion.measurement.spectra import measure_spectra, spectral_rows
from companion.measurement.stresses import measure_stresses, stress_rows
from companion.measurement.subtle import measure_subtle, subtle_rows
from companion.measurement.texts import Row
from companion.measurement.warning_schemas import WARNINGS
from companion.measurement.warnings import WarningSettings, measure_warnings, warning_rows


@dataclass(frozen=True)
class Kind:
    """One kind of measurement: ``measure`` writes its file, ``rows_of`` makes the rows of a batch.

    ``check`` says what holds of the rows whatever the model, or raises AssertionError.
    ``compared``: rows say how utterances of one batch differ, so they belong to the batch.
    """

    settings: type[Settings]
    measure: Callable[..., object]
    rows_of: Callable[..., list[Row]]
    schema: pa.Schema
    check: Callable[[pd.DataFrame], str]
    together: Together = by_utterance
    compared: bool = False


KINDS: dict[str, Kind] = {
    "measure": Kind(SpectralSettings, measure_spectra, spectral_rows, SPECTRA, checks.spectra),
    "pooling": Kind(
        PoolingSettings, measure_pooling, kept_activations, POOLING, checks.pooling, compared=True
    ),
    "listening": Kind(
        ListeningSettings, measure_listening, listening_rows, LISTENING, checks.listening
    ),
    "nulls": Kind(NullSettings, measure_nulls, null_rows, NULLS, checks.nulls),
    "choices": Kind(Settings, measure_choices, choice_rows, CHOICES, checks.choices, by_speaker),
    "stresses": Kind(SpectralSettings, measure_stresses, stress_rows, STRESSES, checks.stresses),
    "jacobians": Kind(
        JacobianSettings, measure_jacobians, jacobian_rows, JACOBIANS, checks.jacobians
    ),
    "dynamics": Kind(
        DynamicsSettings, measure_dynamics, dynamics_rows, DYNAMICS, checks.dynamics, compared=True
    ),
    "subtle": Kind(SubtleSettings, measure_subtle, subtle_rows, SUBTLE, checks.subtle),
    "warnings": Kind(WarningSettings, measure_warnings, warning_rows, WARNINGS, checks.warnings),
    **{
        kind: Kind(
            ContestSettings,
            partial(measure_contest, kind=kind),
            contest_rows,
            CONTEST,
            checks.contest,
        )
        for kind in ("contest", "fitting", "recordings")
    },
}

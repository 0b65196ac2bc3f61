"""The kinds of measurement: how each makes rows, their columns, and what must hold of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from companion.measurement import checks, schemas
from companion.measurement.choices import choice_rows
from companion.measurement.contest import contest_rows
from companion.measurement.dynamics import dynamics_rows
from companion.measurement.guard import alarm_rows, guard_rows, talk_rows
from companion.measurement.hearing import subtle_rows
from companion.measurement.jacobians import jacobian_rows
from companion.measurement.nulls import null_rows
from companion.measurement.pooling import POOLING, kept_activations, measure_pooling
from companion.measurement.run import Summary, Together, by_speaker, by_utterance, measure
from companion.measurement.settings import SETTINGS, Settings
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
    rows_of: Callable[..., list[Row]]
    schema: pa.Schema
    check: Callable[[pd.DataFrame], str]
    together: Together = by_utterance
    compared: bool = False
    whole: Callable[..., Summary] | None = None

    @property
    def settings(self) -> type[Settings]:
        """The class of its settings."""
        return SETTINGS[self.name]

    def measure(self, settings: Any) -> Summary:
        """Write the file of these ``settings``: see :func:`companion.measurement.run.measure`."""
        if self.whole is not None:
            return self.whole(settings)
        return measure(self.name, settings, self.rows_of, self.schema, self.together)


_KINDS = (
    Kind("measure", spectral_rows, schemas.SPECTRA, checks.spectra),
    Kind(
        "pooling", kept_activations, POOLING, checks.pooling, compared=True, whole=measure_pooling
    ),
    Kind("listening", listening_rows, schemas.LISTENING, checks.listening),
    Kind("nulls", null_rows, schemas.NULLS, checks.nulls),
    Kind("choices", choice_rows, schemas.CHOICES, checks.choices, by_speaker),
    Kind("stresses", stress_rows, schemas.STRESSES, checks.stresses),
    Kind("jacobians", jacobian_rows, schemas.JACOBIANS, checks.jacobians),
    Kind("dynamics", dynamics_rows, schemas.DYNAMICS, checks.dynamics, compared=True),
    Kind("subtle", subtle_rows, schemas.SUBTLE, checks.subtle),
    Kind("warnings", warning_rows, schemas.WARNINGS, checks.warnings),
    *(
        Kind(name, contest_rows, schemas.CONTEST, checks.contest)
        for name in ("contest", "fitting", "recordings")
    ),
    Kind("guards", guard_rows, schemas.GUARD, checks.guards),
    *(Kind(name, alarm_rows, schemas.GUARD, checks.guards) for name in ("alarms", "doubts")),
    Kind("talks", talk_rows, schemas.GUARD, checks.guards, by_speaker),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in _KINDS}

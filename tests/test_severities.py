"""Severities found by bisection, on curves and on a fake model whose failures are planted."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from companion.measurement import severities
from companion.measurement.severities import FRACTIONS, conditions_of, failing_fraction, transition
from companion.models.rules import OPENAI, Rule
from companion.speech.corpus import Utterance
from companion.stress.conditions import CONDITIONS, condition
from companion.stress.mixture import Mixture, Speakers, rms


class Curve:
    """Failures by severity of 100 utterances, and how often it was asked."""

    def __init__(self, centre: float, slope: float, floor: float = 0.0) -> None:
        self.centre, self.slope, self.floor, self.asked = centre, slope, floor, 0

    def __call__(self, severity: float) -> float:
        self.asked += 1
        rising = expit(self.slope * math.log(severity / self.centre))
        return round(self.floor + (1 - self.floor) * float(rising), 2)


@pytest.mark.parametrize("centre", [0.002, 0.03, 0.4])
@pytest.mark.parametrize("slope", [1.5, 4.0, 15.0])
def test_every_fraction_is_found_where_it_was_planted(centre: float, slope: float) -> None:
    curve = Curve(centre, slope)
    for fraction, (severity, measured) in transition(curve).items():
        reached = curve(1.0) >= fraction and curve(severities.LEAST) <= fraction
        assert math.isnan(severity) != reached
        if reached:
            assert measured == curve(severity) == pytest.approx(fraction, abs=0.05)


def test_no_more_is_measured_than_was_allowed() -> None:
    curve = Curve(0.03, 4.0)
    transition(curve, evaluations=7)
    assert curve.asked == 7


def test_what_fails_without_stress_or_never_has_no_severity() -> None:
    always, never = transition(Curve(0.1, 4.0, floor=0.3)), transition(Curve(50.0, 4.0))
    assert [fraction for fraction in FRACTIONS if math.isnan(always[fraction][0])] == [0.1, 0.25]
    assert always[0.1][1] == 0.3
    assert all(math.isnan(severity) for severity, _ in never.values())


def test_a_step_is_met_from_either_side() -> None:
    crossings = transition(lambda severity: float(severity > 0.02))
    assert all(severity == pytest.approx(0.02, rel=0.1) for severity, _ in crossings.values())


def test_failures_are_counted_under_the_same_stress(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    clean = [
        Mixture.of(
            Utterance(f"{i}-1-0000", str(i), "one two three", Path("nowhere")),
            rng.standard_normal(4000 + i).astype(np.float32),
        )
        for i in range(40)
    ]
    limits = {mixture.wave.size: (i + 0.5) / 40 for i, mixture in enumerate(clean)}  # by severity
    levels = {mixture.wave.size: rms(mixture.wave) for mixture in clean}

    def transcribe(_: object, waves: list[np.ndarray], rule: Rule) -> list[SimpleNamespace]:
        texts = []
        for wave in waves:
            added = max((rms(wave) / levels[wave.size]) ** 2 - 1, 1e-9)
            severity = 1 + 10 * math.log10(added) / 30
            failed = severity > limits[wave.size]
            texts.append(SimpleNamespace(text="nothing of it" if failed else "one two three"))
        return texts

    monkeypatch.setattr(severities, "transcribe", transcribe)
    stress, speakers = CONDITIONS["noise"], Speakers([])
    fraction = failing_fraction(None, OPENAI, stress, clean, speakers)  # type: ignore[arg-type]
    for severity, (_, measured) in zip(FRACTIONS, transition(fraction).values(), strict=True):
        assert measured == pytest.approx(severity, abs=0.051)


def test_the_table_names_conditions(tmp_path: Path) -> None:
    rows = {"condition": ["hell-wsola", "noise", "noise"], "severity": [0.0123, math.nan, 0.5]}
    pd.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    names = conditions_of(tmp_path / "a.csv")
    assert names == ["hell-wsola-0.0123", "noise-0.5"]
    assert [condition(name).name for name in names] == names

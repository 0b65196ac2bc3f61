"""Whole measurements on a CUDA GPU against the same on the CPU, as far as machines may differ."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import spectral
from companion.measurement.kinds import KINDS
from companion.measurement.store import read
from companion.models.decoding import greedy
from companion.models.loading import load
from companion.models.rules import UNRESTRICTED
from companion.speech.corpus import find_utterances, read_wave

ROOT = Path(__file__).parents[1]
LADDER, CORPUS = ROOT / "data" / "ladder", ROOT / "data" / "corpus"
COMMON = {
    "model": "xs-0", "ladder": LADDER, "corpus": CORPUS, "conditions": ["clean", "hell"],
    "decoding": "unrestricted", "seed": 0, "batch": 4, "utterances": 4,
}  # fmt: skip
SETTINGS = {
    "measure": {"modes": [10, 50], "epsilon": 1e-6},
    "jacobians": {"tokens": 2, "probes": 2},
}
# Relative to the largest value of a column: float32 sums in another order. Seen: at most 8e-6.
TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def rows(kind: str, device: str, folder: Path) -> pd.DataFrame:
    output = folder / device / "xs-0.parquet"
    values = {**COMMON, **SETTINGS[kind], "device": device, "output": output}
    chosen = KINDS[kind]
    chosen.measure(chosen.settings(**values))
    table = read([output], chosen.schema)
    print(chosen.check(table))
    return table


def assert_spectra(expected: pd.Series, got: pd.Series) -> None:
    for of_cpu, of_cuda in zip(expected, got, strict=True):
        np.testing.assert_allclose(of_cuda, of_cpu, rtol=0, atol=TOLERANCE * max(of_cpu, default=0))


@pytest.mark.parametrize("kind", SETTINGS)
def test_rows_measured_on_cuda_are_those_of_the_cpu(kind: str, tmp_path: Path) -> None:
    expected, got = (rows(kind, device, tmp_path) for device in ("cpu", "cuda"))
    assert list(got.columns) == list(expected.columns)
    assert len(got) == len(expected)
    worst = {}
    assert_spectra(expected.pop("eigenvalues"), got.pop("eigenvalues")) if kind == "measure" else 0
    for name in expected:
        if not pd.api.types.is_float_dtype(expected[name]):
            if name != "device":
                assert (got[name].astype(str) == expected[name].astype(str)).all(), name
            continue
        assert (got[name].isna() == expected[name].isna()).all(), name
        scale = expected[name].abs().max()
        worst[name] = float((got[name] - expected[name]).abs().max() / scale) if scale else 0.0
    print(pd.Series(worst).sort_values().tail(8).to_string())
    assert {name: off for name, off in worst.items() if off > TOLERANCE} == {}


def test_a_model_traced_on_cuda_has_the_spectra_of_the_cpu() -> None:
    frames = []
    for device in ("cpu", "cuda"):
        model = load("xs-0", LADDER, torch.device(device))
        wave = read_wave(find_utterances(CORPUS).utterances[0])
        with spectral.attach(model.module) as trace:
            text = greedy(model, model.features([wave]), UNRESTRICTED)[0].text
        frames.append((text, trace.spectra(k=10).to_frame()))
    (text, expected), (again, got) = frames
    assert again == text
    pd.testing.assert_frame_equal(got, expected, rtol=TOLERANCE)

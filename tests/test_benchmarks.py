"""The benchmark's rivals compute what the kernels do, and its table says what was timed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from whisper.model import Whisper

from companion.benchmarks import throughput as throughput_module
from companion.benchmarks import timing
from companion.benchmarks.cases import (
    graph_case,
    growth_cases,
    propagator_case,
    propagator_operations,
    spectra_case,
)
from companion.benchmarks.measuring import LIBRARY, measuring_case, stressed_speech
from companion.benchmarks.rivals import (
    autograd_rows,
    cached_jacfwd,
    curvlinops_svds,
    jacrev_rows,
)
from companion.benchmarks.timing import OURS, Case, Way, measured
from companion.models.openai_model import OpenAIModel, initialised
from companion.models.random_layers import random_layer
from spectral.jacobians.layers import Layer
from spectral.jacobians.propagators import linearise

WIDTH, TOKENS, FRAMES = 16, 3, 7
CPU = torch.device("cpu")
CORPUS = Path(__file__).parents[1] / "data" / "corpus"


@pytest.fixture(scope="module")
def point() -> tuple[Layer, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, context = (
        torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)
        for rows in (TOKENS, FRAMES)
    )
    return random_layer(WIDTH, 2, dtype=torch.float64), hidden, context


def test_automatic_differentiation_finds_the_propagators(
    point: tuple[Layer, Tensor, Tensor],
) -> None:
    jacobian = jacrev_rows(*point, rows=TOKENS * WIDTH, chunk=5)
    blocks = jacobian.reshape(TOKENS, WIDTH, TOKENS, WIDTH)
    exact = linearise(*point).propagators()
    torch.testing.assert_close(torch.stack([blocks[t, :, t] for t in range(TOKENS)]), exact)
    torch.testing.assert_close(autograd_rows(*point, rows=20), jacobian[:20])
    torch.testing.assert_close(cached_jacfwd(*point, tokens=[0, 2]), exact[[0, 2]])


def test_curvlinops_finds_the_same_singular_values(point: tuple[Layer, Tensor, Tensor]) -> None:
    pytest.importorskip("curvlinops")
    values = torch.linalg.svdvals(linearise(*point).propagators()[1])
    np.testing.assert_allclose(curvlinops_svds(*point, token=1, k=3), values[:3], rtol=1e-8)


def test_ways_take_turns_and_samples_are_scaled_up_and_marked() -> None:
    calls: list[str] = []
    ways = {
        OURS: Way(lambda: calls.append("ours")),
        "sampled": Way(lambda: calls.append("sampled"), fraction=0.25, repeats=2),
    }
    case = Case("nothing", {"width": 3}, ways, 8.0, lambda: 0.5)
    table = measured(case, repeats=3, device=CPU).set_index("way")
    turn = ["ours", "ours", "sampled", "sampled"]
    assert calls == ["ours", "sampled", *turn * 2, "ours", "ours"], "short calls warm up each time"
    assert table.repeats.to_dict() == {OURS: 3, "sampled": 2}
    assert table.extrapolated_from.to_dict() == {OURS: 1.0, "sampled": 0.25}
    assert table.loc[OURS, "ratio"] == 1
    expected = table.loc["sampled", "median"] / table.loc[OURS, "median"]
    assert table.loc["sampled", "ratio"] == pytest.approx(expected)
    assert (table.difference == 0.5).all()


def test_cases_agree_with_their_rivals_and_grow_one_axis_at_a_time() -> None:
    assert propagator_case(128, 4, CPU).difference() < 1e-4
    assert spectra_case(32, 9, 2, CPU).difference() < 1e-5
    assert graph_case(9, CPU).difference() < 1e-6
    usual = {"width": 384, "tokens": 16, "frames": 300, "layers": 1}
    for case in growth_cases(CPU):
        axis = case.name.split()[-1]
        assert {**case.size, axis: usual[axis]} == usual


def test_operations_are_dominated_by_eight_cubes_per_token() -> None:
    many = propagator_operations(10_000, 3, 10)
    assert many == pytest.approx(2 * 3 * 8 * 10_000**3, rel=0.02)


def test_throughput_counts_what_measuring_adds_to_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a small size, since it only has to run here: rates and shares follow from the times."""
    monkeypatch.setattr(throughput_module, "SIZES", {"mini": throughput_module.size(64, 1, 2)})
    monkeypatch.setattr(throughput_module, "TOKENS", 4)
    # Warm-up and one turn of each way, in turns; the last is so short that it warms up again.
    seconds = iter([1.0, 1.0, 8.0, 5.0, 3.0, 0.7, 0.5])
    real = timing._once

    def timed(way: timing.Way, device: torch.device) -> tuple[float, int]:
        real(way, device)
        return next(seconds), 0

    monkeypatch.setattr(timing, "_once", timed)
    row = throughput_module.throughput("mini", 2, 1, torch.device("cpu"))
    assert row["utterances_per_second"] == 2 / 8
    assert row["overhead"] == pytest.approx(8 / 5 - 1)
    assert row["propagator_seconds"] == 0.5
    assert row["tokens"] == 4
    assert 10_000_000 < row["peak_bytes"] < 64 * 2**30


def test_measuring_writes_the_texts_that_the_library_writes_and_tiny_has_its_weights() -> None:
    """On random weights, whose texts never end: rows that stop early are tested elsewhere."""
    size = throughput_module.size(64, 1, 2)
    model = OpenAIModel("mini", initialised(size, seed=0))
    case = measuring_case(model, stressed_speech(CORPUS, 1))
    assert set(case.ways) == {OURS, LIBRARY}
    assert dict(case.size) == {"model": "mini", "condition": "clean+hell", "batch": 1}
    assert case.difference() == 0
    tiny = Whisper(throughput_module.SIZES["tiny"])
    assert OpenAIModel("tiny", tiny).parameters == 37_760_640  # with the encoder's fixed positions

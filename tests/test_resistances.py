"""The Cholesky road to the Kirchhoff index: as right as it says it is, and left where it is not."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from weighted_graphs import random_graph, tree, two_cliques

from spectral import graph_kirchhoff_index
from spectral.graphs import TRUSTED, by_cholesky, by_elimination

law = settings(derandomize=True, deadline=None, max_examples=150)


def both(weights: Tensor) -> tuple[float, float, float]:
    """Index by Cholesky, its bound, and the index by elimination, of weights up to about 1."""
    weights = weights[None] / weights.max()
    mask = torch.ones(weights.shape[:2], dtype=torch.bool)
    index, error = by_cholesky(weights.clone(), mask)
    return index.item(), error.item(), by_elimination(weights, mask).item()


def assert_honest(weights: Tensor) -> bool:
    """The bound holds where it is small enough to matter; whether it is small enough to trust."""
    index, error, expected = both(weights)
    if error < 0.1:
        assert abs(index / expected - 1) <= error + 1e-15 * len(weights)
    return error <= TRUSTED


@st.composite
def odd_trees(draw: st.DrawFn) -> Tensor:
    n = draw(st.integers(3, 40))
    parents = [draw(st.integers(max(0, child - 3), child - 1)) for child in range(1, n)]
    decades = draw(st.sampled_from([0, 2, 20, 40]))
    powers = draw(st.lists(st.floats(-decades, 0), min_size=n - 1, max_size=n - 1))
    return tree(parents, [10.0**x for x in powers])


@law
@given(odd_trees())
def test_the_bound_holds_on_trees_over_forty_decades(weights: Tensor) -> None:
    assert_honest(weights)


@law
@given(
    st.integers(2, 60), st.floats(0.05, 1), st.sampled_from([0, 1, 5, 20, 100]), st.integers(0, 999)
)
def test_the_bound_holds_on_random_graphs_and_disconnected_ones_are_never_trusted(
    n: int, density: float, decades: float, seed: int
) -> None:
    weights = random_graph(n, density, decades, seed)
    weights[0, 1] = weights[1, 0] = 1.0
    trusted = assert_honest(weights)
    if connected_components(weights.numpy() > 0)[0] > 1:
        assert not trusted
        assert graph_kirchhoff_index(weights).item() == math.inf


@pytest.mark.parametrize("size", [3, 10, 20])
def test_the_bound_holds_on_dumbbells_whose_bridge_fades(size: int) -> None:
    trusted = [assert_honest(two_cliques(size, 10.0**-power)) for power in range(0, 40)]
    assert trusted[0]
    assert not any(trusted[8:])
    assert trusted == sorted(trusted, reverse=True), "once left, the fast road stays left"


def test_weights_far_apart_are_trusted_where_a_walk_mixes() -> None:
    star = tree([0] * 40, [10.0 ** -(i % 21) for i in range(40)])
    index, error, expected = both(star)
    assert error <= TRUSTED
    assert index == pytest.approx(expected, rel=1e-13, abs=0)


@pytest.mark.parametrize("n", [5, 64, 65, 150, 600])
def test_dense_graphs_of_any_size_are_trusted_and_right(n: int) -> None:
    index, error, expected = both(random_graph(n, 1.0, 1, seed=n))
    assert error <= TRUSTED
    assert index == pytest.approx(expected, rel=1e-13, abs=0)


def test_a_batch_of_both_kinds_and_of_ragged_sizes_takes_each_graph_its_road() -> None:
    counts = torch.tensor([30, 0, 1, 2, 17, 30])
    graphs = torch.stack([random_graph(30, 1.0, 2, seed) for seed in range(6)])
    graphs[5] = two_cliques(15, 1e-18)
    mask = torch.arange(30) < counts[:, None]
    weights = graphs * (mask[:, :, None] & mask[:, None])
    trusted = by_cholesky(weights.clone(), mask)[1] <= TRUSTED
    assert trusted.tolist() == [True, False, False, True, True, False]
    torch.testing.assert_close(
        graph_kirchhoff_index(graphs, mask), by_elimination(weights, mask), rtol=1e-12, atol=0
    )

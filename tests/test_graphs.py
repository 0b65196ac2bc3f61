"""Graph kernels against networkx, exact rational arithmetic, closed forms, and their laws."""

import math
from collections.abc import Callable
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from weighted_graphs import exact_kirchhoff_index, random_graph, tree, two_cliques

from spectral import attention_graph, graph_kirchhoff_index, similarity_graph
from spectral.graphs import TRUSTED

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
law = settings(derandomize=True, deadline=None, max_examples=80)


def assert_exact(weights: Tensor, expected: Fraction, rel: float = 1e-13) -> None:
    """Compared as fractions, as the numbers may lie outside what a float's square can hold."""
    got = Fraction(graph_kirchhoff_index(weights).item())
    assert abs(got / expected - 1) < rel, (float(got), float(expected))


def tree_kirchhoff_index(parents: list[int], weights: list[float]) -> Fraction:
    """Each edge is the only way between its two sides: sum of size (n - size) / weight."""
    n = len(parents) + 1
    size = [1] * n
    for child in range(n - 1, 0, -1):
        size[parents[child - 1]] += size[child]
    return sum(
        (size[i] * (n - size[i]) / Fraction(weights[i - 1]) for i in range(1, n)), Fraction(0)
    )


# --- closed forms


@pytest.mark.parametrize("n", [2, 3, 4, 10, 100, 257])
def test_kirchhoff_index_of_named_graphs_is_the_closed_form(n: int) -> None:
    named: dict[str, tuple[Tensor, Fraction]] = {
        "complete": (torch.ones(n, n), Fraction(n - 1)),
        "path": (torch.ones(n - 1).diag(1) + torch.ones(n - 1).diag(-1), Fraction(n**3 - n, 6)),
        "star": (tree([0] * (n - 1), [1.0] * (n - 1)), Fraction((n - 1) ** 2)),
    }
    if n > 2:
        cycle = torch.eye(n).roll(1, 0) + torch.eye(n).roll(-1, 0)
        named["cycle"] = (cycle, Fraction(n**3 - n, 12))
    for weights, expected in named.values():
        assert_exact(weights, expected)


@pytest.mark.parametrize("weight", [1e-300, 1e-20, 1.0, 1e20, 1e300, 1.7e308])
def test_kirchhoff_index_of_two_nodes_is_one_over_their_weight(weight: float) -> None:
    assert_exact(tree([0], [weight]), 1 / Fraction(weight))


def test_one_node_or_none_has_index_zero() -> None:
    assert graph_kirchhoff_index(torch.zeros(1, 1)).item() == 0
    assert graph_kirchhoff_index(torch.ones(3, 1, 1)).tolist() == [0, 0, 0]
    assert graph_kirchhoff_index(torch.zeros(2, 0, 0)).tolist() == [0, 0]
    assert graph_kirchhoff_index(torch.zeros(0, 4, 4)).shape == (0,)


# --- agreement with independent references


@pytest.mark.parametrize(
    ("n", "density", "decades"), [(5, 0.9, 1), (30, 0.3, 2), (60, 1.0, 3), (90, 0.1, 0)]
)
def test_kirchhoff_index_agrees_with_networkx(n: int, density: float, decades: float) -> None:
    weights = random_graph(n, density, decades, seed=n)
    graph = nx.from_numpy_array(weights.numpy())
    expected = nx.effective_graph_resistance(graph, weight="weight", invert_weight=False)
    got = graph_kirchhoff_index(weights)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(expected, rel=1e-8, abs=0)


@needs_cuda
def test_cuda_agrees_with_the_cpu() -> None:
    graphs = torch.stack([random_graph(24, 0.1, 30, seed) for seed in range(40)])
    mask = torch.rand(40, 24, generator=torch.Generator().manual_seed(0)) < 0.9
    got = graph_kirchhoff_index(graphs.cuda(), mask.cuda())
    assert got.is_cuda
    torch.testing.assert_close(got.cpu(), graph_kirchhoff_index(graphs, mask), rtol=1e-12, atol=0)
    hidden_states = random_graph(24, 1.0, 1, 0)
    for build in (attention_graph, similarity_graph):
        torch.testing.assert_close(build(hidden_states.cuda()).cpu(), build(hidden_states))


@pytest.mark.parametrize("decades", [0, 3, 18, 100, 270])
def test_kirchhoff_index_is_exact_however_far_apart_the_weights_are(decades: float) -> None:
    for seed in range(12):
        weights = random_graph(7, 0.7, decades, seed)
        if connected_components(weights.numpy() > 0)[0] == 1:
            assert_exact(weights, exact_kirchhoff_index(weights), rel=TRUSTED)


@pytest.mark.parametrize("link", [1e-8, 1e-17, 1e-18, 1e-100, 1e-250, 1e18])
def test_a_weak_or_strong_link_between_clusters_is_not_lost(link: float) -> None:
    size = 20
    within = Fraction(size - 1)
    # Within each clique; then, for each pair across, the link and a way to its end on both sides.
    across = size**2 / Fraction(link) + 2 * size * (size - 1) * Fraction(2, size)
    assert_exact(two_cliques(size, link), 2 * within + across)


# --- connectivity


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_disconnected_graphs_have_an_infinite_index(scale: float) -> None:
    for weights in (
        torch.zeros(2, 2),
        torch.zeros(5, 5),
        torch.eye(3),
        two_cliques(6, 0.0),
        torch.block_diag(torch.ones(4, 4), torch.ones(1, 1)),
        torch.block_diag(torch.ones(1, 1), torch.ones(4, 4)),
    ):
        assert graph_kirchhoff_index(weights.double() * scale).item() == math.inf


def test_the_index_is_finite_exactly_where_scipy_finds_one_component() -> None:
    graphs = torch.stack(
        [random_graph(24, density, 30, seed) for density in (0.05, 0.1, 0.2) for seed in range(40)]
    )
    single = [connected_components(graph.numpy() > 0)[0] == 1 for graph in graphs]
    assert 20 < sum(single) < 100
    assert graph_kirchhoff_index(graphs).isfinite().tolist() == single


# --- batches, masks, dtypes


@pytest.mark.parametrize("garbage", [0.0, math.nan, math.inf, -1.0, 1e300])
def test_what_lies_under_the_mask_does_not_matter(garbage: float) -> None:
    """Real nodes may lie anywhere under it; it broadcasts, and a single one has index zero."""
    graphs = torch.stack([random_graph(9, 1.0, 2, seed) for seed in range(6)])
    mask = torch.arange(9) < torch.tensor([9, 0, 1, 2, 5, 9])[:, None]
    mask = mask[:, torch.randperm(9, generator=torch.Generator().manual_seed(0))]
    expected = [graph_kirchhoff_index(g[m][:, m]).item() for g, m in zip(graphs, mask, strict=True)]
    assert expected[1:3] == [0, 0]
    graphs[~(mask[:, :, None] & mask[:, None, :])] = garbage
    for got in graph_kirchhoff_index(torch.stack([graphs, graphs]), mask).tolist():
        assert got == pytest.approx(expected, rel=1e-13)


def test_a_graph_held_together_by_a_masked_node_is_disconnected() -> None:
    path = torch.ones(2).diag(1) + torch.ones(2).diag(-1)
    assert graph_kirchhoff_index(path, torch.tensor([True, False, True])).item() == math.inf


def test_a_batch_of_any_leading_dimensions_equals_a_loop() -> None:
    graphs = torch.stack([random_graph(10, 0.5, 2, seed) * 1e20**seed for seed in range(6)])
    graphs[2:4] = torch.stack([two_cliques(5, 0.0), two_cliques(5, 1e-18)])
    got = graph_kirchhoff_index(graphs.reshape(2, 3, 10, 10))
    assert got.shape == (2, 3)
    assert got[0, 2].item() == math.inf
    expected = [graph_kirchhoff_index(g).item() for g in graphs]
    assert got.flatten().tolist() == pytest.approx(expected, rel=1e-13)


def test_loops_do_not_matter_however_heavy() -> None:
    weights = random_graph(8, 0.5, 3, seed=0)
    for loop in (1e-300, 1.0, 1e300):
        heavy = weights + torch.eye(8).double() * loop
        assert graph_kirchhoff_index(heavy) == graph_kirchhoff_index(weights)


@pytest.mark.parametrize(("row", "column"), [(3, 290), (140, 150), (290, 299)])
def test_an_asymmetry_anywhere_in_a_large_graph_is_seen(row: int, column: int) -> None:
    weights = random_graph(300, 1.0, 1, seed=0)
    weights[column, row] *= 1 + 1e-3
    with pytest.raises(ValueError, match=rf"\({row}, {column}\)"):
        graph_kirchhoff_index(weights)
    weights[column, row] = weights[row, column]
    expected = graph_kirchhoff_index(weights)
    weights[row, column] *= 1 + 1e-8
    weights[column, row] *= 1 - 1e-8
    assert graph_kirchhoff_index(weights) == pytest.approx(expected.item(), rel=1e-12)


def test_the_weights_are_left_as_they_were() -> None:
    weights = random_graph(30, 1.0, 1, seed=0) + torch.eye(30)
    before = weights.clone()
    for mask in (None, torch.arange(30) < 20):
        assert not graph_kirchhoff_index(weights.requires_grad_(), mask).requires_grad
        assert torch.equal(weights, before)


def test_the_dtype_does_not_matter() -> None:
    weights = (random_graph(8, 1.0, 1, seed=0) * 64).round() / 64
    expected = graph_kirchhoff_index(weights)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert graph_kirchhoff_index(weights.to(dtype)) == expected


def test_directions_that_differ_by_rounding_are_averaged() -> None:
    weights = random_graph(8, 1.0, 1, seed=0)
    tilted = weights + torch.full((8, 8), 1e-8).triu().double()
    assert graph_kirchhoff_index(tilted) == graph_kirchhoff_index((tilted + tilted.mT) / 2)


# --- laws


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    n = draw(st.integers(2, 12))
    parents = [draw(st.integers(0, child - 1)) for child in range(1, n)]
    decades = draw(st.lists(st.floats(-130, 130), min_size=n - 1, max_size=n - 1))
    return parents, [10.0**x for x in decades]


@law
@given(trees())
def test_the_index_of_a_tree_is_exact_over_260_decades(
    branches: tuple[list[int], list[float]],
) -> None:
    assert_exact(tree(*branches), tree_kirchhoff_index(*branches))


seeds = st.integers(0, 10**6)


@law
@given(seeds, st.floats(-200, 200).map(lambda x: 10.0**x))
def test_the_index_scales_inversely_with_the_weights(seed: int, c: float) -> None:
    weights = random_graph(6, 0.6, 9, seed)
    expected, got = graph_kirchhoff_index(weights) / c, graph_kirchhoff_index(c * weights)
    tolerance = 2 * TRUSTED  # either side is right to TRUSTED, by Cholesky or elimination
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=0)


@law
@given(seeds, st.permutations(range(9)))
def test_the_names_of_the_nodes_do_not_matter(seed: int, order: list[int]) -> None:
    weights = random_graph(9, 0.5, 18, seed)
    expected, got = graph_kirchhoff_index(weights), graph_kirchhoff_index(weights[order][:, order])
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


@law
@given(seeds, st.integers(0, 7), st.integers(0, 7), st.floats(0, 10))
def test_a_stronger_link_never_raises_the_index(seed: int, i: int, j: int, more: float) -> None:
    weights = random_graph(8, 0.5, 3, seed)
    stronger = weights.clone()
    stronger[i, j] += more
    stronger[j, i] = stronger[i, j]
    assert graph_kirchhoff_index(stronger) <= graph_kirchhoff_index(weights) * (1 + 1e-12)


# --- builders


def test_attention_graph_is_the_mean_of_both_directions_without_loops() -> None:
    attention = torch.rand(2, 3, 7, 7).tril().double()
    graph = attention_graph(attention)
    for i, j in np.ndindex(7, 7):
        expected = (attention[..., i, j] + attention[..., j, i]) / 2 * (i != j)
        assert torch.equal(graph[..., i, j], expected)


@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1.0, 1e20, 1e300])
def test_similarity_graph_is_the_non_negative_cosine_without_loops(scale: float) -> None:
    rows = torch.as_tensor(np.random.default_rng(0).standard_normal((2, 9, 5)))
    cosine = torch.nn.functional.cosine_similarity(rows[:, :, None], rows[:, None], dim=-1)
    expected = cosine.clamp(min=0) * (1 - torch.eye(9))
    got = similarity_graph(rows * scale)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(got, got.mT)
    assert (expected == 0).any()
    assert torch.equal(got == 0, expected == 0)


def test_orthogonal_hidden_states_share_no_edge_in_spite_of_rounding() -> None:
    rng = np.random.default_rng(0)
    for width in (2, 3, 5, 64, 300):
        rotation = np.linalg.qr(rng.standard_normal((width, width)))[0]
        for rows in (np.eye(width), rotation[: width // 2], rotation[:2] * [[1e-3], [1e3]]):
            assert not similarity_graph(torch.as_tensor(rows)).any()


def test_parallel_hidden_states_have_weight_one_and_zeros_none() -> None:
    graph = similarity_graph(torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.9]]))
    assert not graph[1].any()
    assert not graph[:, 1].any()
    assert graph_kirchhoff_index(graph).item() == math.inf
    rows = np.random.default_rng(0).standard_normal((200, 1, 7)) * [[1.0], [3.0], [0.1]]
    graph = similarity_graph(torch.as_tensor(rows))
    assert (graph <= 1).all()
    torch.testing.assert_close(graph, (torch.ones(3, 3) - torch.eye(3)).double().expand(200, 3, 3))


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e300])
def test_builders_give_tokens_under_the_mask_no_edge(garbage: float) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    attention = torch.softmax(torch.randn(2, 3, 3), -1).double()
    hidden_states = torch.rand(2, 3, 5).double()
    attention_alone, hidden_alone = attention[0, :2, :2].clone(), hidden_states[0, :2].clone()
    attention[~mask] = garbage
    hidden_states[~mask] = garbage
    for graph, alone in (
        (attention_graph(attention, mask), attention_graph(attention_alone)),
        (similarity_graph(hidden_states, mask), similarity_graph(hidden_alone)),
    ):
        torch.testing.assert_close(graph[0, :2, :2], alone)
        assert not graph[0, 2].any()
        assert not graph[0, :, 2].any()
        assert not graph[1].any()
        assert graph_kirchhoff_index(graph, mask).isfinite().all()


def test_builders_take_empty_input() -> None:
    assert attention_graph(torch.zeros(2, 0, 0)).shape == (2, 0, 0)
    assert similarity_graph(torch.zeros(2, 0, 5)).shape == (2, 0, 0)
    assert not similarity_graph(torch.zeros(2, 4, 0)).any()


# --- errors

SYMMETRIC = torch.tensor([[0.0, 2.0], [2.0, 0.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: graph_kirchhoff_index(torch.ones(3)), r"weights .*nodes, nodes\), got \(3,\)"),
        (lambda: graph_kirchhoff_index(torch.ones(2, 3)), r"weights .*nodes\), got \(2, 3\)"),
        (lambda: graph_kirchhoff_index(SYMMETRIC.long()), "weights .*torch.int64"),
        (lambda: graph_kirchhoff_index(SYMMETRIC * math.nan), r"weights .*nan at index \(0, 0\)"),
        (lambda: graph_kirchhoff_index(SYMMETRIC / 0), r"weights .*(nan|inf) at index"),
        (lambda: graph_kirchhoff_index(-SYMMETRIC), r"weights .*-2.0 at index \(0, 1\) \(2 of 4"),
        (
            lambda: graph_kirchhoff_index(torch.tensor([[0.0, 2.0], [1.5, 0.0]])),
            r"weights .*2.0 at \(0, 1\) and 1.5 at \(1, 0\)",
        ),
        (
            lambda: graph_kirchhoff_index(torch.tensor([[0.0, 2e-20], [1.5e-20, 0.0]])),
            "weights must be symmetric",
        ),
        (lambda: graph_kirchhoff_index(tree([0, 1], [1e-300, 1.0])), "weights .*1e-300 beside 1.0"),
        (
            lambda: graph_kirchhoff_index(SYMMETRIC, torch.ones(3, dtype=torch.bool)),
            r"mask .*\(2,\).*\(3,\)",
        ),
        (lambda: graph_kirchhoff_index(SYMMETRIC, torch.ones(2)), "mask .*torch.float32"),
        (lambda: attention_graph(torch.ones(2, 3)), r"attention .*tokens\), got \(2, 3\)"),
        (lambda: attention_graph(-SYMMETRIC), "attention .*-2.0"),
        (lambda: attention_graph(SYMMETRIC * math.nan), "attention .*nan"),
        (lambda: similarity_graph(torch.ones(3)), r"hidden_states .*width\), got \(3,\)"),
        (lambda: similarity_graph(SYMMETRIC * math.nan), "hidden_states .*nan"),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_seen(
    call: Callable[[], Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call()

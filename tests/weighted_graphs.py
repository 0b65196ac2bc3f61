"""Weighted graphs to test with, and the Kirchhoff index in exact arithmetic."""

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor


def exact_kirchhoff_index(weights: Tensor) -> Fraction:
    """Of a connected graph, in rational arithmetic: the grounded Laplacian inverted."""
    w = [[Fraction(x) for x in row] for row in weights.tolist()]
    n = len(w)
    inner = range(1, n)
    rows = [
        [sum(w[i]) - w[i][i] if i == j else -w[i][j] for j in inner]
        + [Fraction(i == j) for j in inner]
        for i in inner
    ]
    for pivot in range(n - 1):
        head = rows[pivot][pivot]
        rows[pivot] = [x / head for x in rows[pivot]]
        for other in set(range(n - 1)) - {pivot}:
            factor = rows[other][pivot]
            rows[other] = [a - factor * b for a, b in zip(rows[other], rows[pivot], strict=True)]
    inverse = [row[n - 1 :] for row in rows]
    return n * sum(inverse[i][i] for i in range(n - 1)) - sum(map(sum, inverse))


def random_graph(n: int, density: float, decades: float, seed: int) -> Tensor:
    """Weights over so many decades below 1, an edge with probability ``density``."""
    rng = np.random.default_rng(seed)
    weights = 10 ** (-decades * rng.random((n, n))) * (rng.random((n, n)) < density)
    upper = np.triu(weights, 1)
    return torch.as_tensor(upper + upper.T)


def tree(parents: list[int], weights: list[float]) -> Tensor:
    """Node i + 1 hangs on ``parents[i]`` by ``weights[i]``."""
    graph = torch.zeros(len(parents) + 1, len(parents) + 1).double()
    for child, (parent, weight) in enumerate(zip(parents, weights, strict=True), start=1):
        graph[child, parent] = graph[parent, child] = weight
    return graph


def two_cliques(size: int, link: float) -> Tensor:
    """Cliques of unit weights, joined by one edge of weight ``link``."""
    graph = torch.zeros(2 * size, 2 * size).double()
    graph[:size, :size] = graph[size:, size:] = 1 - torch.eye(size)
    graph[0, size] = graph[size, 0] = link
    return graph

"""The cases of the benchmark: Whisper-shaped layers, spectra of an utterance, graphs of tokens."""

from collections.abc import Iterator
from importlib.util import find_spec

import networkx
import numpy as np
import torch
from torch import Tensor

from companion.benchmarks.rivals import (
    autograd_rows,
    cached_jacfwd,
    curvlinops_svds,
    jacrev_rows,
    networkx_kirchhoff,
    numpy_spectra,
)
from companion.benchmarks.timing import OURS, Case, Way
from companion.models.random_layers import random_layer
from spectral.graphs import graph_kirchhoff_index
from spectral.jacobians.layers import Layer
from spectral.jacobians.propagators import linearise
from spectral.jacobians.triplets import top_singular_triplets
from spectral.spectra import eigenvalues

HEAD_WIDTH, FRAMES = 64, 1500
_JACREV_CHUNK = 64  # rows at a time: more would not fit 8 GiB at D = 1280
_ROWS = 512  # of the whole Jacobian, where it is sampled
_TOKENS = 4  # where tokens are sampled
_LEAST_WHOLE = 384 * 16  # so many rows of a Jacobian take a rival less than a minute


def layer_and_input(
    width: int, tokens: int, frames: int, device: torch.device
) -> tuple[Layer, Tensor, Tensor]:
    """A random decoder layer of Whisper's shape, hidden states and a context, float32."""
    generator = torch.Generator().manual_seed(0)
    hidden, context = (
        torch.randn(rows, width, generator=generator).to(device) for rows in (tokens, frames)
    )
    return random_layer(width, width // HEAD_WIDTH).to(device=device), hidden, context


def propagator_case(width: int, tokens: int, device: torch.device) -> Case:
    """Exact propagators at every token of one layer, against automatic differentiation."""
    point = layer_and_input(width, tokens, FRAMES, device)
    whole = width * tokens
    rows = whole if whole <= _LEAST_WHOLE else _ROWS
    every = list(range(tokens)) if whole <= _LEAST_WHOLE else _spaced(tokens, _TOKENS)
    sampled = min(rows, _ROWS)

    return Case(
        "propagators",
        {"width": width, "tokens": tokens, "frames": FRAMES},
        {
            OURS: Way(lambda: linearise(*point).propagators()),
            "jacrev, full sequence": Way(
                lambda: jacrev_rows(*point, rows, _JACREV_CHUNK), rows / whole, 2
            ),
            "jacfwd per token, cached keys": Way(
                lambda: cached_jacfwd(*point, every), len(every) / tokens, 2
            ),
            "autograd.functional.jacobian": Way(
                lambda: autograd_rows(*point, sampled), sampled / whole, 1
            ),
        },
        propagator_operations(width, tokens, FRAMES),
        lambda: _relative(
            linearise(*point).propagators()[every[-1:]], cached_jacfwd(*point, every[-1:])
        ),
    )


def triplet_case(width: int, tokens: int, device: torch.device) -> Case:
    """Top two singular triplets of every propagator, against dense SVDs and curvlinops."""
    layer, hidden, context = layer_and_input(width, tokens, FRAMES, device)
    sample = _spaced(tokens, _TOKENS)
    few = slice(sample[0], sample[-1] + 1, sample[1] - sample[0])

    def dense() -> Tensor:
        point = linearise(layer, hidden, context, tokens=few)
        values: Tensor = torch.linalg.svd(point.propagators())[1]
        return values

    def difference() -> float:
        triplets = top_singular_triplets(linearise(layer, hidden, context, tokens=few).operator())
        return _relative(triplets.sigma, dense()[..., :2])

    products = 40  # of either kind, about, until two triplets have converged
    ways = {
        OURS: Way(lambda: top_singular_triplets(linearise(layer, hidden, context).operator())),
        "closed form, torch.linalg.svd": Way(dense, len(sample) / tokens, 2),
    }
    if device.type == "cpu" and find_spec("curvlinops"):
        ways["curvlinops, scipy svds"] = Way(
            lambda: curvlinops_svds(layer, hidden, context, sample[-1], 2), 1 / tokens, 1
        )
    return Case(
        "top-2 triplets",
        {"width": width, "tokens": tokens, "frames": FRAMES},
        ways,
        2.0 * products * tokens * 13 * width**2,
        difference,
    )


def spectra_case(width: int, tokens: int, layers: int, device: torch.device) -> Case:
    """Spectra of a whole utterance, all layers and components in one call, against numpy."""
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(layers, 3, tokens, width, generator=generator)
    moved, array = activations.to(device), activations.numpy()
    return Case(
        "spectra",
        {"width": width, "tokens": tokens, "layers": layers},
        {
            OURS: Way(lambda: eigenvalues(moved)),
            "numpy.linalg.svd in a loop": Way(lambda: numpy_spectra(array)),
        },
        2.0 * 3 * layers * tokens**2 * width,
        lambda: _relative(
            eigenvalues(moved), torch.from_numpy(np.stack(numpy_spectra(array))).to(device)
        ),
    )


def graph_case(nodes: int, device: torch.device) -> Case:
    """The Kirchhoff index of a dense weighted graph, against networkx."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(nodes, nodes, generator=generator, dtype=torch.float64)
    weights = ((weights + weights.T) / 2).fill_diagonal_(0)
    graph = networkx.from_numpy_array(weights.numpy())
    moved = weights.to(device)
    return Case(
        "graph Kirchhoff index",
        {"nodes": nodes},
        {
            OURS: Way(lambda: graph_kirchhoff_index(moved)),
            "networkx": Way(lambda: networkx_kirchhoff(graph), repeats=2),
        },
        2.0 / 3 * nodes**3,
        lambda: abs(float(graph_kirchhoff_index(moved)) / networkx_kirchhoff(graph) - 1),
    )


def growth_cases(device: torch.device) -> Iterator[Case]:
    """Exact propagators alone, one of width, tokens, frames and layers growing at a time."""
    base = {"width": 384, "tokens": 16, "frames": 300, "layers": 1}
    steps = {
        "width": (128, 256, 384, 768, 1280),
        "tokens": (4, 16, 64, 256),
        "frames": (100, 300, 1500),
        "layers": (1, 2, 4, 8),
    }
    for axis, values in steps.items():
        for value in values:
            size = {**base, axis: value}
            width, tokens, frames, layers = size.values()
            point = layer_and_input(width, tokens, frames, device)
            operations = layers * propagator_operations(width, tokens, frames)

            def ours(layers: int = layers, point: tuple[Layer, Tensor, Tensor] = point) -> None:
                for _ in range(layers):
                    linearise(*point).propagators()

            yield Case(f"growth with {axis}", size, {OURS: Way(ours)}, operations, lambda: 0.0)


def propagator_operations(width: int, tokens: int, frames: int) -> float:
    """Floating-point operations of ``spectral.linearise(...).propagators()``, as it counts them."""
    per_token = 8 * width**3 + 2 * HEAD_WIDTH * width**2 + frames * HEAD_WIDTH * width
    return 2.0 * (tokens * per_token + 2 * frames * width**2)


def _spaced(tokens: int, count: int) -> list[int]:
    step = tokens // count
    return list(range(step - 1, tokens, step))


def _relative(ours: Tensor, theirs: Tensor) -> float:
    theirs = theirs.reshape(ours.shape).to(ours.dtype)
    return float((ours - theirs).abs().max() / theirs.abs().max())

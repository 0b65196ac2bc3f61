"""What a user would write today for what the kernels compute: the rivals of the benchmarks."""

from collections.abc import Callable

import networkx
import numpy as np
import torch
from scipy.sparse.linalg import svds
from torch import Tensor, nn
from torch.nn import functional

from companion.measurement.tangents import forward
from spectral.jacobians.layers import Layer, normalised


def jacrev_rows(layer: Layer, hidden: Tensor, context: Tensor, rows: int, chunk: int) -> Tensor:
    """The first ``rows`` rows of the whole layer's Jacobian by torch.func.jacrev, all tokens in."""

    def some(hidden: Tensor) -> Tensor:
        return forward(layer, hidden, context).flatten()[:rows]

    result: Tensor = torch.func.jacrev(some, chunk_size=chunk)(hidden)
    return result


def autograd_rows(layer: Layer, hidden: Tensor, context: Tensor, rows: int) -> Tensor:
    """The same by torch.autograd.functional.jacobian, one backward pass per row."""

    def some(hidden: Tensor) -> Tensor:
        return forward(layer, hidden, context).flatten()[:rows]

    result: Tensor = torch.autograd.functional.jacobian(some, hidden)  # type: ignore[no-untyped-call]
    return result


def cached_token(
    layer: Layer, hidden: Tensor, context: Tensor, token: int
) -> Callable[..., Tensor]:
    """The layer as a function of one token's hidden state, past keys and values computed before."""
    itself, cross = layer.self_attention, layer.cross_attention
    assert cross is not None
    past = normalised(itself.norm, hidden[:token])
    keys = functional.linear(past, itself.key_weight, itself.key_bias)
    values = functional.linear(past, itself.value_weight, itself.value_bias)
    cross_key = functional.linear(context, cross.key_weight, cross.key_bias)
    cross_value = functional.linear(context, cross.value_weight, cross.value_bias)

    def step(row: Tensor) -> Tensor:
        normal = normalised(itself.norm, row)
        key = torch.cat([keys, functional.linear(normal, itself.key_weight, itself.key_bias)[None]])
        value = torch.cat(
            [values, functional.linear(normal, itself.value_weight, itself.value_bias)[None]]
        )
        query = functional.linear(normal, itself.query_weight, itself.query_bias)
        row = row + _attended(query, key, value, itself.heads, itself.scale) @ itself.out_weight.T
        row = row + itself.out_bias
        query = functional.linear(normalised(cross.norm, row), cross.query_weight, cross.query_bias)
        heard = _attended(query, cross_key, cross_value, cross.heads, cross.scale)
        row = row + functional.linear(heard, cross.out_weight, cross.out_bias)
        ffn = layer.ffn
        inner = functional.linear(normalised(ffn.norm, row), ffn.in_weight, ffn.in_bias)
        return row + functional.linear(functional.gelu(inner), ffn.out_weight, ffn.out_bias)

    return step


def cached_jacfwd(layer: Layer, hidden: Tensor, context: Tensor, tokens: list[int]) -> Tensor:
    """W at some tokens by torch.func.jacfwd of :func:`cached_token`."""
    steps = {token: cached_token(layer, hidden, context, token) for token in tokens}
    return torch.stack([torch.func.jacfwd(steps[token])(hidden[token]) for token in tokens])


def curvlinops_svds(
    layer: Layer, hidden: Tensor, context: Tensor, token: int, k: int
) -> np.ndarray:
    """The k largest singular values of W at a token: curvlinops' operator in scipy's svds.

    requirements.rivals says how curvlinops is installed; without it the benchmark has no such row.
    """
    from curvlinops import JacobianLinearOperator

    step = cached_token(layer, hidden, context, token)
    row = nn.Parameter(hidden[token].clone())

    class AtToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.row = row

        def forward(self, ignored: Tensor) -> Tensor:
            return step(self.row)[None]

    data = [(torch.zeros(1, 1, dtype=hidden.dtype), torch.zeros(1, dtype=hidden.dtype))]
    operator = JacobianLinearOperator(AtToken(), [row], data, check_deterministic=False).to_scipy()
    return np.sort(svds(operator, k=k, return_singular_vectors=False, rng=0))[::-1]


def numpy_spectra(activations: np.ndarray) -> list[np.ndarray]:
    """Covariance eigenvalues of every (tokens, width) of a batch, one numpy SVD each."""
    spectra = []
    for rows in activations.reshape(-1, *activations.shape[-2:]):
        centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
        spectra.append(np.linalg.svd(centred, compute_uv=False) ** 2 / (len(rows) - 1))
    return spectra


def networkx_kirchhoff(graph: networkx.Graph) -> float:
    """The Kirchhoff index of a weighted graph by networkx."""
    return float(networkx.effective_graph_resistance(graph, weight="weight", invert_weight=False))


def _attended(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    split = (heads, -1)
    query, key, value = (torch.unflatten(rows, -1, split) for rows in (query, key, value))
    weights = torch.einsum("hd,shd->hs", query * scale, key).softmax(-1)
    return torch.einsum("hs,shd->hd", weights, value).flatten()

"""What a user would write today for what the kernels compute: the rivals of the benchmarks."""

from collections.abc import Callable
from functools import partial

import networkx
import numpy as np
import torch
from scipy.sparse.linalg import svds
from torch import Tensor, nn
from torch.nn import functional

from companion.measurement.tangents import forward
from spectral.jacobians.layers import Attention, Layer, normalised


def jacrev_rows(layer: Layer, hidden: Tensor, context: Tensor, rows: int, chunk: int) -> Tensor:
    """The first ``rows`` rows of the whole layer's Jacobian by torch.func.jacrev, all tokens in."""

    jacobian = torch.func.jacrev(partial(_outputs, layer, context, rows), chunk_size=chunk)
    result: Tensor = jacobian(hidden)
    return result


def autograd_rows(layer: Layer, hidden: Tensor, context: Tensor, rows: int) -> Tensor:
    """The same by torch.autograd.functional.jacobian, one backward pass per row."""
    outputs = partial(_outputs, layer, context, rows)
    result: Tensor = torch.autograd.functional.jacobian(outputs, hidden)  # type: ignore[no-untyped-call]
    return result


def _outputs(layer: Layer, context: Tensor, rows: int, hidden: Tensor) -> Tensor:
    return forward(layer, hidden, context).flatten()[:rows]


def cached_token(
    layer: Layer, hidden: Tensor, context: Tensor, token: int
) -> Callable[..., Tensor]:
    """The layer as a function of one token's hidden state, past keys and values computed before."""
    itself, cross, ffn = layer.self_attention, layer.cross_attention, layer.ffn
    assert cross is not None
    past = _keys_and_values(itself, normalised(itself.norm, hidden[:token]))
    heard = _keys_and_values(cross, context)

    def step(row: Tensor) -> Tensor:
        new = _keys_and_values(itself, normalised(itself.norm, row)[None])
        row = row + _attended(itself, row, *map(torch.cat, zip(past, new, strict=True)))
        row = row + _attended(cross, row, *heard)
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


def _keys_and_values(attention: Attention, source: Tensor) -> tuple[Tensor, Tensor]:
    return (
        functional.linear(source, attention.key_weight, attention.key_bias),
        functional.linear(source, attention.value_weight, attention.value_bias),
    )


def _attended(attention: Attention, row: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What attention adds to one token's hidden state."""
    normal = normalised(attention.norm, row)
    query = functional.linear(normal, attention.query_weight, attention.query_bias)
    split = (attention.heads, -1)
    query, key, value = (torch.unflatten(rows, -1, split) for rows in (query, key, value))
    weights = torch.einsum("hd,shd->hs", query * attention.scale, key).softmax(-1)
    heads = torch.einsum("hs,shd->hd", weights, value).flatten()
    return functional.linear(heads, attention.out_weight, attention.out_bias)

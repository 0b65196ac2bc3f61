r"""Exact propagators W_l = I + df_l/dh_{l-1} of a transformer layer at every token.

Past keys and values are held fixed: W_l at token t is how that token's hidden state after the layer
moves with its own hidden state before it, block (t, t) of the layer's whole Jacobian. In closed
form, as products of matrices (see ``spectral.jacobians.sublayers``), in the dtype and on the device
of the layer, without gradients. Masked tokens have propagators of zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectral.jacobians.layers import Layer, forward
from spectral.jacobians.linearisation import ALL, checked, linearise
from spectral.jacobians.operators import LinearOperator, function_operator
from spectral.jacobians.sublayers import SubLayerJacobian


@dataclass(frozen=True)
class SubLayerJacobians:
    """The sub-layers' own Jacobians without the identity, each ``(*batch, tokens, width, width)``.

    W = (I + ffn) (I + cross_attention) (I + self_attention), each at its own place in the stream.
    """

    self_attention: Tensor
    cross_attention: Tensor | None
    ffn: Tensor


def propagators(
    layer: Layer,
    hidden: Tensor,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    tokens: slice = ALL,
    chunk: int | None = None,
) -> Tensor:
    r"""The exact propagator W of a layer at every token, past keys and values held fixed.

    .. math:: W = (I + F)(I + C)(I + A)

    with A, C and F the Jacobians of self-attention, cross-attention (decoder layers) and FFN at
    their places in the residual stream. For an encoder layer all frames' keys and values other than
    the frame's own are held fixed: the diagonal blocks of the full Jacobian.

    8 D^3 multiply-adds per token with an FFN of width 4 D (A and C 1 D^3 each, F 4, the products 1
    each; 6 without cross-attention), 2 d D^2 + S d D for d the width of a head and S frames, all in
    matrix products; once per utterance 2 S D^2 for the keys and values. Memory beside the result:
    about 8 D^2 + S D numbers per token of a chunk, and heads T (T + S) attention weights and
    2 T d D numbers per utterance.

    Args:
        layer: The layer's weights.
        hidden: Shape ``(*batch, tokens, width)``, the residual stream before the layer, from the
            first token on; finite where the mask is true.
        context: Shape ``(*batch, frames, source width)``, what cross-attention listens to; a single
            one for all the batch is fine. None for a layer without cross-attention.
        mask: Shape ``(*batch, tokens)``, bool, true where a token is real; all of them by default.
            What lies under a false entry does not matter, be it NaN.
        tokens: Which tokens to return; keys and values come from all that are given.
        chunk: How many tokens are worked on at a time, in any number of utterances; by default as
            many as fit a CPU's caches, or take a GiB of another device in float32.

    Returns:
        Shape ``(*batch, tokens, width, width)``, W[..., i, j] = dh_l[i] / dh_{l-1}[j], in the
        layer's dtype, strided as a transpose. Zeros where the mask is false.

    Raises:
        ValueError: For hidden states or a context of another shape, dtype or device than the layer
            calls for, a context that is missing or not called for, NaN or infinity in a real token,
            a mask of another shape, dtype or device, or a chunk below 1.

    Example:
        >>> from spectral.jacobians.testing import random_layer
        >>> layer = random_layer(width=8, heads=2)
        >>> propagators(layer, torch.ones(5, 8), context=torch.ones(20, 8)).shape
        torch.Size([5, 8, 8])
    """
    point = linearise(layer, hidden, context, mask, tokens, chunk)
    return point.assemble(lambda parts: _product([part.transposed() for part in parts]))


def sublayer_propagators(
    layer: Layer,
    hidden: Tensor,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    tokens: slice = ALL,
    chunk: int | None = None,
) -> SubLayerJacobians:
    """The factors of :func:`propagators` less their identities.

    6 D^3 multiply-adds per token (5 without cross-attention).

    Args:
        layer, hidden, context, mask, tokens, chunk: As for :func:`propagators`.

    Returns:
        Each factor ``(*batch, tokens, width, width)``.

    Raises:
        ValueError: As :func:`propagators`.

    Example:
        >>> from spectral.jacobians.testing import random_layer
        >>> layer = random_layer(width=8, heads=2)
        >>> sublayer_propagators(layer, torch.ones(5, 8), torch.ones(20, 8)).ffn.shape
        torch.Size([5, 8, 8])
    """
    point = linearise(layer, hidden, context, mask, tokens, chunk)
    dense = [point.assemble(_transposed(i)) for i in range(len(point.parts))]
    return SubLayerJacobians(dense[0], dense[1] if len(dense) == 3 else None, dense[-1])


def propagator_operator(
    layer: Layer,
    hidden: Tensor,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    tokens: slice = ALL,
    chunk: int | None = None,
) -> LinearOperator:
    """W V and W' U at every token, without W.

    13 D^2 + 2 d D multiply-adds per vector (11 D^2 without cross-attention), the weights read once
    for all tokens and vectors; S d D per token once.

    Args:
        layer, hidden, context, mask, tokens, chunk: As for :func:`propagators`.

    Returns:
        An operator of shape ``(*batch, tokens, width, width)``.

    Raises:
        ValueError: As :func:`propagators`.

    Example:
        >>> from spectral.jacobians.testing import random_layer
        >>> layer = random_layer(width=8, heads=2)
        >>> operator = propagator_operator(layer, torch.ones(5, 8), torch.ones(20, 8))
        >>> operator.matmat(torch.ones(5, 8, 1)).shape
        torch.Size([5, 8, 1])
    """
    return linearise(layer, hidden, context, mask, tokens, chunk).operator()


def layer_operator(layer: Layer, hidden: Tensor, context: Tensor | None = None) -> LinearOperator:
    """The whole Jacobian of a layer, every token's output by every token's input, matrix-free.

    Each product is a jvp or vjp of :func:`spectral.jacobians.layers.forward`.

    Args:
        layer: The layer's weights.
        hidden: Shape ``(*batch, tokens, width)``.
        context: Shape ``(*batch, frames, source width)``; None without cross-attention.

    Returns:
        An operator of shape ``(*batch, T D, T D)`` for T tokens.

    Raises:
        ValueError: As :func:`propagators`.

    Example:
        >>> from spectral.jacobians.testing import random_layer
        >>> layer = random_layer(width=8, heads=2, cross_attention=False, causal=False)
        >>> layer_operator(layer, torch.ones(5, 8)).shape
        torch.Size([40, 40])
    """
    hidden, context, _ = checked(layer, hidden, context, None)
    return function_operator(lambda h: forward(layer, h, context), hidden, hidden.ndim - 2)


def autodiff_propagators(
    function: Callable[[Tensor], Tensor], hidden: Tensor, chunk: int | None = None
) -> Tensor:
    """Propagators of any layer by automatic differentiation, token by token.

    The reference of the closed forms, and the way for layers that are not of their kind.

    Args:
        function: The layer on one utterance, ``(tokens, width) -> (tokens, width)``.
        hidden: Shape ``(tokens, width)``.
        chunk: How many rows of W are differentiated at a time; all by default.

    Returns:
        Shape ``(tokens, width, width)``.

    Raises:
        RuntimeError: Where torch cannot differentiate the function.

    Example:
        >>> autodiff_propagators(lambda rows: 2 * rows, torch.ones(3, 2))[0]
        tensor([[2., 0.],
                [0., 2.]])
    """

    def at(token: int) -> Callable[[Tensor], Tensor]:
        index = torch.tensor([token], device=hidden.device)
        return lambda row: function(hidden.index_copy(0, index, row[None]))[token]

    with sdpa_kernel(SDPBackend.MATH):
        rows = [
            torch.func.jacrev(at(token), chunk_size=chunk)(row).detach()
            for token, row in enumerate(hidden.detach())
        ]
    return torch.stack(rows)


def _product(transposed: list[Tensor]) -> Tensor:
    """(I + A')(I + C')(I + F') from A', C' and F', overwriting the first."""
    result = transposed[0]
    result.diagonal(dim1=-2, dim2=-1).add_(1)
    for factor in transposed[1:]:
        result = torch.baddbmm(result, result, factor)
    return result


def _transposed(index: int) -> Callable[[tuple[SubLayerJacobian, ...]], Tensor]:
    return lambda parts: parts[index].transposed()

r"""The Jacobian of hidden states by the context, ``D x (S C)`` for S frames, in factors.

Frame s reaches a head of cross-attention with weight :math:`a_s`, by way of its key and of its
value, so that its block of the Jacobian is

.. math:: J^s = \sum_n a_{ns} \Phi_n \bigl(\delta_{ns} k_n' + V_n\bigr), \qquad
          \delta_{ns} = v_{ns} - o_n, \quad k_n = \gamma K_n' q_n

where n runs over heads of width d, :math:`\gamma` is the scale of the logits, and :math:`\Phi_n`,
``D x d``, is the way from a head's output to the hidden state.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spectral._validation import as_chunk
from spectral.jacobians.layers import Attended, Attention
from spectral.jacobians.sublayers import by_token
from spectral.jacobians.triplets import LinearOperator

_HEADS_ALONG = {
    "ways": -1, "weights": 2, "values": 1, "outputs": 2, "keys": 2, "value_weights": 0
}  # fmt: skip
"""The tensors of a :class:`ContextJacobian`, and the dimension along which their heads lie."""


@dataclass(frozen=True)
class ContextJacobian:
    """The Jacobian J of T tokens' hidden states by the context, through N heads in all."""

    shape: torch.Size  # (*batch, T), with B utterances in the batch
    ways: Tensor  # (B, T, D, N d): Phi, zero for tokens that are not real
    weights: Tensor  # (B, T, N, S): a
    values: Tensor  # (B, N, S, d): v
    outputs: Tensor  # (B, T, N, d): o
    keys: Tensor  # (B, T, N, C): k
    value_weights: Tensor  # (N, d, C): V
    chunk: int  # tokens of one utterance that are worked on at a time

    def operator(self) -> LinearOperator:
        """J V and J' U, shape ``(*batch, T, D, S C)``, frame after frame along the columns.

        D N d + N d C + S N (2 C + d) multiply-adds per token and vector.
        """
        frames, source = self.weights.shape[-1], self.keys.shape[-1]
        shape = torch.Size([*self.shape, self.ways.shape[-2], frames * source])
        products = self._matmat, self._rmatmat
        return LinearOperator(shape, *products, self.ways.dtype, self.ways.device)

    def frame_norms(self) -> Tensor:
        r"""Frobenius norm of every frame's block of J: how closely the token listens to it.

        .. math:: |J^s|^2 = z_s' Q z_s, \qquad z_s = (a_{ns} \delta_{ns}, a_{ns})_n

        Shape ``(*batch, T, S)``. (S + D) (N d)^2 multiply-adds per token; memory 2 S N d +
        4 (N d)^2 numbers per token of a chunk.
        """
        result = torch.empty_like(self.weights[:, :, 0])
        for where in self._blocks():
            rows, form = self._rows(where), self._form(where)
            result[where] = ((rows @ form) * rows).sum(-1).clamp(min=0).sqrt()
        return result.reshape(*self.shape, result.shape[-1])

    def gram(self) -> Tensor:
        """J J', shape ``(*batch, T, D, D)``; (S / 2 + D) (N d)^2 multiply-adds per token."""
        return self.gram_and_cores(1)[0]

    def gram_and_cores(self, parts: int) -> tuple[Tensor, Tensor]:
        """J J' and, of so many parts of equally many heads, what lies between their ways in it.

        A part by itself, with its own heads' ways, has the Gram matrix ways @ core @ ways': cores
        of shape ``(*batch, T, parts, N d / parts, N d / parts)``.
        """
        width, inner = self.ways.shape[-2:]
        size = inner // parts
        result = self.ways.new_empty(*self.ways.shape[:2], width, width)
        cores = self.ways.new_empty(*self.ways.shape[:2], parts, size, size)
        for where in self._blocks():
            ways, summed = self.ways[where], self._summed(where, _symmetric(self._rows(where)))
            result[where] = ways @ summed @ ways.mT
            blocks = torch.unflatten(torch.unflatten(summed, 2, (parts, size)), 1, (parts, size))
            cores[where] = blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1)
        cores = cores.reshape(*self.shape, *cores.shape[2:])
        return result.reshape(*self.shape, width, width), cores

    def then(self, matrix: Tensor) -> "ContextJacobian":
        """M J for matrices M ``(*batch, T, rows, D)``: rows D N d multiply-adds per token."""
        matrix = matrix.reshape(*self.ways.shape[:2], *matrix.shape[-2:])
        return replace(self, ways=matrix @ self.ways)

    def to(self, dtype: torch.dtype) -> "ContextJacobian":
        """The same in another dtype."""
        return replace(self, **{name: getattr(self, name).to(dtype) for name in _HEADS_ALONG})

    def _blocks(self) -> Iterator[tuple[int, slice]]:
        items, tokens = self.ways.shape[:2]
        for item in range(items):
            for start in range(0, tokens, self.chunk):
                yield item, slice(start, start + self.chunk)

    def _rows(self, where: tuple[int, slice]) -> Tensor:
        """z, one row per frame: ``(c, S, N d + N)``."""
        weights = self.weights[where].mT
        deviations = self.values[where[0]].transpose(0, 1) - self.outputs[where][:, None]
        return torch.cat([(weights[..., None] * deviations).flatten(-2), weights], -1)

    def _inner_products(self, where: tuple[int, slice]) -> tuple[Tensor, Tensor, Tensor]:
        """k_n.k_m ``(c, N, 1, N, 1)``, V_m k_n ``(c, N, N, d)`` and V_n V_m' ``(N, d, N, d)``."""
        keys, weights = self.keys[where], self.value_weights
        return (
            (keys @ keys.mT)[:, :, None, :, None],
            torch.einsum("mei,cni->cnme", weights, keys),
            torch.einsum("ndi,mei->ndme", weights, weights),
        )

    def _form(self, where: tuple[int, slice]) -> Tensor:
        """Q, ``(c, N d + N, N d + N)``."""
        heads, inner = self.keys.shape[2], self.ways.shape[-1]
        keys, keys_values, values = self._inner_products(where)
        ways = self.ways[where]
        ways = (ways.mT @ ways).reshape(len(ways), heads, -1, heads, inner // heads)
        both = torch.einsum("cndme,cnme->cndm", ways, keys_values).flatten(1, 2)
        corner = torch.einsum("cndme,ndme->cnm", ways, values)
        top = torch.cat([(ways * keys).flatten(3).flatten(1, 2), both], -1)
        return torch.cat([top, torch.cat([both.mT, corner], -1)], -2)

    def _summed(self, where: tuple[int, slice], moments: Tensor) -> Tensor:
        """J J' before the ways: sums over frames from the rows' moments, ``(c, N d, N d)``."""
        heads, inner = self.keys.shape[2], self.ways.shape[-1]
        keys, keys_values, values = self._inner_products(where)
        split = (len(moments), heads, inner // heads, heads, -1)
        both = moments[:, :inner, inner:].reshape(split) * keys_values[:, :, None]
        both = both.flatten(3).flatten(1, 2)
        both = both + both.mT
        corner = moments[:, inner:, inner:].reshape(len(moments), heads, 1, heads, 1) * values
        through = moments[:, :inner, :inner].reshape(split) * keys + corner
        return through.flatten(3).flatten(1, 2) + both

    def _matmat(self, columns: Tensor) -> Tensor:
        """V ``(*batch, T, S C, k)`` -> J V ``(*batch, T, D, k)``."""
        weights, frames = self.weights[:, :, None], self.weights.shape[-1]
        shape = *self.ways.shape[:2], columns.shape[-1], frames, self.keys.shape[-1]
        rows = columns.mT.reshape(shape)
        logits = (rows @ self.keys[:, :, None].mT) * weights.mT
        arrived = torch.einsum("btksn,bnsd->btknd", logits, self.values)
        arrived = arrived - self.outputs[:, :, None] * logits.sum(-2)[..., None]
        arrived = arrived + torch.einsum("ndc,btknc->btknd", self.value_weights, weights @ rows)
        result = self.ways @ arrived.flatten(3).mT
        return result.reshape(*self.shape, *result.shape[2:])

    def _rmatmat(self, columns: Tensor) -> Tensor:
        """U ``(*batch, T, D, k)`` -> J' U ``(*batch, T, S C, k)``."""
        items, tokens, heads, _ = self.weights.shape
        columns = columns.reshape(items, tokens, *columns.shape[-2:])
        arrived = torch.unflatten(self.ways.mT @ columns, 2, (heads, -1))
        logits = torch.einsum("bnsd,btndk->btnsk", self.values, arrived)
        logits = logits - (self.outputs[..., None] * arrived).sum(-2, keepdim=True)
        through_keys = torch.einsum(
            "btnsk,btnc->btsck", logits * self.weights[..., None], self.keys
        )
        value = torch.einsum("ndc,btndk->btnck", self.value_weights, arrived)
        through_values = torch.einsum("btns,btnck->btsck", self.weights, value)
        result = (through_keys + through_values).flatten(2, 3)
        return result.reshape(*self.shape, *result.shape[2:])


def through_heads(attention: Attention, attended: Attended, ways: Tensor) -> ContextJacobian:
    """The context's Jacobian through one layer's heads; ``ways``: from their outputs onward."""
    *batch, heads, tokens, _ = attended.weights.shape
    items = math.prod(batch)
    key_weight, value_weight = (
        torch.unflatten(weight, 0, (heads, -1))
        for weight in (attention.key_weight, attention.value_weight)
    )
    asked = attention.scale * attended.query @ key_weight
    weights, outputs, keys = (
        by_token(rows).reshape(items, tokens, heads, rows.shape[-1])
        for rows in (attended.weights, attended.output, asked)
    )
    ways = ways.reshape(items, tokens, *ways.shape[-2:])
    values = attended.value.reshape(items, *attended.value.shape[-3:])
    shape = torch.Size([*batch, tokens])
    return ContextJacobian(shape, ways, weights, values, outputs, keys, value_weight, chunk=1)


def joined(parts: Sequence[ContextJacobian], chunk: int | None = None) -> ContextJacobian:
    """The sum of Jacobians of the same tokens by one context, as one through all their heads."""
    widths = {part.values.shape[-1] for part in parts}
    if len(widths) > 1:
        raise ValueError(f"all heads must have one width, got {sorted(widths)}")
    inner = sum(part.ways.shape[-1] for part in parts)
    numbers = 2 * inner * (parts[0].weights.shape[-1] + 2 * inner)
    chunk = as_chunk(chunk, numbers, parts[0].ways.device)
    along = _HEADS_ALONG.items()
    heads = {name: torch.cat([getattr(part, name) for part in parts], dim) for name, dim in along}
    return ContextJacobian(parts[0].shape, **heads, chunk=chunk)


def _symmetric(rows: Tensor) -> Tensor:
    """Z' Z for Z ``(*batch, S, n)``, its lower triangle computed and mirrored, in blocks."""
    size, block = rows.shape[-1], 256
    result = rows.new_empty(*rows.shape[:-2], size, size)
    for start in range(0, size, block):
        stop = min(start + block, size)
        part = rows[..., start:stop].mT @ rows[..., :stop]
        result[..., start:stop, :stop] = part
        result[..., :stop, start:stop] = part.mT
    return result

r"""The Jacobians of a layer's sub-layers and norms at many tokens, in factored, closed form.

With past keys and values held fixed, one head's output :math:`o = \sum_s a_s v_s` moves by

.. math:: do = \gamma \Bigl(\sum_s a_s v_s k_s' - o \bar k'\Bigr) dq
               + \gamma\, a_t (v_t - o)\, q' dk_t + a_t\, dv_t, \qquad \bar k = \sum_s a_s k_s

with :math:`\gamma` the scale of the logits; the last two terms, through the token's own key and
value, exist in self-attention alone. A layer norm with centred, scaled input :math:`\hat x` and
inverse deviation r has the Jacobian :math:`r\,\mathrm{diag}(w)(I - 11'/D - \hat x \hat x'/D)`. In
front of a sub-layer its constant part goes into the weights behind it, r into the token's own
factors; what is left of it is the projection :math:`P = I - e e'`, :math:`e = \hat x / \sqrt D`.

Every sub-layer, and the logits, read the residual stream through a layer norm, which takes no
notice of an equal change of all coordinates: a propagator has W 1 = 1 exactly, and no product of
propagators a norm below one. What a layer does to anything that is ever read is, with :math:`P = I
- 11'/D`, :math:`P W = P W P`, and :math:`(P W_L) \cdots (P W_1) = P W_L \cdots W_1`.
"""

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from spectral.jacobians.layers import Attended, Attention, LayerNorm, Pass, standardised


def without_mean(matrix: Tensor) -> Tensor:
    """P M, each column less its mean: matrices ``(*batch, width, columns)`` modulo 1."""
    return matrix - matrix.mean(-2, keepdim=True)


@dataclass(frozen=True)
class SubLayerJacobian:
    r"""(O sum_i core_i weight_i + sum_h response_h key_h') P at n tokens, ``width x width``.

    A core is a diagonal of blocks: r gamma do/dq of every head and, for the token's own value, r
    a_t; r gelu' in an FFN. Through the token's own key: r gamma q' K, and a_t O (v_t - o).
    """

    direction: Tensor  # (n, width): e
    ways: tuple[tuple[Tensor, Tensor], ...]  # (n, blocks, d, d); (inner, width), behind the norm
    out_weight: Tensor  # (width, inner): O
    key: Tensor  # (n, heads or none, width)
    response: Tensor  # (n, heads or none, width)

    def apply(self, rows: Tensor) -> Tensor:
        """J v for rows v, ``(n, k, width)``."""
        return self._unprojected(_project(rows, self.direction))

    def apply_transpose(self, rows: Tensor) -> Tensor:
        """J' u for rows u, ``(n, k, width)``."""
        inner = rows @ self.out_weight
        result = (rows @ self.response.mT) @ self.key
        for core, weight in self.ways:
            result = result + _times(inner, core) @ weight
        return _project(result, self.direction)

    def transposed(self) -> Tensor:
        """J', ``(n, width, width)``: 4 D^3 multiply-adds in an FFN, D^3 + d D^2 in attention."""
        (core, weight), *value = self.ways
        weight = torch.unflatten(weight, 0, core.shape[1:3])
        inner = core * weight if core.shape[-1] == 1 else core @ weight
        inner = inner.flatten(1, 2)
        for gain, weight in value:
            inner.addcmul_(gain[..., 0], weight)
        # The projection and the own key's part have rank 1 + heads together.
        along = self._unprojected(self.direction[:, None])
        left = torch.cat([self.direction[:, :, None], self.key.mT], 2)
        low_rank = left @ torch.cat([-along, self.response], 1)
        return low_rank.baddbmm_(inner.mT, self.out_weight.T.expand(len(inner), -1, -1))

    def at(self, tokens: Tensor | slice) -> "SubLayerJacobian":
        """The same at some of the n tokens."""
        ways = tuple((core[tokens], weight) for core, weight in self.ways)
        key, response = self.key[tokens], self.response[tokens]
        return SubLayerJacobian(self.direction[tokens], ways, self.out_weight, key, response)

    def _unprojected(self, rows: Tensor) -> Tensor:
        inner: Any = sum(_times(rows @ weight.T, core.mT) for core, weight in self.ways)
        return inner @ self.out_weight.T + (rows @ self.key.mT) @ self.response


def sublayer_jacobians(forward: Pass, tokens: slice, chunk: int) -> tuple[SubLayerJacobian, ...]:
    """Self-attention's, cross-attention's (if any) and the FFN's at the ``tokens`` of a pass."""
    layer, hidden = forward.layer, forward.hidden
    attention, cross, ffn = layer.self_attention, layer.cross_attention, layer.ffn
    parts = [_of_attention(attention, hidden[0], forward.self_attended, chunk, tokens)]
    if cross is not None and forward.cross_attended is not None:
        parts.append(_of_attention(cross, hidden[1], forward.cross_attended, chunk))
    direction, inverse = _direction(ffn.norm, hidden[-1])
    gain = (forward.slope * inverse).flatten(0, -2)[..., None, None]
    way = gain, _behind(ffn.norm, ffn.in_weight)
    none = direction[:, None][:, :0]
    return (*parts, SubLayerJacobian(direction, (way,), ffn.out_weight, none, none))


def _of_attention(
    attention: Attention, hidden: Tensor, attended: Attended, chunk: int, keys: slice | None = None
) -> SubLayerJacobian:
    """From its input ``(*batch, T, D)``; ``keys``: which of self-attention's are of these T."""
    direction, inverse = _direction(attention.norm, hidden)
    heads = _query_jacobians(attended, chunk) * (attention.scale * inverse[..., None, None])
    ways = [(heads.flatten(0, -4), _behind(attention.norm, attention.query_weight))]
    key = response = direction[:, None][:, :0]
    if keys is not None:
        position = torch.arange(attended.key.shape[-2], device=inverse.device)[keys, None]
        to_itself = attended.weights.gather(-1, position.expand(*attended.weights.shape[:-1], 1))
        gain = by_token(to_itself * inverse.unsqueeze(-3)).expand(-1, -1, heads.shape[-1])
        value_weight = _behind(attention.norm, attention.value_weight)
        ways.append((gain.flatten(1)[..., None, None], value_weight))
        query = attended.query * (attention.scale * inverse.unsqueeze(-3))
        moved = to_itself * (attended.value[..., position[:, 0], :] - attended.output)
        split = (attention.heads, -1)
        key_weight = torch.unflatten(_behind(attention.norm, attention.key_weight), 0, split)
        key = by_token(query @ key_weight)
        response = by_token(moved @ torch.unflatten(attention.out_weight.T, 0, split))
    return SubLayerJacobian(direction, tuple(ways), attention.out_weight, key, response)


def _query_jacobians(attended: Attended, chunk: int) -> Tensor:
    """do/dq before scaling, V' diag(a) K - o (a' K), ``(*batch, T, heads, d, d)``, in chunks."""
    *batch, heads, tokens, _ = attended.weights.shape
    key, value, weights, output = (
        rows.reshape(math.prod(batch), *rows.shape[-3:])
        for rows in (attended.key, attended.value, attended.weights, attended.output)
    )
    d = key.shape[-1]
    mean = (weights @ key)[..., None, :]
    output = output[..., None]
    value = value.mT.contiguous()[:, :, None]
    result = key.new_empty(len(key), tokens, heads, d, d)
    long = max(1, min(tokens, chunk))
    wide = max(1, chunk // long)
    for first, start in product(range(0, len(key), wide), range(0, tokens, long)):
        item, token = slice(first, first + wide), slice(start, start + long)
        scaled = value[item] * weights[item, :, token, None]
        # One product per head for all tokens of the block, instead of one per token.
        moved = torch.unflatten(scaled.flatten(2, 3) @ key[item], 2, (-1, d))
        moved -= output[item, :, token] * mean[item, :, token]
        result[item, token] = moved.transpose(1, 2)
    return result.reshape(*batch, tokens, heads, d, d)


def by_token(rows: Tensor) -> Tensor:
    """Rows ``(*batch, heads, T, x)`` as ``(n, heads, x)``, n tokens with the batch flattened."""
    return rows.transpose(-2, -3).flatten(0, -3)


def _direction(norm: LayerNorm, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """e, ``(n, width)``, and r, ``(*batch, T, 1)``, of every token."""
    along, inverse = standardised(norm, hidden)
    return (along / math.sqrt(hidden.shape[-1])).flatten(0, -2), inverse


def _behind(norm: LayerNorm, weight: Tensor) -> Tensor:
    """The weight with the norm's constant part in front of it, weight diag(w) (I - 11'/D)."""
    scaled = weight * norm.weight
    return scaled - scaled.mean(-1, keepdim=True)


def _project(rows: Tensor, direction: Tensor) -> Tensor:
    """Rows ``(n, k, width)`` less their parts along each token's direction ``(n, width)``."""
    return rows - (rows @ direction[:, :, None]) * direction[:, None]


def _times(rows: Tensor, core: Tensor) -> Tensor:
    """Rows ``(n, k, inner)``, each block's part times its ``(d, d)`` matrix from the right."""
    if core.shape[-1] == 1:
        return rows * core[:, None, :, 0, 0]
    split = torch.unflatten(rows, -1, core.shape[1:3]).transpose(1, 2)
    return (split @ core).transpose(1, 2).flatten(-2)

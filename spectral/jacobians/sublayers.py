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
notice of an equal change of all coordinates. So a propagator has W 1 = 1 exactly, whatever the
layer does, and no product of propagators can have a norm below one. What a layer does to anything
that is ever read is the map it induces on the quotient by 1; with :math:`P = I - 11'/D` this is
:math:`P W = P W P`, and :math:`(P W_L) \cdots (P W_1) = P W_L \cdots W_1`.
"""

import math
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from spectral.jacobians.layers import Attended, Attention, LayerNorm, Pass, standardised


def without_mean(matrix: Tensor) -> Tensor:
    """P M, each column less its mean: matrices ``(*batch, width, columns)`` modulo 1."""
    return matrix - matrix.mean(-2, keepdim=True)


@dataclass(frozen=True)
class OwnToken:
    """How a token's own key and value answer, beside its query (self-attention alone)."""

    value_gain: Tensor  # (n, heads): r a_t
    value_weight: Tensor  # (inner, width), behind the norm
    key: Tensor  # (n, heads, width): r gamma q' K, what moves the token's own logit
    response: Tensor  # (n, heads, width): a_t O (v_t - o), what that does to the output


@dataclass(frozen=True)
class AttentionJacobian:
    r"""O (blockdiag(M) Q + diag(a) V) P + sum_h response key' P at n tokens, ``width x width``."""

    direction: Tensor  # (n, width): e
    heads: Tensor  # (n, heads, d, d): M, with r and gamma in it
    query_weight: Tensor  # (inner, width): Q, behind the norm
    out_weight: Tensor  # (width, inner): O
    own: OwnToken | None

    def apply(self, rows: Tensor) -> Tensor:
        """J v for rows v, ``(n, k, width)``; 3 D^2 + d D multiply-adds each, 2 D^2 + d D across."""
        return self._unprojected(_project(rows, self.direction))

    def apply_transpose(self, rows: Tensor) -> Tensor:
        """J' u for rows u, ``(n, k, width)``; as many operations as :meth:`apply`."""
        inner = rows @ self.out_weight
        result = _per_head(inner, self.heads) @ self.query_weight
        if self.own is not None:
            result = result + self._gained(inner, self.own) @ self.own.value_weight
            result = result + (rows @ self.own.response.mT) @ self.own.key
        return _project(result, self.direction)

    def transposed(self) -> Tensor:
        """J', ``(n, width, width)``; D^3 + d D^2 multiply-adds each, all in matrix products."""
        split = (self.heads.shape[1], -1)
        inner = self.heads @ torch.unflatten(self.query_weight, 0, split)
        left, right = [self.direction[:, :, None]], [-self._unprojected(self.direction[:, None])]
        if self.own is not None:
            weight = torch.unflatten(self.own.value_weight, 0, split)
            inner.addcmul_(self.own.value_gain[:, :, None, None], weight)
            left, right = [*left, self.own.key.mT], [*right, self.own.response]
        # The projection and the own key's part have rank 1 + heads together.
        low_rank = torch.cat(left, 2) @ torch.cat(right, 1)
        shared = self.out_weight.T.expand(len(inner), -1, -1)
        return low_rank.baddbmm_(inner.flatten(1, 2).mT, shared)

    def at(self, tokens: Tensor | slice) -> "AttentionJacobian":
        """The same at some of the n tokens."""
        own = self.own
        if own is not None:
            gain, key, response = (rows[tokens] for rows in (own.value_gain, own.key, own.response))
            own = OwnToken(gain, own.value_weight, key, response)
        return replace(self, direction=self.direction[tokens], heads=self.heads[tokens], own=own)

    def _unprojected(self, rows: Tensor) -> Tensor:
        inner = _per_head(rows @ self.query_weight.T, self.heads.mT)
        if self.own is None:
            return inner @ self.out_weight.T
        inner = inner + self._gained(rows @ self.own.value_weight.T, self.own)
        return inner @ self.out_weight.T + (rows @ self.own.key.mT) @ self.own.response

    def _gained(self, inner: Tensor, own: OwnToken) -> Tensor:
        """Rows ``(n, k, inner)``, each head's part times its value's gain."""
        by_head = torch.unflatten(inner, -1, (self.heads.shape[1], -1))
        return (by_head * own.value_gain[:, None, :, None]).flatten(-2)


@dataclass(frozen=True)
class FeedForwardJacobian:
    r"""W_2 diag(gain) W_1 P at n tokens, ``width x width``."""

    direction: Tensor  # (n, width): e
    gain: Tensor  # (n, hidden width): r gelu'
    in_weight: Tensor  # (hidden width, width): W_1, behind the norm
    out_weight: Tensor  # (width, hidden width): W_2

    def apply(self, rows: Tensor) -> Tensor:
        """J v for rows v, ``(n, k, width)``; 8 D^2 multiply-adds each."""
        return self._unprojected(_project(rows, self.direction))

    def apply_transpose(self, rows: Tensor) -> Tensor:
        """J' u for rows u, ``(n, k, width)``; 8 D^2 multiply-adds each."""
        result = ((rows @ self.out_weight) * self.gain[:, None]) @ self.in_weight
        return _project(result, self.direction)

    def transposed(self) -> Tensor:
        """J', ``(n, width, width)``; 4 D^3 multiply-adds each, in one matrix product."""
        result: Tensor = (self.in_weight.T * self.gain[:, None]) @ self.out_weight.T
        along = self._unprojected(self.direction[:, None])
        return result.baddbmm_(self.direction[:, :, None], along, alpha=-1)

    def at(self, tokens: Tensor | slice) -> "FeedForwardJacobian":
        """The same at some of the n tokens."""
        return replace(self, direction=self.direction[tokens], gain=self.gain[tokens])

    def _unprojected(self, rows: Tensor) -> Tensor:
        return ((rows @ self.in_weight.T) * self.gain[:, None]) @ self.out_weight.T


SubLayerJacobian = AttentionJacobian | FeedForwardJacobian


def sublayer_jacobians(seen: Pass, tokens: slice, chunk: int) -> tuple[SubLayerJacobian, ...]:
    """Self-attention's, cross-attention's (where there is one) and the FFN's, batch flattened.

    ``tokens``: those of the layer that were passed, whose own keys are among all keys. S d D
    multiply-adds per token and attention, ``chunk`` tokens of an utterance at a time.
    """
    layer = seen.layer
    found: list[SubLayerJacobian] = [
        _of_attention(layer.self_attention, seen.hidden[0], seen.self_attended, chunk, tokens)
    ]
    if layer.cross_attention is not None and seen.cross_attended is not None:
        found.append(
            _of_attention(layer.cross_attention, seen.hidden[1], seen.cross_attended, chunk)
        )
    direction, inverse = _direction(layer.ffn.norm, seen.hidden[-1])
    gain = (seen.slope * inverse).flatten(0, -2)
    weight = _behind(layer.ffn.norm, layer.ffn.in_weight)
    return (*found, FeedForwardJacobian(direction, gain, weight, layer.ffn.out_weight))


def _of_attention(
    attention: Attention, hidden: Tensor, attended: Attended, chunk: int, own: slice | None = None
) -> AttentionJacobian:
    """From its input ``(*batch, T, D)``; ``own``: which of self-attention's keys the T have."""
    direction, inverse = _direction(attention.norm, hidden)
    heads = _query_jacobians(attended, chunk) * (attention.scale * inverse[..., None, None])
    return AttentionJacobian(
        direction,
        heads.flatten(0, -4),
        _behind(attention.norm, attention.query_weight),
        attention.out_weight,
        None if own is None else _own_token(attention, attended, inverse, own),
    )


def _query_jacobians(attended: Attended, chunk: int) -> Tensor:
    """do/dq before scaling, V' diag(a) K - o (a' K), ``(*batch, T, heads, d, d)``.

    In blocks of utterances and of their tokens, ``chunk`` tokens or fewer together.
    """
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
        item, some = slice(first, first + wide), slice(start, start + long)
        scaled = value[item] * weights[item, :, some, None]
        # One product per head for all tokens of the block, instead of one per token.
        moved = torch.unflatten(scaled.flatten(2, 3) @ key[item], 2, (-1, d))
        moved -= output[item, :, some] * mean[item, :, some]
        result[item, some] = moved.transpose(1, 2)
    return result.reshape(*batch, tokens, heads, d, d)


def _own_token(
    attention: Attention, attended: Attended, inverse: Tensor, tokens: slice
) -> OwnToken:
    position = torch.arange(attended.key.shape[-2], device=inverse.device)[tokens]
    own_weight = attended.weights.gather(
        -1, position[:, None].expand(*attended.weights.shape[:-1], 1)
    )
    response = own_weight * (attended.value[..., position, :] - attended.output)
    inverse = inverse.unsqueeze(-3)
    query = attended.query * (attention.scale * inverse)
    split = (attention.heads, -1)
    key_weight = torch.unflatten(_behind(attention.norm, attention.key_weight), 0, split)
    out_weight = torch.unflatten(attention.out_weight.T, 0, split)
    return OwnToken(
        by_token(own_weight * inverse).squeeze(-1),
        _behind(attention.norm, attention.value_weight),
        by_token(query @ key_weight),
        by_token(response @ out_weight),
    )


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


def _per_head(rows: Tensor, matrices: Tensor) -> Tensor:
    """Rows ``(n, k, inner)``, each head's part times its ``(d, d)`` matrix from the right."""
    split = torch.unflatten(rows, -1, (matrices.shape[1], -1)).transpose(1, 2)
    return (split @ matrices).transpose(1, 2).flatten(-2)

r"""The Jacobians of a layer's sub-layers at many tokens, in factored, closed form.

With past keys and values held fixed, one head's output :math:`o = \sum_s a_s v_s` moves by

.. math:: do = \gamma \Bigl(\sum_s a_s v_s k_s' - o \bar k'\Bigr) dq
               + \gamma\, a_t (v_t - o)\, q' dk_t + a_t\, dv_t, \qquad \bar k = \sum_s a_s k_s

with :math:`\gamma` the scale of the logits; the last two terms, through the token's own key and
value, exist in self-attention alone. A layer norm with centred, scaled input :math:`\hat x` and
inverse deviation r has the Jacobian :math:`r\,\mathrm{diag}(w)(I - 11'/D - \hat x \hat x'/D)`. Its
constant part goes into the weights behind it, r into the token's own factors; what is left of it
is the projection :math:`P = I - e e'`, :math:`e = \hat x / \sqrt D`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spectral.jacobians.layers import Attended, Attention, FeedForward, LayerNorm


@dataclass(frozen=True)
class OwnToken:
    """How a token's own key and value answer, beside its query (self-attention alone)."""

    value_gain: Tensor  # (n, heads): r a_t
    value_weight: Tensor  # (inner, width), behind the norm
    key: Tensor  # (n, heads, width): r gamma q' K, what moves the token's own logit
    response: Tensor  # (n, heads, width): a_t O (v_t - o), what that does to the output

    def at(self, tokens: Tensor | slice) -> "OwnToken":
        """The same at some of the n tokens."""
        return OwnToken(
            self.value_gain[tokens], self.value_weight, self.key[tokens], self.response[tokens]
        )


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
        heads = self.heads.shape[1]
        inner = rows @ self.out_weight
        result = _per_head(inner, self.heads) @ self.query_weight
        if self.own is not None:
            gained = torch.unflatten(inner, -1, (heads, -1)) * self.own.value_gain[:, None, :, None]
            result = result + gained.flatten(-2) @ self.own.value_weight
            result = result + (rows @ self.own.response.mT) @ self.own.key
        return _project(result, self.direction)

    def transposed(self) -> Tensor:
        """J', ``(n, width, width)``; D^3 + d D^2 multiply-adds each, all in matrix products."""
        heads = self.heads.shape[1]
        inner = self.heads @ torch.unflatten(self.query_weight, 0, (heads, -1))
        left, right = [self.direction[:, :, None]], [-self._unprojected(self.direction[:, None])]
        if self.own is not None:
            weight = torch.unflatten(self.own.value_weight, 0, (heads, -1))
            inner.addcmul_(self.own.value_gain[:, :, None, None], weight)
            left, right = [*left, self.own.key.mT], [*right, self.own.response]
        # The projection and the own key's part have rank 1 + heads together.
        low_rank = torch.cat(left, 2) @ torch.cat(right, 1)
        shared = self.out_weight.T.expand(len(inner), -1, -1)
        return low_rank.baddbmm_(inner.flatten(1, 2).mT, shared)

    def at(self, tokens: Tensor | slice) -> "AttentionJacobian":
        """The same at some of the n tokens."""
        own = None if self.own is None else self.own.at(tokens)
        return replace(self, direction=self.direction[tokens], heads=self.heads[tokens], own=own)

    def _unprojected(self, rows: Tensor) -> Tensor:
        heads = self.heads.shape[1]
        inner = _per_head(rows @ self.query_weight.T, self.heads.mT)
        if self.own is None:
            return inner @ self.out_weight.T
        value = torch.unflatten(rows @ self.own.value_weight.T, -1, (heads, -1))
        inner = inner + (value * self.own.value_gain[:, None, :, None]).flatten(-2)
        return inner @ self.out_weight.T + (rows @ self.own.key.mT) @ self.own.response


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


def feed_forward_jacobian(ffn: FeedForward, hidden: Tensor, inner: Tensor) -> FeedForwardJacobian:
    """The FFN's Jacobian from its input ``(*batch, T, D)`` and its values before the gelu."""
    direction, inverse = _direction(ffn.norm, hidden)
    return FeedForwardJacobian(
        direction.flatten(0, -2),
        (gelu_slope(inner) * inverse).flatten(0, -2),
        _behind(ffn.norm, ffn.in_weight),
        ffn.out_weight,
    )


def gelu_slope(inner: Tensor) -> Tensor:
    """The derivative of the exact gelu, of any shape."""
    return torch.special.ndtr(inner) + inner * (inner.square() / -2).exp() / math.sqrt(2 * math.pi)


def attention_jacobian(
    attention: Attention,
    hidden: Tensor,
    attended: Attended,
    chunk: int,
    own: slice | None = None,
) -> AttentionJacobian:
    """Attention's Jacobian from its input ``(*batch, T, D)``, over S keys.

    S d D multiply-adds per token, ``chunk`` tokens at a time. ``own``, for self-attention, says
    which of the keys' tokens the T are.
    """
    direction, inverse = _direction(attention.norm, hidden)
    heads = _query_jacobians(attended, chunk) * (attention.scale * inverse[..., None, None])
    own_token = None
    if own is not None:
        own_token = _own_token(attention, attended, inverse, own)
    return AttentionJacobian(
        direction.flatten(0, -2),
        heads.flatten(0, -4),
        _behind(attention.norm, attention.query_weight),
        attention.out_weight,
        own_token,
    )


def _query_jacobians(attended: Attended, chunk: int) -> Tensor:
    """do/dq before scaling, V' diag(a) K - o (a' K), ``(*batch, T, heads, d, d)``."""
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
    for item, some in blocks(len(key), tokens, chunk):
        scaled = value[item] * weights[item, :, some, None]
        # One product per head for all tokens of the block, instead of one per token.
        product = torch.unflatten(scaled.flatten(2, 3) @ key[item], 2, (-1, d))
        product -= output[item, :, some] * mean[item, :, some]
        result[item, some] = product.transpose(1, 2)
    return result.reshape(*batch, tokens, heads, d, d)


def blocks(items: int, tokens: int, chunk: int) -> Iterator[tuple[slice, slice]]:
    """Slices of utterances and of their tokens, ``chunk`` tokens or fewer together."""
    long = min(tokens, chunk)
    wide = max(1, chunk // max(long, 1))
    for first in range(0, items, wide):
        for start in range(0, tokens, max(long, 1)):
            yield slice(first, first + wide), slice(start, start + long)


def _own_token(
    attention: Attention, attended: Attended, inverse: Tensor, tokens: slice
) -> OwnToken:
    """What comes through the token's own key and value, n tokens with the batch flattened."""
    position = torch.arange(attended.key.shape[-2], device=inverse.device)[tokens]
    own_weight = attended.weights.gather(
        -1, position[:, None].expand(*attended.weights.shape[:-1], 1)
    )
    response = own_weight * (attended.value[..., position, :] - attended.output)
    query = attended.query * (attention.scale * inverse.unsqueeze(-3))
    split = (attention.heads, -1)
    key_weight = torch.unflatten(_behind(attention.norm, attention.key_weight), 0, split)
    out_weight = torch.unflatten(attention.out_weight.T, 0, split)
    return OwnToken(
        by_token(own_weight * inverse.unsqueeze(-3)).squeeze(-1),
        _behind(attention.norm, attention.value_weight),
        by_token(query @ key_weight),
        by_token(response @ out_weight),
    )


def by_token(rows: Tensor) -> Tensor:
    """Rows ``(*batch, heads, T, x)`` as ``(n, heads, x)``, n tokens with the batch flattened."""
    return rows.transpose(-2, -3).flatten(0, -3)


def _direction(norm: LayerNorm, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """e = (h - mean) r / sqrt(D), and r = 1 / sqrt(var + eps), per token."""
    centred = hidden - hidden.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    return centred * (inverse / math.sqrt(hidden.shape[-1])), inverse


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

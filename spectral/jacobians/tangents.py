"""Forward derivatives of sub-layers in closed form, many directions of one point together.

Tangents stand behind the batch: k of them at ``(B, T, width)`` are ``(B, k, T, width)``. All that
is large is a product of matrices, and what the point itself gives is computed once.
"""

import torch
from torch import Tensor

from spectral.jacobians.layers import Attended, Attention, LayerNorm


def layer_norm_tangents(norm: LayerNorm, hidden: Tensor, moved: Tensor) -> Tensor:
    """Of the norm at hidden states ``(B, T, D)``, from theirs: ``(B, k, T, D)`` both."""
    centred = hidden - hidden.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    along = (centred * inverse)[:, None]
    moved = moved - moved.mean(-1, keepdim=True)
    moved = moved - along * (along * moved).mean(-1, keepdim=True)
    return moved * (norm.weight * inverse)[:, None]


def attention_tangents(
    attention: Attention, attended: Attended, queries: Tensor, source: Tensor
) -> Tensor:
    r"""Of what attention adds to the stream, ``(B, k, T, D)``.

    .. math:: do_t = \sum_s a_{ts} (z_{ts} - \bar z_t) v_s + a_{ts}\, dv_s, \qquad
        z_{ts} = \gamma (dq_t' k_s + q_t' dk_s)

    The source's tangents are projected to keys and values, or, where that is less, queries and
    weights of all heads are taken to the source: S C multiply-adds per head and T, or per D.

    Args:
        attention: Its weights.
        attended: Its forward pass.
        queries: Tangents of the normalised queries' side, ``(B, k, T, D)``.
        source: Tangents of keys' and values' side, ``(B, k, S, C)``.
    """
    split = (attention.heads, -1)
    weights, query = attended.weights, attention.scale * attended.query
    key_weight, value_weight = (
        torch.unflatten(weight, 0, split)
        for weight in (attention.key_weight, attention.value_weight)
    )
    if query.shape[-2] <= query.shape[-1]:
        taken = (query @ key_weight).flatten(1, 2)[:, None] @ source.mT
        logits = torch.unflatten(taken, 2, split)
        heard = torch.unflatten(weights.flatten(1, 2)[:, None] @ source, 2, split)
        heard = torch.einsum("bkntc,ndc->bkntd", heard, value_weight)
    else:
        keys, values = (
            torch.unflatten(source @ weight.T, -1, split)
            for weight in (attention.key_weight, attention.value_weight)
        )
        logits = torch.einsum("bntd,bksnd->bknts", query, keys)
        heard = torch.einsum("bnts,bksnd->bkntd", weights, values)
    asked = torch.unflatten(queries @ (attention.scale * attention.query_weight.T), -1, split)
    logits = logits + torch.einsum("bktnd,bnsd->bknts", asked, attended.key)
    logits = logits * weights[:, None]
    heard = heard + torch.einsum("bknts,bnsd->bkntd", logits, attended.value)
    heard = heard - attended.output[:, None] * logits.sum(-1, keepdim=True)
    return heard.transpose(2, 3).flatten(3) @ attention.out_weight.T

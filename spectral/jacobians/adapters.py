"""Plain-tensor layers, as the kernels take them, from the modules of two Whisper libraries."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spectral.jacobians.layers import Attention, FeedForward, Layer, LayerNorm


def as_layer(module: nn.Module, dtype: torch.dtype | None = None) -> Layer:
    """One encoder or decoder layer of transformers' Whisper or of openai-whisper, as tensors.

    The layer shares no memory with autograd, and stands for the module in evaluation mode: dropout
    is left out, whatever mode the module is in.

    Args:
        module: A ``WhisperDecoderLayer``, ``WhisperEncoderLayer`` or ``ResidualAttentionBlock``.
        dtype: What to convert the weights to; by default their own, and float32 for half precision.

    Raises:
        TypeError: For any other module.
        ValueError: If its activation is not the exact gelu.
    """
    if isinstance(getattr(module, "self_attn", None), nn.Module) and hasattr(module, "fc1"):
        layer = _from_transformers(module)
    elif isinstance(getattr(module, "attn", None), nn.Module) and hasattr(module, "mlp_ln"):
        layer = _from_openai_whisper(module)
    else:
        raise TypeError(
            f"expected a Whisper layer of transformers or openai-whisper, got "
            f"{type(module).__name__}: build spectral.jacobians.layers.Layer from its weights, or "
            "use spectral.jacobians.propagators.autodiff_propagators"
        )
    if dtype is None:
        dtype = torch.float32 if layer.dtype in (torch.float16, torch.bfloat16) else layer.dtype
    return layer.to(dtype)


def as_norm(module: nn.Module, dtype: torch.dtype) -> LayerNorm:
    """A layer norm of either library as tensors of a dtype."""
    norm = _norm(module)
    return LayerNorm(norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)


def _from_transformers(module: Any) -> Layer:
    """``scaling`` multiplies the queries there; keys have no bias."""

    def attention(part: Any, norm: Any) -> Attention:
        return _attention(
            part.q_proj, part.k_proj, part.v_proj, part.out_proj, norm, part.num_heads, part.scaling
        )

    decoder = hasattr(module, "encoder_attn")
    _require_gelu(module.activation_fn)
    return Layer(
        self_attention=attention(module.self_attn, module.self_attn_layer_norm),
        cross_attention=(
            attention(module.encoder_attn, module.encoder_attn_layer_norm) if decoder else None
        ),
        ffn=_ffn(module.fc1, module.fc2, module.final_layer_norm),
        causal=decoder,
    )


def _from_openai_whisper(module: Any) -> Layer:
    """Queries and keys are each scaled by d^-1/4 there, their products by d^-1/2."""

    def attention(part: Any, norm: Any) -> Attention:
        scale = (part.query.out_features // part.n_head) ** -0.5
        return _attention(part.query, part.key, part.value, part.out, norm, part.n_head, scale)

    decoder = module.cross_attn is not None
    _require_gelu(module.mlp[1])
    return Layer(
        self_attention=attention(module.attn, module.attn_ln),
        cross_attention=attention(module.cross_attn, module.cross_attn_ln) if decoder else None,
        ffn=_ffn(module.mlp[0], module.mlp[2], module.mlp_ln),
        causal=decoder,
    )


def _attention(
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    norm: Any,
    heads: int,
    scale: float,
) -> Attention:
    return Attention(
        norm=_norm(norm),
        query_weight=query.weight.detach(),
        query_bias=_bias(query),
        key_weight=key.weight.detach(),
        key_bias=_bias(key),
        value_weight=value.weight.detach(),
        value_bias=_bias(value),
        out_weight=out.weight.detach(),
        out_bias=_bias(out),
        heads=heads,
        scale=scale,
    )


def _ffn(first: Any, second: Any, norm: Any) -> FeedForward:
    return FeedForward(
        norm=_norm(norm),
        in_weight=first.weight.detach(),
        in_bias=_bias(first),
        out_weight=second.weight.detach(),
        out_bias=_bias(second),
    )


def _norm(norm: Any) -> LayerNorm:
    return LayerNorm(norm.weight.detach(), norm.bias.detach(), norm.eps)


def _bias(linear: Any) -> Tensor:
    weight: Tensor = linear.weight
    return (weight.new_zeros(len(weight)) if linear.bias is None else linear.bias).detach()


def _require_gelu(activation: nn.Module) -> None:
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    if not torch.allclose(activation(x), functional.gelu(x), rtol=0, atol=1e-9):
        raise ValueError(
            f"the closed forms need the exact gelu, got {type(activation).__name__}: "
            "use spectral.jacobians.propagators.autodiff_propagators"
        )

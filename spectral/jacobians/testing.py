"""Random layers, for tests and benchmarks of the kernels."""

import torch
from torch import Tensor

from spectral.jacobians.layers import Attention, FeedForward, Layer, LayerNorm


def random_layer(
    width: int,
    heads: int,
    head_width: int | None = None,
    hidden_width: int | None = None,
    context_width: int | None = None,
    cross_attention: bool = True,
    causal: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Layer:
    """A layer of normal weights; the same seed gives the same ones.

    Every weight and bias counts: outputs are of order one, attention neither flat nor one-hot.
    By default heads share the width, the FFN has four times it, and the context as much.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    def norm() -> LayerNorm:
        return LayerNorm(1 + normal(width, scale=0.2), normal(width, scale=0.2), 1e-5)

    def attention(source: int) -> Attention:
        inner = heads * (head_width or width // heads)
        return Attention(
            norm=norm(),
            query_weight=normal(inner, width, scale=1.5 * width**-0.5),
            query_bias=normal(inner, scale=0.2),
            key_weight=normal(inner, source, scale=1.5 * source**-0.5),
            key_bias=normal(inner, scale=0.2),
            value_weight=normal(inner, source, scale=source**-0.5),
            value_bias=normal(inner, scale=0.2),
            out_weight=normal(width, inner, scale=inner**-0.5),
            out_bias=normal(width, scale=0.2),
            heads=heads,
            scale=(inner // heads) ** -0.5,
        )

    between = hidden_width or 4 * width
    ffn = FeedForward(
        norm=norm(),
        in_weight=normal(between, width, scale=width**-0.5),
        in_bias=normal(between, scale=0.2),
        out_weight=normal(width, between, scale=between**-0.5),
        out_bias=normal(width, scale=0.2),
    )
    crossing = attention(context_width or width) if cross_attention else None
    return Layer(attention(width), crossing, ffn, causal).to(dtype)

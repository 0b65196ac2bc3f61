"""Random layers and stacks of propagators, for theory, tests and benchmarks of the kernels."""

import torch
from torch import Tensor

from spectral.jacobians.layers import Attention, FeedForward, Layer, LayerNorm


def random_layer(
    width: int, heads: int, head_width: int | None = None, hidden_width: int | None = None,
    context_width: int | None = None, cross_attention: bool = True, causal: bool = True,
    seed: int = 0, dtype: torch.dtype = torch.float32,
) -> Layer:  # fmt: skip
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


def random_stack(
    sigma_1: Tensor, sigma_2: Tensor, alignment: Tensor, width: int, kind: str = "random",
    seed: int = 0,
) -> Tensor:  # fmt: skip
    r"""Propagators of L layers with the singular values and alignments asked for.

    W_1 = Sigma_1 and W_{l+1} = Sigma_{l+1} Q_l, with Q_l orthogonal of first entry kappa_l: up to a
    rotation of input and output, every stack is of this form.

    sigma_1 and sigma_2 are (L, *batch), float64, the other singular values random and below, and
    alignment is (L - 1, *batch); the result (L, *batch, width, width). Of kind ``random`` Q is as
    random as it can be; of ``reflections`` and ``rotations`` it is one of two coordinates: where
    all layers are alike, no stack grows faster than the first and, where a slowest rate exists,
    none slower than the second.
    """
    generator = torch.Generator().manual_seed(seed)
    fractions = torch.rand(*sigma_1.shape, width - 2, generator=generator, dtype=torch.float64)
    below = fractions.sort(-1, descending=True).values * sigma_2[..., None]
    sigma = torch.cat([sigma_1[..., None], sigma_2[..., None], below], -1)
    cosine, sine = alignment, (1 - alignment.square()).clamp(min=0).sqrt()
    plane = torch.eye(width, dtype=torch.float64).repeat(*alignment.shape, 1, 1)
    plane[..., 0, 0], plane[..., 1, 1] = cosine, cosine if kind == "rotations" else -cosine
    plane[..., 0, 1], plane[..., 1, 0] = sine, -sine if kind == "rotations" else sine
    if kind == "random":
        left, right = (_fixing_first(alignment.shape, width, generator) for _ in range(2))
        plane = left @ plane @ right
    first = torch.eye(width, dtype=torch.float64).expand(*sigma_1[:1].shape, width, width)
    return sigma[..., None] * torch.cat([first, plane])


def _fixing_first(shape: torch.Size, width: int, generator: torch.Generator) -> Tensor:
    """Random orthogonal matrices that leave the first coordinate alone."""
    result = torch.zeros(*shape, width, width, dtype=torch.float64)
    normal = torch.randn(*shape, width - 1, width - 1, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    signs = r.diagonal(dim1=-2, dim2=-1).sign()  # with them q is uniform (Mezzadri 2007)
    result[..., 1:, 1:] = q * signs[..., None, :]
    result[..., 0, 0] = 1
    return result

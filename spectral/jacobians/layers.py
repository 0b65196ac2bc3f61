"""A pre-norm transformer layer as plain tensors, and its forward pass in plain torch.

The kernels see layers through these dataclasses alone; ``spectral.jacobians.adapters`` makes them
from the modules of transformers and openai-whisper.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class LayerNorm:
    """y = weight * (h - mean h) / sqrt(var h + eps) + bias, with the biased variance."""

    weight: Tensor  # (width,)
    bias: Tensor  # (width,)
    eps: float


@dataclass(frozen=True)
class Attention:
    """Multi-head attention behind a layer norm: out(sum_s softmax_s(scale q.k_s) v_s).

    The norm applies to the queries' side; where keys and values come from the same hidden states
    (self-attention) they come from the normalised ones, a context is taken as it is. ``inner`` is
    heads times the width of a head.
    """

    norm: LayerNorm
    query_weight: Tensor  # (inner, width)
    query_bias: Tensor  # (inner,)
    key_weight: Tensor  # (inner, source width)
    key_bias: Tensor  # (inner,)
    value_weight: Tensor  # (inner, source width)
    value_bias: Tensor  # (inner,)
    out_weight: Tensor  # (width, inner)
    out_bias: Tensor  # (width,)
    heads: int
    scale: float


@dataclass(frozen=True)
class FeedForward:
    """out(gelu(in(norm(h)))), with the exact gelu, x times the normal distribution function."""

    norm: LayerNorm
    in_weight: Tensor  # (hidden width, width)
    in_bias: Tensor  # (hidden width,)
    out_weight: Tensor  # (width, hidden width)
    out_bias: Tensor  # (width,)


@dataclass(frozen=True)
class Layer:
    """One pre-norm layer: each sub-layer's output is added to the residual stream.

    A decoder layer is causal and has cross-attention; an encoder layer is neither.

    Raises:
        ValueError: If weights do not fit each other in shape, dtype or device, or the heads do not
            divide an attention's inner width.
    """

    self_attention: Attention
    cross_attention: Attention | None
    ffn: FeedForward
    causal: bool

    def __post_init__(self) -> None:
        width = self.width
        _require_attention(self.self_attention, "self_attention", width, source=width)
        if self.cross_attention is not None:
            _require_attention(self.cross_attention, "cross_attention", width, source=None)
        hidden = len(self.ffn.in_weight)
        _require_shape(self.ffn.in_weight, "ffn.in_weight", (hidden, width))
        _require_shape(self.ffn.in_bias, "ffn.in_bias", (hidden,))
        _require_shape(self.ffn.out_weight, "ffn.out_weight", (width, hidden))
        _require_shape(self.ffn.out_bias, "ffn.out_bias", (width,))
        _require_norm(self.ffn.norm, "ffn.norm", width)
        kinds = {(t.dtype, t.device) for t in _tensors(self)}
        if len(kinds) > 1:
            raise ValueError(
                f"all weights must have one dtype and device, got {sorted(map(str, kinds))}: "
                "use Layer.to after building it from weights of one kind"
            )
        if not self.dtype.is_floating_point:
            raise ValueError(f"weights must be real floating point, got {self.dtype}")

    @property
    def width(self) -> int:
        """D, the width of the residual stream."""
        return len(self.self_attention.out_bias)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every weight, in which the kernels compute."""
        return self.ffn.out_bias.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.ffn.out_bias.device

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> "Layer":
        """The same layer in another dtype or on another device."""
        moved = _moved(self, dtype or self.dtype, torch.device(device or self.device))
        assert isinstance(moved, Layer)
        return moved


@dataclass(frozen=True)
class Attended:
    """What one attention computed: T queries over S keys, per head."""

    query: Tensor  # (*batch, heads, T, d), before scaling
    key: Tensor  # (*batch, heads, S, d)
    value: Tensor  # (*batch, heads, S, d)
    weights: Tensor  # (*batch, heads, T, S), rows sum to one
    output: Tensor  # (*batch, heads, T, d), weights @ value


def forward(
    layer: Layer, hidden: Tensor, context: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """The layer's output, in plain differentiable torch: the reference of every closed form.

    Args:
        layer: Its weights.
        hidden: Shape ``(*batch, tokens, width)``, in the layer's dtype.
        context: Shape ``(*batch, frames, source width)``, where the layer has cross-attention.
        mask: Shape ``(*batch, tokens)``, bool, true where a token is real; all by default. Tokens
            that are not real are seen by none but themselves.

    Returns:
        Shape ``(*batch, tokens, width)``.
    """
    normal = normalised(layer.self_attention.norm, hidden)
    seen = visible(hidden.shape[-2], layer.causal, mask, hidden.device)
    hidden = hidden + attention_output(
        layer.self_attention, attend(layer.self_attention, normal, normal, seen)
    )
    if layer.cross_attention is not None:
        if context is None:
            raise ValueError("a layer with cross-attention needs context, (*batch, frames, width)")
        normal = normalised(layer.cross_attention.norm, hidden)
        hidden = hidden + attention_output(
            layer.cross_attention, attend(layer.cross_attention, normal, context)
        )
    return after_ffn(layer, hidden)


def after_ffn(layer: Layer, hidden: Tensor) -> Tensor:
    """The residual stream ``(*batch, tokens, width)`` behind the FFN, from that before it."""
    ffn = layer.ffn
    inner = functional.linear(normalised(ffn.norm, hidden), ffn.in_weight, ffn.in_bias)
    return hidden + functional.linear(functional.gelu(inner), ffn.out_weight, ffn.out_bias)


def normalised(norm: LayerNorm, hidden: Tensor) -> Tensor:
    """The layer norm of hidden states ``(*batch, tokens, width)``."""
    return functional.layer_norm(hidden, hidden.shape[-1:], norm.weight, norm.bias, norm.eps)


def visible(tokens: int, causal: bool, mask: Tensor | None, device: torch.device) -> Tensor | None:
    """Which key (column) each query (row) of self-attention may see, or None for every one.

    Every token sees itself, real or not, so that no row is empty.
    """
    if not causal and mask is None:
        return None
    seen = torch.ones(tokens, tokens, dtype=torch.bool, device=device)
    seen = seen.tril() if causal else seen
    if mask is not None:
        own = torch.eye(tokens, dtype=torch.bool, device=device)
        seen = seen & mask[..., None, None, :] | own
    return seen


def attend(
    attention: Attention, queries: Tensor, source: Tensor, seen: Tensor | None = None
) -> Attended:
    """Attention of normalised tokens ``(*batch, T, width)`` over ``(*batch, S, source width)``.

    ``seen`` broadcasts to ``(*batch, heads, T, S)``. T S inner multiply-adds twice, beside the
    projections.
    """
    split = (attention.heads, -1)
    query, key, value = (
        torch.unflatten(functional.linear(rows, weight, bias), -1, split).transpose(-2, -3)
        for rows, weight, bias in (
            (queries, attention.query_weight, attention.query_bias),
            (source, attention.key_weight, attention.key_bias),
            (source, attention.value_weight, attention.value_bias),
        )
    )
    logits = (query * attention.scale) @ key.mT
    if seen is not None:
        logits = logits.masked_fill(~seen, -torch.inf)
    weights = logits.softmax(-1)
    return Attended(query, key, value, weights, weights @ value)


def attention_output(attention: Attention, attended: Attended) -> Tensor:
    """What attention adds to the residual stream, ``(*batch, T, width)``."""
    joined = attended.output.transpose(-2, -3).flatten(-2)
    return functional.linear(joined, attention.out_weight, attention.out_bias)


_Part = Layer | Attention | FeedForward | LayerNorm


def _moved(part: _Part, dtype: torch.dtype, device: torch.device) -> _Part:
    changed: dict[str, object] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = value.to(device, dtype)
        elif isinstance(value, _Part):
            changed[field.name] = _moved(value, dtype, device)
    return replace(part, **changed)  # type: ignore[arg-type]


def _tensors(part: _Part) -> list[Tensor]:
    found = []
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, _Part):
            found.extend(_tensors(value))
    return found


def _require_attention(part: Attention, name: str, width: int, source: int | None) -> None:
    inner = len(part.query_bias)
    if part.heads < 1 or inner % part.heads:
        raise ValueError(f"{name}.heads must divide {inner}, its inner width, got {part.heads}")
    source = part.key_weight.shape[-1] if source is None else source
    _require_norm(part.norm, f"{name}.norm", width)
    for field, shape in {
        "query_weight": (inner, width),
        "key_weight": (inner, source),
        "value_weight": (inner, source),
        "out_weight": (width, inner),
        "query_bias": (inner,),
        "key_bias": (inner,),
        "value_bias": (inner,),
        "out_bias": (width,),
    }.items():
        _require_shape(getattr(part, field), f"{name}.{field}", shape)


def _require_norm(norm: LayerNorm, name: str, width: int) -> None:
    _require_shape(norm.weight, f"{name}.weight", (width,))
    _require_shape(norm.bias, f"{name}.bias", (width,))


def _require_shape(tensor: Tensor, name: str, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")

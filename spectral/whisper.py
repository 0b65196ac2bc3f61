"""A Whisper of transformers or openai-whisper, known by the names of its parts alone.

Its layers as plain tensors, its decoder as tracing sees it, and hooks. Neither library is imported.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spectral.jacobians.layers import Attention, FeedForward, Layer, LayerNorm

COMPONENTS = ("self_attention", "cross_attention", "ffn")
"""What a decoder layer adds to the residual stream, in order."""

HIDDEN_STATE = "hidden_state"
"""The residual stream after a layer."""

QUERY, KEY = "query", "key"
KINDS = (*COMPONENTS, HIDDEN_STATE, QUERY, KEY)

_OPENAI = {51864: (50257, 50256), 51865: (50258, 50257), 51866: (50258, 50257)}
"""Start and end token by the size of OpenAI's own vocabularies."""

_LAYERS = {
    "blocks": "attn attn_ln cross_attn cross_attn_ln mlp.0 mlp.1 mlp.2 mlp_ln",
    "layers": "self_attn self_attn_layer_norm encoder_attn encoder_attn_layer_norm "
    "fc1 activation_fn fc2 final_layer_norm",
}
"""What a library calls its layers, and their attentions and FFN, each before its norm."""


@dataclass(frozen=True)
class DecoderLayer:
    """The modules of one decoder layer; a component's output is what it adds to the residual."""

    self_attention: nn.Module
    cross_attention: nn.Module
    ffn: nn.Module  # its last part, as transformers has no module for the whole
    query: nn.Module
    key: nn.Module
    layer: nn.Module


@dataclass(frozen=True)
class Decoder:
    """What tracing needs to know of a model.

    ``start`` and ``end``: the tokens around a text, whose tokens lie below ``end``. ``entry``: the
    method by which the library decodes, "decode" or "generate", if there is one.
    """

    model: nn.Module
    decoder: nn.Module
    layers: list[DecoderLayer]
    heads: int
    start: int
    end: int
    entry: str | None
    vocabulary: int


def as_layer(module: Any, dtype: torch.dtype | None = None) -> Layer:
    """One encoder or decoder layer of transformers' Whisper or of openai-whisper, as tensors.

    A ``WhisperDecoderLayer``, ``WhisperEncoderLayer`` or ``ResidualAttentionBlock``, outside
    autograd and without dropout. ``dtype`` is by default that of the weights, float32 for half
    precision. Raises TypeError for any other module, or one with adapters, ValueError if its
    activation is not the exact gelu.
    """
    parts = _parts(module, "blocks") or _parts(module, "layers")
    if parts is None:
        raise TypeError(
            f"expected a Whisper layer of transformers or openai-whisper, got {_kind(module)}: "
            "build spectral.Layer from its weights, or use spectral.autodiff_propagators"
        )
    self_attention, self_norm, cross, cross_norm, first, activation, second, ffn_norm = parts
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    if not torch.allclose(activation(x), functional.gelu(x), rtol=0, atol=1e-9):
        raise ValueError(
            f"the closed forms need the exact gelu, got {_kind(activation)}: "
            "use spectral.autodiff_propagators"
        )
    layer = Layer(
        _attention(self_attention, self_norm),
        None if cross is None else _attention(cross, cross_norm),
        FeedForward(_norm(ffn_norm), *_linear(first), *_linear(second)),
        causal=cross is not None,
    )
    if dtype is None:
        dtype = torch.float32 if layer.dtype in (torch.float16, torch.bfloat16) else layer.dtype
    return layer.to(dtype)


def recognise(model: Any, start: int | None = None, end: int | None = None) -> Decoder:
    """The decoder of a Whisper of either library, or of what holds one as ``module``.

    Raises TypeError for another model, ValueError for a compiled one or an unknown vocabulary.
    """
    model = model if isinstance(model, nn.Module) else getattr(model, "module", model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a Whisper of openai-whisper or transformers, got {_kind(model)}")
    _require_eager(model)
    inner: Any = getattr(model, "model", None)
    decoder: Any = getattr(model, "decoder", None) or getattr(inner, "decoder", None)
    if not (layers := decoder_layers(decoder)):
        raise TypeError(
            f"expected a Whisper of openai-whisper or transformers, got {_kind(model)}: its "
            "decoder's layers have other parts"
        )
    openai = hasattr(decoder, "blocks")
    tokens = len((decoder.token_embedding if openai else decoder.embed_tokens).weight)
    known = _OPENAI.get(tokens, (None, None))
    if not openai:
        known = decoder.config.decoder_start_token_id, decoder.config.eos_token_id
    start, end = known[0] if start is None else start, known[1] if end is None else end
    if not isinstance(start, int) or not isinstance(end, int):
        raise ValueError(
            f"a vocabulary of {tokens} tokens says nothing of its start and end: give "
            "attach(model, start=..., end=...), the numbers of <|startoftranscript|> and "
            "<|endoftext|>"
        )
    heads = attention_parts(layers[0].self_attention)[-1]
    name = "decode" if openai else "generate"
    entry = name if hasattr(model, name) else None
    return Decoder(model, decoder, layers, heads, start, end, entry, tokens)


def decoder_layers(decoder: Any) -> list[DecoderLayer]:
    """The layers of a decoder of either library; none of what has other parts."""
    name = "blocks" if hasattr(decoder, "blocks") else "layers"
    layers = []
    for layer in getattr(decoder, name, ()):
        parts = _parts(layer, name)
        if parts is None or parts[2] is None:
            return []
        query, key, *_ = attention_parts(parts[0])
        layers.append(DecoderLayer(parts[0], parts[2], parts[6], query, key, layer))
    return layers


def attention_parts(attention: Any) -> list[Any]:
    """The modules of an attention's queries, keys, values and output, and how many heads it has."""
    openai = hasattr(attention, "query")
    names = "query key value out n_head" if openai else "q_proj k_proj v_proj out_proj num_heads"
    return [getattr(attention, name) for name in names.split()]


@contextmanager
def hooked(
    after: Iterable[tuple[nn.Module, Callable[..., Any]]],
    before: Iterable[tuple[nn.Module, Callable[..., Any]]] = (),
) -> Iterator[None]:
    """Hooks for a while: copy what is to be kept of outputs, as it may be overwritten in place."""
    with ExitStack() as block:
        for module, hook in after:
            block.callback(module.register_forward_hook(hook).remove)
        for module, hook in before:
            block.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def past(cache: Any) -> int:
    """How many positions are cached: as the libraries count them."""
    if not isinstance(cache, dict):
        return 0 if cache is None else int(cache.get_seq_length())
    return next(iter(cache.values())).shape[1] if cache else 0


def decoder_inputs(
    module: Any, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Any, ...]:
    """Tokens, context, mask and cache, as either library calls its decoder."""
    if hasattr(module, "blocks"):
        names, wanted = ["x", "xa", "kv_cache"], ["x", "xa", "no mask", "kv_cache"]
    else:
        wanted = ["input_ids", "encoder_hidden_states", "attention_mask", "past_key_values"]
        names = ["input_ids", "attention_mask", "encoder_hidden_states", "past_key_values"]
    inputs = dict(zip(names, arguments, strict=False)) | named
    if inputs.get(wanted[0]) is None:
        raise ValueError("the decoder is given embeddings instead of tokens: which text is it?")
    return tuple(inputs.get(name) for name in wanted)


def first_keys(decoder: Decoder, cache: Any) -> Any:
    """The first layer's cached keys, another object once a library has rearranged them."""
    if cache is None:
        return None
    if isinstance(cache, dict):
        return cache.get(decoder.layers[0].key)
    layers = getattr(cache, "self_attention_cache", cache).layers
    return layers[0].keys if layers else None


def _attention(part: Any, norm: Any) -> Attention:
    """transformers multiplies queries by ``scaling``, openai-whisper products by d^-1/2."""
    query, key, value, out, heads = attention_parts(part)
    scale = getattr(part, "scaling", (query.out_features // heads) ** -0.5)
    inward = (*_linear(query), *_linear(key), *_linear(value))
    return Attention(_norm(norm), *inward, *_linear(out), heads, scale)


def _linear(linear: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias; the libraries' keys have none."""
    if not isinstance(linear, nn.Linear):
        raise TypeError(
            f"expected a torch.nn.Linear, got {_kind(linear)}: merge adapters into the weights, or "
            "use spectral.autodiff_propagators"
        )
    weight: Tensor = linear.weight.detach()
    bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach()
    return weight, bias


def _norm(norm: Any) -> LayerNorm:
    return LayerNorm(norm.weight.detach(), norm.bias.detach(), norm.eps)


def _parts(layer: Any, library: str) -> list[Any] | None:
    """The parts of a layer, None for a cross-attention that it lacks; None of another structure."""
    parts = [
        functools.reduce(lambda part, step: getattr(part, step, None), name.split("."), layer)
        for name in _LAYERS[library].split()
    ]
    return None if None in (*parts[:2], *parts[4:]) else parts


def _require_eager(model: nn.Module) -> None:
    for name, module in model.named_modules():
        compiled = (
            hasattr(module, "_orig_mod")
            or getattr(module, "_compiled_call_impl", None) is not None
            or hasattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable")
        )
        if compiled:
            raise ValueError(
                f"{name or _kind(model)} is compiled by torch.compile, and a compiled graph calls "
                "no hook: attach to the model as it was before"
            )


def _kind(model: object) -> str:
    return type(model).__name__

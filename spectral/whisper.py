"""A Whisper of transformers or openai-whisper, known by the names of its parts alone.

Its layers as the plain tensors that the kernels take, its decoder as tracing sees it, and hooks for
a while, the one way in which anything here is watched. Neither library is imported.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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


@dataclass(frozen=True)
class DecoderLayer:
    """The modules of one decoder layer; a component's output is what it adds to the residual."""

    self_attention: nn.Module
    cross_attention: nn.Module
    ffn: nn.Module  # its last part, where the library has no module for the whole
    query: nn.Module
    key: nn.Module
    layer: nn.Module


@dataclass(frozen=True)
class Decoder:
    """What tracing needs to know of a model.

    ``start`` and ``end``: the tokens before and after a text, whose own tokens lie below ``end``.
    ``entry``: the method by which the library decodes, "decode" or "generate", if there is one.
    """

    model: nn.Module
    decoder: nn.Module
    layers: list[DecoderLayer]
    heads: int
    start: int
    end: int
    entry: str | None


def as_layer(module: Any, dtype: torch.dtype | None = None) -> Layer:
    """One encoder or decoder layer of transformers' Whisper or of openai-whisper, as tensors.

    A ``WhisperDecoderLayer``, ``WhisperEncoderLayer`` or ``ResidualAttentionBlock``, outside
    autograd and in evaluation mode, without dropout, whatever mode the module is in. ``dtype`` is
    by default that of the weights, and float32 for half precision. Raises TypeError for any other
    module, ValueError if its activation is not the exact gelu.
    """
    if isinstance(getattr(module, "self_attn", None), nn.Module) and hasattr(module, "fc1"):
        own, own_norm = module.self_attn, module.self_attn_layer_norm
        cross = getattr(module, "encoder_attn", None)
        cross_norm = getattr(module, "encoder_attn_layer_norm", None)
        first, activation, second = module.fc1, module.activation_fn, module.fc2
        ffn_norm = module.final_layer_norm
    elif isinstance(getattr(module, "attn", None), nn.Module) and hasattr(module, "mlp_ln"):
        own, own_norm, cross, cross_norm = (
            getattr(module, name) for name in ("attn", "attn_ln", "cross_attn", "cross_attn_ln")
        )
        (first, activation, second), ffn_norm = module.mlp, module.mlp_ln
    else:
        raise TypeError(
            f"expected a Whisper layer of transformers or openai-whisper, got {_kind(module)}: "
            "build spectral.Layer from its weights, or use spectral.autodiff_propagators"
        )
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    if not torch.allclose(activation(x), functional.gelu(x), rtol=0, atol=1e-9):
        raise ValueError(
            f"the closed forms need the exact gelu, got {_kind(activation)}: "
            "use spectral.autodiff_propagators"
        )
    layer = Layer(
        _attention(own, own_norm),
        None if cross is None else _attention(cross, cross_norm),
        FeedForward(_norm(ffn_norm), *_linear(first), *_linear(second)),
        causal=cross is not None,
    )
    if dtype is None:
        dtype = torch.float32 if layer.dtype in (torch.float16, torch.bfloat16) else layer.dtype
    return layer.to(dtype)


def recognise(model: Any, start: int | None = None, end: int | None = None) -> Decoder:
    """The decoder of a Whisper of openai-whisper or transformers, or of what holds one as .module.

    Raises TypeError for a model of another structure, ValueError for one that is compiled, or of a
    vocabulary whose start or end is not known.
    """
    model = model if isinstance(model, nn.Module) else getattr(model, "module", model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a Whisper of openai-whisper or transformers, got {_kind(model)}")
    _require_eager(model)
    decoder = _decoder(model)
    known: Any
    if hasattr(decoder, "blocks"):
        heads, rows, entry = decoder.blocks[0].attn.n_head, decoder.token_embedding, "decode"
        known = _OPENAI.get(len(rows.weight), (None, None))
    else:
        heads, rows, entry = decoder.layers[0].self_attn.num_heads, decoder.embed_tokens, "generate"
        known = decoder.config.decoder_start_token_id, decoder.config.eos_token_id
    start, end = known[0] if start is None else start, known[1] if end is None else end
    if not isinstance(start, int) or not isinstance(end, int):
        raise ValueError(
            f"a vocabulary of {len(rows.weight)} tokens says nothing of its start and end: give "
            "attach(model, start=..., end=...), the numbers of <|startoftranscript|> and "
            "<|endoftext|>"
        )
    named = entry if hasattr(model, entry) else None
    return Decoder(model, decoder, decoder_layers(decoder), heads, start, end, named)


def decoder_layers(decoder: Any) -> list[DecoderLayer]:
    """The layers of a decoder of either library."""
    found = []
    for layer in getattr(decoder, "blocks", None) or decoder.layers:
        if hasattr(layer, "attn"):
            own, cross, ffn = layer.attn, layer.cross_attn, layer.mlp
        else:
            own, cross, ffn = layer.self_attn, layer.encoder_attn, layer.fc2
        found.append(DecoderLayer(own, cross, ffn, *query_and_key(own), layer))
    return found


def query_and_key(attention: Any) -> tuple[nn.Module, nn.Module]:
    """The modules that make an attention's queries and its keys."""
    if hasattr(attention, "q_proj"):
        return attention.q_proj, attention.k_proj
    return attention.query, attention.key


@contextmanager
def hooked(
    after: Iterable[tuple[nn.Module, Callable[..., Any]]],
    before: Iterable[tuple[nn.Module, Callable[..., Any]]] = (),
) -> Iterator[None]:
    """Hooks for a while: called after a module with it, its inputs and its output, or before it.

    Those before are given the module, its arguments and its named arguments. Outputs are the
    library's own tensors: copy what is to be kept, as some layers hand out a buffer that a later
    operation overwrites in place.
    """
    handles: list[Any] = []
    try:
        for module, hook in after:
            handles.append(module.register_forward_hook(hook))
        for module, hook in before:
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


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
    given = dict(zip(names, arguments, strict=False)) | named
    if given.get(wanted[0]) is None:
        raise ValueError("the decoder is given embeddings instead of tokens: which text is it?")
    return tuple(given.get(name) for name in wanted)


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
    if hasattr(part, "q_proj"):
        query, key, value, out = part.q_proj, part.k_proj, part.v_proj, part.out_proj
        heads, scale = part.num_heads, part.scaling
    else:
        query, key, value, out = part.query, part.key, part.value, part.out
        heads, scale = part.n_head, (query.out_features // part.n_head) ** -0.5
    inward = (*_linear(query), *_linear(key), *_linear(value))
    return Attention(_norm(norm), *inward, *_linear(out), heads, scale)


def _linear(linear: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias; the libraries' keys have none."""
    weight: Tensor = linear.weight.detach()
    bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach()
    return weight, bias


def _norm(norm: Any) -> LayerNorm:
    return LayerNorm(norm.weight.detach(), norm.bias.detach(), norm.eps)


def _decoder(model: Any) -> Any:
    for part in (model, getattr(model, "model", None)):
        decoder = getattr(part, "decoder", None)
        blocks = getattr(decoder, "blocks", None) or getattr(decoder, "layers", None)
        if isinstance(blocks, nn.ModuleList) and len(blocks):
            openai = hasattr(decoder, "blocks")
            names = "attn cross_attn mlp mlp_ln" if openai else "self_attn fc2 encoder_attn"
            if all(hasattr(blocks[0], name) for name in names.split()):
                return decoder
    raise TypeError(
        f"expected a Whisper of openai-whisper or transformers, got {_kind(model)}: its decoder's "
        "layers have other parts"
    )


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

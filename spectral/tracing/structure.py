"""A Whisper's decoder, recognised by the names of its parts: neither library is imported."""

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class DecoderLayer:
    """The modules of one decoder layer; a component's output is what it adds to the residual."""

    self_attention: nn.Module
    cross_attention: nn.Module
    ffn: nn.Module
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
    final_norm: nn.Module
    heads: int
    start: int
    end: int
    entry: str | None


_OPENAI = {51864: (50257, 50256), 51865: (50258, 50257), 51866: (50258, 50257)}
"""Start and end token by the size of OpenAI's own vocabularies."""


def recognise(model: Any, start: int | None = None, end: int | None = None) -> Decoder:
    """The decoder of a Whisper of openai-whisper or transformers, or of what holds one as .module.

    Raises:
        TypeError: For a model of another structure.
        ValueError: For one that is compiled, or of a vocabulary whose start or end is not known.
    """
    model = model if isinstance(model, nn.Module) else getattr(model, "module", model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a Whisper of openai-whisper or transformers, got {_kind(model)}")
    _require_eager(model)
    decoder = _decoder(model)
    first: int | None
    last: int | None
    if hasattr(decoder, "blocks"):
        layers, heads = openai_layers(decoder), decoder.blocks[0].attn.n_head
        rows, entry, norm = len(decoder.token_embedding.weight), "decode", decoder.ln
        first, last = _OPENAI.get(rows, (None, None))
    else:
        layers, heads = transformers_layers(decoder), decoder.layers[0].self_attn.num_heads
        rows, entry, norm = len(decoder.embed_tokens.weight), "generate", decoder.layer_norm
        first, last = decoder.config.decoder_start_token_id, decoder.config.eos_token_id
    start, end = first if start is None else start, last if end is None else end
    if not isinstance(start, int) or not isinstance(end, int):
        raise ValueError(
            f"a vocabulary of {rows} tokens says nothing of its start and end: give attach(model, "
            "start=..., end=...), the numbers of <|startoftranscript|> and <|endoftext|>"
        )
    return Decoder(
        model, decoder, layers, norm, heads, start, end, entry if hasattr(model, entry) else None
    )


def openai_layers(decoder: Any) -> list[DecoderLayer]:
    """The layers of openai-whisper's decoder."""
    return [
        DecoderLayer(
            self_attention=block.attn,
            cross_attention=block.cross_attn,
            ffn=block.mlp,
            query=block.attn.query,
            key=block.attn.key,
            layer=block,
        )
        for block in decoder.blocks
    ]


def transformers_layers(decoder: Any) -> list[DecoderLayer]:
    """The layers of a decoder of transformers, whose FFN ends with ``fc2``."""
    return [
        DecoderLayer(
            self_attention=layer.self_attn,
            cross_attention=layer.encoder_attn,
            ffn=layer.fc2,
            query=layer.self_attn.q_proj,
            key=layer.self_attn.k_proj,
            layer=layer,
        )
        for layer in decoder.layers
    ]


def _decoder(model: Any) -> Any:
    for part in (model, getattr(model, "model", None)):
        decoder = getattr(part, "decoder", None)
        blocks = getattr(decoder, "blocks", None) or getattr(decoder, "layers", None)
        if isinstance(blocks, nn.ModuleList) and len(blocks):
            own = "attn cross_attn mlp" if hasattr(decoder, "blocks") else "self_attn fc2"
            other = "mlp_ln" if hasattr(decoder, "blocks") else "encoder_attn"
            if all(hasattr(blocks[0], name) for name in (*own.split(), other)):
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
